"""Which documents become negatives: each rule alone, and what holds whatever the rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.engine.ranking import sigmoid
from shardrank.errors import ConfigError
from shardrank.labels.rules import LabelRules
from shardrank.labels.selection import Selection, select

LOG_ODDS = [4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0]


def chosen(
    rules: LabelRules, positives: tuple[int, ...] = (0,), key: str = "q", log_odds=LOG_ODDS
) -> Selection:
    values = np.array(log_odds, np.float32)
    is_positive = np.isin(np.arange(len(values)), positives)
    return select(values, sigmoid(values), is_positive, np.ones(len(values), bool), rules, key)


def test_without_rules_all_others_are_negatives() -> None:
    found = chosen(LabelRules(), positives=(0, 3))
    assert found.positives.tolist() == [0, 3]
    assert found.negatives.tolist() == [1, 2, 4, 5, 6, 7]


def test_without_a_positive_there_is_nothing() -> None:
    assert len(chosen(LabelRules(), positives=()).negatives) == 0


def test_the_best_scored_positives_are_taken() -> None:
    assert chosen(LabelRules(max_positives=1), positives=(2, 5)).positives.tolist() == [2]


def test_ranks_are_counted_from_one_and_both_ends_belong_to_the_range() -> None:
    assert chosen(LabelRules(rank_from=3, rank_to=5)).negatives.tolist() == [2, 3, 4]


def test_a_margin_that_is_just_met_is_met() -> None:
    assert chosen(LabelRules(margin=2.0)).negatives.tolist() == [2, 3, 4, 5, 6, 7]


def test_a_margin_counts_from_the_worst_positive_taken() -> None:
    assert chosen(LabelRules(margin=2.0), positives=(0, 3)).negatives.tolist() == [5, 6, 7]


def test_a_relative_margin_is_on_the_score_where_nothing_is_negative() -> None:
    found = chosen(LabelRules(relative_margin=0.05))
    limit = sigmoid(np.array([4.0]))[0] * 0.95
    expected = [i for i, value in enumerate(sigmoid(np.array(LOG_ODDS))) if value <= limit]
    assert found.negatives.tolist() == expected


def test_a_ceiling_keeps_unjudged_positives_out() -> None:
    assert chosen(LabelRules(max_negative_score=0.5)).negatives.tolist() == [4, 5, 6, 7]


def test_the_hardest_come_first() -> None:
    found = chosen(LabelRules(num_negatives=2))
    assert (found.negatives.tolist(), found.num_eligible) == ([1, 2], 7)


def test_a_stratified_sample_takes_from_every_range_of_scores() -> None:
    log_odds = [9.0, *np.linspace(8.0, 7.9, 50), 4.0, 0.0]
    found = chosen(LabelRules(num_negatives=3, sampling="stratified"), log_odds=log_odds)
    assert {51, 52} <= set(found.negatives.tolist())


def test_a_range_that_is_empty_gives_its_place_to_others() -> None:
    log_odds = [9.0, *np.linspace(8.0, 7.9, 50), 0.0]
    found = chosen(LabelRules(num_negatives=5, sampling="stratified"), log_odds=log_odds)
    assert len(found.negatives) == 5
    assert 51 in found.negatives


@pytest.mark.parametrize("sampling", ["random", "stratified"])
def test_a_sample_depends_on_the_seed_and_the_query_alone(sampling) -> None:
    many = np.linspace(5, -5, 100)
    rules = LabelRules(num_negatives=10, sampling=sampling)
    first = chosen(rules, log_odds=many).negatives.tolist()
    chosen(rules, key="another", log_odds=many)
    assert chosen(rules, log_odds=many).negatives.tolist() == first
    assert chosen(rules, key="another", log_odds=many).negatives.tolist() != first
    other = LabelRules(num_negatives=10, sampling=sampling, seed=1)
    assert chosen(other, log_odds=many).negatives.tolist() != first


def test_a_sample_is_the_one_it_was_in_earlier_versions() -> None:
    rules = LabelRules(num_negatives=4, sampling="random", seed=7)
    found = chosen(rules, key="q17", log_odds=np.linspace(5, -5, 30))
    assert found.negatives.tolist() == EARLIER


EARLIER = [4, 15, 20, 24]


RULES = st.builds(
    LabelRules,
    max_positives=st.none() | st.integers(1, 3),
    num_negatives=st.none() | st.integers(1, 6),
    rank_from=st.integers(1, 4),
    rank_to=st.none() | st.integers(4, 20),
    margin=st.none() | st.floats(0, 3),
    relative_margin=st.none() | st.floats(0, 1),
    max_negative_score=st.none() | st.floats(0, 1),
    sampling=st.sampled_from(["top", "random", "stratified"]),
)


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20),
    st.data(),
    RULES,
)
def test_whatever_the_rules_every_negative_fits_all_of_them(values, data, rules) -> None:
    log_odds = np.sort(np.array(values, np.float32))[::-1]
    scores = sigmoid(log_odds)
    is_positive = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    )
    allowed = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    )
    found = select(log_odds, scores, is_positive, allowed, rules, "q")
    negatives = found.negatives
    assert (np.diff(negatives) > 0).all()
    assert not is_positive[negatives].any()
    assert allowed[negatives].all()
    assert len(negatives) == min(found.num_eligible, rules.num_negatives or found.num_eligible)
    if not len(negatives):
        return
    worst = found.positives[-1]
    assert negatives.min() + 1 >= rules.rank_from
    assert negatives.max() + 1 <= (rules.rank_to or len(values))
    assert (log_odds[negatives] <= np.float64(log_odds[worst]) - (rules.margin or -np.inf)).all()
    assert (scores[negatives] <= scores[worst] * (1 - (rules.relative_margin or -np.inf))).all()
    assert (
        scores[negatives] <= (1.0 if rules.max_negative_score is None else rules.max_negative_score)
    ).all()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"num_negatives": 0}, "num_negatives is 0; give at least 1"),
        ({"rank_from": 5, "rank_to": 4}, "no rank is from 5 to 4"),
        ({"relative_margin": 1.5}, "relative_margin is 1.5; give 0 to 1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"sampling": "best"}, "unknown sampling 'best'"),
    ],
)
def test_a_rule_that_nothing_fits_is_refused(rule: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelRules(**rule)
