"""What is wrong, told from the scores of pairs whose right scores are known."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from shardrank.engine.ranking import sigmoid
from shardrank.types import Float64Array

# Of the four pairs about the Red Planet: Venus, Mars, Jupiter, Saturn.
_RIGHT = np.array([0.04273, 0.99919, 0.40643, 0.97185])
# sentence-transformers, tests/cross_encoder/test_pretrained.py: the bare query and document.
_NO_TEMPLATE = np.array([0.55859, 0.98828, 0.88672, 0.91016])
_TOLERANCE = 0.03
_HALF_TOLERANCE = 1e-6
# The sigmoid of a probability, and of the difference of two that add up to 1.
_LOWEST, _HIGHEST = (float(value) for value in sigmoid(np.array([-1.0, 1.0])))


def diagnose(scores: ArrayLike) -> str | None:
    """The known fault that scores in [0, 1] are a sign of, in one sentence, or None.

    scores: [num_pairs] of any pairs; or [4] of Venus, Mars, Jupiter and Saturn for the Red Planet,
    which tell more. None where they hold NaN.
    """
    found = np.asarray(scores, np.float64)
    if len(found) == 0 or not np.isfinite(found).all():
        return None
    if (np.abs(found - 0.5) < _HALF_TOLERANCE).all():
        return "every score is .5: yes and no are the same column of the head, or the head is empty"
    if _near(found, _NO_TEMPLATE):
        return "these are the scores without a template: the prompts were not built as on the card"
    if _near(found, 1.0 - _RIGHT):
        return "every score is 1 minus the right one: yes and no are swapped"
    if (found >= 0.5).all() and (found <= _HIGHEST).all():
        return "every score is in .5 to .731: the sigmoid was applied twice, once in the graph"
    if (found >= _LOWEST).all() and (found <= _HIGHEST).all():
        return "every score is in .269 to .731: the graph gives probabilities, not logits"
    return None


def _near(found: Float64Array, pattern: Float64Array) -> bool:
    return found.shape == pattern.shape and bool((np.abs(found - pattern) < _TOLERANCE).all())
