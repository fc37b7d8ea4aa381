"""A conversion that would change a weight, or that cannot be read, is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from exports import copy_export, edit_export, make_export
from heads import microsoft, node
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

RANDOM = np.random.default_rng(1)
SQUARE = RANDOM.standard_normal((64, 64)).astype(np.float32)
INTEGERS = RANDOM.integers(-127, 128, (64, 64)).astype(np.int8)
HEAD = RANDOM.standard_normal((64, 397)).astype(np.float32)
KEEP = "; keep it with --precision as-is, or prepare the checkpoint"


def refused(path: Path, precision: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(path, path.parent / "out" / "model", precision=precision)
    out = path.parent / "out"
    assert not out.exists() or not list(out.iterdir())


@pytest.mark.parametrize(
    ("name", "precision", "message"),
    [
        ("genai_q4", "w8a8", "q4 and cannot become w8a8: its weights would be rounded a second"),
        ("genai_q4", "int4", "q4 and cannot become int4: .* choose --precision as-is, fp32, or"),
        ("genai_q4", "bf16", "every value of the graph would change its type, not the weights"),
        ("genai_fp32", "fp16", "every value of the graph would change its type, not the weights"),
        ("genai_fp32", "int8", "blocks of weights are made from a checkpoint; .* as-is, w8a8, or"),
        ("genai_fp16_position_ids", "fp32", "fp16 and cannot become fp32: every value of the gr"),
        ("genai_quantized", "int8", "rounded a second time; choose --precision as-is, w8a8, fp32"),
    ],
)
def test_a_precision_that_cannot_be_exact_is_refused(
    name: str, precision: str, message: str, tmp_path: Path
) -> None:
    refused(copy_export(name, tmp_path / "export"), precision, message)


def block_node(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.op_type == "MatMulNBits")


def reorder(model: onnx.ModelProto) -> None:
    order = np.arange(64, dtype=np.int32) // 32
    model.graph.initializer.append(numpy_helper.from_array(order, "order"))
    block_node(model).input.extend(["", "order"])


def prepack(model: onnx.ModelProto) -> None:
    block_node(model).attribute.append(onnx.helper.make_attribute("weight_prepacked", 1))


def use_three_bits(model: onnx.ModelProto) -> None:
    next(each for each in block_node(model).attribute if each.name == "bits").i = 3


def compute_scales(model: onnx.ModelProto) -> None:
    product = block_node(model)
    model.graph.node.insert(0, onnx.helper.make_node("Neg", [product.input[2]], ["negative"]))
    product.input[2] = "negative"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (reorder, r"takes its inputs in an order of their own \(g_idx\), so it cannot"),
        (prepack, "has its weights packed for one kind of GPU, so it cannot"),
        (use_three_bits, "has weights of 3 bits, where 2, 4 and 8 are known, so it cannot"),
        (compute_scales, "has no fixed negative, so it cannot be converted exactly"),
    ],
)
def test_blocks_of_an_unknown_kind_are_refused_by_node(
    change: Callable[[onnx.ModelProto], None], message: str, tmp_path: Path
) -> None:
    path = edit_export(copy_export("genai_q4", tmp_path / "export"), change)
    refused(path, "fp32", rf"node '.*q?k?v?_?proj/MatMul.*' \(MatMulNBits\) {message}")


def quantized() -> onnx.NodeProto:
    return node("DynamicQuantizeLinear", "hidden", "q scale zero")


def head() -> onnx.NodeProto:
    return node("MatMul", "middle head", "logits")


def product(inputs: str = "q w zero") -> onnx.NodeProto:
    return node("MatMulInteger", inputs, "product")


def scales() -> onnx.NodeProto:
    return node("Mul", "scale w_scale", "scales")


def cast(to: int = TensorProto.FLOAT) -> onnx.NodeProto:
    return node("Cast", "product", "float", to=to)


def mul(inputs: str = "float scales") -> onnx.NodeProto:
    return node("Mul", inputs, "middle")


UNKNOWN = {
    "integers of another kind": (
        [
            node("QuantizeLinear", "hidden one byte", "fixed"), quantized(),
            product("fixed w byte"), cast(), scales(), mul(), head(),
        ],
        r"'/product' \(MatMulInteger\) takes integers that no DynamicQuantizeLinear makes",
    ),
    "no zero point": (
        [quantized(), product("q w"), cast(), scales(), mul(), head()],
        r"'/product' \(MatMulInteger\) takes integers that no DynamicQuantizeLinear makes",
    ),
    "two computed values": (
        [
            quantized(), node("Transpose", "q", "turned", perm=[0, 2, 1]),
            product("q turned zero zero"), cast(), scales(), mul(),
            node("MatMul", "middle hidden", "seen"), node("MatMul", "seen head", "logits"),
        ],
        r"'/product' \(MatMulInteger\) has no fixed matrix, or no fixed scale for it",
    ),
    "scales of blocks": (
        [quantized(), product(), cast(), node("Mul", "scale rows", "scales"), mul(), head()],
        r"has scales float32 \[2, 64\] and zero points \[1\], where float32 and 1 or 64 of both",
    ),
    "another scale": (
        [quantized(), product(), cast(), mul("float w_scale"), node("Mul", "middle scale", "m"),
         node("MatMul", "m head", "logits")],
        r"'/product' \(MatMulInteger\) is not followed by a product of both scales",
    ),
    "no cast": (
        [
            quantized(), product(), node("Neg", "product", "minus"),
            node("Cast", "minus", "float", to=TensorProto.FLOAT), scales(), mul(), head(),
        ],
        r"'/product' \(MatMulInteger\) is followed by Neg, where one Cast is known",
    ),
    "another reader of the integers": (
        [
            quantized(), product(), cast(), scales(), mul(),
            node("DequantizeLinear", "q scale zero", "again"), node("Add", "middle again", "sum"),
            node("MatMul", "sum head", "logits"),
        ],
        r"'/q' \(DynamicQuantizeLinear\) is read by something that is no product",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNKNOWN)
def test_dynamic_quantization_of_an_unknown_kind_is_refused_by_node(
    kind: str, tmp_path: Path
) -> None:
    nodes, message = UNKNOWN[kind]
    weights = {
        "w": INTEGERS, "w_scale": np.float32(0.01), "head": HEAD, "one": np.float32(0.01),
        "rows": np.full((2, 64), 0.01, np.float32), "byte": np.uint8(128),
    }  # fmt: skip
    weights = {name: np.asarray(each) for name, each in weights.items()}
    refused(make_export(tmp_path / "model.onnx", nodes, weights), "w8a8", message)


def test_blocks_among_dynamic_products_do_not_become_w8a8(tmp_path: Path) -> None:
    """They become fp32 together."""
    random = np.random.default_rng(2)
    weights = {
        "w": INTEGERS, "w_scale": np.array(0.01, np.float32), "head": HEAD,
        "blocks": random.integers(0, 256, (64, 2, 16), np.uint8),
        "block_scales": random.uniform(0.01, 0.1, (64, 2)).astype(np.float32),
    }  # fmt: skip
    made = microsoft(
        "MatMulNBits", "first blocks block_scales", "middle", K=64, N=64, bits=4, block_size=32
    )
    first = node("Mul", "float scales", "first")
    nodes = [quantized(), product(), cast(), scales(), first, made, head()]
    path = make_export(tmp_path / "model.onnx", nodes, weights)
    refused(path, "w8a8", r"'/middle' \(MatMulNBits\) has a scale for every block, where w8a8 has")
    assert prepare(path, tmp_path / "model", precision="fp32").precision == "fp32"


def test_blocks_among_halves_are_refused(tmp_path: Path) -> None:
    """As in model_q4f16.onnx: scales have the type of the values around them."""
    weights = {
        "blocks": RANDOM.integers(0, 256, (64, 2, 16), np.uint8),
        "block_scales": RANDOM.uniform(0.01, 0.1, (64, 2)).astype(np.float16),
        "head": HEAD,
    }
    made = microsoft(
        "MatMulNBits", "half blocks block_scales", "product", K=64, N=64, bits=4, block_size=32
    )
    nodes = [node("Cast", "hidden", "half", to=TensorProto.FLOAT16), made,
             node("Cast", "product", "middle", to=TensorProto.FLOAT), head()]  # fmt: skip
    path = make_export(tmp_path / "model.onnx", nodes, weights)
    refused(path, "fp32", r"\(MatMulNBits\) works on float16, and so does the graph around it")


FLOATS = {
    "Gemm": (
        [node("Reshape", "hidden flat", "rows"), node("Gemm", "rows w", "turned"),
         node("Shape", "hidden", "shape"), node("Reshape", "turned shape", "middle"), head()],
        r"node '/turned' \(Gemm\) is no plain MatMul, so it cannot be converted",
    ),
    "FusedMatMul": (
        [microsoft("FusedMatMul", "hidden w", "middle"), head()],
        r"node '/middle' \(FusedMatMul\) is no plain MatMul, so it cannot be converted",
    ),
    "DequantizeLinear": (
        [node("DequantizeLinear", "bytes scale", "w8"), node("MatMul", "hidden w8", "middle"),
         head()],
        r"node '/middle' \(MatMul\) has a weight that DequantizeLinear makes, which is not read",
    ),
    "nothing": (
        [node("MatMul", "hidden head", "logits")],
        "has no product with a fixed float32 matrix to quantize; keep it with --precision as-is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_that_would_be_passed_over_are_refused(kind: str, tmp_path: Path) -> None:
    nodes, message = FLOATS[kind]
    weights = {
        "w": SQUARE, "head": HEAD, "bytes": INTEGERS, "scale": np.array(0.01, np.float32),
        "flat": np.array([-1, 64], np.int64),
    }  # fmt: skip
    refused(make_export(tmp_path / "model.onnx", nodes, weights), "w8a8", message)


def test_a_refusal_says_what_to_do(tmp_path: Path) -> None:
    path = edit_export(copy_export("genai_q4", tmp_path / "export"), prepack)
    refused(path, "fp32", f"cannot be converted exactly{KEEP}")
