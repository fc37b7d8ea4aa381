from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shardrank.engine.model import builtin_folder
from shardrank.engine.prompt import PromptBuilder, QueryTooLongError
from shardrank.engine.ranking import sigmoid
from shardrank.engine.reranker import DEMO, Reranker
from shardrank.engine.scoring import score_prompts
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ConfigError, InputError, ModelError
from shardrank.testing import FakeSession, fake_log_odds, fake_model, fake_tokenizer

FAKE = Tokenizer(fake_tokenizer())
PAIRS = [("tea", "green"), ("tea", "black"), ("chess", "a rook"), ("tea", "green leaves")]


@pytest.fixture(name="reranker")
def make_reranker(model_folder: Path) -> Reranker:
    return Reranker(model_folder, session=FakeSession())


def test_scores_are_those_of_each_prompt_in_the_order_of_the_pairs(reranker: Reranker) -> None:
    builder = PromptBuilder(FAKE)
    expected = [fake_log_odds(builder.build(query, [document])[0]) for query, document in PAIRS]
    scores = reranker.score(PAIRS)
    assert scores.dtype == np.float32
    assert scores.tolist() == expected


def test_a_real_session_scores_as_the_fake_one(model_folder: Path, reranker: Reranker) -> None:
    real = Reranker(model_folder, threads=1)
    assert real.score(PAIRS).tolist() == reranker.score(PAIRS).tolist()
    assert real.description["provider"] == "CPUExecutionProvider"


@given(order=st.permutations(range(len(PAIRS))), max_batch_tokens=st.integers(1, 2000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_neither_order_nor_batches_change_a_score(
    reranker: Reranker, order: list[int], max_batch_tokens: int
) -> None:
    reranker.options = replace(reranker.options, max_batch_tokens=max_batch_tokens)
    shuffled = reranker.score([PAIRS[index] for index in order])
    assert shuffled.tolist() == reranker.score(PAIRS)[order].tolist()


def test_batches_keep_to_the_budget(model_folder: Path) -> None:
    session = FakeSession()
    pairs = [("tea", f"{number:02d} leaves") for number in range(20)]
    Reranker(model_folder, session=session, max_batch_tokens=1000).score(pairs)
    assert all(rows * longest <= 1000 for rows, longest in session.batch_shapes)
    assert sum(rows for rows, _ in session.batch_shapes) == 20


def test_pairs_may_come_from_a_generator_and_may_be_none(reranker: Reranker) -> None:
    assert reranker.score(pair for pair in PAIRS).shape == (4,)
    assert reranker.score([]).shape == (0,)


def test_the_instruction_changes_the_prompt(reranker: Reranker) -> None:
    expected = PromptBuilder(FAKE, instruction="Find tea").build("tea", ["green"])[0]
    assert reranker.score([("tea", "green")], "Find tea").tolist() == [fake_log_odds(expected)]


def test_ranking_is_best_first_with_everything_said(reranker: Reranker) -> None:
    documents = ["green", "black", "white"]
    ranked = reranker.rank("tea", documents)
    scores = reranker.score([("tea", document) for document in documents])
    assert [document.log_odds for document in ranked] == sorted(scores.tolist(), reverse=True)
    assert [document.rank for document in ranked] == [1, 2, 3]
    for document in ranked:
        assert document.text == documents[document.index]
        assert document.score == sigmoid(scores)[document.index]
        assert document.num_tokens == len(PromptBuilder(FAKE).build("tea", [document.text])[0])
        assert not document.truncated


def test_equal_documents_keep_their_order(reranker: Reranker) -> None:
    assert [document.index for document in reranker.rank("tea", ["same"] * 4)] == [0, 1, 2, 3]


def test_top_k_keeps_the_best(reranker: Reranker) -> None:
    documents = ["green", "black", "white"]
    assert reranker.rank("tea", documents, top_k=2) == reranker.rank("tea", documents)[:2]
    assert reranker.rank("tea", []) == []


def test_a_number_that_is_not_finite_names_its_pair(model_folder: Path) -> None:
    euro = FAKE.encode_texts(["€"])[0].tolist()
    reranker = Reranker(model_folder, session=FakeSession(nan_on=euro))
    with pytest.raises(ModelError, match="gave nan for pair 2"):
        reranker.score([("tea", "1"), ("tea", "2"), ("tea", "3 €")])


def test_prompts_keep_their_nan_and_empty_ones_get_it(model_folder: Path) -> None:
    euro = FAKE.encode_texts(["€"])[0].tolist()
    reranker = Reranker(model_folder, session=FakeSession(nan_on=euro), max_tokens=400)
    built = reranker.prompts.build_many(
        ["tea", "long" * 100], ["€", "fine", "fine"], np.array([0, 0, 1])
    )
    logits = reranker.score_prompts(built.prompts)
    assert np.isnan(logits).all(axis=1).tolist() == [True, False, True]
    assert logits[1, 0] - logits[1, 1] == fake_log_odds(built.prompts[1])


def test_an_exception_of_the_session_is_handed_on() -> None:
    prompts = PromptBuilder(FAKE).build("tea", ["green"])
    session = FakeSession(raise_on=[int(prompts[0][0])])
    with pytest.raises(RuntimeError, match="told to fail"):
        score_prompts(session, prompts, pad_id=0)


@pytest.mark.parametrize("pair", [("tea", "a\ud800b"), ("\udfff", "green")])
def test_a_lone_surrogate_is_refused_with_its_place(
    reranker: Reranker, pair: tuple[str, str]
) -> None:
    with pytest.raises(InputError, match=r"2 \(counted from 0\) has a lone surrogate at character"):
        reranker.score([("tea", "green"), ("tea", "black"), pair])
    with pytest.raises(InputError, match="lone surrogate at character"):
        reranker.rank(pair[0], [pair[1]])


def test_what_is_not_text_is_refused(reranker: Reranker) -> None:
    with pytest.raises(InputError, match=r"document 1 .* is NoneType"):
        reranker.score([("tea", "green"), ("tea", None)])  # type: ignore[list-item]


def test_a_query_that_is_too_long_is_refused(model_folder: Path) -> None:
    reranker = Reranker(model_folder, session=FakeSession(), max_tokens=400)
    with pytest.raises(QueryTooLongError):
        reranker.score([("tea", "green"), ("long" * 100, "green")])


def test_settings_of_the_model_apply_unless_told_otherwise(tmp_path: Path) -> None:
    folder = fake_model(tmp_path, max_tokens=600, prompt_style="vllm", instruction="Find tea")
    own = Reranker(folder, session=FakeSession())
    told = Reranker(
        folder,
        session=FakeSession(),
        max_tokens=500,
        prompt_style="transformers",
        instruction="",
    )
    assert (own.prompts.max_tokens, own.prompts.style) == (600, "vllm")
    assert (told.prompts.max_tokens, told.prompts.style) == (500, "transformers")
    assert (own.prompts.instruction, told.prompts.instruction) == ("Find tea", "")


def test_more_tokens_than_the_model_takes_are_refused(model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens = 9000 is more than the 8192"):
        Reranker(model_folder, session=FakeSession(), max_tokens=9000)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = fake_model(tmp_path, architecture={"vocabulary_size": 100})
    with pytest.raises(ModelError, match=r"ids up to 263 and the model knows 100"):
        Reranker(folder, session=FakeSession())


@pytest.mark.skipif(not builtin_folder().is_dir(), reason="the built-in model is not built yet")
def test_demo_is_the_model_inside_the_package() -> None:
    ranked = Reranker(DEMO).rank("What do bees eat?", ["Rooks move straight.", "Bees eat nectar."])
    assert [document.index for document in ranked] == [1, 0]


def test_one_text_in_place_of_a_list_is_refused(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="give a list of texts"):
        reranker.rank("a query", "a document")


def test_a_broken_instruction_is_refused_by_name(reranker: Reranker) -> None:
    with pytest.raises(InputError, match="instruction"):
        reranker.score([("a query", "a document")], instruction="\ud800")
