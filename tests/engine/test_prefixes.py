"""Fronts that prompts share, and the callers that score after them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrank.engine.prefixes import distinct, num_new_tokens, plan_prefixes
from shardrank.engine.scoring import CHUNK_TOKENS, FUSED_CHUNK_TOKENS, ScoringOptions, score_prompts
from shardrank.engine.session import Past
from shardrank.testing import FakeSession, fake_log_odds
from shardrank.types import Prompts

TEMPLATE = list(range(40))


def prompts_of(rows: Sequence[tuple[list[int], list[int]]]) -> Prompts:
    """Prompts of (what does not depend on the document, the rest)."""
    texts = [front + rest for front, rest in rows]
    return Prompts(
        token_ids=np.array([token for text in texts for token in text], np.int32),
        offsets=np.cumsum([0, *map(len, texts)]),
        num_shared=np.array([len(front) for front, _ in rows], np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )


ids = st.integers(0, 9)
queries = st.lists(st.lists(ids, min_size=1, max_size=30), min_size=1, max_size=4)


@st.composite
def many_prompts(draw: st.DrawFn) -> Prompts:
    fronts = [TEMPLATE[: draw(st.integers(0, 40))] + query for query in draw(queries)]
    rest = st.lists(ids, min_size=1, max_size=20)
    return prompts_of(draw(st.lists(st.tuples(st.sampled_from(fronts), rest), max_size=30)))


def session_with_past() -> FakeSession:
    return FakeSession(takes_past=True)


@given(prompts=many_prompts(), num_callers=st.integers(1, 3), max_tokens=st.integers(1, 500))
@settings(deadline=None)
def test_sharing_changes_no_score(prompts: Prompts, num_callers: int, max_tokens: int) -> None:
    expected = [fake_log_odds(prompts[index]) for index in range(len(prompts))]
    for reuse_prefix in (True, False):
        options = ScoringOptions(
            num_callers=num_callers, reuse_prefix=reuse_prefix, max_tokens_in_hand=max_tokens
        )
        for batches_past, shares_past in ((True, True), (True, False), (False, False)):
            session = FakeSession(
                takes_past=True, batches_past=batches_past, shares_past=shares_past
            )
            logits = score_prompts(session, prompts, 0, options)
            assert (logits[:, 0] - logits[:, 1]).tolist() == expected


@given(prompts=many_prompts(), batches_past=st.booleans())
def test_every_prompt_is_planned_once_after_a_front_that_is_its_own(
    prompts: Prompts, batches_past: bool
) -> None:
    firsts, _ = distinct(prompts)
    if not len(firsts):
        return
    plan = plan_prefixes(prompts, firsts, 100, batches_past=batches_past)
    planned = np.concatenate([batch for group in plan.groups for batch in group.batches])
    assert sorted(planned.tolist()) == sorted(firsts.tolist())
    first = prompts[int(planned[0])]
    for group in plan.groups:
        assert group.num_shared % 2 == 0
        assert group.num_shared >= plan.trunk
        leader = prompts[int(group.batches[0][0])]
        for index in np.concatenate(group.batches):
            prompt = prompts[int(index)]
            assert len(prompt) > group.num_shared
            assert np.array_equal(prompt[: group.num_shared], leader[: group.num_shared])
            assert np.array_equal(prompt[: plan.trunk], first[: plan.trunk])


@given(prompts=many_prompts())
def test_no_plan_computes_more_than_every_prompt_whole(prompts: Prompts) -> None:
    firsts, _ = distinct(prompts)
    if not len(firsts):
        return
    plan = plan_prefixes(prompts, firsts, 100)
    lengths = prompts.lengths
    computed = plan.trunk + sum(
        group.num_shared - plan.trunk + num_new_tokens(group, lengths) for group in plan.groups
    )
    assert computed <= lengths[firsts].sum()


@given(prompts=many_prompts())
def test_repeated_prompts_are_found(prompts: Prompts) -> None:
    firsts, places = distinct(prompts)
    rows = [prompts[index].tolist() for index in range(len(prompts))]
    assert [rows[firsts[place]] for place in places] == rows
    assert len(firsts) == len({tuple(row) for row in rows})


def test_documents_of_a_query_compute_its_front_once() -> None:
    rows = [(TEMPLATE + [query] * 10, [number, 7]) for query in (50, 60) for number in range(5)]
    session = session_with_past()
    score_prompts(session, prompts_of(rows), 0)
    # The template, each query after it, each document after its query.
    assert session.batch_shapes == [(1, 40), *([(1, 10), *[(1, 2)] * 5] * 2)]


def test_short_documents_of_a_query_share_a_run_where_the_graph_takes_it() -> None:
    rows = [(TEMPLATE + [50] * 10, [number] * length) for number, length in enumerate((5, 90, 9))]
    session = FakeSession(takes_past=True, batches_past=True)
    score_prompts(session, prompts_of(rows), 0)
    assert session.batch_shapes == [(1, 50), (3, 90)]


@pytest.mark.parametrize(("num_callers", "fronts"), [(1, [4]), (2, [2, 2])])
def test_fronts_of_several_queries_share_a_run_where_pasts_are_shared(
    num_callers: int, fronts: list[int]
) -> None:
    queries = [[50 + number] * (9 + number) for number in range(4)]
    rows = [(TEMPLATE + query, [number, 7]) for query in queries for number in range(5)]
    session = FakeSession(takes_past=True, batches_past=True, shares_past=True)
    prompts = prompts_of(rows)
    logits = score_prompts(session, prompts, 0, ScoringOptions(num_callers=num_callers))
    expected = [fake_log_odds(prompts[index]) for index in range(len(prompts))]
    assert (logits[:, 0] - logits[:, 1]).tolist() == expected
    found = [shape for shape in session.batch_shapes if shape not in [(1, 40), (5, 2), (5, 3)]]
    assert [rows for rows, _ in found] == fronts


def test_no_more_fronts_share_a_run_than_memory_is_meant_for() -> None:
    queries = [[50 + number] * 200 for number in range(6)]
    rows = [(TEMPLATE + query, [number, 7]) for query in queries for number in range(5)]
    session = FakeSession(takes_past=True, batches_past=True, shares_past=True)
    score_prompts(session, prompts_of(rows), 0)
    assert [rows for rows, width in session.batch_shapes if width == 200] == [2, 2, 2]


def test_prompts_that_share_nothing_go_in_batches() -> None:
    rows: list[tuple[list[int], list[int]]] = [([], [number] * 30) for number in range(10)]
    session = session_with_past()
    score_prompts(session, prompts_of(rows), 0, ScoringOptions(max_batch_tokens=150))
    assert session.batch_shapes == [(5, 30), (5, 30)]


def test_a_front_that_saves_little_is_not_computed_apart() -> None:
    rows = [([*TEMPLATE, 50, 51], [1] * 9), ([*TEMPLATE, 50, 51], [2] * 9)]
    rows += [([*TEMPLATE, 60, 61], [1] * 9)]
    session = session_with_past()
    score_prompts(session, prompts_of(rows), 0)
    assert session.batch_shapes == [(1, 40), (1, 11), (1, 11), (1, 11)]


def test_the_same_pair_is_scored_once() -> None:
    session = FakeSession()
    logits = score_prompts(session, prompts_of([(TEMPLATE, [1])] * 6), 0)
    assert session.batch_shapes == [(1, 41)]
    assert len(set(map(tuple, logits.tolist()))) == 1


@pytest.mark.parametrize(
    ("shares_past", "size"), [(False, CHUNK_TOKENS), (True, FUSED_CHUNK_TOKENS)]
)
def test_a_long_document_goes_through_in_pieces(shares_past: bool, size: int) -> None:
    document = list(range(2 * size + 1))
    session = FakeSession(takes_past=True, shares_past=shares_past)
    logits = score_prompts(session, prompts_of([(TEMPLATE, document)]), 0)
    assert [length for _, length in session.batch_shapes] == [size, size, 41]
    assert logits[0, 0] - logits[0, 1] == fake_log_odds(TEMPLATE + document)


class WatchedSession(FakeSession):
    """Counts the tokens that all callers have in hand at once."""

    def __init__(self) -> None:
        super().__init__(takes_past=True)
        self.in_hand = self.most_in_hand = self.most_callers = self.callers = 0
        self._lock = threading.Lock()

    def run(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, past: Past | None = None
    ) -> np.ndarray:
        size = input_ids.shape[1] + (past.num_tokens if past else 0)
        with self._lock:
            self.in_hand += size
            self.callers += 1
            self.most_in_hand = max(self.most_in_hand, self.in_hand)
            self.most_callers = max(self.most_callers, self.callers)
        threading.Event().wait(0.002)
        try:
            return super().run(input_ids, attention_mask, past)
        finally:
            with self._lock:
                self.in_hand -= size
                self.callers -= 1


def test_all_callers_together_keep_to_the_budget() -> None:
    rows = [(TEMPLATE, [number] * (number % 7 * 30 + 1)) for number in range(60)]
    session = WatchedSession()
    score_prompts(
        session, prompts_of(rows), 0, ScoringOptions(num_callers=4, max_tokens_in_hand=300)
    )
    assert session.most_callers > 1
    assert session.most_in_hand <= 300


@pytest.mark.parametrize("num_callers", [1, 3])
def test_an_error_of_any_caller_is_handed_on(num_callers: int) -> None:
    rows = [(TEMPLATE, [number]) for number in range(100, 140)]
    session = FakeSession(raise_on=[120], takes_past=True)
    with pytest.raises(RuntimeError, match="told to fail"):
        score_prompts(session, prompts_of(rows), 0, ScoringOptions(num_callers=num_callers))
