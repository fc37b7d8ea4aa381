"""How far scores are from those of a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class ScoreError:
    """max: the largest absolute error. rms: the root of the mean squared one.

    spread: standard deviation of the reference, the measure of what an error means: a constant
    error changes no ranking, and one of a small part of the spread few.
    """

    max: float
    rms: float
    spread: float

    @property
    def relative(self) -> float:
        """rms / spread; 0 for no error, infinite where the reference has no spread."""
        if self.rms == 0.0:
            return 0.0
        return self.rms / self.spread if self.spread else float("inf")


def score_error(scores: ArrayLike, reference: ArrayLike) -> ScoreError:
    """The error of scores [num_documents], in float64; NaN where either holds NaN or is empty."""
    expected = np.asarray(reference, np.float64)
    errors = np.abs(np.asarray(scores, np.float64) - expected)
    if len(errors) == 0:
        return ScoreError(float("nan"), float("nan"), float("nan"))
    return ScoreError(
        max=float(errors.max()),
        rms=float(np.sqrt(np.mean(errors**2))),
        spread=float(expected.std()),
    )
