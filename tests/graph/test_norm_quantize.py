"""Norms that are rounded at once: only where nothing else reads what they normed."""

from __future__ import annotations

import onnx
from onnx import helper

from shardrank.graph.norm_quantize import quantize_norms

NORM = helper.make_node(
    "SumNorm", ["residual", "values", "weight"], ["normed", "sum"], "norm", epsilon=1e-5
)
PRODUCT = helper.make_node("IntegerProduct", ["integers", "scales", "w"], ["product"])


def rounding(rotation: int = 1) -> onnx.NodeProto:
    return helper.make_node("RowQuantize", ["normed"], ["integers", "scales"], rotation=rotation)


def test_a_norm_that_is_only_rounded_is_one_operator_with_it() -> None:
    first, second = quantize_norms([NORM, rounding(), PRODUCT])
    assert (first.op_type, first.domain, first.name) == ("SumNormQuantize", "shardrank", "norm")
    assert list(first.input) == ["residual", "values", "weight"]
    assert list(first.output) == ["integers", "scales", "sum"]
    assert helper.get_node_attr_value(first, "epsilon") == helper.get_node_attr_value(
        NORM, "epsilon"
    )
    assert second == PRODUCT


def test_a_norm_that_is_read_as_it_is_stays() -> None:
    nodes = [NORM, rounding(), PRODUCT, helper.make_node("HalfProduct", ["normed", "h"], ["half"])]
    assert quantize_norms(nodes) == nodes


def test_a_norm_that_is_rotated_before_it_is_rounded_stays() -> None:
    nodes = [NORM, rounding(rotation=4), PRODUCT]
    assert quantize_norms(nodes) == nodes


def test_values_that_no_norm_made_are_rounded_as_before() -> None:
    nodes = [rounding(), PRODUCT]
    assert quantize_norms(nodes) == nodes
