"""A job on S3 under random kills and failing storage, again and again, until the time is over.

    python bench/soak.py [--minutes 10] [--seed N] [--share 0.1]

Each round reranks the built-in candidates into a new output; its driver, or one of Ray's workers,
is killed with SIGKILL at random moments, while a share of all requests to the store fails in every
way that tests/fault_proxy.py knows. Each round must end with `verify` clean, and with the rows of
an undisturbed run. Exit code 0 if all did.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from results import make_row

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from fault_proxy import FaultProxy, fault_proxy  # noqa: E402

KINDS = ["500", "503", "409", "reset", "reset_after", "slow", "truncated"]
SHARDRANK = [sys.executable, "-m", "shardrank"]
CANDIDATES = PROJECT / "src/shardrank/demo/candidates"
BUCKET = "soak"
NUM_COPIES = 4
"""Of the candidates, so that a round lasts longer than the cluster's start."""


def main() -> int:
    """Run, print figures, and say whether all rounds were clean."""
    arguments = parse()
    print(f"seed {arguments.seed}", flush=True)
    from moto.server import ThreadedMotoServer

    # It would print every request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    proxy = FaultProxy(address, arguments.seed, 0.0, KINDS)
    with fault_proxy(proxy) as url:
        environment = {
            **{name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "soak",
            "AWS_SECRET_ACCESS_KEY": "soak",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        soak = Soak(arguments, proxy, environment)
        clean = soak.run()
    server.stop()
    print(
        make_row(f"python bench/soak.py --seed {arguments.seed}", soak.figures(), ["ray", "s3fs"])
    )
    return 0 if clean else 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--share", type=float, default=0.1, help="of requests that fail")
    return parser.parse_args()


class Soak:
    """All rounds, and what is counted over them."""

    def __init__(
        self, arguments: argparse.Namespace, proxy: FaultProxy, environment: dict[str, str]
    ) -> None:
        self.arguments = arguments
        self.proxy = proxy
        self.environment = environment
        self.random = random.Random(arguments.seed)
        self.counts: Counter[str] = Counter()
        self.fs = self._connection()

    def run(self) -> bool:
        """Rounds until the time is over. Returns whether all were clean."""
        for file in sorted(CANDIDATES.glob("*.parquet")):
            for copy in range(NUM_COPIES):
                self.fs.put(str(file), f"{BUCKET}/in/copy={copy}/{file.name}")
        deadline = time.monotonic() + 60 * self.arguments.minutes
        assert self._start("undisturbed").wait() == 0
        expected, clean, number = self._rows("undisturbed"), True, 0
        while clean and time.monotonic() < deadline:
            number += 1
            output = f"round-{number}"
            self._disturbed(output, deadline)
            self.proxy.share = 0.0
            verified = subprocess.run(
                [*SHARDRANK, "verify", f"s3://{BUCKET}/in", f"s3://{BUCKET}/{output}"],
                env=self.environment,
                check=False,
            )
            same = self._rows(output) == expected
            clean = verified.returncode == 0 and same
            print(f"round {number}: verify {verified.returncode}, same rows: {same}", flush=True)
            self.counts["rounds"] += 1
            self.counts["units"] += len(expected)
            self.counts["pairs"] += sum(map(len, (r for t in expected.values() for r in t)))
            self.counts["attempts"] += sum(
                "-probe-" not in path for path in self.fs.ls(self._inside(output, "attempts"))
            )
        return clean

    def figures(self) -> str:
        """What was met, in one line."""
        met: Counter[str] = Counter()
        for (_, kind), times in self.proxy.num_met.items():
            met[kind] += times
        counts = self.counts
        again = (counts["attempts"] - counts["units"]) / max(counts["units"], 1)
        return (
            f"{counts['rounds']} rounds, {counts['driver']} kills of drivers, "
            f"{counts['worker']} of workers, {counts['resumes']} resumes, {sum(met.values())} of "
            f"{self.proxy.num_requests} requests failed ({dict(met)}), {counts['pairs']} pairs, "
            f"units scored again: {again:.1%}"
        )

    def _disturbed(self, output: str, deadline: float) -> None:
        """One output, by as many executions as it takes; the last ones are left alone."""
        while True:
            in_time = time.monotonic() < deadline
            self.proxy.share = self.arguments.share if in_time else 0.0
            driver = self._start(output)
            if in_time:
                self._kill_something(driver)
            code = driver.wait()
            print(f"{output}: exit {code}", flush=True)
            if code == 0:
                return
            self.counts["resumes"] += 1

    def _kill_something(self, driver: subprocess.Popen[Any]) -> None:
        """Wait for a moment that nobody chose, then kill the driver or some of its workers."""
        pause = self.random.uniform(5.0, 45.0)
        kills_driver = self.random.random() < 0.5
        while driver.poll() is None and pause > 0:
            time.sleep(0.5)
            pause -= 0.5
            if not kills_driver and self.random.random() < 0.05:
                workers = workers_of(driver.pid)
                if workers:
                    kill(self.random.choice(workers))
                    self.counts["worker"] += 1
        if kills_driver and driver.poll() is None:
            kill(driver.pid)
            self.counts["driver"] += 1
            time.sleep(2.0)  # its workers may write for a moment yet

    def _start(self, output: str) -> subprocess.Popen[Any]:
        command = [*SHARDRANK, "rerank", "--input", f"s3://{BUCKET}/in", "--model", "demo"]
        command += ["--output", f"s3://{BUCKET}/{output}", "--set", "units.pairs=100"]
        command += ["--set", "cluster.address=local"]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _rows(self, output: str) -> dict[str, list[Any]]:
        found = {}
        for path in self.fs.ls(f"{BUCKET}/{output}"):
            if path.endswith(".parquet"):
                table = pq.read_table(pa.BufferReader(self.fs.cat_file(path)))
                found[path.rpartition("/")[2]] = table["candidates"].to_pylist()
        return found

    def _inside(self, output: str, folder: str) -> str:
        return f"{BUCKET}/{output}/_shardrank/{folder}"

    def _connection(self) -> Any:
        import s3fs

        fs = s3fs.S3FileSystem(
            key="soak",
            secret="soak",  # noqa: S106
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            use_listings_cache=False,
        )
        fs.mkdir(BUCKET)
        return fs


def workers_of(driver: int) -> list[int]:
    """Ray's task and actor processes below a driver."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        parents[int(folder.name)] = (int(stat[1]), title.startswith(b"ray::"))
    return [
        pid
        for pid, (_, is_worker) in parents.items()
        if is_worker and _is_below(pid, driver, parents)
    ]


def _is_below(pid: int, ancestor: int, parents: dict[int, tuple[int, bool]]) -> bool:
    while pid in parents:
        pid = parents[pid][0]
        if pid == ancestor:
            return True
    return False


def kill(pid: int) -> None:
    """SIGKILL, to whoever is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
