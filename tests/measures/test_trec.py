"""TREC's text files, read and written so that trec_eval's code (pytrec_eval) agrees with us."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from shardrank.errors import InputError
from shardrank.measures.trec import parse_qrels, parse_run, run_lines, strictly_decreasing

IDS = st.lists(st.text("abcxyz019", min_size=1, max_size=4), unique=True, min_size=1, max_size=12)


def test_qrels_of_four_columns() -> None:
    found = parse_qrels(["q1 0 d1 2", "q1\t0\td2\t0", "", "q2 Q0 d1 1"], "qrels")
    assert found == {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


def test_qrels_of_three_columns_with_a_header_as_beir_has_them() -> None:
    found = parse_qrels(["query-id\tcorpus-id\tscore", "q1\td1\t1"], "test.tsv")
    assert found == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["q1 0 d1 1", "q1 d1"], "qrels, line 2: 2 columns"),
        (["q1 0 d1 1", "q1 0 d2 much"], "line 2: the relevance 'much' is not a whole number"),
        (["q1 0 d1 1", "q1 0 d2 0.5"], "line 2: the relevance '0.5' is not a whole number"),
        ([""], "holds no judgements"),
    ],
)
def test_qrels_that_do_not_fit_name_the_line(lines: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_qrels(lines, "qrels")


def test_a_run_is_read_line_by_line() -> None:
    assert list(parse_run(["q Q0 d 1 0.5 tag", ""], "run")) == [("q", "d", 0.5)]
    with pytest.raises(InputError, match="line 1: 3 columns"):
        list(parse_run(["q d 1"], "run"))
    with pytest.raises(InputError, match="the score 'high' is not a number"):
        list(parse_run(["q Q0 d 1 high tag"], "run"))


def test_an_id_with_white_space_is_refused_in_a_run() -> None:
    with pytest.raises(InputError, match="'a b' is empty or holds white space"):
        list(run_lines("q", ["a b"], [1.0]))


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30))
def test_scores_fall_at_each_step_and_hardly_move(scores: list[float]) -> None:
    ordered = np.sort(np.array(scores, np.float32))[::-1]
    found = strictly_decreasing(ordered)
    assert (np.diff(found) < 0).all()
    assert np.abs(found - ordered).max() <= 30 * np.spacing(np.float32(50))


def test_scores_without_ties_stay_as_they_are() -> None:
    scores = np.array([3.5, 0.25, -0.125, -7.0], np.float32)
    assert strictly_decreasing(scores).tolist() == scores.tolist()


@given(IDS, st.data())
def test_trec_eval_keeps_our_order_whatever_ties_and_ids_there_are(
    ids: list[str], data: st.DataObject
) -> None:
    score = st.sampled_from([2.0, 1.0, 1.0000001, -3.0])
    scores = sorted((data.draw(score) for _ in ids), reverse=True)
    run: dict[str, dict[str, float]] = {"q": {}}
    for line in run_lines("q", ids, scores):
        _, _, doc_id, _, score_text, _ = line.split()
        run["q"][doc_id] = float(score_text)
    for place, doc_id in enumerate(ids, start=1):
        qrels = {"q": {doc_id: 1}}
        values = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(run)
        assert values["q"]["recip_rank"] == pytest.approx(1 / place)
