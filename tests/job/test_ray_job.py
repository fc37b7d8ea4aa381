"""The job as a cluster's user runs it: `ray start --head`, then `ray job submit`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from commands import environment, shardrank
from oracles.checkpoints import make_random_checkpoint
from shardrank.engine.model import PreparedModel
from tables import read_output, row, write_nested

pytestmark = pytest.mark.ray

PROJECT = Path(__file__).parent.parent.parent
RAY = str(Path(sys.executable).with_name("ray"))
PORT = "26379"
DASHBOARD_PORT = "28265"
DASHBOARD = f"http://127.0.0.1:{DASHBOARD_PORT}"


def ray_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
        env=environment(**variables),
    )


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    token = tmp_path_factory.mktemp("auth") / "token"
    token.write_text("0123456789abcdef" * 4)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={PORT}"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    # Ports of its own, since the agent of another cluster on this machine has the usual ones.
    command += ["--dashboard-agent-listen-port=28266", "--dashboard-agent-grpc-port=28267"]
    command += ["--metrics-export-port=28268", "--ray-client-server-port=28269"]
    # Not `ray stop`, which would end every Ray process of this machine, other people's too.
    started = subprocess.Popen(
        [*command, f"--dashboard-port={DASHBOARD_PORT}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(**variables),
        start_new_session=True,
    )
    deadline = time.monotonic() + 180
    probe = ("job", "submit", f"--address={DASHBOARD}", "--", "true")
    while ray_command(*probe, **variables).returncode != 0:
        assert started.poll() is None
        assert time.monotonic() < deadline
    yield variables
    started.terminate()
    try:
        started.wait(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)


def submit(head: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return ray_command(
        *("job", "submit", f"--address={DASHBOARD}", "--working-dir=."),
        *("--runtime-env-json", '{"excludes": [".venv", ".git", "build", "out"]}'),
        *("--", *command),
        **head,
    )


def test_a_submitted_job_reranks(head: dict[str, str], tmp_path: Path) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(6)])
    settings = [f"input.path={tmp_path}/in", f"output.path={tmp_path}/out"]
    done = submit(
        head,
        *(sys.executable, "jobs/rerank.py", "configs/demo.toml"),
        *(part for setting in settings for part in ("--set", setting)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "done: 6 rows, 24 pairs" in done.stdout
    assert len(read_output(tmp_path / "out")) == 6
    assert os.path.exists(tmp_path / "out" / "_SUCCESS")


def test_a_submitted_job_prepares_a_model(head: dict[str, str], tmp_path: Path) -> None:
    checkpoint = make_random_checkpoint(tmp_path / "checkpoint")
    done = submit(
        head,
        *(sys.executable, "jobs/prepare.py", str(checkpoint), "--output", f"{tmp_path}/model"),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    model = PreparedModel.load(tmp_path / "model")
    assert (model.precision, model.layout) == ("w8a8", "prefix")


def test_a_running_cluster_is_taken_and_left_running(head: dict[str, str], tmp_path: Path) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(3)])
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", "demo")
    address = ("--set", f"cluster.address=127.0.0.1:{PORT}")
    done = shardrank("rerank", *folders, *address, **head)
    assert done.returncode == 0, done.stderr
    assert ray_command("status", f"--address=127.0.0.1:{PORT}", **head).returncode == 0


def test_a_cluster_that_asks_for_a_token_is_one_clear_message(
    head: dict[str, str], tmp_path: Path
) -> None:
    write_nested(tmp_path / "in" / "a.parquet", [row(1)])
    folders = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--model", "demo")
    address = ("--set", f"cluster.address=127.0.0.1:{PORT}")
    failed = shardrank("rerank", *folders, *address, RAY_AUTH_MODE="disabled")
    assert failed.returncode == 1
    assert "RAY_AUTH_MODE=token" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_submitted_job_that_fails_says_why(head: dict[str, str], tmp_path: Path) -> None:
    failed = submit(
        head,
        *(sys.executable, "jobs/rerank.py", "configs/demo.toml"),
        *("--set", f"input.path={tmp_path}/absent"),
    )
    assert failed.returncode == 1
    assert f"no input at {tmp_path}/absent" in failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout
