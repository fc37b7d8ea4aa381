"""Sessions with one fault each, as exports and kernels have them."""

from __future__ import annotations

import numpy as np

from shardrank.engine.session import Past
from shardrank.testing import FakePast, FakeSession
from shardrank.types import Float32Array, Int64Array


class ColumnSession(FakeSession):
    """Takes the first columns of a row for its tokens, as an export with such a fault does."""

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        return super().run(input_ids, np.sort(attention_mask, axis=1)[:, ::-1], past)


class NeighbourSession(FakeSession):
    """Moves every row a little by the width of its batch, as another kernel does."""

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        logits = super().run(input_ids, attention_mask, past)
        return logits + np.float32(1e-8) * input_ids.shape[1] * np.array([1, -1], np.float32)


class ScaleSession(FakeSession):
    """Moves every row by the number of its neighbours, as one scale for a whole batch does."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        logits = super().run(input_ids, attention_mask, past)
        return logits + np.float32(self.size * len(logits)) * np.array([1, 0], np.float32)


class ShortSession(FakeSession):
    """Has no table of cosines beyond a length: raises there, or gives no number."""

    def __init__(self, longest: int, *, raises: bool) -> None:
        super().__init__()
        self.longest, self.raises = longest, raises

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        logits = super().run(input_ids, attention_mask, past)
        if input_ids.shape[1] > self.longest:
            if self.raises:
                raise RuntimeError("indices element out of data bounds")
            logits[:] = np.nan
        return logits


class ConstantSession(FakeSession):
    """Gives every prompt the same logits."""

    def __init__(self, yes: float, no: float) -> None:
        super().__init__()
        self.logits = (yes, no)

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        super().run(input_ids, attention_mask, past)
        return np.tile(np.array(self.logits, np.float32), (len(input_ids), 1))


class SquashedSession(FakeSession):
    """Gives probabilities where logits are expected: a sigmoid inside the graph."""

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        logits = super().run(input_ids, attention_mask, past)
        yes = 1 / (1 + np.exp(logits[:, 1] - logits[:, 0]))
        return np.stack([yes, np.zeros_like(yes)], axis=1).astype(np.float32)


class ForgetfulSession(FakeSession):
    """Continues a past as if its last token had not been there."""

    def __init__(self) -> None:
        super().__init__(takes_past=True)

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> FakePast:
        return super().extend(np.concatenate([input_ids[:, 1:], input_ids[:, :1]], axis=1), past)
