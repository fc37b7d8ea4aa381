"""A cluster whose head is gone in mid-run: our message and exit code, and the rest resumable."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from commands import environment, shardrank, start_shardrank
from tables import row, write_nested

pytestmark = pytest.mark.ray

RAY = str(Path(sys.executable).with_name("ray"))
NUM_UNITS = 40
PORTS = (
    *("port", "node-manager-port", "object-manager-port", "metrics-export-port"),
    *("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port"),
)


def free_ports() -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class Head:
    """`ray start --head` on this machine, of its own process group."""

    def __init__(self) -> None:
        ports = free_ports()
        self.port = ports[0]
        self.address = f"127.0.0.1:{self.port}"
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false"]
        command += ["--node-ip-address=127.0.0.1"]
        command += [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
        self.variables = {"RAY_AUTH_MODE": "disabled"}
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(**self.variables),
            start_new_session=True,
        )
        deadline = time.monotonic() + 120
        status = [RAY, "status", f"--address={self.address}"]
        while subprocess.run(
            status, capture_output=True, env=environment(**self.variables), check=False
        ).returncode:
            assert self.process.poll() is None
            assert time.monotonic() < deadline

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    yield head
    head.kill()


def test_a_lost_cluster_ends_the_job_with_our_message_and_the_rest_can_be_done(
    head: Head, tmp_path: Path
) -> None:
    rows = [row(number, 24) for number in range(NUM_UNITS)]
    write_nested(tmp_path / "in" / "a.parquet", rows, row_group_size=1)
    output = tmp_path / "out"
    command = ["rerank", "--input", str(tmp_path / "in"), "--output", str(output)]
    command += ["--model", "demo", "--set", "units.pairs=24"]
    attached = ["--set", f"cluster.address={head.address}"]
    job = start_shardrank(*command, *attached, **head.variables)
    deadline = time.monotonic() + 200
    while len(list(output.glob("*.parquet"))) < 3:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    head.kill()
    printed, _ = job.communicate(timeout=120)
    assert job.returncode == 3, printed
    assert f":{head.port} was lost: its head did not answer" in printed
    assert printed.count("the same command again") == 1
    assert "Traceback" not in printed
    report = json.loads((output / "_shardrank/report.json").read_text())
    assert report["error"] == "IncompleteError"
    resumed = shardrank(*command)
    assert resumed.returncode == 0, resumed.stderr
    assert shardrank("verify", tmp_path / "in", output).returncode == 0
