"""A job on S3 under random kills and failing storage, again and again, until the time is over.

    python bench/soak.py [--minutes 10] [--seed N] [--share 0.1]

Each round reranks XQuAD-R's candidates, or the built-in ones where those are not there, into a new
output. At random moments its driver is killed (SIGKILL) or told to end (SIGTERM), or one of its
actors or other workers is killed, while a share of all requests to the store fails in every way
that tests/fault_proxy.py knows. Each round must end with `verify` clean, and with the rows of an
undisturbed execution; no command may show a traceback of ours. Exit code 0 if all did.
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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from results import make_parser, make_row

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT / "tests"))

from fault_proxy import FaultProxy, Spoiling, fault_proxy  # noqa: E402

KINDS = get_args(Spoiling)
SHARDRANK = [sys.executable, "-m", "shardrank"]
CANDIDATES = PROJECT / "src/shardrank/demo/candidates"
BUCKET = "soak"
XQUAD = PROJECT.parent / "shared/data/xquad-r"
NUM_ROWS = 120
"""Of each shard of XQuAD-R: a round is to last some minutes."""
NUM_COPIES = 4
"""Of the built-in candidates, for the same reason."""
UNIT_PAIRS = 200
RESUMABLE = (1, 3, -signal.SIGKILL)
"""1: the store failed before the job could begin, or while it was closed."""
UNEXPECTED = 99
"""Another exit code, no message, or a traceback of ours: Ray Data has some where a worker died."""


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
    parser = make_parser(__doc__)
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
        for name, table in shards():
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, row_group_size=10)
            self.fs.pipe_file(f"{BUCKET}/in/{name}", sink.getvalue().to_pybytes())
        deadline = time.monotonic() + 60 * self.arguments.minutes
        if self._end(self._start("undisturbed")) != 0:
            return False
        expected, clean, number = self._rows("undisturbed"), True, 0
        while clean and time.monotonic() < deadline:
            number += 1
            output = f"round-{number}"
            clean = self._disturbed(output, deadline)
            self.proxy.share = 0.0
            verified = subprocess.run(
                [*SHARDRANK, "verify", f"s3://{BUCKET}/in", f"s3://{BUCKET}/{output}"],
                env=self.environment,
                check=False,
            )
            same = self._rows(output) == expected
            clean = clean and verified.returncode == 0 and same
            print(f"round {number}: verify {verified.returncode}, same rows: {same}", flush=True)
            self.counts["rounds"] += 1
            self.counts["units"] += len(expected)
            self.counts["pairs"] += sum(map(len, (r for t in expected.values() for r in t)))
            self.counts["attempts"] += sum(
                "-probe-" not in path for path in self.fs.find(self._inside(output, "attempts"))
            )
        return clean

    def figures(self) -> str:
        """What was met, in one line."""
        met: Counter[str] = Counter()
        for (_, kind), times in self.proxy.num_met.items():
            met[kind] += times
        counts = self.counts
        again = (counts["attempts"] - counts["units"]) / max(counts["units"], 1)
        kinds = ", ".join(f"{kind} {times}" for kind, times in met.most_common())
        codes = ", ".join(
            f"{key.removeprefix('exit ')}: {times}"
            for key, times in sorted(counts.items())
            if key.startswith("exit ")
        )
        return (
            f"{counts['rounds']} rounds; SIGKILL to {counts['driver']} drivers, "
            f"{counts['actor']} actors and {counts['worker']} other workers, SIGTERM to "
            f"{counts['terminated']} drivers; {counts['resumes']} resumes (exit codes {codes}); "
            f"{sum(met.values())} of {self.proxy.num_requests} requests failed ({kinds}); "
            f"{counts['pairs']} pairs in {counts['units']} units; units scored again: {again:.1%}"
        )

    def _disturbed(self, output: str, deadline: float) -> bool:
        """One output, by as many executions as it takes; the last ones are left alone."""
        while True:
            in_time = time.monotonic() < deadline
            self.proxy.share = self.arguments.share if in_time else 0.0
            driver = self._start(output)
            if in_time:
                self._disturb(driver, deadline)
            code = self._end(driver)
            self.counts[f"exit {code}"] += 1
            print(f"{output}: exit {code}", flush=True)
            if code not in RESUMABLE:
                return code == 0
            self.counts["resumes"] += 1

    def _disturb(self, driver: subprocess.Popen[str], deadline: float) -> None:
        """At moments that nobody chose: kill some workers, and then perhaps the driver."""
        ending = self.random.choice([None, "driver", "terminated"])
        pause = min(self.random.uniform(15.0, 75.0), max(deadline - time.monotonic(), 0.0))
        while driver.poll() is None and pause > 0:
            time.sleep(0.5)
            pause -= 0.5
            if self.random.random() < 0.08:
                wanted = self.random.choice(["actor", "worker"])
                workers = [pid for pid, kind in workers_of(driver.pid) if kind == wanted]
                if workers:
                    kill(self.random.choice(workers), signal.SIGKILL)
                    self.counts[wanted] += 1
        if ending and driver.poll() is None:
            kill(driver.pid, signal.SIGKILL if ending == "driver" else signal.SIGTERM)
            self.counts[ending] += 1

    def _end(self, driver: subprocess.Popen[str]) -> int:
        """Wait for a command; what it printed is shown where it does not look as it should."""
        printed, _ = driver.communicate()
        print((printed.strip().splitlines() or [""])[-1], flush=True)
        is_mute = driver.returncode > 0 and "\nshardrank: " not in f"\n{printed}"
        is_known = driver.returncode in (0, *RESUMABLE) and not is_mute
        if "src/shardrank/" in printed or not is_known:
            print(printed, f"exit {driver.returncode}", flush=True)
            return UNEXPECTED
        if driver.returncode == -signal.SIGKILL:
            time.sleep(2.0)  # its workers may write for a moment yet
        return driver.returncode

    def _start(self, output: str) -> subprocess.Popen[str]:
        command = [*SHARDRANK, "rerank", "--input", f"s3://{BUCKET}/in", "--model", "demo"]
        command += ["--output", f"s3://{BUCKET}/{output}", "--set", f"units.pairs={UNIT_PAIRS}"]
        command += ["--set", "cluster.address=local", "--set", "errors.max_rejected_fraction=0"]
        if XQUAD.exists():
            command += ["--set", "input.columns.doc_id=id"]
        return subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
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


def shards() -> Iterator[tuple[str, pa.Table]]:
    """The input: names and rows."""
    files = sorted(XQUAD.glob("*-0.parquet"))
    for file in files:
        yield file.name, pq.read_table(file).slice(0, NUM_ROWS)
    if not files:
        for file in sorted(CANDIDATES.glob("*.parquet")):
            for copy in range(NUM_COPIES):
                yield f"copy={copy}/{file.name}", pq.read_table(file)


def workers_of(driver: int) -> list[tuple[int, str]]:
    """Ray's actor and task processes below a driver: pid, and "actor" or "worker"."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        pid = int(folder.name)
        parents[pid] = int(stat[1])
        # Without the agents of Ray's daemon, which ends with them.
        if title.startswith(b"ray::") and b"Agent" not in title:
            found.append((pid, "actor" if b"Scorer" in title else "worker"))
    return [(pid, kind) for pid, kind in found if _is_below(pid, driver, parents)]


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == ancestor:
            return True
    return False


def kill(pid: int, number: signal.Signals) -> None:
    """A signal, to whoever is still there."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())
