"""The KubeRay manifests against KubeRay's own schemas, and against the project they run."""

from __future__ import annotations

import copy
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from shardrank.config import load_config
from strict_schemas import INFRA, PROJECT, faults, read_yaml

KUBERNETES = INFRA / "kubernetes"
MANIFESTS = {"RayJob": "rayjob-gpu.yaml", "RayCronJob": "raycronjob.yaml"}


def manifest(kind: str) -> dict[str, Any]:
    return read_yaml(KUBERNETES / MANIFESTS[kind])[0]


def check(document: dict[str, Any], kuberay: dict[tuple[str, str], Any]) -> list[str]:
    return faults(document, kuberay[document["apiVersion"], document["kind"]])


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_is_what_kuberay_takes(kind: str, kuberay: dict[tuple[str, str], Any]) -> None:
    assert check(manifest(kind), kuberay) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "backofLimit"), 3),
        (("spec", "backoffLimit"), "3"),
        (("spec", "rayClusterSpec", "authOptions", "mode"), "tokens"),
        (("spec", "rayClusterSpec", "autoscalerOptions", "upscalingMode"), "Fast"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplica"), 8),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "nodeSelectors"), {}),
        (("metadata", "namespce"), "shardrank"),
    ],
)
def test_a_planted_mistake_is_found(
    path: tuple[str | int, ...], value: object, kuberay: dict[tuple[str, str], Any]
) -> None:
    planted = copy.deepcopy(manifest("RayJob"))
    place: Any = planted
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(check(planted, kuberay)) == 1


def test_the_nightly_job_is_the_same_job() -> None:
    nightly = manifest("RayCronJob")["spec"]["jobTemplate"]
    once = manifest("RayJob")["spec"]
    assert {**nightly, "entrypoint": None} == {**once, "entrypoint": None}
    assert once["entrypoint"] in " ".join(nightly["entrypoint"].split())


def test_the_driver_stays_on_the_head_and_nothing_else_does() -> None:
    spec = manifest("RayJob")["spec"]
    assert "entrypointNumCpus" not in spec
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_ray_is_the_version_that_is_tested() -> None:
    version = manifest("RayJob")["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"\nray=={version}\n" in (PROJECT / "constraints.txt").read_text()


def test_the_job_in_the_config_map_loads(tmp_path: Any) -> None:
    documents = read_yaml(KUBERNETES / "base.yaml")
    text = next(item for item in documents if item["kind"] == "ConfigMap")["data"]["job.toml"]
    path = tmp_path / "job.toml"
    path.write_text(text)
    config = load_config(path)
    groups = manifest("RayJob")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert config.device == "cuda"
    assert config.cluster.max_actors == groups[0]["maxReplicas"]
    for group in groups:
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        assert config.model.cache_folder in [mount["mountPath"] for mount in mounts]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
def test_the_patch_for_kueue_applies(kuberay: dict[tuple[str, str], Any]) -> None:
    command = ["kubectl", "patch", "--local", "--type=json", "--output=yaml"]
    command += [f"--patch-file={KUBERNETES}/kueue/patch.yaml"]
    command += [f"--filename={KUBERNETES}/rayjob-gpu.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    patched = yaml.safe_load(done.stdout)
    assert check(patched, kuberay) == []
    queues = read_yaml(KUBERNETES / "kueue" / "queues.yaml")
    local = next(item for item in queues if item["kind"] == "LocalQueue")["metadata"]
    assert patched["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": local["name"]}
    assert patched["metadata"]["namespace"] == local["namespace"]
    assert patched["spec"]["suspend"]
    assert "enableInTreeAutoscaling" not in patched["spec"]["rayClusterSpec"]
