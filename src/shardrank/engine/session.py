"""What the engine asks of a session: ids in, two logits a prompt out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np

from shardrank.types import Float32Array, Int64Array

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class SessionDescription:
    """What a score's last bits depend on, besides the model: on equal ones they are equal."""

    onnxruntime_version: str
    provider: str
    instruction_set: str

    def as_dict(self) -> dict[str, str]:
        """The fields by name, as they stand in the footer of an output file."""
        return asdict(self)


class Past(Protocol):
    """What a session keeps of the tokens before a prompt's own; only that session can read it."""

    @property
    def num_tokens(self) -> int:
        """How many tokens they are."""
        ...


class Session(Protocol):
    """Anything that scores a batch; safe to call from several threads."""

    @property
    def description(self) -> SessionDescription:
        """Where the logits come from."""
        ...

    @property
    def takes_past(self) -> bool:
        """Whether a prompt can be continued after a past (layouts `prefix`, `fused-prefix`)."""
        ...

    @property
    def batches_past(self) -> bool:
        """Whether several prompts at once can be continued after the same past."""
        ...

    @property
    def shares_past(self) -> bool:
        """Whether these read one past, and a run of many tokens costs no more for each."""
        ...

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits (yes, no), float32 [num_prompts, 2], of int64 [num_prompts, longest] arrays.

        past: of the tokens before every row; where the batch is more than one prompt, only if
            batches_past.
        """
        ...

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> Past:
        """The past after these tokens, int64 [1, num_tokens]; an even number in all."""
        ...

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Sequence[Past]:
        """The past after each row of arrays as `run` takes; only if shares_past."""
        ...


def refuse_broken_mask(attention_mask: Int64Array) -> None:
    """Raise ValueError unless every row is zeros, one run of ones, zeros.

    Attention kernels count the ones and take them for neighbours: a hole would give a wrong score
    without an error, and a row without ones a meaningless one.
    """
    is_token = attention_mask == 1
    is_bit = (is_token | (attention_mask == 0)).all(axis=1)
    num_rises = np.count_nonzero(is_token[:, 1:] > is_token[:, :-1], axis=1)
    is_sound = is_bit & (num_rises + is_token[:, :1].any(axis=1) == 1)
    if not is_sound.all():
        row = int(np.argmin(is_sound))
        raise ValueError(
            f"attention_mask row {row} is not one unbroken run of ones; pad a prompt on the left "
            f"with zeros, and leave out prompts without tokens."
        )
