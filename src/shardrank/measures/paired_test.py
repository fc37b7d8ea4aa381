"""Whether a difference between two systems, query by query, is more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two systems on the same queries.

    before, after: means; p_value: of a two-sided paired t-test, as scipy's ttest_rel; None where
        there are fewer than two queries or no query differs. wins, losses, ties: queries whose
        value rose, fell, or stayed.
    """

    before: float
    after: float
    p_value: float | None
    wins: int
    losses: int
    ties: int

    @property
    def difference(self) -> float:
        """after - before."""
        return self.after - self.before


def paired_test(before: ArrayLike, after: ArrayLike) -> PairedTest:
    """Compare two values of each query, both [num_queries], at least one (Student, 1908).

    Smucker, Allan and Carterette (2007) found the t-test as good as randomisation for means over
    queries, and better than the sign and the Wilcoxon test.
    """
    first, second = np.asarray(before, np.float64), np.asarray(after, np.float64)
    change = second - first
    p_value = None
    if len(change) > 1 and change.any():
        # Without a spread t is infinite, which scipy warns of.
        p_value = 0.0 if change.std() == 0.0 else float(stats.ttest_rel(second, first).pvalue)
    return PairedTest(
        before=float(first.mean()),
        after=float(second.mean()),
        p_value=p_value,
        wins=int((change > 0).sum()),
        losses=int((change < 0).sum()),
        ties=int((change == 0).sum()),
    )
