"""What w8a8 learns from a sample: which products are sensitive, and that keeping them helps."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from graph_models import Built, build_from, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.cli import main
from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import InputError, ModelError
from shardrank.graph.answers import find_answer_ids
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.prepare import prepare
from shardrank.graph.product_group import product_groups
from shardrank.graph.rehearsal import Rehearsal
from shardrank.graph.sensitivity import (
    Sensitivity,
    choose_kept,
    measure_sensitivities,
    multiplication_shares,
    relative_error,
)
from shardrank.graph.text_sample import TextSample
from shardrank.graph.tuning import TuningRequest
from shardrank.graph.weights import Checkpoint
from shardrank.types import Prompts

SHAPE = Shape(num_layers=2, hidden=128, intermediate=128, dtype="bfloat16")
PAIRS = [
    {"query": "what do bees eat", "document": document}
    for document in ("nectar", "Zebras!", "1234567890", "蜜蜂吃花蜜", "they eat pollen " * 3, "?")
]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, PAIRS)))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every output of one product has a far too large weight, on a channel that is silent."""
    folder = make_random_checkpoint(tmp_path_factory.mktemp("source"), SHAPE)
    tensors = {n: t.copy() for n, t in load_file(folder / "model.safetensors").items()}
    tensors["model.layers.0.self_attn.v_proj.weight"][5] = 0
    tensors["model.layers.0.self_attn.o_proj.weight"][:, 5] = 4
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def prompts(source: Path, sample: Path) -> Prompts:
    return TextSample.load(sample).prompts(PromptBuilder(Tokenizer.load(source), max_tokens=512))


@pytest.fixture(scope="module")
def rehearsal(
    source: Path, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory
) -> Rehearsal:
    checkpoint = Checkpoint(source)
    architecture = parse_architecture(checkpoint.config)
    answers = find_answer_ids(source / "tokenizer.json", architecture.vocabulary_size)
    folder = tmp_path_factory.mktemp("rehearsal") / "graph"
    return Rehearsal(folder, checkpoint, architecture, answers, prompts)


@pytest.fixture(scope="module")
def models(
    source: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Built]:
    folder = tmp_path_factory.mktemp("models")
    kept = TuningRequest(num_kept=1, sample=sample)
    held = TuningRequest(max_error=0.03, sample=sample)
    return {
        "fp32": build_from(source, folder / "fp32"),
        "w8a8": build_from(source, folder / "w8a8", "w8a8"),
        "kept": build_from(source, folder / "kept", "w8a8", tuning=kept),
        "held": build_from(source, folder / "held", "w8a8", tuning=held),
    }


def log_odds(built: Built, prompts: list[np.ndarray]) -> np.ndarray:
    logits = built.logits(prompts)
    return logits[:, 0].astype(np.float64) - logits[:, 1]


@pytest.mark.parametrize(("precision", "is_rounded"), [("fp32", False), ("w8a8", True)])
def test_a_rehearsal_says_what_the_prepared_model_says(
    rehearsal: Rehearsal,
    models: dict[str, Built],
    prompts: Prompts,
    precision: str,
    is_rounded: bool,
) -> None:
    names = {group.name for group in rehearsal.groups} if is_rounded else set()
    rows = [prompts[place] for place in range(len(prompts))]
    yes, no = models[precision].model.source.get("offset", (0, 0))
    found = log_odds(models[precision], rows) - (yes - no)
    np.testing.assert_allclose(rehearsal.log_odds(names), found, rtol=0, atol=2e-4)


def test_a_rehearsal_shows_the_inputs_of_every_product(
    rehearsal: Rehearsal, source: Path, prompts: Prompts
) -> None:
    observed = rehearsal.observe()
    assert list(observed) == [group.name for group in rehearsal.groups]
    tensors = load_file(source / "model.safetensors")
    table = tensors["model.embed_tokens.weight"].astype(np.float64)
    norm = tensors["model.layers.0.input_layernorm.weight"].astype(np.float64)
    lengths = prompts.lengths
    stride = -(-int(lengths.sum()) // 512)
    expected = []
    for place in range(len(prompts)):
        values = table[prompts[place][::-stride]]
        expected.append(values / np.sqrt((values**2).mean(axis=1, keepdims=True) + 1e-6) * norm)
    np.testing.assert_allclose(
        observed["layers.0.qkv"], np.concatenate(expected), rtol=1e-4, atol=1e-4
    )
    # Behind the last attention there is nothing but the last token.
    assert len(observed["layers.1.down"]) == len(prompts)


def test_the_spoilt_product_is_the_most_sensitive(rehearsal: Rehearsal) -> None:
    found = measure_sensitivities(rehearsal)
    assert found[0].name == "layers.0.o"
    assert found[0].error > 2 * found[1].error
    assert sum(entry.share for entry in found) == pytest.approx(1)


def test_keeping_it_brings_w8a8_nearer_to_fp32(models: dict[str, Built]) -> None:
    some = random_prompts(np.resize((20, 5, 33, 64), 40))
    exact = log_odds(models["fp32"], some)
    plain, kept = (relative_error(log_odds(models[name], some), exact) for name in ("w8a8", "kept"))
    assert kept < 0.7 * plain


def test_an_error_that_was_asked_for_is_held_on_the_sample(models: dict[str, Built]) -> None:
    record = models["held"].model.source["tuning"]["kept"]
    assert record["error_after"] <= 0.03 < record["error_before"]
    assert 0 < len(record["groups"]) < 8


def test_the_kept_product_is_in_fp32_and_reranker_json_says_so(
    models: dict[str, Built], sample: Path
) -> None:
    kept = models["kept"]
    kinds = [node.op_type for node in onnx.load(kept.folder / "model.onnx").graph.node]
    # The head, the kept one, and a rotation in each layer.
    assert (kinds.count("MatMul"), kinds.count("MatMulIntegerToFloat")) == (4, 13)
    record = kept.model.source["tuning"]
    assert record["kept"]["groups"] == ["layers.0.o"]
    assert record["kept"]["error_after"] < record["kept"]["error_before"]
    assert len(record["sensitivity"]) == 8
    assert record["sample"] == {
        "name": "pairs.jsonl", "pairs": len(PAIRS), "sha256": TextSample.load(sample).sha256
    }  # fmt: skip
    assert kept.model.files["model.onnx"] != models["w8a8"].model.files["model.onnx"]
    assert sorted(path.name for path in kept.folder.iterdir()) == [
        "model.onnx", "reranker.json", "tokenizer.json"
    ]  # fmt: skip


def test_a_mixed_model_gives_the_same_bits_in_every_batch(models: dict[str, Built]) -> None:
    assert not models["kept"].model.batch_dependent
    rows = random_prompts(np.resize((20, 1, 2, 3, 7, 16, 33), 33))
    alone = np.concatenate([models["kept"].logits([row]) for row in rows])
    for num_rows in range(1, len(rows) + 1):
        np.testing.assert_array_equal(models["kept"].logits(rows[:num_rows]), alone[:num_rows])


def test_tuning_twice_gives_the_same_bytes(source: Path, sample: Path, tmp_path: Path) -> None:
    tuning = TuningRequest(smooth=True, num_kept=2, sample=sample)
    one, other = (prepare(source, tmp_path / name, tuning=tuning) for name in ("one", "other"))
    assert one == other


def test_no_tuning_changes_nothing(source: Path, tmp_path: Path) -> None:
    assert "tuning" not in prepare(source, tmp_path / "model").source


@pytest.mark.parametrize(
    ("precision", "tuning", "message"),
    [
        ("fp32", TuningRequest(smooth=True), "are for the precision 'w8a8', and 'fp32'"),
        ("int8", TuningRequest(num_kept=1), "are for the precision 'w8a8', and 'int8'"),
        ("w8a8", TuningRequest(num_kept=-1), "-1 products cannot be kept"),
        ("w8a8", TuningRequest(max_error=0), "give an error above 0"),
        ("w8a8", TuningRequest(num_kept=1, max_error=0.1), "not both"),
        ("w8a8", TuningRequest(sample=Path("a.jsonl")), "nothing that learns from it"),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    source: Path, tmp_path: Path, precision: str, tuning: TuningRequest, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(source, tmp_path / "model", precision=precision, tuning=tuning)
    assert not list(tmp_path.iterdir())


ERRORS = st.lists(st.floats(0.001, 1), min_size=1, max_size=12)


@given(errors=ERRORS, limit=st.floats(0.001, 2))
def test_as_few_are_kept_as_hold_the_limit(errors: list[float], limit: float) -> None:
    found = [Sensitivity(str(place), error, 0.1) for place, error in enumerate(errors)]

    def error_without(kept: Collection[str]) -> float:
        return math.sqrt(sum(e.error**2 for e in found if e.name not in kept))

    kept = choose_kept(found, error_without, limit)
    assert error_without(kept) <= limit
    assert not kept or error_without(kept[:-1]) > limit


def test_what_costs_little_is_kept_first() -> None:
    found = [Sensitivity("dear", 0.3, 0.9), Sensitivity("cheap", 0.2, 0.001)]
    assert choose_kept(found, lambda kept: 1.0 - len(kept), 0.0) == ["cheap"]


def test_shares_count_the_last_layer_once_a_prompt() -> None:
    groups = product_groups(parse_architecture(SHAPE.config()))
    shares = multiplication_shares(groups, 100)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["layers.1.down"] == pytest.approx(shares["layers.0.o"] / 100)
    assert shares["layers.1.qkv"] == shares["layers.0.qkv"]


def test_a_sample_is_json_lines_or_parquet_in_either_layout(tmp_path: Path, sample: Path) -> None:
    flat = pa.table({
        "query": [pair["query"] for pair in PAIRS], "text": [p["document"] for p in PAIRS]
    })  # fmt: skip
    nested = pa.table({
        "query": [PAIRS[0]["query"], "empty"],
        "candidates": [[{"text": pair["document"]} for pair in PAIRS], None],
    })  # fmt: skip
    pq.write_table(flat, tmp_path / "flat.parquet")
    pq.write_table(nested, tmp_path / "nested.parquet")
    expected = TextSample.load(sample)
    for name in ("flat.parquet", "nested.parquet"):
        found = TextSample.load(tmp_path / name)
        assert (found.pairs, found.sha256) == (expected.pairs, expected.sha256)


def test_a_long_sample_is_thinned_out_evenly(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"query": str(n), "document": "text"}) for n in range(640)]
    path.write_text("\n".join(lines))
    assert [query for query, _ in TextSample.load(path).pairs] == [
        str(n) for n in range(0, 640, 10)
    ]


def test_the_built_in_sample_has_pairs_of_several_languages() -> None:
    found = TextSample.load(None)
    assert len(found.pairs) == 64
    assert sum(not query.isascii() for query, _ in found.pairs) > 10


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("pairs.jsonl", b'{"query": 1}', "line 1"),
        ("pairs.jsonl", b"\xff", "not UTF-8"),
        ("pairs.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_broken_sample_is_told(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        TextSample.load(tmp_path / name)


def test_a_sample_that_is_not_there_or_lacks_columns_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        TextSample.load(tmp_path / "pairs.jsonl")
    pq.write_table(pa.table({"query": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has the columns query"):
        TextSample.load(tmp_path / "a.parquet")


def test_a_sample_of_queries_too_long_is_told(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"query": "long " * 1000, "document": "text"}))
    builder = PromptBuilder(Tokenizer.load(source), max_tokens=512)
    with pytest.raises(InputError, match="every query of the sample pairs.jsonl is too long"):
        TextSample.load(path).prompts(builder)


def test_the_command_line_tunes_and_prints_the_sensitivities(
    source: Path, sample: Path, tmp_path: Path
) -> None:
    options = ["--smooth", "--keep-sensitive", "1", "--sample", str(sample)]
    result = CliRunner().invoke(
        main, ["prepare", str(source), "--output", str(tmp_path / "model"), *options]
    )
    assert result.exit_code == 0, result.output
    assert "layers.0.o   kept in fp32" in result.stderr
    record = PreparedModel.load(tmp_path / "model").source["tuning"]
    assert record["kept"]["groups"] == ["layers.0.o"]
    assert "smoothing" in record


def test_the_command_line_takes_a_block_size(source: Path, tmp_path: Path) -> None:
    options = ["--precision", "int4", "--block-size", "64"]
    result = CliRunner().invoke(
        main, ["prepare", str(source), "--output", str(tmp_path / "model"), *options]
    )
    assert result.exit_code == 0, result.output
    assert PreparedModel.load(tmp_path / "model").batch_dependent
