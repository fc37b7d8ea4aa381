"""The layout padded as GPUs get it: norms inside of the attention, which no CPU kernel has."""

from __future__ import annotations

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
from shardrank.graph.padded import PaddedLayout
from shardrank.graph.prepare import prepare


def build_padded(source: Path, folder: Path) -> ReferenceEvaluator:
    build_float32(source, folder, lambda w, a: PaddedLayout(w, a, norms_heads=True))
    return ReferenceEvaluator(onnx.load(folder / "model.onnx"), new_ops=list(OPERATORS))


@pytest.mark.parametrize("shape", ["grouped", "ungrouped", "head size of its own"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_mixed_lengths_score_as_the_oracle_whatever_the_padding(
    tmp_path: Path, shape: str, side: str
) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", SHAPES[shape])
    prompts = random_prompts((1, 2, 17, 33, 64, 101))
    oracle = NumpyQwen3(source)
    expected = np.stack([oracle.logits(prompt, YES, NO) for prompt in prompts])
    input_ids, attention_mask = pad(prompts, 0, side)
    feeds = {"input_ids": input_ids, "attention_mask": attention_mask}
    (found,) = build_padded(source, tmp_path / "model").run(["logits"], feeds)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_bfloat16_gets_that_graph_by_default(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    model = prepare(source, tmp_path / "model", precision="bf16")
    assert (model.layout, model.batch_dependent) == ("padded", True)
    nodes = onnx.load(tmp_path / "model" / "model.onnx").graph.node
    attention = [node for node in nodes if node.op_type == "GroupQueryAttention"]
    assert [list(node.input[14:]) for node in attention] == [
        [f"layers.{layer}.self_attn.{norm}.weight" for norm in ("q_norm", "k_norm")]
        for layer in range(len(attention))
    ]


def test_onnxruntime_knows_the_inputs_and_has_no_kernel_on_a_cpu(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    prepare(source, tmp_path / "model", precision="bf16")
    with pytest.raises(Exception, match="NOT_IMPLEMENTED"):
        onnxruntime.InferenceSession(
            tmp_path / "model" / "model.onnx", providers=["CPUExecutionProvider"]
        )
