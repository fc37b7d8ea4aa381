"""The layout paged: the same logits as the numpy oracle, wherever keys and values lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from cuda_reference import NO, YES, ReferenceRunner, build_float32
from graph_models import SHAPES, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from oracles.numpy_qwen3 import NumpyQwen3
from shardrank.engine.packing import PackLimits
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.session import SessionDescription
from shardrank.errors import ModelError
from shardrank.graph.paged import PagedLayout
from shardrank.graph.prepare import prepare
from shardrank.types import Prompts

LIMITS = PackLimits(max_tokens=256, max_rows=16, bucket_tokens=32, block_sizes=(32, 16))


def build_paged(source: Path, folder: Path) -> ReferenceRunner:
    float32 = np.dtype(np.float32)
    return ReferenceRunner(build_float32(source, folder, lambda w, a: PagedLayout(w, a, float32)))


def scored(runner: ReferenceRunner, prompts: Sequence[np.ndarray]) -> np.ndarray:
    rows = [np.asarray(prompt, np.int32) for prompt in prompts]
    whole = Prompts(
        token_ids=np.concatenate(rows),
        offsets=np.cumsum([0, *map(len, rows)]),
        num_shared=np.zeros(len(rows), np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )
    session = PagedSession(runner, SessionDescription("0", "reference", "none"), LIMITS)
    return session.score(whole, np.arange(len(rows)))


@pytest.fixture(scope="module", params=["grouped", "ungrouped", "head size of its own", "untied"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return make_random_checkpoint(folder / "checkpoint", SHAPES[request.param])


def test_packed_prompts_score_as_they_do_alone(source: Path, tmp_path: Path) -> None:
    prompts = random_prompts((1, 2, 15, 16, 17, 31, 32, 33, 64, 70, 100))
    runner = build_paged(source, tmp_path / "model")
    oracle = NumpyQwen3(source)
    expected = np.stack([oracle.logits(prompt, YES, NO) for prompt in prompts])
    np.testing.assert_allclose(scored(runner, prompts), expected, rtol=0, atol=1e-4)


def test_a_shared_front_is_computed_once_and_changes_no_score(source: Path, tmp_path: Path) -> None:
    # Two queries behind one instruction, and a prompt that is the front of others.
    instruction, *ends = random_prompts((35, 30, 22, 3, 9, 14, 5, 11), seed=1)
    fronts = [np.concatenate([instruction, ends[0]]), np.concatenate([instruction, ends[1]])]
    prompts = [np.concatenate([front, end]) for front in fronts for end in ends[2:]]
    prompts.append(prompts[0][:64])
    runner = build_paged(source, tmp_path / "model")
    oracle = NumpyQwen3(source)
    expected = np.stack([oracle.logits(prompt, YES, NO) for prompt in prompts])
    np.testing.assert_allclose(scored(runner, prompts), expected, rtol=0, atol=1e-4)
    given = sum(map(len, prompts))
    computed = sum(run.num_tokens for run in runner.runs)
    assert computed < 0.6 * given


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_prepared_for_gpus(tmp_path: Path, precision: str) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="bfloat16"))
    model = prepare(source, tmp_path / "model", precision=precision, layout="paged")
    assert (model.layout, model.precision, model.batch_dependent) == ("paged", precision, True)
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    inputs = {node.name: node.type.tensor_type.elem_type for node in graph.input}
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[precision]
    assert inputs["key_cache"] == inputs["value_cache"] == half
    assert [node.name for node in graph.output] == ["logits"]
    assert {node.domain for node in graph.node} == {"", "com.microsoft"}


def test_onnxruntime_knows_every_operator_and_has_no_kernel_for_the_attention_on_a_cpu(
    tmp_path: Path,
) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", Shape(dtype="float16"))
    prepare(source, tmp_path / "model", precision="fp16", layout="paged")
    # Operators, inputs, attributes and types are checked first; kernels are looked for after that.
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*for PagedAttention\(1\)"):
        onnxruntime.InferenceSession(
            tmp_path / "model" / "model.onnx", providers=["CPUExecutionProvider"]
        )


def test_the_layout_is_refused_for_a_precision_of_cpus(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(ModelError, match="layout 'paged' is for GPUs.*choose the precision bf16"):
        prepare(source, tmp_path / "model", precision="w8a8", layout="paged")
