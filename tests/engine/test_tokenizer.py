from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from shardrank.engine.tokenizer import TEMPLATE_TOKENS, Tokenizer
from shardrank.errors import ModelError
from shardrank.testing import FAKE_SPECIAL_TOKENS, fake_tokenizer

FAKE = Tokenizer(fake_tokenizer())


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    definition = json.loads(fake_tokenizer())
    change(definition)
    return json.dumps(definition).encode()


def test_no_hostile_text_becomes_a_special_id(
    tokenizer: Tokenizer, hostile_texts: list[str]
) -> None:
    for text, ids in zip(hostile_texts, tokenizer.encode_texts(hostile_texts), strict=True):
        assert not tokenizer.special_ids & set(ids.tolist()), text


@given(st.lists(st.sampled_from([*FAKE_SPECIAL_TOKENS, "<|", "|>", "\n", " ", "é"])).map("".join))
def test_no_arrangement_of_special_strings_becomes_a_special_id(text: str) -> None:
    assert not FAKE.special_ids & set(FAKE.encode_texts([text])[0].tolist())


def test_special_tokens_of_the_template_are_recognised(tokenizer: Tokenizer) -> None:
    for token in TEMPLATE_TOKENS:
        assert set(tokenizer.encode_template(token).tolist()) <= tokenizer.special_ids


@given(st.text().filter(lambda text: not any(token in text for token in FAKE_SPECIAL_TOKENS)))
def test_text_is_encoded_as_the_file_says(text: str) -> None:
    expected = tokenizers.Tokenizer.from_buffer(fake_tokenizer())
    ids = expected.encode(text, add_special_tokens=False).ids
    assert FAKE.encode_texts([text])[0].tolist() == ids


@given(st.text())
def test_decoding_gives_the_text_in_its_composed_form(text: str) -> None:
    assert FAKE.decode(FAKE.encode_texts([text])[0]) == unicodedata.normalize("NFC", text)


def test_the_golden_tokenizations_of_llama_cpp_are_met(
    qwen: Tokenizer, golden_tokenizations: list[tuple[str, list[int]]]
) -> None:
    for text, expected in golden_tokenizations:
        assert qwen.encode_texts([text])[0].tolist() == expected, text


def test_max_tokens_keeps_the_front_of_each_text() -> None:
    whole, short = FAKE.encode_texts(["abcdef", "ab"], max_tokens=3)
    assert whole.tolist() == FAKE.encode_texts(["abc"])[0].tolist()
    assert len(short) == 2


def test_many_long_texts_keep_their_order() -> None:
    texts = [character * 600_000 for character in "ab"] + ["c", "d"]
    assert [FAKE.decode(ids) for ids in FAKE.encode_texts(texts, max_tokens=1)] == list("abcd")


def test_truncation_and_padding_of_the_file_are_not_followed() -> None:
    truncation = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    data = changed(lambda file: file.update(truncation=truncation, padding=padding))
    assert len(Tokenizer(data).encode_texts(["abcdef"])[0]) == 6


def test_a_lone_surrogate_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        FAKE.encode_texts(["\ud800"])


def test_special_tokens_in_the_vocabulary_of_the_model_are_out_of_reach() -> None:
    def as_a_trainer_writes_it(file: dict[str, Any]) -> None:
        file["model"]["vocab"] |= {token["content"]: token["id"] for token in file["added_tokens"]}
        file["model"]["ignore_merges"] = True

    tokenizer = Tokenizer(changed(as_a_trainer_writes_it))
    ids = tokenizer.encode_texts(["<think>", "a <|im_end|>"])
    assert not tokenizer.special_ids & {id for row in ids for id in row.tolist()}


def make_merges_reach_special(file: dict[str, Any]) -> None:
    id = file["model"]["vocab"]["yes"]
    file["added_tokens"].append({**file["added_tokens"][0], "id": id, "content": "yes"})


def make_unknown_special(file: dict[str, Any]) -> None:
    file["model"]["unk_token"] = "<|endoftext|>"


def make_unigram(file: dict[str, Any]) -> None:
    pieces = [[token, 0.0] for token in file["model"]["vocab"]]
    pieces += [[token["content"], 0.0] for token in file["added_tokens"]]
    file["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}


@pytest.mark.parametrize(
    ("change", "token"),
    [
        (make_merges_reach_special, "yes"),
        (make_unknown_special, "<|endoftext|>"),
        (make_unigram, "</think>"),
    ],
)
def test_a_tokenizer_whose_text_could_reach_a_special_token_is_refused(
    change: Callable[[dict[str, Any]], None], token: str
) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer(changed(change))
    assert f"gives the special token {token!r} for ordinary text" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\x00", "is not JSON"),
        (b"[]", "not a tokenizer"),
        (b'{"model": {"type": "BPE"}}', "not a usable tokenizer"),
        (changed(lambda file: file.update(added_tokens=[])), "no special token <|im_start|>"),
        (changed(lambda file: file["added_tokens"].pop()), "no special token </think>"),
    ],
)
def test_what_is_no_tokenizer_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        Tokenizer(data)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)
