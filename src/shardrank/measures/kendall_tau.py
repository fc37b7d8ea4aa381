"""How alike two orders are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def kendall_tau(one: ArrayLike, other: ArrayLike) -> float:
    """Kendall's tau-b of two sets of scores of the same documents, in [-1, 1].

    one, other: [num_documents]. 1 for the same order, -1 for the opposite one; NaN where either
    set is all ties, holds fewer than two documents, or holds NaN. Every two documents are
    compared, so it is for lists of up to some thousands (Kendall, 1945).
    """
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    rows, columns = np.triu_indices(len(first), k=1)
    signs = np.sign(first[rows] - first[columns])
    other_signs = np.sign(second[rows] - second[columns])
    num_untied = float(np.abs(signs).sum()) * float(np.abs(other_signs).sum())
    if num_untied == 0.0:
        return float("nan")
    return float((signs * other_signs).sum() / np.sqrt(num_untied))
