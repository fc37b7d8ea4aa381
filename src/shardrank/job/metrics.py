"""What a running job shows to Prometheus, through Ray: every name, its labels and its meaning.

Ray exports them on each node, `ray_` in front of the name and `_total` behind a counter, with
labels of its own (NodeAddress, WorkerId, ...). There are no histograms: the sum of one is wrong in
Ray's exporter, which knows a value no better than by its bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from shardrank.store.filesystem import Storage

OUTPUT = "output"
"""A label of all of them: where the job writes."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One name. labels: beside `output`."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    meaning: str

    @property
    def exported(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}_total" if self.kind == "counter" else f"ray_{self.name}"


METRICS = {
    metric.name: metric
    for metric in (
        Metric("shardrank_planned_units", "gauge", (), "Units of the plan."),
        Metric("shardrank_done_units", "gauge", (), "Units that are committed or given up."),
        Metric(
            "shardrank_planned_pairs",
            "gauge",
            (),
            "Pairs of the plan, an upper bound; 0 where a footer cannot be read.",
        ),
        Metric(
            "shardrank_progress_timestamp_seconds",
            "gauge",
            (),
            "When a unit last came back to the driver, in Unix time.",
        ),
        Metric(
            "shardrank_units",
            "counter",
            ("outcome",),
            "Receipts: committed, already_committed, tombstone or failed.",
        ),
        Metric("shardrank_pairs", "counter", (), "Pairs of the units that were committed."),
        Metric("shardrank_tokens", "counter", (), "Tokens of their prompts."),
        Metric(
            "shardrank_rejected_pairs", "counter", ("code",), "Pairs that were rejected, by reason."
        ),
        Metric(
            "shardrank_scored_pairs",
            "counter",
            (),
            "Pairs that went through a session, also for units that were done again.",
        ),
        Metric(
            "shardrank_batches",
            "counter",
            (),
            "Runs of a session (layouts padded and prefix).",
        ),
        Metric(
            "shardrank_batch_tokens",
            "counter",
            ("kind",),
            "Tokens in those runs: real, or padding. Shared prefixes count once.",
        ),
        Metric(
            "shardrank_stage_seconds",
            "counter",
            ("stage",),
            "Seconds of work in a stage: read, score, write.",
        ),
        Metric("shardrank_stage_units", "counter", ("stage",), "Units that passed a stage."),
        Metric(
            "shardrank_queue_wait_seconds",
            "counter",
            (),
            "Seconds that units lay ready before their scorer took them.",
        ),
        Metric(
            "shardrank_device_busy_share",
            "gauge",
            (),
            "Share of the time since its last unit that a scorer spent scoring.",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Meters:
    """The metrics of one job. output: where it writes, without secrets."""

    output: str

    @staticmethod
    def of(output: Storage) -> Meters:
        """Those of the job that writes there."""
        return Meters(output.display())

    def count(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter; nothing where the value is 0, so that no idle label shows up."""
        if value > 0:
            _metric(name).inc(value, self._tags(labels))

    def show(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        _metric(name).set(value, self._tags(labels))

    def _tags(self, labels: Mapping[str, str]) -> dict[str, str]:
        return {OUTPUT: self.output, **labels}


@cache
def _metric(name: str) -> Any:
    from ray.util import metrics

    metric = METRICS[name]
    kind = metrics.Counter if metric.kind == "counter" else metrics.Gauge
    return kind(name, metric.meaning, tag_keys=(OUTPUT, *metric.labels))
