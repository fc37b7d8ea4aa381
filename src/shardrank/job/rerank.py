"""The driver: plan, run what is pending, account for everything, say that it is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TextIO

import ray

from shardrank.config import Config
from shardrank.errors import IncompleteError, OutputBusyError, ShardrankError
from shardrank.job.cluster import connected, pool_warning, require_devices
from shardrank.job.holding import Hold, holding
from shardrank.job.known_units import do_known_units, needs_no_cluster
from shardrank.job.limits import require_few_rejected
from shardrank.job.lost_cluster import Farewell
from shardrank.job.metrics import Meters
from shardrank.job.observers import DriverMeters, ReceiptLog
from shardrank.job.opening import Job, job_name, open_job
from shardrank.job.passes import run_pending
from shardrank.job.progress import duration
from shardrank.job.report import write_report
from shardrank.job.reuse import ensure_index
from shardrank.job.stopping import stops_on_sigterm
from shardrank.job.watch import Watch
from shardrank.store.commits import committed, require_still_there
from shardrank.store.pair_index import PairIndex
from shardrank.store.writer import read_footers_of, read_tombstones, write_success
from shardrank.types import Counts

logger = logging.getLogger(__name__)

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
    OutputMismatchError if the output belongs to another job, OutputBusyError if another process is
    at work on it; IncompleteError if units are missing in the end; TooManyRejectedError if more was
    rejected than the configuration allows.
    """
    started = time.monotonic()
    job = open_job(config)
    say = echo or (lambda line: None)
    if config.logging.format == "json":
        say = partial(_log, job_name(job.plan.fingerprints))
    for warning in job.warnings:
        say(f"warning: {warning}")
    if len(committed(job.output, job.plan).done) == len(job.plan.units):
        result = _execute(job, config, None, progress, say, started)
    else:
        with stops_on_sigterm(), holding(job.output, config.lease.seconds) as hold:
            result = _execute(job, config, hold, progress, say, started)
    for line in summary(result):
        say(line)
    return result


def _log(job: str, line: str) -> None:
    logger.info("%s", line.strip(), extra={"job": job})


def _execute(
    job: Job,
    config: Config,
    hold: Hold | None,
    progress: TextIO | None,
    say: Echo,
    started: float,
) -> JobResult:
    """Do what is pending, and report how it went. hold: None where nothing is left to do."""
    before = committed(job.output, job.plan).done
    watch = _watch(job, config, before, progress)
    error: BaseException | None = None

    def report(ending: BaseException | None) -> None:
        # The report is the holder's own: who was superseded must not write over it.
        if not isinstance(ending, OutputBusyError):
            write_report(job, watch, time.monotonic() - started, ending)

    def farewell(lost: ShardrankError) -> None:
        report(lost)
        if hold is not None:
            hold.close()

    try:
        if hold is not None and len(before) < len(job.plan.units):
            _work(job, config, hold, watch, say, farewell)
        return _finish(job, config, watch, time.monotonic() - started)
    except BaseException as caught:
        error = caught
        raise
    finally:
        report(error)


def _work(
    job: Job, config: Config, hold: Hold, watch: Watch, say: Echo, farewell: Farewell
) -> None:
    """Do what is pending, and first what needs no cluster: that may be all."""
    if needs_no_cluster(job):
        job = _with_index(job, say)
        do_known_units(job, watch, hold)
        if len(committed(job.output, job.plan).done) == len(job.plan.units):
            return
    with connected(config.cluster.address, farewell) as is_own, stops_on_sigterm():
        hold.require()
        require_devices(config, ray.nodes(), is_own=is_own)
        if not is_own:
            say(f"on the running Ray cluster {ray.get_runtime_context().gcs_address}")
            if warning := pool_warning(config, ray.nodes()):
                say(f"warning: {warning}")
        watch.begin()
        run_pending(_with_index(job, say), watch, hold)


def _with_index(job: Job, say: Echo) -> Job:
    if job.earlier is None or job.index is not None:
        return job
    if PairIndex.load(job.earlier) is None:
        say(f"making an index of the pairs in {job.earlier.display()}, once")
    return replace(job, index=ensure_index(job.earlier))


def _watch(job: Job, config: Config, done: Collection[int], progress: TextIO | None) -> Watch:
    meters = DriverMeters(Meters.of(job.output), job.plan, done)
    if config.logging.format == "text":
        return Watch(job.plan, done, progress, observers=[meters])
    log = ReceiptLog(job_name(job.plan.fingerprints))
    return Watch(job.plan, done, None, tell=log.tell, observers=[meters, log])


def _finish(job: Job, config: Config, watch: Watch, seconds: float) -> JobResult:
    """Account for every unit from the store, which alone knows; then, and only then, _SUCCESS."""
    done = committed(job.output, job.plan)
    watch.close()
    num_missing = len(job.plan.units) - len(done.done)
    if num_missing:
        raise IncompleteError(watch.explain_missing(num_missing))
    require_still_there(job.output, job.plan)
    footers = read_footers_of(job.output, job.plan, sorted(done.data))
    tombstones = read_tombstones(job.output, done.tombstones)
    counts = Counts.total(Counts(**footer["counts"]) for footer in footers)
    require_few_rejected(counts, tombstones, config.errors, job.output)
    write_success(job.output, job.plan, footers, tombstones, job.model.batch_dependence)
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
    if counts.pairs_passed_over:
        lines.append(f"      {counts.pairs_passed_over:,} pairs not scored again by the cascade")
    if counts.pairs_reused:
        share = counts.pairs_reused / max(1, counts.pairs_in)
        lines.append(f"      {counts.pairs_reused:,} pairs ({share:.1%}) reused an earlier score")
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
