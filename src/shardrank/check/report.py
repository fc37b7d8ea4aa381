"""What a check of a model found, as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shardrank.check.result import CheckResult, Verdict, render, worst_verdict
from shardrank.engine.session import SessionDescription

BATCHES = "batches"
"""The name of the check whose figure says how far a score moves with its batch."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """results: in the order of the table. machine: where they were found."""

    results: Sequence[CheckResult]
    machine: SessionDescription

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of a line."""
        return worst_verdict(self.results)

    @property
    def batch_difference(self) -> float | None:
        """The largest difference of log-odds that a batch made; None if it was not measured."""
        found = [result for result in self.results if result.name == BATCHES]
        return found[0].figures.get("largest difference") if found else None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON, as it stands in reranker.json under `check`."""
        return {
            "verdict": self.verdict,
            "machine": self.machine.as_dict(),
            "batch_difference": self.batch_difference,
            "results": [result.as_dict() for result in self.results],
        }

    def render(self) -> str:
        """A table for people, and the machine that it holds for."""
        where = self.machine
        return (
            f"{render(self.results)}\n"
            f"{self.verdict:4}  on onnxruntime {where.onnxruntime_version}, {where.provider}, "
            f"{where.instruction_set}"
        )
