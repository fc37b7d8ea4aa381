"""What W8A8 leaves in fp32 in every model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from oracles.checkpoints import REAL_SHAPE, Shape, make_random_checkpoint
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.prepare import prepare
from shardrank.graph.product_group import product_groups
from shardrank.graph.sensitivity import multiplication_shares
from shardrank.graph.spared import spared_groups, spared_products
from shardrank.graph.tuning import TuningRequest


@pytest.mark.parametrize("num_layers", [1, 2, 3, 4, 28, 36])
def test_it_is_the_first_layers_attention_and_what_sees_last_tokens_only(num_layers: int) -> None:
    groups = product_groups(parse_architecture(Shape(num_layers).config()))
    spared = [group.name for group in spared_groups(groups)]
    first = [f"layers.0.{name}" for name in ("qkv", "o")]
    last = [f"layers.{num_layers - 1}.{name}" for name in ("o", "gate_up", "down")]
    assert spared == ([*first, *last] if num_layers >= 4 else [])


@pytest.mark.parametrize("num_layers", [28, 36])
def test_it_is_a_small_part_of_the_work_of_a_real_model(num_layers: int) -> None:
    groups = product_groups(parse_architecture(replace(REAL_SHAPE, num_layers=num_layers).config()))
    shares = multiplication_shares(groups, tokens_a_prompt=45)
    assert sum(shares[group.name] for group in spared_groups(groups)) < 0.02


def test_spared_weights_are_in_the_graph_as_they_came(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "source", Shape(num_layers=5, dtype="bfloat16"))
    prepare(source, tmp_path / "model", precision="w8a8", layout="prefix")
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    kinds = {
        tensor.name.removesuffix(".weight"): onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        for tensor in graph.initializer
        if tensor.name.endswith("_proj.weight")
    }
    groups = product_groups(parse_architecture(Shape(num_layers=5).config()))
    assert len(kinds) == 5 * 7
    assert {name for name, dtype in kinds.items() if dtype == np.float32} == spared_products(groups)
    assert set(kinds.values()) == {np.dtype(np.float32), np.dtype(np.int8)}


def test_what_is_spared_is_neither_smoothed_nor_judged(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "source", Shape(num_layers=4))
    sample = tmp_path / "pairs.jsonl"
    sample.write_text(
        "\n".join(['{"query": "a", "document": "b"}', '{"query": "c", "document": "d"}'])
    )
    model = prepare(
        source,
        tmp_path / "model",
        precision="w8a8",
        tuning=TuningRequest(smooth=True, num_kept=1, sample=sample),
    )
    groups = product_groups(parse_architecture(Shape(num_layers=4).config()))
    judged = {entry["name"] for entry in model.source["tuning"]["sensitivity"]}
    assert judged == {group.name for group in groups} - {g.name for g in spared_groups(groups)}
    assert model.source["tuning"]["smoothing"].keys() <= judged
