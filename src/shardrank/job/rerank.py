"""The driver: plan, run what is pending, account for everything, say that it is done."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from shardrank.config import Config
from shardrank.errors import (
    BadRowError,
    IncompleteError,
    ModelError,
    OutputMismatchError,
)
from shardrank.job.cluster import connected, require_devices, shape_of
from shardrank.job.limits import require_few_rejected
from shardrank.job.opening import Job, open_job
from shardrank.job.pipeline import run_units
from shardrank.job.progress import duration
from shardrank.job.report import write_report
from shardrank.job.stopping import stops_on_sigterm
from shardrank.job.watch import Watch
from shardrank.store.commits import committed
from shardrank.store.writer import read_footers_of, read_tombstones, write_success
from shardrank.types import Counts, Receipt

Echo = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class JobResult:
    """What a finished job leaves.

    output: its URL; counts: of the whole output, earlier executions included.
    num_units_done: by this execution; pairs_per_second: of it, start-up of the cluster left out.
    """

    output: str
    counts: Counts
    num_units: int
    num_units_done: int
    num_failed_shards: int
    seconds: float
    pairs_per_second: float


def rerank(
    config: Config, *, progress: TextIO | None = None, echo: Echo | None = None
) -> JobResult:
    """Rerank every shard of the input; called again, it goes on from what is committed.

    progress: where the progress line goes, if anywhere; echo: takes each line of the summary.

    Raises ConfigError, InputError, ModelError or OutputError before anything is scored;
    OutputMismatchError if the output belongs to another job; IncompleteError if units are missing
    in the end; TooManyRejectedError if more was rejected than the configuration allows.
    """
    started = time.monotonic()
    job = open_job(config)
    say = echo or (lambda line: None)
    for warning in job.warnings:
        say(f"warning: {warning}")
    before = committed(job.output, job.plan).done
    watch = Watch(job.plan, before, progress)
    error: BaseException | None = None
    try:
        if len(before) < len(job.plan.units):
            with connected(config.cluster.address) as is_own, stops_on_sigterm():
                require_devices(config, ray.nodes(), is_own=is_own)
                if not is_own:
                    say(f"on the running Ray cluster {ray.get_runtime_context().gcs_address}")
                _run(job, config, watch)
        result = _finish(job, config, watch, time.monotonic() - started)
    except BaseException as caught:
        error = caught
        raise
    finally:
        write_report(job, watch, time.monotonic() - started, error)
    for line in summary(result):
        say(line)
    return result


def _run(job: Job, config: Config, watch: Watch) -> None:
    """Passes over the pending units, until none is left or a unit had its last attempt."""
    for _ in range(config.errors.max_attempts):
        done = committed(job.output, job.plan).done
        pending = [unit for unit in job.plan.units if unit.number not in done]
        if not pending:
            return
        shape = shape_of(config, ray.nodes(), len(pending))
        receipts = run_units(
            job.spec(shape.threads), pending, shape, config.cluster.no_progress_seconds
        )
        try:
            for receipt in receipts:
                watch.add(receipt)
                _raise_if_hopeless(receipt)
        except (RayError, ExecutionTimeoutError) as error:
            # The store says what was done; the next pass, or the next job, does the rest.
            watch.lose(type(error).__name__, (str(error).strip().splitlines() or [""])[-1])


def _raise_if_hopeless(receipt: Receipt) -> None:
    """End the job at what no second attempt can mend."""
    for error in (BadRowError, ModelError, OutputMismatchError):
        if receipt.outcome == "failed" and receipt.code == error.__name__:
            raise error(receipt.message or "")


def _finish(job: Job, config: Config, watch: Watch, seconds: float) -> JobResult:
    """Account for every unit from the store, which alone knows; then, and only then, _SUCCESS."""
    done = committed(job.output, job.plan)
    watch.close()
    num_missing = len(job.plan.units) - len(done.done)
    if num_missing:
        raise IncompleteError(watch.explain_missing(num_missing))
    footers = read_footers_of(job.output, job.plan, sorted(done.data))
    tombstones = read_tombstones(job.output, done.tombstones)
    counts = Counts.total(Counts(**footer["counts"]) for footer in footers)
    require_few_rejected(counts, tombstones, config.errors, job.output)
    write_success(job.output, job.plan, footers, tombstones)
    return JobResult(
        output=job.output.display(),
        counts=counts,
        num_units=len(job.plan.units),
        num_units_done=watch.num_done,
        num_failed_shards=len({tombstone["shard"] for tombstone in tombstones}),
        seconds=seconds,
        pairs_per_second=watch.pairs_per_second,
    )


def summary(result: JobResult) -> list[str]:
    """What a person wants to know of a finished job."""
    counts = result.counts
    lines = [
        f"done: {counts.rows_out:,} rows, {counts.pairs_out:,} pairs in {result.output}",
    ]
    if counts.pairs_cut or counts.pairs_rejected or counts.rows_rejected:
        lines.append(
            f"      {counts.pairs_cut:,} pairs cut by top_k or min_score, "
            f"{counts.pairs_rejected:,} pairs and {counts.rows_rejected:,} rows rejected"
        )
    if counts.pairs_truncated:
        lines.append(f"      {counts.pairs_truncated:,} documents cut to fit into max_tokens")
    if result.num_failed_shards:
        lines.append(f"      shards that could not be read: {result.num_failed_shards:,}")
    if result.num_units_done:
        lines.append(
            f"      {result.pairs_per_second:,.1f} pairs/s once it ran, {duration(result.seconds)} "
            f"with start-up, {result.num_units_done:,} of {result.num_units:,} units by this run"
        )
    else:
        lines.append("      nothing was left to do: every unit was committed before")
    return lines
