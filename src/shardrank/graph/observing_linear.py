"""Matrix products that let their inputs be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.graph.linear import Linear, PlainProducts
from shardrank.graph.trial_writer import TrialWriter
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import Tensor

PREFIX = "observed."


@dataclass(frozen=True, slots=True)
class ObservingLinear(PlainProducts):
    """Another linear, and an output of the graph for each of its inputs.

    stride: one token in so many is shown, counted back from the prompt's last. The graph is to be
        run with one prompt at a time; then no token is padding.

    The output "observed." + the first product's name is float32 [some tokens, num_inputs].
    """

    writer: TrialWriter
    checkpoint: Checkpoint
    linear: Linear
    stride: int

    def __post_init__(self) -> None:
        """Write what all outputs share: from the last token on, backwards."""
        constant = self.writer.constant
        constant("observing.start", np.array([-1], np.int64))
        constant("observing.end", np.array([np.iinfo(np.int64).min], np.int64))
        constant("observing.axis", np.array([0], np.int64))
        constant("observing.step", np.array([-self.stride], np.int64))

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [tokens, inputs], by each named weight's transpose."""
        num_inputs = self.checkpoint.shape(f"{names[0]}.weight")[1]
        output = f"{PREFIX}{names[0]}"
        self.writer.node(
            "Slice",
            [values, "observing.start", "observing.end", "observing.axis", "observing.step"],
            output,
        )
        self.writer.outputs.append(Tensor(output, ("shown", num_inputs), np.float32))
        return self.linear.apply(values, names)
