"""What an ONNX session keeps of the tokens before."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from shardrank.types import Float32Array


class KeysAndValues:
    """A past of one row, and copies of it for as many rows as were asked for; safe for threads.

    arrays: one for each input of the graph, float32 [1, heads, num_tokens, size].
    """

    def __init__(self, arrays: Sequence[Float32Array]) -> None:
        self._arrays = list(arrays)
        self._lock = threading.Lock()

    @property
    def num_tokens(self) -> int:
        """Tokens of the row."""
        return int(self._arrays[0].shape[2])

    def rows(self, number: int) -> list[Float32Array]:
        """The same for each of so many rows, [number, heads, num_tokens, size] each.

        The kernel reads no past by reference: each row has one of its own. They are made once, and
        fewer rows are the first ones.
        """
        with self._lock:
            if len(self._arrays[0]) < number:
                self._arrays = [np.repeat(each[:1], number, axis=0) for each in self._arrays]
            return [each[:number] for each in self._arrays]
