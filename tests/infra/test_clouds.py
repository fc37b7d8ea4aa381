"""Cluster files, policies and images for clouds, as far as that can be seen from here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
import ray.autoscaler
from botocore.exceptions import ParamValidationError
from botocore.validate import validate_parameters
from moto import mock_aws

import shardrank
from strict_schemas import INFRA, PROJECT, faults, read_yaml

SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
CLUSTERS = sorted((INFRA / "ray").glob("*.yaml"))
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which(
    "hadolint"
)


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "planted")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield boto3.Session(region_name="us-east-1")


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_a_cluster_file_is_what_ray_takes(path: Path) -> None:
    (cluster,) = read_yaml(path)
    assert faults(cluster, SCHEMA) == []
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert cluster["available_node_types"][cluster["head_node_type"]]["resources"] == {"CPU": 0}


@pytest.mark.parametrize(
    ("key", "value"), [("max_worker", 8), ("idle_timeout_minutes", "5"), ("docker", {"img": "x"})]
)
def test_a_mistake_in_a_cluster_file_is_found(key: str, value: object) -> None:
    (cluster,) = read_yaml(CLUSTERS[0])
    assert faults({**cluster, key: value}, SCHEMA)


def test_ec2_knows_every_field_of_a_node(account: Any) -> None:
    request = account.client("ec2").meta.service_model.operation_model("RunInstances").input_shape
    (cluster,) = read_yaml(INFRA / "ray" / "aws.yaml")
    for node_type in cluster["available_node_types"].values():
        node = {**node_type["node_config"], "MinCount": 1, "MaxCount": 1}
        validate_parameters(node, request)
        with pytest.raises(ParamValidationError, match="InstanceMarketOption"):
            validate_parameters({**node, "InstanceMarketOption": {"MarketType": "spot"}}, request)


def test_a_bucket_takes_the_lifecycle_rule(account: Any) -> None:
    rules = json.loads((INFRA / "aws" / "lifecycle.json").read_text())
    s3 = account.client("s3")
    s3.create_bucket(Bucket="search-data")
    s3.put_bucket_lifecycle_configuration(Bucket="search-data", LifecycleConfiguration=rules)
    (found,) = s3.get_bucket_lifecycle_configuration(Bucket="search-data")["Rules"]
    assert found["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    planted = json.loads(json.dumps(rules).replace("DaysAfterInitiation", "DaysAfterStart"))
    with pytest.raises(ParamValidationError, match="DaysAfterStart"):
        s3.put_bucket_lifecycle_configuration(Bucket="search-data", LifecycleConfiguration=planted)


def test_iam_takes_the_policy_and_not_one_with_a_mistake(account: Any) -> None:
    policy = (INFRA / "aws" / "policy.json").read_text()
    iam = account.client("iam")
    assert iam.create_policy(PolicyName="shardrank", PolicyDocument=policy)["Policy"]["Arn"]
    with pytest.raises(iam.exceptions.MalformedPolicyDocumentException):
        iam.create_policy(PolicyName="planted", PolicyDocument=policy.replace("Effect", "Efect"))


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint")
def test_the_dockerfile_has_no_findings_and_a_bad_one_has(tmp_path: Path) -> None:
    path = INFRA / "docker" / "Dockerfile"
    assert lint(path) == ""
    planted = tmp_path / "Dockerfile"
    planted.write_text(path.read_text().replace("3.12.12-slim-bookworm", "latest") + "USER root\n")
    found = lint(planted)
    assert "DL3002" in found


def test_the_dockerfile_copies_only_what_there_is_and_what_the_ignore_file_lets_in() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text()
    ignored = (INFRA / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY ")]
    names = {name for parts in copied for name in parts if not name.startswith(("--", "/"))}
    assert {"src", "jobs", "pyproject.toml"} <= names
    for name in names:
        assert (PROJECT / name).exists()
        assert f"!{name}" in ignored


def test_every_image_is_of_this_version() -> None:
    tags = re.findall(
        r"shardrank:(\d+\.[\w.-]+)", "".join(p.read_text() for p in INFRA.rglob("*.*"))
    )
    assert len(tags) > 10
    assert set(tags) == {f"{shardrank.__version__}-cpu", f"{shardrank.__version__}-gpu"}


def lint(path: Path) -> str:
    command = [str(HADOLINT), "--no-color", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
