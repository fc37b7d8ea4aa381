"""Batches as GPUs get them: layout fused, and padded with norms inside of the attention."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from cuda_reference import NO, OPERATORS, YES, build_float32
from graph_models import SHAPES, pad, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from oracles.numpy_qwen3 import NumpyQwen3
from shardrank.errors import ModelError
from shardrank.graph.fused import FusedLayout
from shardrank.graph.padded import PaddedLayout
from shardrank.graph.prepare import prepare

LAYOUTS = {"padded": lambda w, a: PaddedLayout(w, a, norms_heads=True), "fused": FusedLayout}


def build(source: Path, folder: Path, layout: str) -> ReferenceEvaluator:
    build_float32(source, folder, LAYOUTS[layout])
    return ReferenceEvaluator(onnx.load(folder / "model.onnx"), new_ops=list(OPERATORS))


@pytest.mark.parametrize("shape", ["grouped", "ungrouped", "head size of its own"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_mixed_lengths_score_as_the_oracle_whatever_the_padding(
    tmp_path: Path, layout: str, shape: str, side: str
) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", SHAPES[shape])
    prompts = random_prompts((1, 2, 17, 33, 64, 101))
    oracle = NumpyQwen3(source)
    expected = np.stack([oracle.logits(prompt, YES, NO) for prompt in prompts])
    input_ids, attention_mask = pad(prompts, 0, side)
    feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
    (found,) = build(source, tmp_path / "model", layout).run(["logits"], feeds)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_padded_graph_in_bfloat16_norms_heads_in_the_attention(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    model = prepare(source, tmp_path / "model", precision="bf16", layout="padded")
    assert (model.layout, model.batch_dependent) == ("padded", True)
    nodes = onnx.load(tmp_path / "model" / "model.onnx").graph.node
    attention = [node for node in nodes if node.op_type == "GroupQueryAttention"]
    assert [list(node.input[14:]) for node in attention] == [
        [f"layers.{layer}.self_attn.{norm}.weight" for norm in ("q_norm", "k_norm")]
        for layer in range(len(attention))
    ]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_halves_get_the_layout_fused_by_default(tmp_path: Path, precision: str) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    model = prepare(source, tmp_path / "model", precision=precision)
    assert (model.layout, model.min_onnxruntime) == ("fused", "1.31")
    graph = onnx.load(tmp_path / "model" / "model.onnx")
    counts = Counter(node.op_type for node in graph.graph.node if node.domain == "shardrank")
    layers = model.architecture["num_layers"]
    assert counts == {"NormRotary": layers, "SiluProduct": layers}
    tables = {t.name: t.data_type for t in graph.graph.initializer if "rotary" in t.name}
    assert set(tables.values()) == {onnx.TensorProto.FLOAT}


def test_sizes_that_the_operators_cannot_read_are_refused(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(head_dim=12, dtype="bfloat16"))
    with pytest.raises(ModelError, match=r"head_dim = 12 .* choose the layout padded"):
        prepare(source, tmp_path / "model", precision="bf16", layout="fused")


def test_onnxruntime_knows_the_inputs_and_has_no_kernel_on_a_cpu(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    prepare(source, tmp_path / "model", precision="bf16", layout="padded")
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        onnxruntime.InferenceSession(
            tmp_path / "model" / "model.onnx", providers=["CPUExecutionProvider"]
        )
