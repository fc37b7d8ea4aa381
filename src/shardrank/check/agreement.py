"""How far a model's log-odds and rankings are from a reference's, and what is tolerable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shardrank.check.pairs import JudgedPairs
from shardrank.check.result import Verdict, judge_difference
from shardrank.measures.kendall_tau import kendall_tau
from shardrank.measures.ndcg import ndcg
from shardrank.measures.score_error import ScoreError, score_error
from shardrank.measures.top_agreement import top_agreement
from shardrank.types import Float64Array

_CUTOFF = 10
# Of fp32: other kernels and another order of sums, never another model.
_EXACT_MAX, _TOLERABLE_MAX = 1e-3, 1e-2
# Of the others, rms error over the spread of log-odds: somewhat above what four layers of random
# weights show (0.03 to 0.05 for 8 bits, 0.1 with one scale for the whole batch, 0.35 for 4 bits).
_GOOD_RELATIVE = {
    "fp16": 0.02,
    "bf16": 0.06,
    "w8a8": 0.06,
    "int8": 0.06,
    "q8": 0.06,
    "dynamic-int8": 0.15,
}
_GOOD_RELATIVE_UNKNOWN = 0.4
# Deep networks add errors up (28 layers of random weights in w8a8: 0.47), and a lossy model is its
# user's choice; swapped answers or weights of another checkpoint give 1 and more.
_TOLERABLE_RELATIVE = 0.8


@dataclass(frozen=True, slots=True)
class Agreement:
    """error: of the log-odds. The rest are means over the queries that have a number.

    kendall_tau: of the rankings. top_1: the part of the queries with the same best document.
    ndcg, reference_ndcg: nDCG@10 of both by the judgements of people.
    """

    error: ScoreError
    kendall_tau: float
    top_1: float
    ndcg: float
    reference_ndcg: float

    def describe(self) -> str:
        """One line of figures."""
        error = self.error
        return (
            f"log-odds max error {error.max:.3g}, rms {error.rms:.3g} = "
            f"{100 * error.relative:.2g} % of the spread {error.spread:.3g}; "
            f"Kendall tau {self.kendall_tau:.3f}, the same first document {self.top_1:.0%}, "
            f"nDCG@10 {self.ndcg:.3f} (reference {self.reference_ndcg:.3f})"
        )

    def figures(self) -> dict[str, float]:
        """The same by name, numbers only."""
        values = {
            "max error": self.error.max,
            "rms error": self.error.rms,
            "relative error": self.error.relative,
            "spread": self.error.spread,
            "kendall tau": self.kendall_tau,
            "top-1 agreement": self.top_1,
            "nDCG@10": self.ndcg,
            "reference nDCG@10": self.reference_ndcg,
        }
        return {name: value for name, value in values.items() if np.isfinite(value)}


def compare(pairs: JudgedPairs, values: Float64Array, reference: Float64Array) -> Agreement:
    """Log-odds [num_pairs] of a model and of its reference, on the same pairs."""
    own, expected = pairs.by_query(values), pairs.by_query(reference)
    relevance = pairs.by_query(pairs.relevance)
    return Agreement(
        error=score_error(values, reference),
        kendall_tau=_mean([kendall_tau(a, b) for a, b in zip(own, expected, strict=True)]),
        top_1=top_agreement(own, expected),
        ndcg=_mean([_ndcg(scores, r) for scores, r in zip(own, relevance, strict=True)]),
        reference_ndcg=_mean([_ndcg(s, r) for s, r in zip(expected, relevance, strict=True)]),
    )


def judge(agreement: Agreement, precision: str) -> Verdict:
    """What is good depends on the precision; a failure is another model, a warning a lossy one."""
    if precision == "fp32":
        return judge_difference(agreement.error.max, _EXACT_MAX, _TOLERABLE_MAX)
    good = _GOOD_RELATIVE.get(precision, _GOOD_RELATIVE_UNKNOWN)
    return judge_difference(agreement.error.relative, good, _TOLERABLE_RELATIVE)


def _ndcg(scores: Float64Array, relevance: Float64Array) -> float:
    order = np.argsort(-scores, kind="stable")
    return ndcg(relevance[order].tolist(), _CUTOFF)


def _mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")
