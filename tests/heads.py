"""Heads of many kinds, as nodes and weights behind `hidden`, float32 [batch, sequence, 64]."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

HIDDEN, VOCABULARY = 64, 397
RANDOM = np.random.default_rng(3)
MATRIX = RANDOM.standard_normal((HIDDEN, VOCABULARY)).astype(np.float32)
BIAS = RANDOM.standard_normal(VOCABULARY).astype(np.float32)

Parts = tuple[list[onnx.NodeProto], dict[str, np.ndarray]]


def node(
    operator: str, inputs: str, outputs: str, domain: str = "", **attributes
) -> onnx.NodeProto:
    """A node called like its first output; `-` is an input left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    made = outputs.split()
    return helper.make_node(operator, names, made, f"/{made[0]}", domain=domain, **attributes)


def microsoft(operator: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
    return node(operator, inputs, outputs, "com.microsoft", **attributes)


def plain() -> Parts:
    return [node("MatMul", "hidden w", "logits")], {"w": MATRIX}


def tied() -> Parts:
    nodes = [node("Transpose", "table", "w", perm=[1, 0]), node("MatMul", "hidden w", "logits")]
    return nodes, {}


def biased() -> Parts:
    nodes = [node("MatMul", "hidden w", "product"), node("Add", "b product", "logits")]
    return nodes, {"w": MATRIX, "b": BIAS}


def scaled() -> Parts:
    nodes = [node("MatMul", "hidden w", "product"), node("Div", "product s", "logits")]
    return nodes, {"w": MATRIX, "s": np.full((1, 1, 1), 3, np.float32)}


def behind_constants() -> Parts:
    nodes = [
        node("Identity", "w", "same"),
        node("Reshape", "same shape", "matrix"),
        node("MatMul", "hidden matrix", "product"),
        node("Identity", "product", "logits"),
    ]
    return nodes, {"w": MATRIX.reshape(-1), "shape": np.array([HIDDEN, -1], np.int64)}


def last_token_before(operator: str = "Gather") -> Parts:
    one = {"w": MATRIX, "axes": np.array([1], np.int64), "far": np.array([2**63 - 1], np.int64)}
    if operator == "Gather":
        select = [
            node("Gather", "hidden index", "row", axis=1),
            node("Unsqueeze", "row axes", "kept"),
        ]
        return [*select, node("MatMul", "kept w", "logits")], one | {"index": np.array(-1)}
    start = {"start": np.array([-1], np.int64)}
    return [
        node("Slice", "hidden start far axes", "kept"), node("MatMul", "kept w", "logits")
    ], one | start  # fmt: skip


def last_token_behind() -> Parts:
    nodes = [node("MatMul", "hidden w", "all"), node("Gather", "all index", "logits", axis=1)]
    return nodes, {"w": MATRIX, "index": np.array([-1])}


def gemm(transposed: bool, bias_shape: tuple[int, ...]) -> Parts:
    nodes = [
        node("Reshape", "hidden flat", "rows"),
        node("Gemm", "rows w b", "product", transB=int(transposed), alpha=0.5, beta=2.0),
        node("Shape", "hidden", "leading", start=0, end=2),
        node("Concat", "leading last", "shape", axis=0),
        node("Reshape", "product shape", "logits"),
    ]
    bias = BIAS.reshape(bias_shape) if bias_shape else np.float32(0.25)
    return nodes, {
        "w": np.ascontiguousarray(MATRIX.T) if transposed else MATRIX,
        "b": np.array(bias, np.float32),
        "flat": np.array([-1, HIDDEN], np.int64),
        "last": np.array([VOCABULARY], np.int64),
    }


def fused(transposed: bool) -> Parts:
    weight = np.ascontiguousarray(MATRIX.T) if transposed else MATRIX
    return [microsoft("FusedMatMul", "hidden w", "logits", transB=int(transposed), alpha=0.5)], {
        "w": weight
    }


def blocks(
    bits: int, block_size: int, *, zero_points: str = "", bias: bool = False, flat: bool = False
) -> Parts:
    count = HIDDEN // block_size
    weights = {
        "w": RANDOM.integers(0, 256, (VOCABULARY, count, block_size * bits // 8), np.uint8),
        "s": RANDOM.uniform(0.01, 0.1, (VOCABULARY, count)).astype(np.float32),
    }
    if zero_points == "packed":
        size = -(-count * bits // 8)
        weights["z"] = RANDOM.integers(0, 256, (VOCABULARY, size), np.uint8)
    if zero_points == "float":
        weights["z"] = RANDOM.uniform(5, 9, (VOCABULARY, count)).astype(np.float32)
    if bias:
        weights["b"] = BIAS
    if flat:
        weights |= {name: weights[name].reshape(-1) for name in ("s", "z") if name in weights}
    inputs = f"hidden w s {'z' if zero_points else '-'} - {'b' if bias else '-'}"
    made = microsoft(
        "MatMulNBits", inputs, "logits", K=HIDDEN, N=VOCABULARY, bits=bits,
        block_size=block_size, accuracy_level=4 if zero_points != "float" else 0,
    )  # fmt: skip
    return [made], weights


def dynamic(scales: str, order: str = "scale w_scale") -> Parts:
    columns = () if scales == "one" else (VOCABULARY,)
    nodes = [
        node("DynamicQuantizeLinear", "hidden", "q scale zero"),
        node("Mul", order, "scales"),
        node("MatMulInteger", "q w zero w_zero", "product"),
        node("Cast", "product", "float", to=TensorProto.FLOAT),
        node("Mul", "float scales", "logits"),
    ]
    return nodes, {
        "w": RANDOM.integers(-127, 128, (HIDDEN, VOCABULARY)).astype(np.int8),
        "w_scale": RANDOM.uniform(0.01, 0.02, columns).astype(np.float32),
        "w_zero": np.zeros(columns, np.int8),
    }


def dynamic_last_token() -> Parts:
    nodes, weights = dynamic("one")
    nodes[0].input[0] = "kept"
    select = [
        node("Gather", "hidden index", "row", axis=1),
        node("Unsqueeze", "row axes", "kept"),
    ]
    extra = {"index": np.array(-1), "axes": np.array([1], np.int64)}
    return [*select, *nodes], weights | extra


def dynamic_biased() -> Parts:
    nodes, weights = dynamic("each")
    nodes[-1] = node("Mul", "float scales", "unbiased")
    return [*nodes, node("Add", "unbiased b", "logits")], weights | {"b": BIAS}


def dynamic_fused() -> Parts:
    _, weights = dynamic("one")
    nodes = [
        node("DynamicQuantizeLinear", "hidden", "q scale zero"),
        microsoft("MatMulIntegerToFloat", "q w scale w_scale zero w_zero b", "logits"),
    ]
    return nodes, weights | {"b": BIAS}


def dynamic_whole() -> Parts:
    _, weights = dynamic("one")
    nodes = [microsoft("DynamicQuantizeMatMul", "hidden w w_scale w_zero b", "logits")]
    return nodes, weights | {"b": BIAS}


HEADS = {
    "MatMul": plain(),
    "MatMul of the embedding": tied(),
    "MatMul with bias": biased(),
    "MatMul with a divisor": scaled(),
    "MatMul behind constants": behind_constants(),
    "Gather before": last_token_before(),
    "Slice before": last_token_before("Slice"),
    "Gather behind": last_token_behind(),
    "Gemm": gemm(False, (VOCABULARY,)),
    "Gemm transposed, flat bias": gemm(True, (1, VOCABULARY)),
    "Gemm, one bias": gemm(True, ()),
    "FusedMatMul": fused(False),
    "FusedMatMul transposed": fused(True),
    "4 bits": blocks(4, 32),
    "4 bits, block 16": blocks(4, 16),
    "4 bits, one block": blocks(4, 64),
    "4 bits, zero points": blocks(4, 32, zero_points="packed"),
    "4 bits, float zero points": blocks(4, 32, zero_points="float"),
    "4 bits, bias": blocks(4, 32, bias=True),
    "4 bits, flat": blocks(4, 32, zero_points="packed", flat=True),
    "8 bits": blocks(8, 32),
    "8 bits, zero points": blocks(8, 16, zero_points="packed"),
    "dynamic int8": dynamic("one"),
    "dynamic int8, a scale a column": dynamic("each"),
    "dynamic int8, scales turned round": dynamic("each", "w_scale scale"),
    "dynamic int8, last token before": dynamic_last_token(),
    "dynamic int8, bias": dynamic_biased(),
    "dynamic int8, MatMulIntegerToFloat": dynamic_fused(),
}
