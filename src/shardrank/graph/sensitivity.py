"""How much each product's 8-bit rounding moves the log-odds, and which are worth sparing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shardrank.graph.product_group import ProductGroup
from shardrank.graph.rehearsal import Rehearsal
from shardrank.types import Float64Array

# Each group costs a pass of the model over these.
_NUM_PROMPTS = 16


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group of products, and the error of the log-odds when it alone is rounded as in W8A8.

    error: rms over the standard deviation of the log-odds in fp32, both on the sample.
    share: of the model's multiplications, from 0 to 1.
    """

    name: str
    error: float
    share: float

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, for reranker.json: error to four digits."""
        return {
            "name": self.name,
            "error": float(f"{self.error:.4g}"),
            "share": float(f"{self.share:.4g}"),
        }


def measure_sensitivities(rehearsal: Rehearsal) -> list[Sensitivity]:
    """Round one group after the other of those that W8A8 rounds, on 16 prompts; the worst first."""
    exact = rehearsal.log_odds((), _NUM_PROMPTS)
    shares = multiplication_shares(rehearsal.groups, rehearsal.tokens_a_prompt)
    found = [
        Sensitivity(
            group.name,
            relative_error(rehearsal.log_odds({group.name}, _NUM_PROMPTS), exact),
            shares[group.name],
        )
        for group in rehearsal.rounded
    ]
    return sorted(found, key=lambda entry: -entry.error)


def choose_kept(
    found: Sequence[Sensitivity], error_without: Callable[[Collection[str]], float], limit: float
) -> list[str]:
    """Names of the groups to keep so that the others together err by no more than `limit`.

    error_without: the error when all groups but these are rounded. Errors add up as squares, so
    the group whose squared error is largest for its work goes first; how many it takes is found by
    halving, since each trial costs a pass of the model.
    """
    names = [e.name for e in sorted(found, key=lambda e: -(e.error**2) / e.share)]
    too_few, enough = -1, len(names)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if error_without(names[:middle]) <= limit:
            enough = middle
        else:
            too_few = middle
    return names[:enough]


def relative_error(found: Float64Array, exact: Float64Array) -> float:
    """Root of the mean squared error over the standard deviation of the exact values."""
    error = float(np.sqrt(np.mean(np.square(found - exact))))
    deviation = float(exact.std())
    return error / deviation if deviation > 0 else error


def multiplication_shares(
    groups: Sequence[ProductGroup], tokens_a_prompt: float
) -> dict[str, float]:
    """Each group's part of all multiplications of weights, by its name; they add up to 1."""
    costs = {
        group.name: group.num_weights * (1.0 if group.sees_last_only else tokens_a_prompt)
        for group in groups
    }
    total = sum(costs.values())
    return {name: cost / total for name, cost in costs.items()}


def render_sensitivities(found: Sequence[Sensitivity], kept: Sequence[str]) -> str:
    """A table, the worst first."""
    lines = ["error / std   share of the work   products"]
    for entry in found:
        mark = "   kept in fp32" if entry.name in kept else ""
        lines.append(f"{entry.error:11.4f}   {entry.share:17.2%}   {entry.name}{mark}")
    return "\n".join(lines)
