import numpy as np
import pytest
from scipy import stats

from shardrank.report.agreement import RankedQuery, agreement


def query(**log_odds: float) -> RankedQuery:
    """A query whose documents are named and scored like that."""
    ranked = sorted(log_odds.items(), key=lambda item: -item[1])
    names = [name for name, _ in ranked]
    return RankedQuery("query", names, [f"text {n}" for n in names], [v for _, v in ranked])


def test_an_output_agrees_with_itself() -> None:
    one = {"q": query(a=3.0, b=1.0, c=-2.0)}
    found = agreement(one, one)
    assert found is not None
    assert (found.tau, found.top_overlap, found.top_1, found.error_rms) == (1.0, 1.0, 1.0, 0.0)
    assert found.worst == ()


def test_an_opposite_order_has_tau_minus_one_and_is_shown() -> None:
    found = agreement({"q": query(a=3.0, b=1.0, c=0.0)}, {"q": query(a=0.0, b=1.0, c=3.0)})
    assert found is not None
    assert (found.tau, found.top_1) == (-1.0, 0.0)
    [shown] = found.worst
    assert [(d.doc_id, d.rank, d.other_rank) for d in shown.moved] == [("a", 1, 3), ("c", 3, 1)]


def test_tau_is_that_of_scipy_and_the_worst_come_first() -> None:
    random = np.random.default_rng(5)
    one = {f"q{i}": query(**{f"d{j}": float(random.normal()) for j in range(8)}) for i in range(20)}
    other = {
        f"q{i}": query(**{f"d{j}": float(random.normal()) for j in range(8)}) for i in range(20)
    }
    found = agreement(one, other)
    assert found is not None
    expected = []
    for name in sorted(one):
        first = dict(zip(one[name].doc_ids, one[name].log_odds, strict=True))
        second = dict(zip(other[name].doc_ids, other[name].log_odds, strict=True))
        expected.append(
            stats.kendalltau(list(first.values()), [second[doc] for doc in first]).statistic
        )
    assert found.taus == pytest.approx(expected)
    assert [item.tau for item in found.worst] == sorted(item.tau for item in found.worst)
    assert found.worst[0].tau == pytest.approx(min(expected))


def test_the_overlap_is_of_the_ten_best() -> None:
    one = {"q": query(**{f"d{i}": float(-i) for i in range(20)})}
    other = {"q": query(**{f"d{(i + 5) % 20}": float(-i) for i in range(20)})}
    found = agreement(one, other)
    assert found is not None
    assert found.top_overlap == 0.5


def test_a_shorter_list_overlaps_in_as_many_as_it_has() -> None:
    whole = {"q": query(**{f"d{i}": float(-i) for i in range(20)})}
    cut = {"q": query(**{f"d{i}": float(-i) for i in range(5)})}
    for one, other in ((whole, cut), (cut, whole)):
        found = agreement(one, other)
        assert found is not None
        assert found.top_overlap == 1.0


def test_only_what_both_have_is_compared() -> None:
    one = {"p": query(a=1.0, b=0.0), "q": query(a=1.0, b=0.0, x=5.0), "r": query(a=1.0)}
    other = {"q": query(a=1.0, b=0.5, y=9.0), "r": query(a=1.0), "s": query(a=1.0, b=2.0)}
    found = agreement(one, other)
    assert found is not None
    assert (found.num_queries, found.num_pairs, found.tau) == (1, 2, 1.0)


def test_nothing_in_common_is_no_agreement() -> None:
    assert agreement({"p": query(a=1.0, b=0.0)}, {"q": query(a=1.0, b=0.0)}) is None
