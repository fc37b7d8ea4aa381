"""The commit protocol under everything that may happen to it, judged by `verify` and by a model.

Drivers and workers come and go; each of their calls to the store may fail, be slow, be answered
wrongly or not at all, or be the last thing that its process does. At every moment what is there
is whole and true; and a driver that nothing befalls ends it as if nothing ever had.
"""

from __future__ import annotations

import itertools
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shardrank.errors import IncompleteError, OutputMismatchError, ShardrankError
from shardrank.store.commits import SUCCESS_NAME, committed
from shardrank.store.filesystem import Storage
from shardrank.store.plan import PLAN_NAME, Plan, load_plan, open_plan
from shardrank.store.verify import verify
from shardrank.testing import FailingStore, FaultKind, Faults, ProcessDied, failing_store
from store.small_job import commit, finish, known_score, nested, propose

TEXTS: dict[str, list[list[str | None] | None]] = {
    "a.parquet": [["a", None, "b"], ["c", "d"], None, ["e", "e", "f", "g"]],
    "c.parquet": [["h"], [], [None, "i", "j"]],
}
JOBS = ("tiny", "other")

Trouble = tuple[int, FaultKind | None]
troubles = st.tuples(st.integers(0, 9), st.none() | st.sampled_from(get_args(FaultKind)))
"""What befalls a process, and after how many calls to the store."""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("protocol")
    for name, texts in TEXTS.items():
        pq.write_table(nested(*texts), folder / name, row_group_size=2)
    (folder / "b.parquet").write_bytes(b"no Parquet at all")
    return folder


def model_of_the_output() -> dict[str, list[list[str | None]]]:
    """By shard, each row's texts, the best first: what must come out, in plain Python."""

    def best_first(texts: list[str | None] | None) -> list[str | None]:
        kept = [text for text in texts or [] if text is not None]
        scores = dict(zip(kept, known_score(kept).tolist(), strict=True))
        return sorted(kept, key=lambda text: -scores[text])

    return {name.removesuffix(".parquet"): list(map(best_first, t)) for name, t in TEXTS.items()}


class Protocol(RuleBasedStateMachine):
    """One output folder. owner: the job that it belongs to, once one was told so."""

    input: Path
    place: str | None
    checks_always = True

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.faults = Faults()
        place = self.place and f"{self.place}/{uuid4().hex}"
        self.url: FailingStore = self.stack.enter_context(failing_store(self.faults, place))
        self.output = Storage(self.url)
        self.proposed = {
            job: propose(str(self.input), Storage(f"memory://{uuid4().hex}"), model=job)
            for job in JOBS
        }
        self.owner: str | None = None
        self.plan: Plan | None = None
        self.attempts = itertools.count()
        self.acknowledged: set[int] = set()
        self.contents: dict[str, bytes] = {}

    def teardown(self) -> None:
        self.faults.stop()
        self.url.land()
        # A job may have been stored, and its driver never told so.
        stored = load_plan(self.output)
        plan = self._open(JOBS[0] if stored is None else stored.score_fields["model"])
        assert self.owner in (None, plan.score_fields["model"])
        self._do_pending(plan)
        finish(self.output, plan)
        self._check()
        result = verify(str(self.input), self.output)
        assert (result.ok, result.num_missing, len(result.failed)) == (True, 0, 1), result.problems
        assert self._rows() == model_of_the_output()
        self.stack.close()

    @rule(job=st.sampled_from(JOBS), trouble=troubles)
    def driver_opens(self, job: str, trouble: Trouble) -> None:
        try:
            plan = self._told(trouble, lambda: self._open(job))
        except OutputMismatchError:
            stored = load_plan(self.output)
            assert stored is not None
            assert stored.score_fields["model"] != job
            return
        if plan is not None:
            assert self.owner in (None, job)
            self.owner, self.plan = job, plan

    @precondition(lambda self: self.plan is not None)
    @rule(number=st.integers(0, 20), trouble=troubles)
    def worker_does_a_unit(self, number: int, trouble: Trouble) -> None:
        number %= len(self.plan.units)
        outcome = self._told(trouble, lambda: self._commit(self.plan, number))
        if outcome is not None:
            assert number in committed(self.output, self.plan).done
            self.acknowledged.add(number)

    @precondition(lambda self: self.plan is not None)
    @rule(trouble=troubles)
    def driver_does_what_is_pending(self, trouble: Trouble) -> None:
        self._told(trouble, lambda: self._do_pending(self.plan))

    @precondition(lambda self: self.plan is not None)
    @rule(trouble=troubles)
    def driver_finishes(self, trouble: Trouble) -> None:
        def attempt() -> bool:
            finish(self.output, self.plan)
            return True

        if self._told(trouble, attempt):
            assert len(committed(self.output, self.plan).done) == len(self.plan.units)

    @rule()
    def zombies_write(self) -> None:
        self.url.land()

    @invariant()
    def what_is_there_is_whole_and_true(self) -> None:
        if self.checks_always:
            self._check()

    def _check(self) -> None:
        self.faults.stop()
        files = {file.path for file in self.output.list_files()}
        assert files >= self.contents.keys(), "a file was deleted"
        for path in files:
            data = self.output.read_bytes(path)
            assert self.contents.setdefault(path, data) == data, f"{path} was changed"
        if PLAN_NAME not in files:
            assert not files
            return
        plan = load_plan(self.output)
        assert plan is not None
        assert self.owner in (None, plan.score_fields["model"])
        done = committed(self.output, plan).done
        assert done >= self.acknowledged
        assert SUCCESS_NAME not in files or len(done) == len(plan.units)
        problems = verify(str(self.input), self.output).problems
        assert [p for p in problems if not p.endswith("is missing: it is not done yet")] == []

    def _told(self, trouble: Trouble, act: Any) -> Any:
        """The result, or None where the trouble kept the process from it."""
        step, kind = trouble
        self.faults.script("any", *[None] * step, kind)
        try:
            return act()
        except OutputMismatchError:
            raise
        except IncompleteError:
            return None
        except (ShardrankError, ProcessDied):
            assert self.faults.num_met
            return None
        finally:
            self.faults.stop()

    def _open(self, job: str) -> Plan:
        return open_plan(self.output, self.proposed[job][1])

    def _commit(self, plan: Plan, number: int) -> str:
        source = self.proposed[JOBS[0]][0]
        unit, attempt = plan.units[number], f"{next(self.attempts)}"
        return commit(source, self.output, plan, unit, attempt)

    def _do_pending(self, plan: Plan) -> None:
        done = committed(self.output, plan).done
        for unit in plan.units:
            if unit.number not in done:
                self._commit(plan, unit.number)

    def _rows(self) -> dict[str, list[list[str | None]]]:
        rows: dict[str, list[list[str | None]]] = {}
        for file in sorted(self.output.list_files(recursive=False), key=lambda file: file.path):
            if file.path.endswith(".parquet"):
                with self.output.open_input(file.path) as source:
                    for row in pq.read_table(source)["candidates"].to_pylist():
                        texts = [candidate["text"] for candidate in row]
                        rows.setdefault(file.path.partition("-")[0], []).append(texts)
        return rows


def run(place: str | None, shards: Path, num_examples: int, num_steps: int, **options: Any) -> None:
    machine = type("Protocol", (Protocol,), {"input": shards, "place": place, **options})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=num_examples,
            stateful_step_count=num_steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_protocol_holds_in_memory(shards: Path) -> None:
    run(None, shards, 12, 8)


def test_the_protocol_holds_in_a_folder(shards: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(folder, shards, 7, 8)


def test_the_protocol_holds_on_s3(shards: Path, s3_bucket: str) -> None:
    run(s3_bucket, shards, 2, 5, checks_always=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "local", "s3"])
def test_the_protocol_holds_for_long(
    shards: Path, kind: str, tmp_path: Path, s3_bucket: str
) -> None:
    place = {"memory": None, "local": str(tmp_path), "s3": s3_bucket}[kind]
    run(place, shards, 5 if kind == "s3" else 50, 20)
