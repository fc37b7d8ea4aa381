"""Texts that can be read and are still not what somebody meant."""

import pytest

from shardrank.job.suspicions import suspicions
from tables import text

QUERIES = [text(number, 5) + f" {number}" for number in range(10)]
DOCUMENTS = [text(number, 30) + f" {number}" for number in range(40)]
QUERY_OF = [number // 4 for number in range(40)]


def found(queries: list[str] = QUERIES, documents: list[str] = DOCUMENTS) -> str:
    return "\n".join(suspicions(queries, documents, QUERY_OF))


def test_ordinary_texts_raise_no_suspicion() -> None:
    assert found() == ""
    assert found(queries=["蜜蜂吃什么" + "啊" * n for n in range(10)]) == ""


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("https://example.com/page-{}", "are URLs"),
        ("doc-{}-17", "look like identifiers"),
        ("{} 12,5 %", "hold no letters"),
        ("<html><body>page {}</body></html>", "begin with markup"),
        ('{{"text": "page {}"}}', "look like JSON"),
    ],
)
def test_documents_of_an_odd_kind_name_their_setting(document: str, words: str) -> None:
    warning = found(documents=[document.format(number) for number in range(40)])
    assert words in warning
    assert "input.columns.text" in warning


def test_queries_are_judged_too() -> None:
    assert "input.columns.query" in found(queries=[f"q-{number}" for number in range(10)])


def test_a_wrong_encoding_shows() -> None:
    assert "wrong encoding" in found(documents=[*DOCUMENTS[:-1], "caf\u00c3\u00a9 au lait"])


def test_swapped_columns_show() -> None:
    assert "swapped" in found(
        [text(n, 90) for n in range(10)], [f"a few words {n}" for n in range(40)]
    )


def test_a_query_that_occurs_again_is_counted() -> None:
    assert "20% of the sampled queries occur before" in found([*QUERIES[:8], *QUERIES[:2]])


def test_a_document_twice_under_one_query_is_counted() -> None:
    assert "repeat a text of their own query" in found(documents=[*DOCUMENTS[:39], DOCUMENTS[38]])


def test_documents_that_echo_their_query_are_the_wrong_column() -> None:
    assert "their own query" in found(documents=[QUERIES[query] for query in QUERY_OF])
