"""What one check found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["pass", "warn", "fail", "skip"]

_WORST_FIRST: tuple[Verdict, ...] = ("fail", "warn", "pass")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """name: of the check; detail: one line with the figures it rests on.

    figures: the same for programs, finite numbers by name.
    """

    name: str
    verdict: Verdict
    detail: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "detail": self.detail,
            "figures": dict(self.figures),
        }


def worst_verdict(results: Sequence[CheckResult]) -> Verdict:
    """The verdict on the whole; what was skipped says nothing."""
    found = {result.verdict for result in results}
    return next((verdict for verdict in _WORST_FIRST if verdict in found), "skip")


def judge_difference(difference: float, exact: float, tolerable: float) -> Verdict:
    """pass up to `exact`, warn up to `tolerable`, fail beyond or where it is no number."""
    if difference <= exact:
        return "pass"
    return "warn" if difference <= tolerable else "fail"


def render(results: Sequence[CheckResult]) -> str:
    """A table for people: verdict, name, detail."""
    width = max((len(result.name) for result in results), default=0)
    return "\n".join(f"{r.verdict:4}  {r.name:{width}}  {r.detail}" for r in results)
