"""What a worker tells of each unit: to Prometheus, and to its log."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache

import ray

from shardrank.job.logs import set_up_worker, worker_name
from shardrank.job.metered import MeteredSession
from shardrank.job.metrics import Meters
from shardrank.job.parcel import Parcel
from shardrank.job.spec import JobSpec
from shardrank.types import Receipt, Rejection

logger = logging.getLogger(__name__)


def note_read(spec: JobSpec, parcel: Parcel) -> None:
    """A unit was read and tokenized."""
    _note_stage(spec, parcel, "read", parcel.seconds["read"])


def note_written(
    spec: JobSpec, parcel: Parcel, receipt: Receipt, rejections: Iterable[Rejection]
) -> None:
    """A unit was committed by this process."""
    _note_stage(spec, parcel, "write", receipt.seconds_write)
    pairs: Counter[str] = Counter()
    for rejection in rejections:
        pairs[rejection.code] += rejection.num_pairs
    meters = Meters.of(spec.output)
    for code, num_pairs in pairs.items():
        meters.count("shardrank_rejected_pairs", num_pairs, code=code)


class ScorerNotes:
    """What a scorer tells of the units that it takes, one after the other."""

    def __init__(self, spec: JobSpec, session: object) -> None:
        self._spec = spec
        self._meters = Meters.of(spec.output)
        self._session = session if isinstance(session, MeteredSession) else None
        self._free_since = time.monotonic()

    def scored(self, parcel: Parcel, taken_at: float) -> None:
        """A unit was scored. taken_at: when the scorer took it, in Unix time."""
        seconds = parcel.seconds["score"]
        now = time.monotonic()
        elapsed, self._free_since = now - self._free_since, now
        meters = self._meters
        meters.show("shardrank_device_busy_share", min(1.0, seconds / max(elapsed, 1e-9)))
        # The clocks of two machines may differ; a negative wait tells nothing.
        meters.count("shardrank_queue_wait_seconds", max(0.0, taken_at - parcel.ready_at))
        meters.count("shardrank_scored_pairs", len(parcel.log_odds))
        if self._session is not None:
            batches = self._session.take()
            meters.count("shardrank_batches", batches.runs)
            meters.count("shardrank_batch_tokens", batches.tokens, kind="real")
            meters.count("shardrank_batch_tokens", batches.padding, kind="padding")
        _note_stage(self._spec, parcel, "score", seconds)


@cache
def _node_id() -> str | None:
    """Ray's name for this machine, or pod; None outside of a cluster."""
    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else None


def _note_stage(spec: JobSpec, parcel: Parcel, stage: str, seconds: float) -> None:
    meters = Meters.of(spec.output)
    meters.count("shardrank_stage_seconds", seconds, stage=stage)
    meters.count("shardrank_stage_units", 1, stage=stage)
    set_up_worker(spec.log_format)
    logger.info(
        "%s",
        stage,
        extra={
            "job": spec.job,
            "unit": parcel.unit.id,
            "worker": worker_name(),
            "node": _node_id(),
            "shard": parcel.unit.shard.path,
            "pairs": len(parcel.pairs),
            "seconds": round(seconds, 3),
        },
    )
