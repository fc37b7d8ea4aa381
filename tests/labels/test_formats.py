"""What each trainer is given: the right texts in the right fields, and raw log-odds."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrank.engine.ranking import sigmoid
from shardrank.errors import InputError
from shardrank.labels.formats import LabelFormat, Labels, make_labels
from shardrank.labels.rules import FORMATS, LabelRules
from shardrank.store.results import Ranked

LOG_ODDS = np.array([3.5, 1.25, -0.5, -2.0, 2.0, -1.0], np.float32)
GRADES = [{"d0": 0, "d1": 2}, {"e0": 1}, {}]


def ranked(texts: tuple[str, ...] = ("A", "B", "C", "D", "E", "F"), **fields) -> Ranked:
    """Three queries: four documents, two, none."""
    pairs = pa.table(
        {
            "doc_id": ["d0", "d1", "d2", "d3", "e0", "e1"],
            "text": list(texts),
            "log_odds": LOG_ODDS,
            "score": sigmoid(LOG_ODDS),
            **fields,
        }
    )
    return Ranked(pa.table({"query_id": ["p", "q", "r"]}), pairs, np.array([0, 4, 6, 6]))


def labels(
    name: str, grades=GRADES, rows: Ranked | None = None, ids_of_queries=("p", "q", "r"), **options
) -> Labels:
    rules = {key: options.pop(key) for key in list(options) if key not in ("tuples", "ids")}
    form = LabelFormat(name, **options)
    complete = form.complete(LabelRules(**rules))
    texts, prompts = ["query p", "query q", "query r"], ["prompt"] * 3
    return make_labels(rows or ranked(), texts, ids_of_queries, prompts, grades, complete, form)


def table(found: Labels, name: str = ".parquet") -> list[dict]:
    return pq.read_table(io.BytesIO(found.files[name])).to_pylist()


def lines(found: Labels) -> list[dict]:
    return [json.loads(line) for line in found.files[".jsonl"].decode().splitlines()]


def test_pointwise_is_a_pair_and_its_log_odds() -> None:
    found = table(labels("pointwise"))
    assert found[0] == {"query": "query p", "document": "B", "label": 1.25}
    assert [row["document"] for row in found] == ["B", "A", "C", "D", "E", "F"]
    assert [row["label"] for row in found] == [1.25, 3.5, -0.5, -2.0, 2.0, -1.0]


def test_a_triple_has_the_margin_even_where_the_teacher_disagrees() -> None:
    found = labels("margin-mse")
    assert [(row["positive"], row["negative"], row["label"]) for row in table(found)] == [
        ("B", "A", -2.25),
        ("B", "C", 1.75),
        ("B", "D", 3.25),
        ("E", "F", 3.0),
    ]
    assert (found.counts.rows, found.counts.inverted) == (4, 1)


def test_a_tuple_has_one_margin_for_each_negative() -> None:
    found = labels("margin-mse", tuples=True, num_negatives=2)
    assert table(found) == [
        {
            "query": "query p",
            "positive": "B",
            "negative_1": "A",
            "negative_2": "C",
            "label": [-2.25, 1.75],
        }
    ]
    assert found.counts.without_negatives == 1


def test_a_list_has_the_log_odds_of_each_document_positives_first() -> None:
    assert table(labels("listwise"))[0] == {
        "query": "query p",
        "docs": ["B", "A", "C", "D"],
        "labels": [1.25, 3.5, -0.5, -2.0],
    }


def test_flagembedding_has_scores_for_both_sides() -> None:
    assert lines(labels("flagembedding"))[1] == {
        "query": "query q",
        "pos": ["E"],
        "neg": ["F"],
        "pos_scores": [2.0],
        "neg_scores": [-1.0],
        "prompt": "prompt",
    }


def test_tevatron_has_passages_and_a_title_only_where_there_is_one() -> None:
    assert lines(labels("tevatron"))[1] == {
        "query_id": "q",
        "query": "query q",
        "positive_passages": [{"docid": "e0", "text": "E"}],
        "negative_passages": [{"docid": "e1", "text": "F"}],
    }
    titled = ranked(title=["t", None, "t", "t", "The title", None])
    found = lines(labels("tevatron", rows=titled))[1]
    assert found["positive_passages"] == [{"docid": "e0", "text": "E", "title": "The title"}]
    assert found["negative_passages"] == [{"docid": "e1", "text": "F", "title": ""}]


def test_pylate_has_three_tables_and_lists_of_one_length() -> None:
    found = labels("pylate", num_negatives=1)
    assert table(found, "train/.parquet") == [
        {"query_id": "p", "document_ids": ["d1", "d0"], "scores": [1.25, 3.5]},
        {"query_id": "q", "document_ids": ["e0", "e1"], "scores": [2.0, -1.0]},
    ]
    assert table(found, "queries/.parquet")[1] == {"query_id": "q", "text": "query q"}
    assert {row["document_id"]: row["text"] for row in table(found, "documents/.parquet")} == {
        "d1": "B",
        "d0": "A",
        "e0": "E",
        "e1": "F",
    }


def test_pylate_refuses_a_document_or_a_query_without_an_id() -> None:
    rows = ranked(doc_id=["d0", None, "d2", "d3", "e0", "e1"])
    with pytest.raises(InputError, match="the document 'B' has no id, and PyLate finds texts by"):
        labels("pylate", grades=None, rows=rows, num_negatives=1)
    with pytest.raises(InputError, match="the query 'query q' has no id"):
        labels("pylate", grades=None, ids_of_queries=["p", None, "r"], num_negatives=1)


def test_without_judgements_the_teachers_best_is_the_positive() -> None:
    assert [row["positive"] for row in table(labels("margin-mse", grades=None))] == ["A"] * 3 + [
        "E"
    ]


def test_a_document_judged_a_little_relevant_is_neither() -> None:
    found = table(labels("listwise", grades=[{"d0": 1, "d1": 2}, {}, {}], min_relevance=2))
    assert found[0]["docs"] == ["B", "C", "D"]


def test_the_text_of_a_positive_is_no_negative_and_no_text_is_one_twice() -> None:
    rows = ranked(("A", "B", "B", "A", "E", "E"))
    found = labels("listwise", rows=rows)
    assert table(found) == [{"query": "query p", "docs": ["B", "A"], "labels": [1.25, 3.5]}]
    assert found.counts.without_negatives == 1


@pytest.mark.parametrize("name", ["pointwise", "margin-mse", "listwise"])
def test_ids_stand_in_front_only_on_request(name: str) -> None:
    assert not [key for key in table(labels(name))[0] if "id" in key.split("_")]
    found = table(labels(name, ids=True))[0]
    assert next(iter(found)) == "query_id"
    assert found["query_id"] == "p"


@pytest.mark.parametrize("name", FORMATS)
def test_a_unit_without_labels_is_no_file(name: str) -> None:
    found = labels(name, grades=[{}, {}, {}])
    assert (dict(found.files), found.counts.without_positives) == ({}, 3)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_labels_are_the_same_bytes(name: str) -> None:
    assert labels(name).files == labels(name).files
