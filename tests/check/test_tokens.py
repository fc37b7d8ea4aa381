"""Tokenizers of other models are found, and Qwen3's own gives the published ids."""

from __future__ import annotations

import json
import lzma
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from shardrank.check.golden import GOLDEN_PAIRS, digest_of_ids
from shardrank.check.tokens import check_prompt_ids, check_tokens
from shardrank.engine.model import PreparedModel
from shardrank.engine.tokenizer import Tokenizer
from shardrank.testing import fake_tokenizer

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"


@pytest.fixture
def fake() -> Tokenizer:
    return Tokenizer(fake_tokenizer())


@pytest.fixture(scope="module")
def qwen_file() -> bytes:
    path = REFERENCE / "qwen3-tokenizer" / "tokenizer.json.xz"
    if not path.exists():
        pytest.skip("needs the shared reference files")
    return lzma.decompress(path.read_bytes())


@pytest.fixture
def qwen_model(model: PreparedModel) -> PreparedModel:
    sizes = {"vocabulary_size": 151_669}
    return replace(model, yes_id=9693, no_id=2152, pad_id=151_643, architecture=sizes)


def test_the_models_own_tokenizer_passes(fake: Tokenizer, model: PreparedModel) -> None:
    assert check_tokens(fake, model).verdict == "pass"


@pytest.mark.parametrize("field", ["yes_id", "no_id", "pad_id"])
def test_an_id_of_another_tokenizer_is_found(
    fake: Tokenizer, model: PreparedModel, field: str
) -> None:
    result = check_tokens(fake, replace(model, **{field: 7}))
    assert result.verdict == "fail"
    assert "is not 7" in result.detail or "7 is no special token" in result.detail


def test_swapped_answers_are_found(fake: Tokenizer, model: PreparedModel) -> None:
    swapped = replace(model, yes_id=model.no_id, no_id=model.yes_id)
    assert check_tokens(fake, swapped).verdict == "fail"


def test_an_embedding_that_is_too_small_is_found(fake: Tokenizer, model: PreparedModel) -> None:
    small = replace(model, architecture={"vocabulary_size": 100})
    assert "and the model has 100" in check_tokens(fake, small).detail


def test_another_vocabulary_has_no_published_ids(fake: Tokenizer, model: PreparedModel) -> None:
    assert check_prompt_ids(fake, model).verdict == "skip"


def test_a_foreign_tokenizer_in_a_model_of_qwens_size_fails(
    fake: Tokenizer, qwen_model: PreparedModel
) -> None:
    result = check_prompt_ids(fake, qwen_model)
    assert result.verdict == "fail"
    assert "6 of 6 published prompts have other ids" in result.detail


def test_qwens_tokenizer_gives_the_published_ids(
    qwen_file: bytes, qwen_model: PreparedModel
) -> None:
    tokenizer = Tokenizer(qwen_file)
    assert check_tokens(tokenizer, qwen_model).verdict == "pass"
    assert check_prompt_ids(tokenizer, qwen_model).verdict == "pass"


def test_a_tokenizer_that_lost_a_merge_is_found(
    qwen_file: bytes, qwen_model: PreparedModel
) -> None:
    definition = json.loads(qwen_file)
    definition["model"]["merges"] = [
        merge for merge in definition["model"]["merges"] if merge != ["Ġplan", "et"]
    ]
    tokenizer = Tokenizer(json.dumps(definition).encode())
    assert check_tokens(tokenizer, qwen_model).verdict == "pass"
    result = check_prompt_ids(tokenizer, qwen_model)
    assert result.verdict == "fail"
    assert "take the tokenizer.json of the model's own checkpoint" in result.detail


def test_the_embedded_values_are_the_reference_files() -> None:
    path = REFERENCE / "golden-scores.json"
    if not path.exists():
        pytest.skip("needs the shared reference files")
    cases = {(c["query"], c["document"]): c for c in json.loads(path.read_text())["cases"]}
    for pair in GOLDEN_PAIRS:
        case = cases[pair.query, pair.document]
        ids = np.array(case["input_ids"], np.int32)
        assert ids.astype("<i4").tobytes() == struct.pack(f"<{len(ids)}i", *ids.tolist())
        assert (len(ids), digest_of_ids(ids)) == (pair.num_tokens, pair.digest)
        assert pair.instruction == case["instruction"]
        if pair.log_odds is not None:
            assert (pair.log_odds, case["expected_kind"]) == (case["expected"], "logodds")
