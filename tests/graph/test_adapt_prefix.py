"""An export of layout `prefix`: a prompt behind its own beginning says what the whole one says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from exports import (
    MANIFEST,
    PROMPTS,
    Adapted,
    adapt_export,
    adapt_file,
    copy_export,
    edit_export,
)
from graph_models import random_prompts
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

# Every fused export that a CPU runs, as it is, and what conversions make of three.
FUSED = [
    (name, "as-is")
    for name in sorted(MANIFEST["exports"])
    if name.startswith("genai") and name not in ("genai_int4_webgpu", "genai_quantized")
]
PAIRS = [*FUSED, ("genai_quantized", "w8a8"), ("genai_q4", "fp32"), ("genai_fp32", "w8a8")]
LENGTHS = (3, 4, 17, 33, 64, 65, 129, 255)
STARTS = (2, 16, 32, 62, 64, 128, 254)
# What a float16 export rounds, what a conversion changes (test_conversion), and the rest.
TOLERANCE = {"genai_fp16_position_ids": 3e-3}
CONVERTED = 0.4
EXACT = 1e-5


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    name, precision = request.param
    return adapt_export(name, tmp_path_factory.mktemp("prefix"), precision, "prefix")


def asked(adapted: Adapted) -> str | None:
    """The precision that it was converted to; None where it is as it was."""
    precision = adapted.model.precision
    return precision if (adapted.name, precision) in PAIRS else None


def test_a_score_with_a_prefix_is_the_score_without(adapted: Adapted) -> None:
    """Bit for bit, odd lengths and a rest of one token included."""
    for prompt in random_prompts(LENGTHS):
        alone = adapted.alone([prompt])
        for start in (each for each in STARTS if each < len(prompt)):
            np.testing.assert_array_equal(adapted.continued(prompt, start), alone)


def test_a_row_alone_gives_the_exports_own_logits(adapted: Adapted) -> None:
    tolerance = CONVERTED if asked(adapted) else TOLERANCE.get(adapted.name, EXACT)
    error = np.abs(adapted.alone(PROMPTS) - adapted.original.alone(PROMPTS)).max()
    assert error <= tolerance


def test_a_row_is_the_same_in_a_batch_bit_for_bit(adapted: Adapted) -> None:
    prompts = random_prompts((1, *LENGTHS))
    alone = adapted.alone(prompts)
    for side in ("left", "right"):
        np.testing.assert_array_equal(adapted.batch(prompts, side), alone)


@pytest.mark.parametrize(("name", "precision"), [("genai_q4", None), ("genai_quantized", "w8a8")])
def test_both_layouts_give_the_same_bits(name: str, precision: str | None, tmp_path: Path) -> None:
    prefix, padded = (
        adapt_export(name, tmp_path / layout, precision, layout) for layout in ("prefix", "padded")
    )
    prompts = random_prompts(LENGTHS)
    np.testing.assert_array_equal(prefix.batch(prompts), padded.batch(prompts))


def test_the_graph_has_the_names_and_types_of_the_layout(adapted: Adapted) -> None:
    graph = onnx.load(adapted.folder / "model.onnx").graph
    pasts = [f"past_key_values.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    presents = [f"present.{layer}.{kind}" for layer in (0, 1) for kind in ("key", "value")]
    inputs = {value.name: value.type.tensor_type for value in graph.input}
    outputs = {value.name: value.type.tensor_type for value in graph.output}
    assert set(inputs) == {"input_ids", "attention_mask", *pasts}
    assert set(outputs) == {"logits", *presents}
    for name in ("input_ids", "attention_mask"):
        assert inputs[name].elem_type == TensorProto.INT64
    for name in (*pasts, *presents):
        kind = (inputs | outputs)[name]
        assert kind.elem_type == TensorProto.FLOAT
        assert [kind.shape.dim[place].dim_value for place in (1, 3)] == [2, 32]
    assert adapted.model.layout == "prefix"


@pytest.mark.parametrize(("length", "width"), [(1, 2), (2, 2), (7, 8), (8, 8)])
def test_presents_hold_the_past_and_an_even_number_of_columns(
    adapted: Adapted, length: int, width: int
) -> None:
    (prompt,) = random_prompts([6 + length])
    past = adapted.session.extend(prompt[None, :6])
    assert past.rows(1)[0].shape == (1, 2, 6, 32)
    both = adapted.session.extend(prompt[None, 6:], past)
    assert both.rows(1)[0].shape == (1, 2, 6 + width, 32)
    for before, after in zip(past.rows(1), both.rows(1), strict=True):
        np.testing.assert_array_equal(after[:, :, :6], before)


def test_an_export_continues_one_row_at_a_time_and_says_so(adapted: Adapted) -> None:
    assert (adapted.session.takes_past, adapted.session.batches_past) == (True, False)
    past = adapted.session.extend(np.full((1, 4), 7))
    with pytest.raises(ValueError, match="takes a past of one row"):
        adapted.session.run(np.full((2, 3), 7), np.ones((2, 3), np.int64), past)


def rename(path: Path, names: dict[str, str]) -> Path:
    """Call inputs, outputs and what reads them otherwise."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for value in (*graph.input, *graph.output):
            value.name = names.get(value.name, value.name)
        for node in graph.node:
            for field in (node.input, node.output):
                field[:] = [names.get(name, name) for name in field]

    return edit_export(path, change)


@pytest.mark.parametrize("swapped", [True, False])
def test_caches_may_be_called_otherwise(swapped: bool, tmp_path: Path) -> None:
    """Of another exporter, or numbered from the last layer on: names are given by layer."""
    pattern = "{}.{}.{}" if swapped else "{}_of_{}_{}"
    names = {
        f"{old}.{layer}.{kind}": pattern.format(old, 1 - layer if swapped else layer, kind)
        for old in ("past_key_values", "present")
        for layer in (0, 1)
        for kind in ("key", "value")
    }
    path = rename(copy_export("genai_fp32", tmp_path / "export"), names)
    adapted = adapt_file(path, tmp_path / "model", layout="prefix")
    plain = adapt_export("genai_fp32", tmp_path / "plain", layout="prefix")
    (prompt,) = random_prompts([40])
    np.testing.assert_array_equal(adapted.continued(prompt, 20), plain.continued(prompt, 20))


def refused(path: Path, message: str, precision: str | None = None) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(path, path.parent.parent / "model", precision=precision, layout="prefix")
    assert not (path.parent.parent / "model").exists()


@pytest.mark.parametrize("name", ["optimum", "optimum_q4", "optimum_fp16_no_past"])
def test_unfused_attention_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    refused(
        copy_export(name, tmp_path / "export"),
        r"has no GroupQueryAttention, and other attention rounds .* --layout padded, or prepare",
    )


def test_dynamic_quantization_is_refused_with_what_to_do(tmp_path: Path) -> None:
    refused(
        copy_export("genai_quantized", tmp_path / "export"),
        r"quantizes a batch with one scale, .* choose --precision w8a8, .* or --layout padded",
    )


def test_an_export_without_past_inputs_is_refused(tmp_path: Path) -> None:
    path = copy_export("genai_fp32", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.input if "past" not in value.name]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.input[3] = node.input[4] = ""

    refused(edit_export(path, change), r"has no past inputs \(node '.*GroupQueryAttention' reads")


def test_a_bias_of_the_attention_is_refused(tmp_path: Path) -> None:
    path = copy_export("genai_fp32", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.op_type == "GroupQueryAttention":
                node.input[10] = node.input[7]

    refused(edit_export(path, change), "an input attention_bias, not known then")


def test_a_past_that_no_layer_reads_is_refused(tmp_path: Path) -> None:
    path = copy_export("genai_fp32", tmp_path / "export")

    def change(model: onnx.ModelProto) -> None:
        extra = model.graph.input.add()
        extra.CopyFrom(model.graph.input[2])
        extra.name = "past_key_values.2.key"

    refused(edit_export(path, change), "past inputs that do not belong to its layers one by one")
