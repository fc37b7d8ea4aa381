"""What rounding does to all logits alike is measured on a sample and taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graph_models import Built, build_from, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError
from shardrank.graph.answers import find_answer_ids
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.exact_decoder import ExactDecoder
from shardrank.graph.offset import OFFSET, OffsetFinder
from shardrank.graph.prepare import prepare
from shardrank.graph.text_sample import TextSample
from shardrank.graph.weights import Checkpoint
from shardrank.types import Prompts


def as_prompts(rows: list[np.ndarray]) -> Prompts:
    lengths = np.array([len(row) for row in rows])
    zeros = np.zeros(len(rows), np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Prompts(np.concatenate(rows).astype(np.int32), offsets, zeros, zeros.astype(bool))


def offset_of(folder: Path) -> np.ndarray | None:
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    found = [t for t in graph.initializer if t.name == OFFSET]
    return onnx.numpy_helper.to_array(found[0]) if found else None


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("source"), Shape(num_layers=3))


def test_the_exact_decoder_says_what_the_oracle_says(built: Built) -> None:
    rows = random_prompts((1, 2, 40, 7, 129))
    checkpoint = Checkpoint(built.source)
    decoder = ExactDecoder(checkpoint, parse_architecture(checkpoint.config))
    found = decoder.logits(as_prompts(rows), (built.model.yes_id, built.model.no_id))
    np.testing.assert_allclose(found, built.expected(rows), rtol=0, atol=1e-4)


def test_no_mean_error_is_left_on_the_sample(source: Path, tmp_path: Path) -> None:
    rounded = build_from(source, tmp_path / "model", "w8a8")
    builder = PromptBuilder(Tokenizer.load(source), max_tokens=512)
    # As many of 16 as make 1600 tokens.
    sample = TextSample.load(None).thinned(16).prompts(builder)
    fewer = 16 * 1600 // len(sample.token_ids)
    sample = TextSample.load(None).thinned(16).thinned(fewer).prompts(builder)
    rows = [sample[place].astype(np.int64) for place in range(len(sample))]
    error = np.stack([rounded.logits([row])[0] for row in rows]) - rounded.expected(rows)
    offset = offset_of(tmp_path / "model")
    assert offset is not None
    assert (np.abs(offset) > 1e-3).all()
    assert (np.abs(error.mean(axis=0)) < 1e-3).all()
    assert rounded.model.source["offset"] == offset.tolist()


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4", "fp16"])
def test_other_precisions_have_none(source: Path, tmp_path: Path, precision: str) -> None:
    prepare(source, tmp_path / "model", precision=precision)
    assert offset_of(tmp_path / "model") is None


def test_a_model_without_room_for_the_sample_has_none(source: Path, tmp_path: Path) -> None:
    model = prepare(source, tmp_path / "model", precision="w8a8", max_tokens=60)
    assert offset_of(tmp_path / "model") is None
    assert "offset" not in model.source


def test_a_graph_that_cannot_be_run_is_told(source: Path, tmp_path: Path) -> None:
    checkpoint = Checkpoint(source)
    architecture = parse_architecture(checkpoint.config)
    answers = find_answer_ids(source / "tokenizer.json", architecture.vocabulary_size)
    finder = OffsetFinder(checkpoint, architecture, answers, "transformers", 1024)
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelError, match="cannot run it here .*; prepare the model on another"):
        finder.find(tmp_path, "padded", TextSample.load(None))


def test_a_sample_keeps_its_ends_apart_when_it_is_thinned() -> None:
    sample = TextSample("few", tuple((str(number), "") for number in range(10)))
    assert [query for query, _ in sample.thinned(5).pairs] == ["0", "2", "4", "6", "8"]
    assert sample.thinned(20) == sample
