"""Plain Kubernetes objects, Argo's workflow and the compose file against published schemas."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from shardrank import errors
from strict_schemas import INFRA, PROJECT, faults, read_yaml, strict

pytestmark = pytest.mark.slow
kubernetes_validate = pytest.importorskip("kubernetes_validate")
argo = pytest.importorskip("hera.workflows.models")
compose_spec = pytest.importorskip("compose_spec")

KUBERNETES = INFRA / "kubernetes"
KUBERNETES_VERSION = "1.31"


def is_refused(document: dict[str, Any]) -> bool:
    try:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)
    except kubernetes_validate.ValidationError:
        return True
    return False


@pytest.mark.parametrize("name", ["base.yaml", "cronjob.yaml"])
def test_an_object_is_what_kubernetes_takes(name: str) -> None:
    documents = read_yaml(KUBERNETES / name)
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "concurencyPolicy"), "Forbid"),
        (("spec", "startingDeadlineSeconds"), "3600"),
        (("spec", "jobTemplate", "spec", "podFailurePolicy", "rules", 1, "onExitCode"), {}),
        (("spec", "jobTemplate", "spec", "template", "spec", "containers", 0, "img"), "x"),
    ],
)
def test_a_planted_mistake_is_found(path: tuple[str | int, ...], value: object) -> None:
    planted = copy.deepcopy(read_yaml(KUBERNETES / "cronjob.yaml")[0])
    place: Any = planted
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert is_refused(planted)


def test_the_cron_job_tries_again_what_can_go_on_and_nothing_else() -> None:
    job = read_yaml(KUBERNETES / "cronjob.yaml")[0]["spec"]["jobTemplate"]["spec"]
    (final,) = [rule["onExitCodes"] for rule in job["podFailurePolicy"]["rules"][1:]]
    assert final["values"] == sorted(exit_codes() - {errors.EXIT_DONE, errors.EXIT_INCOMPLETE})
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert final["containerName"] == job["template"]["spec"]["containers"][0]["name"]


def test_the_workflow_is_what_argo_takes() -> None:
    assert workflow_faults(read_yaml(INFRA / "argo" / "cronworkflow.yaml")[0]) == []


@pytest.mark.parametrize(
    ("key", "value"), [("concurencyPolicy", "Forbid"), ("suspend", "no"), ("schedules", 1)]
)
def test_a_mistake_in_the_workflow_is_found(key: str, value: object) -> None:
    planted = read_yaml(INFRA / "argo" / "cronworkflow.yaml")[0]
    planted["spec"][key] = value
    assert len(workflow_faults(planted)) == 1


def test_the_workflow_names_templates_that_it_has() -> None:
    workflow = read_yaml(INFRA / "argo" / "cronworkflow.yaml")[0]["spec"]["workflowSpec"]
    templates = workflow["templates"]
    groups = [group for part in templates for group in part.get("steps", ())]
    steps = [step["template"] for group in groups for step in group]
    assert steps
    assert set(steps) <= {part["name"] for part in templates}


def test_the_compose_file_is_what_compose_takes() -> None:
    text = (INFRA / "compose" / "compose.yaml").read_text()
    project = read_compose(text)
    assert {"store", "seed", "head", "worker", "job", "verify"} == set(project.service_names())
    pinned = (PROJECT / "constraints.txt").read_text()
    assert "image: motoserver/moto:" + pinned.split("\nmoto==")[1].split("\n")[0] in text


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("stop_grace_period:", "stop_grace_periods:"),
        ("condition: service_healthy", "condition: service_happy"),
        ("deploy: {replicas: 2}", "deploy: {replica: 2}"),
    ],
)
def test_a_mistake_in_the_compose_file_is_found(right: str, wrong: str) -> None:
    text = (INFRA / "compose" / "compose.yaml").read_text()
    assert right in text
    with pytest.raises(ValueError, match=r"\w"):
        read_compose(text.replace(right, wrong))


def exit_codes() -> set[int]:
    return {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


def workflow_faults(document: dict[str, Any]) -> list[str]:
    return faults(document, strict(argo.CronWorkflow.model_json_schema(by_alias=True)))


def read_compose(text: str) -> Any:
    return compose_spec.PyOptions(apply_merge=True).from_yaml(text)
