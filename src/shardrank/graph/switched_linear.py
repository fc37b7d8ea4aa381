"""Matrix products in fp32, each of which can be rounded as W8A8 rounds, from run to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from onnx import helper

from shardrank.graph.linear import PlainProducts
from shardrank.graph.quantize import LARGEST_INT8, SMALLEST_SCALE
from shardrank.graph.rotation import append_rotation, rotate_weights, rotation_size
from shardrank.graph.trial_writer import TrialWriter
from shardrank.graph.weights import Checkpoint
from shardrank.graph.writer import Tensor

SWITCHES = "quantized"


@dataclass(frozen=True, slots=True)
class SwitchedLinear(PlainProducts):
    """Rounds a product's input and weights to the steps of token_linear.TokenLinear, if asked to.

    What TokenLinear rotates is rotated here too: in fp32 that moves nothing but last bits.

    The graph's input "quantized", bool [number of applications], says which, in the order in which
    products are applied. Weights are rounded while the graph runs, so one copy of them serves all
    runs; bfloat16 ones stay so in the file, for the sake of its size.
    """

    writer: TrialWriter
    checkpoint: Checkpoint
    _applied: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Write what all products share."""
        constant = self.writer.constant
        constant("switched.levels", np.array(LARGEST_INT8, np.float32))
        constant("switched.smallest", np.array(SMALLEST_SCALE, np.float32))
        constant("switched.last", np.array([-1], np.int64))
        constant("switched.first", np.array([0], np.int64))
        self.writer.inputs.append(Tensor(SWITCHES, ("products",), np.bool_))

    def apply(self, values: str, names: Sequence[str]) -> list[str]:
        """Multiply the same values, float32 [..., inputs], by each named weight's transpose."""
        node = self.writer.node
        place = self.writer.constant(f"{names[0]}.place", np.array(len(self._applied), np.int64))
        switch = node("Gather", [SWITCHES, place], f"{names[0]}.switch")
        self._applied.append(names[0])
        inputs = self.checkpoint.shape(f"{names[0]}.weight")[1]
        size = rotation_size(names[0], inputs)
        rotated = append_rotation(self.writer.node, self.writer.constant, values, size)
        rounded = self._round_if(switch, rotated, "switched.last", f"{names[0]}.input")
        products = []
        for name in names:
            stored = self._weight(f"{name}.weight", size)
            weight = self._round_if(switch, stored, "switched.first", f"{name}.rounded")
            products.append(node("MatMul", [rounded, weight], name))
        return products

    def _weight(self, name: str, size: int) -> str:
        """float32 [inputs, outputs], rotated in blocks of this size."""
        outputs, inputs = self.checkpoint.shape(name)
        # Scales are powers of two, which bfloat16 keeps; it does not keep sums.
        is_narrow = size == 1 and self.checkpoint.dtype(name) == ml_dtypes.bfloat16
        dtype = np.dtype(ml_dtypes.bfloat16 if is_narrow else np.float32)
        matrix = rotate_weights(self.checkpoint.read(name), size).T.astype(dtype)
        stored = self.writer.weight(name, (inputs, outputs), [matrix], dtype=dtype)
        if not is_narrow:
            return stored
        return self.writer.node("Cast", [stored], f"{name}.float32", to=onnx.TensorProto.FLOAT)

    def _round_if(self, switch: str, values: str, axis: str, name: str) -> str:
        steps = [
            ("Abs", [values], "absolute"),
            ("ReduceMax", [f"{name}.absolute", axis], "largest"),
            ("Div", [f"{name}.largest", "switched.levels"], "divided"),
            ("Max", [f"{name}.divided", "switched.smallest"], "scales"),
            ("Div", [values, f"{name}.scales"], "scaled"),
            ("Round", [f"{name}.scaled"], "integers"),
            ("Mul", [f"{name}.integers", f"{name}.scales"], "rounded"),
        ]
        nodes = [helper.make_node(kind, inputs, [f"{name}.{out}"]) for kind, inputs, out in steps]
        same = [helper.make_node("Identity", [values], [f"{name}.same"])]
        return self.writer.node(
            "If",
            [switch],
            name,
            then_branch=_branch(nodes, f"{name}.rounded"),
            else_branch=_branch(same, f"{name}.same"),
        )


def _branch(nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)
    return helper.make_graph(nodes, output, [], [value])
