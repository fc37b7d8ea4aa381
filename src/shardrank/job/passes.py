"""Passes over what is pending, until nothing is, or nothing more can be tried in this execution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from shardrank.config import ClusterConfig
from shardrank.errors import (
    BadRowError,
    IncompleteError,
    ModelError,
    OutputFullError,
    OutputMismatchError,
)
from shardrank.job.allowance import Allowance
from shardrank.job.cluster import Shape, shape_of
from shardrank.job.drain import STOPPED, draining
from shardrank.job.holding import Hold
from shardrank.job.opening import Job
from shardrank.job.parcel import Order
from shardrank.job.pipeline import largest_first, run_units
from shardrank.job.probe import probe_unit
from shardrank.job.spec import JobSpec
from shardrank.job.watch import Watch
from shardrank.store.attempts import (
    WORKER_DIED,
    History,
    begin_attempt,
    note_harmless,
    note_poison,
    read_histories,
)
from shardrank.store.commits import committed
from shardrank.store.writer import commit_tombstone
from shardrank.types import Receipt, Unit


def run_pending(job: Job, watch: Watch, hold: Hold) -> None:
    """Do the pending units; those that killed their worker too often are first tried apart.

    Raises what no further pass can mend: IncompleteError where nothing moves any more, and the
    errors of the model, of a bad row that must end the job, and of an output that is not ours or
    takes no more.
    """
    cluster, max_attempts = job.config.cluster, job.config.errors.max_attempts
    allowance = Allowance(max_attempts)
    num_fruitless = 0
    while True:
        pending, histories = _pending(job, allowance), read_histories(job.output)
        suspects = [
            unit for unit in pending if allowance.is_suspect(unit.number, histories[unit.number])
        ]
        if not pending or (num_fruitless >= max_attempts and not suspects):
            return
        shape = shape_of(job.config, ray.nodes(), len(pending))
        spec = job.spec(shape.threads)
        for unit in suspects:
            hold.require()
            history = histories[unit.number]
            _probe(spec, unit, history, shape, cluster.no_progress_seconds, watch)
            allowance.note_search(unit.number)
        if suspects:
            pending, histories = _pending(job, allowance), read_histories(job.output)
        orders = [_order(unit, histories[unit.number], allowance) for unit in pending]
        if not orders:
            return
        answered, is_whole = _one_pass(spec, orders, shape, cluster, watch, hold)
        for receipt in answered:
            if receipt.outcome == "failed" and receipt.code != WORKER_DIED:
                allowance.note_failure(receipt.unit)
        is_fruitless = all(receipt.outcome == "failed" for receipt in answered)
        if is_fruitless and is_whole:
            _note_silent(job, orders, histories, {receipt.unit for receipt in answered})
        num_fruitless = num_fruitless + 1 if is_fruitless and not suspects else 0


def _pending(job: Job, allowance: Allowance) -> list[Unit]:
    done = committed(job.output, job.plan).done
    return largest_first(
        [
            unit
            for unit in job.plan.units
            if unit.number not in done and not allowance.is_used_up(unit.number)
        ]
    )


def _order(unit: Unit, history: History, allowance: Allowance) -> Order:
    left = max(1, allowance.left(unit.number, history))
    first = history.num_attempts + 1
    return Order(unit, first, first + left - 1, history.poison)


def _one_pass(
    spec: JobSpec,
    orders: Sequence[Order],
    shape: Shape,
    cluster: ClusterConfig,
    watch: Watch,
    hold: Hold,
) -> tuple[list[Receipt], bool]:
    """The receipts that came, and whether Ray brought the pass to its end.

    Raises IncompleteError after a SIGTERM, once the units that had begun are done.
    """
    answered = []
    no_progress_seconds = cluster.no_progress_seconds
    try:
        with draining(cluster.drain_seconds) as drain:
            for receipt in run_units(spec, orders, shape, no_progress_seconds, drain.brake):
                if receipt.code == STOPPED:
                    continue
                answered.append(receipt)
                drain.answer(receipt.unit)
                watch.add(receipt)
                hold.require()
                _raise_if_hopeless(receipt)
        drain.require()
    except ExecutionTimeoutError as error:
        raise IncompleteError(
            f"no unit moved for {no_progress_seconds} seconds "
            "(cluster.no_progress_seconds): see that the cluster has the CPUs or GPUs that the "
            "actors ask for; the same command again goes on from the last committed unit"
        ) from error
    except RayError as error:
        # The store says what was done; the next pass, or the next job, does the rest.
        watch.lose(type(error).__name__, (str(error).strip().splitlines() or [""])[-1])
        return answered, False
    return answered, True


def _raise_if_hopeless(receipt: Receipt) -> None:
    """End the job at what no second attempt can mend."""
    for error in (BadRowError, ModelError, OutputMismatchError, OutputFullError):
        if receipt.outcome == "failed" and receipt.code == error.__name__:
            raise error(receipt.message or "")


def _note_silent(
    job: Job, orders: Sequence[Order], before: Mapping[int, History], answered: set[int]
) -> None:
    """Count a pass that brought nothing for the units that did not even reach a scorer.

    In one that brought something they may have been in the queue of a scorer that was lost.
    """
    now, done = read_histories(job.output), committed(job.output, job.plan).done
    for order in orders:
        number = order.unit.number
        is_lost = number not in answered and number not in done
        if is_lost and now[number].num_attempts == before[number].num_attempts:
            begin_attempt(job.output, order.unit, order.first_attempt, order.last_attempt)


def _probe(
    spec: JobSpec,
    unit: Unit,
    history: History,
    shape: Shape,
    timeout_seconds: float,
    watch: Watch,
) -> None:
    """Find out what in a unit kills its workers, and write that down."""
    rows = probe_unit(spec, unit, history.poison, shape, timeout_seconds)
    place = f"unit {unit.id} (shard {unit.shard.path})"
    if rows is None:
        message = (
            f"reading rows {unit.row_start} to {unit.row_stop} of shard {unit.shard.path} kills "
            "the process that reads them (too little memory?); replace the shard, or allow for it "
            "with errors.max_failed_shards"
        )
        commit_tombstone(spec.output, unit, spec.fingerprints, WORKER_DIED, message)
        return
    for row in rows:
        note_poison(spec.output, unit, row)
    if not rows:
        note_harmless(spec.output, unit, history.num_probes + 1)
        watch.lose(
            WORKER_DIED,
            f"{place} killed its workers, though none of its rows does alone: too little memory?",
        )
