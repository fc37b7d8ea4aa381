"""Input, output and model in object storage: a real S3 server on this machine."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from commands import shardrank
from shardrank.engine.model import builtin_folder
from tables import row, write_nested

pytestmark = pytest.mark.ray

SECRET = "planted-secret-key"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "planted-key-id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield variables
    server.kill()
    server.wait()


@pytest.fixture
def bucket(s3: dict[str, str]) -> s3fs.S3FileSystem:
    fs = s3fs.S3FileSystem(
        key=s3["AWS_ACCESS_KEY_ID"],
        secret=s3["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=s3["AWS_ENDPOINT_URL"],
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    if not fs.exists("bucket"):
        fs.mkdir("bucket")
    return fs


def test_a_job_from_and_to_s3_with_the_model_there(
    s3: dict[str, str], bucket: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    local = write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(8)])
    bucket.put(str(local), "bucket/in/part=1/a.parquet")
    bucket.put(str(local), "bucket/in/part=2/a.parquet")
    bucket.put(str(builtin_folder()), "bucket/models/demo", recursive=True)
    command = [
        *("rerank", "--input", "s3://bucket/in/*/*.parquet", "--output", "s3://bucket/out"),
        *("--model", "s3://bucket/models/demo", "--set", f"model.cache_folder={tmp_path}/cache"),
        *("--set", "units.pairs=8"),
    ]
    # A short path, since Ray puts sockets there.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray-") as folder:
        done = shardrank(*command, RAY_TMPDIR=folder, **s3)
        logs = [path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()]
    assert done.returncode == 0, done.stderr
    assert bucket.exists("bucket/out/_SUCCESS")
    rows = sum(pq.read_table(bucket.open(f)).num_rows for f in bucket.glob("bucket/out/*.parquet"))
    assert rows == 16
    verified = shardrank("verify", "s3://bucket/in/*/*.parquet", "s3://bucket/out", **s3)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    again = shardrank(*command, **s3)
    assert "nothing was left to do" in again.stdout
    other = shardrank(*command, "--set", "prompt.instruction=other", **s3)
    assert other.returncode == 4
    assert "prompt.instruction" in other.stderr
    written = [bucket.cat(path) for path in bucket.find("bucket/out")]
    printed = (done.stdout + done.stderr + verified.stdout + other.stderr).encode()
    assert len(logs) > 5
    assert not any(SECRET.encode() in content for content in (*written, *logs, printed))


def test_scores_in_s3_are_reused_through_an_index_there(
    s3: dict[str, str], bucket: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(8)])
    command = ["rerank", "--input", tmp_path / "in", "--model", "demo"]
    settings = ("--set", "units.pairs=8", "--set", "output.pair_hash=true")
    first = shardrank(*command, "--output", "s3://bucket/first", *settings, **s3)
    assert first.returncode == 0, first.stderr
    reuse = ("--set", "scoring.reuse=s3://bucket/first")
    second = shardrank(*command, "--output", "s3://bucket/second", *settings, *reuse, **s3)
    assert second.returncode == 0, second.stderr
    assert "32 pairs (100.0%) reused an earlier score" in second.stdout
    assert bucket.exists("bucket/first/_shardrank/reuse/index.json")
    # What is not there cannot be reused: exit code 1 and what to do.
    other = ("--set", "scoring.reuse=s3://bucket/second/none")
    failed = shardrank(*command, "--output", "s3://bucket/third", *settings, *other, **s3)
    assert (failed.returncode, "is not the output of a job" in failed.stderr) == (1, True)
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached"),
        ({}, "there is no such bucket"),
    ],
)
def test_a_store_that_fails_is_one_clear_message(
    s3: dict[str, str], variables: dict[str, str], message: str, tmp_path: Path
) -> None:
    write_nested(tmp_path / "a.parquet", [row(1)])
    failed = shardrank(
        *("rerank", "--input", tmp_path, "--output", "s3://absent-bucket/out", "--model", "demo"),
        **{**s3, **variables},
    )
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", SECRET) not in failed.stderr
