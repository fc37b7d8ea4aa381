"""What is done, pending and rejected in an output folder; readable while the job runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from shardrank.errors import OutputError
from shardrank.job.progress import duration
from shardrank.store.commits import SUCCESS_NAME, committed
from shardrank.store.filesystem import Storage
from shardrank.store.holder import is_dead, this_process
from shardrank.store.lease import Generation, is_at_work, latest_generation
from shardrank.store.plan import Plan, load_plan
from shardrank.store.writer import read_footers_of, read_tombstones
from shardrank.types import Counts

SECONDS_BETWEEN_LOOKS = 5.0


@dataclass(frozen=True, slots=True)
class Status:
    """One look at an output.

    finished: _SUCCESS is there. counts: of the committed units.
    pending_pairs: an upper bound; None where a footer could not be read.
    holder: the process that holds the output's lease; None if nobody does. It may have died.
    is_held: that process runs, on this machine.
    pairs_per_second, seconds_left: since the first of several looks; None where nothing moved yet.
    """

    output: str
    finished: bool
    units: int
    done: int
    pending: int
    failed: int
    pending_pairs: int | None
    counts: Counts
    failures: tuple[str, ...]
    holder: str | None = None
    is_held: bool = False
    pairs_per_second: float | None = None
    seconds_left: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def look(output: Storage, plan: Plan, known: dict[int, Counts] | None = None) -> Status:
    """Read where a job stands: one listing, and the footers of what is committed.

    known: counts of units, by number, whose footers need not be read again; takes the new ones in.
    """
    known = {} if known is None else known
    done = committed(output, plan)
    fresh = sorted(done.data - known.keys())
    for footer in read_footers_of(output, plan, fresh):
        known[footer["unit"]] = Counts(**footer["counts"])
    tombstones = read_tombstones(output, done.tombstones)
    pending = [unit.num_pairs for unit in plan.units if unit.number not in done.done]
    expected = [pairs for pairs in pending if pairs is not None]
    lease = latest_generation(output)
    return Status(
        output=output.display(),
        finished=output.exists(SUCCESS_NAME),
        units=len(plan.units),
        done=len(done.data),
        pending=len(pending),
        failed=len(done.tombstones),
        pending_pairs=sum(expected) if len(expected) == len(pending) else None,
        counts=Counts.total(known[number] for number in done.data),
        failures=tuple(tombstone["message"] for tombstone in tombstones),
        holder=None if lease is None or lease.released else _holder(lease),
        is_held=lease is not None
        and not lease.released
        and is_at_work(lease, this_process(), datetime.now(UTC)),
    )


def _economies(counts: Counts) -> list[str]:
    """What was not scored, if anything."""
    parts = [
        f"{num:,} {what}"
        for num, what in (
            (counts.pairs_reused, "with the score of an earlier output"),
            (counts.pairs_passed_over, "not scored again"),
        )
        if num
    ]
    return [f"            {', '.join(parts)}"] if parts else []


def _holder(lease: Generation) -> str:
    died = ", which has died" if is_dead(lease.holder, this_process()) else ""
    return f"{lease.holder}{died}; renewed at {lease.written}"


def watch_status(
    path: str,
    *,
    follow: bool,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Status]:
    """One look, or one every few seconds until nothing is pending; only from the store.

    Raises OutputError if there is no job in the folder.
    """
    output = Storage(path, "output")
    plan = load_plan(output)
    if plan is None:
        raise OutputError(
            f"{output.display()} holds no shardrank job (_shardrank/job.json is missing); give "
            "the output folder of `shardrank rerank`"
        )
    last: Status | None = None
    known: dict[int, Counts] = {}
    first_at, first_pairs = clock(), 0
    while True:
        status = look(output, plan, known)
        if last is None:
            first_pairs = status.counts.pairs_in
        if status != last:
            yield _with_pace(status, status.counts.pairs_in - first_pairs, clock() - first_at)
        # Without pending units the driver still accounts for all of them: one look more.
        if not follow or status.finished or (not status.pending and status == last):
            return
        last = status
        sleep(SECONDS_BETWEEN_LOOKS)


def _with_pace(status: Status, num_pairs: int, seconds: float) -> Status:
    """The pace since the first look, and how long the rest takes at it."""
    if not num_pairs:
        return status
    pace = num_pairs / seconds
    left = None if status.pending_pairs is None else status.pending_pairs / pace
    return replace(status, pairs_per_second=pace, seconds_left=left)


def render_status(status: Status) -> str:
    """A few lines for people."""
    counts = status.counts
    share = (status.done + status.failed) / status.units if status.units else 1.0
    pending = f"{status.pending:,} pending"
    if status.pending and status.pending_pairs is not None:
        pending += f" (about {status.pending_pairs:,} pairs)"
    if status.finished and status.pending:
        state = "finished, but files are missing since; the same command again makes them"
    elif status.finished:
        state = "finished"
    elif status.pending and status.is_held:
        state = "running"
    elif status.pending:
        state = "not finished; the same command again goes on"
    else:
        state = "all units done, but not accepted; the same command again says why"
    done = f"{status.done:,} done, {pending}, {status.failed:,} failed"
    lines = [
        f"{status.output}: {state}, {share:.0%}",
        f"  units     {done}, of {status.units:,}",
        f"  rows      {counts.rows_out:,} out, {counts.rows_rejected:,} rejected",
        f"  pairs     {counts.pairs_out:,} out, {counts.pairs_cut:,} cut, "
        f"{counts.pairs_rejected:,} rejected, {counts.pairs_truncated:,} with a document cut short",
        *_economies(counts),
        f"  tokens    {counts.tokens:,}",
    ]
    if status.pairs_per_second is not None:
        left = "" if status.seconds_left is None else f", {duration(status.seconds_left)} left"
        pace = f"{status.pairs_per_second:,.1f} pairs/s since the first look"
        lines.append(f"  pace      {pace}{left}")
    if status.holder is not None:
        lines.append(f"  at work   {status.holder}")
    lines += [f"  failed    {message}" for message in status.failures[:5]]
    return "\n".join(lines)
