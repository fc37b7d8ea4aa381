"""An export that was mended says what it said before, in any batch, with padding on any side."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from exports import (
    DYNAMIC,
    NO,
    PAD,
    PROMPTS,
    STEADY,
    USABLE,
    YES,
    Adapted,
    Original,
    adapt_export,
    copy_export,
    log_odds,
)
from graph_models import pad, random_prompts
from shardrank.engine.model import PreparedModel
from shardrank.graph.prepare import prepare

# One token, one column too many for a block, powers of two and their neighbours, the longest.
ODD_LENGTHS = (1, 2, 3, 8, 17, 31, 33, 63, 64, 65, 97, 127, 129, 255)
# Largest differences of the logits from the export's own. A float16 export rounds its logits to 11
# bits and so by up to 2e-3 here; the mended one, which casts them, rounds less.
TOLERANCE = {"genai_fp16_position_ids": 3e-3, "optimum_fp16_no_past": 3e-3}
EXACT = 1e-5


@pytest.fixture(scope="module", params=USABLE)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return adapt_export(request.param, tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module", params=STEADY)
def steady(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return adapt_export(request.param, tmp_path_factory.mktemp("adapted"))


@pytest.fixture(scope="module", params=DYNAMIC)
def dynamic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    return adapt_export(request.param, tmp_path_factory.mktemp("adapted"))


def every_prompt() -> list[np.ndarray]:
    return PROMPTS + random_prompts(ODD_LENGTHS)


def test_a_row_alone_gives_the_exports_own_logits(adapted: Adapted) -> None:
    prompts = every_prompt()
    error = np.abs(adapted.alone(prompts) - adapted.original.alone(prompts)).max()
    assert error <= TOLERANCE.get(adapted.name, EXACT)


@pytest.mark.parametrize(("side", "extra"), [("left", 0), ("right", 0), ("left", 40)])
def test_a_mixed_batch_gives_the_exports_own_logits(steady: Adapted, side: str, extra: int) -> None:
    expected = steady.original.alone(PROMPTS)
    error = np.abs(steady.batch(PROMPTS, side, extra) - expected).max()
    assert error <= TOLERANCE.get(steady.name, EXACT)


@pytest.mark.parametrize(("side", "extra"), [("left", 0), ("right", 0), ("left", 1), ("left", 2)])
def test_a_row_is_the_same_in_a_batch_bit_for_bit(steady: Adapted, side: str, extra: int) -> None:
    prompts = random_prompts(ODD_LENGTHS[:-1])
    np.testing.assert_array_equal(steady.batch(prompts, side, extra), steady.alone(prompts))


def test_every_number_of_rows_gives_the_same_bits(steady: Adapted) -> None:
    prompts = random_prompts(np.arange(33) % 7 + 3)
    alone = steady.alone(prompts)
    for count in range(1, 34):
        np.testing.assert_array_equal(steady.batch(prompts[:count]), alone[:count])


def test_a_row_without_a_token_disturbs_nobody(steady: Adapted) -> None:
    """The engine sends none; the export's GroupQueryAttention would refuse the whole batch."""
    ids, mask = pad([*PROMPTS[:2], np.zeros(0, np.int64)], PAD)
    feeds = {"input_ids": ids, "attention_mask": mask}
    session = onnxruntime.InferenceSession(str(steady.folder / "model.onnx"))
    np.testing.assert_array_equal(session.run(["logits"], feeds)[0][:2], steady.alone(PROMPTS[:2]))


def test_one_scale_for_the_batch_is_all_that_moves_a_dynamic_row(dynamic: Adapted) -> None:
    """Alone it is the export bit for bit; in a batch it moves as the export's own batches do.

    The manifest has the export's own change in a right-padded batch: .34 and .12 of these prompts.
    """
    alone = dynamic.alone(PROMPTS)
    np.testing.assert_array_equal(alone, dynamic.original.alone(PROMPTS))
    change = np.abs(log_odds(dynamic.batch(PROMPTS)) - log_odds(alone)).max()
    assert 0 < change < 1
    assert dynamic.model.batch_dependent


def test_equal_rows_in_a_dynamic_batch_do_not_move(dynamic: Adapted) -> None:
    alone = dynamic.alone(PROMPTS[:1])
    np.testing.assert_array_equal(dynamic.batch([PROMPTS[0]] * 3), np.broadcast_to(alone, (3, 2)))


@pytest.mark.parametrize("name", [name for name in USABLE if name.startswith("genai")])
def test_without_mending_a_left_padded_row_is_wrong(name: str, tmp_path) -> None:
    """The test of the tests above: what they feed breaks the export as it comes."""
    original = Original(copy_export(name, tmp_path / "export"))
    wrong = log_odds(original.left_padded(PROMPTS)) - log_odds(original.alone(PROMPTS))
    assert np.abs(wrong).max() > 1


@pytest.mark.parametrize("name", ["genai_q4", "genai_int4", "optimum_fp16_no_past"])
def test_a_large_export_keeps_its_weights_beside_the_graph(
    name: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = adapt_export(name, tmp_path / "whole")
    monkeypatch.setattr("shardrank.graph.saving._MAX_SINGLE_FILE_BYTES", 1000)
    parted = adapt_export(name, tmp_path / "parted")
    assert sorted(parted.model.files) == ["model.onnx", "model.onnx.data", "tokenizer.json"]
    assert sorted(whole.model.files) == ["model.onnx", "tokenizer.json"]
    np.testing.assert_array_equal(parted.batch(PROMPTS), whole.batch(PROMPTS))


def test_the_graph_asks_for_ids_and_mask_and_gives_two_columns(adapted: Adapted) -> None:
    graph = onnx.load(adapted.folder / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in graph.output] == ["logits"]
    (output,) = adapted.session._session.get_outputs()
    assert (output.type, output.shape[1]) == ("tensor(float)", 2)


def test_no_logits_of_the_whole_vocabulary_are_computed(adapted: Adapted) -> None:
    graph = onnx.load(adapted.folder / "model.onnx").graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type.startswith(("MatMul", "Gemm")):
            assert 397 not in sizes.get(node.input[1], []), node.name


def test_the_description_says_what_was_found(adapted: Adapted) -> None:
    model = adapted.model
    assert PreparedModel.load(adapted.folder) == model
    model.verify(adapted.folder)
    kind = next(k for k in ("fp32", "fp16", "int4", "q4", "quantized", "") if k in adapted.name)
    expected = {"int4": "q4", "quantized": "dynamic-int8", "": "fp32"}.get(kind, kind)
    assert (model.precision, model.layout) == (expected, "padded")
    assert model.batch_dependent == (expected in ("dynamic-int8", "fp16"))
    assert (model.yes_id, model.no_id) == (YES, NO)
    shape = model.architecture
    assert (shape["vocabulary_size"], shape["head_size"], shape["num_layers"]) == (397, 32, 2)
    assert model.source["name"] == "model.onnx"
    assert {"model.onnx", "tokenizer.json"} <= model.source["files"].keys()


def test_a_table_of_positions_limits_the_prompts(adapted: Adapted) -> None:
    without_table = adapted.name in {"optimum_q4", "optimum_q4_gemm_head", "optimum_quantized"}
    assert adapted.model.max_tokens == (8192 if without_table else 256)
    assert np.isfinite(adapted.batch(random_prompts([256]))).all()


def test_preparing_twice_gives_the_same_bytes(tmp_path) -> None:
    path = copy_export("genai_int4", tmp_path / "export")
    assert prepare(path, tmp_path / "one") == prepare(path, tmp_path / "other")


def test_a_tied_embedding_keeps_its_weight(tmp_path) -> None:
    """The embedding of genai_int4 reads the head's weight, of which two rows are copied."""
    adapted = adapt_export("genai_int4", tmp_path)
    before, after = (
        {tensor.name: tensor for tensor in onnx.load(folder / "model.onnx").graph.initializer}
        for folder in (tmp_path / "genai_int4", adapted.folder)
    )
    weight = "lm_head.MatMul.weight_Q4"
    assert after[weight].dims == before[weight].dims == [397, 2, 16]
    assert onnx.numpy_helper.to_array(after[weight]).tobytes() == (
        onnx.numpy_helper.to_array(before[weight]).tobytes()
    )
    prompt = [np.arange(300, 390)]
    assert np.abs(adapted.alone(prompt) - adapted.original.alone(prompt)).max() <= EXACT
