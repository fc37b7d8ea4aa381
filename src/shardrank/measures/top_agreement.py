"""Whether two sets of scores put the same document first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def top_agreement(one: Sequence[ArrayLike], other: Sequence[ArrayLike]) -> float:
    """The part of the queries, in [0, 1], whose best document is the same; NaN without queries.

    one, other: for each query the scores [num_documents] of its documents. Of equal scores the
    first wins, as it does in a ranking.
    """
    pairs = [
        (np.asarray(first), np.asarray(second))
        for first, second in zip(one, other, strict=True)
        if np.size(first)
    ]
    if not pairs:
        return float("nan")
    return float(np.mean([first.argmax() == second.argmax() for first, second in pairs]))
