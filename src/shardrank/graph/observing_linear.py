"""Matrix products that let their inputs be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.graph.linear import Linear
from shardrank.graph.trial_writer import TrialWriter
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import Tensor

PREFIX = "observed."


@dataclass(frozen=True, slots=True)
class ObservingLinear:
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
        """Write what all outputs share: where the prompt ends."""
        node, constant = self.writer.node, self.writer.constant
        one = constant("observing.one", np.array([1], np.int64))
        shape = node("Shape", ["input_ids"], "observing.length", start=1, end=2)
        # The graph may see one column more than there are tokens (aligned_rows.align_rows).
        node("Sub", [shape, one], "observing.start")
        constant("observing.end", np.array([np.iinfo(np.int64).min], np.int64))
        constant("observing.axis", np.array([0], np.int64))
        constant("observing.step", np.array([-self.stride], np.int64))

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [..., inputs], by each named weight's transpose."""
        num_inputs = self.checkpoint.shape(f"{names[0]}.weight")[1]
        output = f"{PREFIX}{names[0]}"
        shape = self.writer.constant(f"{output}.shape", np.array([-1, num_inputs], np.int64))
        rows = self.writer.node("Reshape", [values, shape], f"{output}.rows")
        self.writer.node(
            "Slice",
            [rows, "observing.start", "observing.end", "observing.axis", "observing.step"],
            output,
        )
        self.writer.outputs.append(Tensor(output, ("shown", num_inputs), np.float32))
        return self.linear.apply(values, names)
