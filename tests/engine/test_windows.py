"""Long documents in windows: every token is in one, and the best window counts."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import load_config
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.reranker import Reranker
from shardrank.engine.tokenizer import Tokenizer
from shardrank.engine.windows import Windows, best_of_windows, cut_windows, window_starts
from shardrank.errors import ConfigError, ModelError
from shardrank.testing import FakeSession, fake_log_odds, fake_tokenizer

FAKE = Tokenizer(fake_tokenizer())


@given(st.integers(0, 300), st.integers(1, 60), st.data())
def test_windows_leave_no_token_out_and_have_one_length(
    num_document: int, num_window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, num_window))
    starts = window_starts(num_document, num_window, stride)
    covered = {place for start in starts for place in range(start, start + num_window)}
    assert covered >= set(range(num_document))
    assert starts == sorted(set(starts))
    assert starts[-1] == max(0, num_document - num_window)
    assert all(later - start <= stride for start, later in itertools.pairwise(starts))


def expected(query: str, text: str, windows: Windows, max_tokens: int) -> float:
    """The best window of one pair, one prompt at a time."""
    builder = PromptBuilder(FAKE, max_tokens=max_tokens, whole=True)
    prompts = builder.build(query, [text])
    front = prompts[0][: prompts.num_shared[0]].tolist()
    suffix = prompts[0][len(prompts[0]) - builder.num_suffix :].tolist()
    body = prompts[0].tolist()[len(front) : len(prompts[0]) - len(suffix)]
    size = min(windows.num_tokens, max_tokens - len(front) - len(suffix))
    starts = range(0, max(1, len(body) - size + windows.stride), windows.stride)
    starts_at_end = [min(start, max(0, len(body) - size)) for start in starts]
    return max(fake_log_odds(front + body[s : s + size] + suffix) for s in starts_at_end)


@given(
    texts=st.lists(st.text(st.characters(codec="ascii"), max_size=200), min_size=1, max_size=5),
    num_tokens=st.integers(1, 50),
    data=st.data(),
)
def test_a_pair_scores_as_its_best_window(
    model_folder: Path, texts: list[str], num_tokens: int, data: st.DataObject
) -> None:
    windows = Windows(num_tokens, data.draw(st.integers(1, num_tokens)))
    for session in (FakeSession(), FakeSession(takes_past=True)):
        reranker = Reranker(model_folder, session=session, max_tokens=420, windows=windows)
        scores = reranker.score([("tea", text) for text in texts])
        assert scores.tolist() == [expected("tea", text, windows, 420) for text in texts]


def test_a_document_within_a_window_is_scored_as_without_windows(model_folder: Path) -> None:
    plain = Reranker(model_folder, session=FakeSession())
    windows = Reranker(model_folder, session=FakeSession(), windows=Windows(100, 50))
    pairs = [("tea", "green"), ("tea", "x" * 99)]
    assert windows.score(pairs).tolist() == plain.score(pairs).tolist()


def test_windows_cut_nothing_and_say_so(model_folder: Path) -> None:
    reranker = Reranker(
        model_folder, session=FakeSession(), max_tokens=420, windows=Windows(20, 10)
    )
    (ranked,) = reranker.rank("tea", ["green leaves " * 100])
    assert not ranked.truncated
    assert ranked.num_tokens > 1300


def test_windows_shrink_where_the_query_leaves_less_room() -> None:
    builder = PromptBuilder(FAKE, max_tokens=400, whole=True)
    prompts = builder.build("tea", ["x" * 500])
    cut, owner_of = cut_windows(prompts, Windows(300, 300), builder.num_suffix, 400)
    assert cut.lengths.max() == 400
    assert set(owner_of.tolist()) == {0}


def test_a_prompt_without_tokens_keeps_its_place() -> None:
    builder = PromptBuilder(FAKE, max_tokens=400, whole=True)
    built = builder.build_many(["tea", "long" * 100], ["a", "b", "c"], np.array([0, 1, 0]))
    cut, owner_of = cut_windows(built.prompts, Windows(10, 5), builder.num_suffix, 400)
    assert owner_of.tolist() == [0, 1, 2]
    assert (cut.lengths == 0).tolist() == [False, True, False]


def test_a_window_without_a_number_leaves_the_pair_without_one(model_folder: Path) -> None:
    logits = np.array([[1, 0], [np.nan, 0], [3, 0], [2, 0]], np.float32)
    best = best_of_windows(logits, np.array([0, 0, 1, 1]))
    assert np.isnan(best[0, 0])
    assert best[1].tolist() == [3, 0]
    euro = FAKE.encode_texts(["€"])[0].tolist()
    reranker = Reranker(model_folder, session=FakeSession(nan_on=euro), windows=Windows(20, 10))
    with pytest.raises(ModelError, match="gave nan for pair 0"):
        reranker.score([("tea", "x" * 100 + "€" + "x" * 100)])


def test_windows_that_leave_gaps_are_refused() -> None:
    settings = ["input.path=i", "output.path=o", "model.path=demo"]
    with pytest.raises(ConfigError, match="leave gaps between the windows"):
        load_config(None, [*settings, "prompt.window_tokens=10", "prompt.window_stride=11"])
