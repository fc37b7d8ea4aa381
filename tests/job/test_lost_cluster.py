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


def children(parent: int, name: str) -> list[int]:
    """The processes of a parent whose program, or title, ends with a name."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            of = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            program = (folder / "cmdline").read_bytes().split(b"\0")[0]
            if of == parent and program.decode().strip().endswith(name):
                found.append(int(folder.name))
    return found


class Started:
    """A job in mid-run."""

    def __init__(self, root: Path, *settings: str, **variables: str) -> None:
        rows = [row(number, 24) for number in range(NUM_UNITS)]
        write_nested(root / "in" / "a.parquet", rows, row_group_size=1)
        self.input, self.output = root / "in", root / "out"
        self.command = ["rerank", "--input", str(self.input), "--output", str(self.output)]
        self.command += ["--model", "demo", "--set", "units.pairs=24"]
        more = [part for setting in settings for part in ("--set", setting)]
        self.process = start_shardrank(*self.command, *more, **variables)
        deadline = time.monotonic() + 200
        while len(list(self.output.glob("*.parquet"))) < 3:
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def ends_resumable(self) -> str:
        """What it printed."""
        printed, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 3, printed
        assert printed.count("the same command again") == 1, printed
        report = json.loads((self.output / "_shardrank/report.json").read_text())
        assert report["error"] == "IncompleteError"
        return printed

    def goes_on(self) -> None:
        resumed = shardrank(*self.command)
        assert resumed.returncode == 0, resumed.stderr
        assert shardrank("verify", self.input, self.output).returncode == 0


def test_a_running_cluster_that_is_lost_ends_the_job_with_our_message(
    head: Head, tmp_path: Path
) -> None:
    job = Started(tmp_path, f"cluster.address={head.address}", **head.variables)
    head.kill()
    assert f":{head.port} was lost: " in job.ends_resumable()
    job.goes_on()


@pytest.mark.parametrize(
    ("daemon", "message"),
    [
        ("raylet", "was lost: Ray's daemon on this node (raylet) died"),
        ("gcs_server", "was lost: its head did not answer for 40 seconds"),
    ],
)
def test_a_cluster_of_our_own_that_dies_ends_the_job_with_our_message(
    tmp_path: Path, daemon: str, message: str
) -> None:
    job = Started(tmp_path)
    [process] = children(job.process.pid, f"/{daemon}")
    os.kill(process, signal.SIGKILL)
    assert message in job.ends_resumable()


def test_a_job_whose_daemon_signs_off_has_last_words(tmp_path: Path) -> None:
    job = Started(tmp_path)
    [daemon] = children(job.process.pid, "/raylet")
    [agent] = children(daemon, "DashboardAgent")
    os.kill(agent, signal.SIGKILL)
    printed, _ = job.process.communicate(timeout=120)
    # Ray's own exit, at once, or ours, where Ray's driver had nothing to ask its daemon for.
    assert job.process.returncode in (1, 3), printed
    assert printed.count("the same command again") == 1, printed
    job.goes_on()
