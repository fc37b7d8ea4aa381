"""Weights in the order in which the products of engine/native read them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_COLUMNS = 32
"""Outputs that engine/native/tile.h works on at once; others have no kernel."""


def pack_columns(rows: NDArray[Any], together: int) -> NDArray[Any]:
    """Weights [outputs, inputs] as [outputs / 32, inputs / together, 32, together].

    together: inputs that one instruction multiplies and adds to one sum.
    """
    inputs = rows.shape[1]
    blocks = rows.reshape(-1, BLOCK_COLUMNS, inputs // together, together)
    return np.ascontiguousarray(blocks.transpose(0, 2, 1, 3))
