"""Build the demo candidates shipped with shardrank from their readable sources.

Each file in ``topics/`` holds one topic: its language, twenty short passages and
four queries, each query with the grades of its relevant passages (2: answers the
query, 1: related to it; every passage not named has grade 0).  All the passages
of a topic are candidates for each of its queries.

The candidates of a query are put in the order of a deliberately simple first
stage, so that a reranker has something to improve.  The result is written as a
few Parquet shards with several row groups each, which lets the demo exercise
sharded reading although the data are small.  The same sources and the same
pyarrow version always give the same files.
"""

from __future__ import annotations

import argparse
import math
import tomllib
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
TOPICS_DIR = HERE / "topics"
DEFAULT_OUTPUT = HERE.parents[1] / "src" / "shardrank" / "demo" / "candidates"

PASSAGES_PER_TOPIC = 20
QUERIES_PER_TOPIC = 4
TOTAL_QUERIES = 60
ENGLISH_SHARDS = 3
ROW_GROUP_SIZE = 5
MAX_GRADE = 2
MAX_RELEVANT = 4

# Languages written without spaces are measured in characters, others in words.
UNSPACED_LANGUAGES = frozenset({"ja", "zh"})
PASSAGE_WORDS = range(25, 71)
PASSAGE_CHARACTERS = range(50, 141)
QUERY_WORDS = range(6, 15)
QUERY_CHARACTERS = range(8, 41)

SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("query", pa.string()),
        ("language", pa.string()),
        ("topic", pa.string()),
        (
            "candidates",
            pa.list_(
                pa.struct(
                    [
                        ("doc_id", pa.string()),
                        ("text", pa.string()),
                        ("first_stage_score", pa.float32()),
                        ("relevance", pa.int8()),
                    ]
                )
            ),
        ),
    ]
)


class SourceError(ValueError):
    """A topic file breaks one of the rules that the demo data promise to keep."""


@dataclass(frozen=True)
class Query:
    """One query and the grades of the passages that are relevant to it."""

    query_id: str
    text: str
    relevance: dict[str, int]


@dataclass(frozen=True)
class Topic:
    """One source file: passages that share a vocabulary, and queries about them."""

    name: str
    language: str
    passages: dict[str, str]
    queries: tuple[Query, ...]


def read_topic(path: Path) -> Topic:
    """Read one topic file; TOML itself already refuses an id that occurs twice."""
    with path.open("rb") as stream:
        data = tomllib.load(stream)
    queries = tuple(
        Query(query_id, entry["text"], dict(entry["relevance"]))
        for query_id, entry in data["queries"].items()
    )
    return Topic(data["topic"], data["language"], dict(data["passages"]), queries)


def _check(condition: bool, message: str) -> None:
    """Raise a SourceError with the message unless the condition holds."""
    if not condition:
        raise SourceError(message)


def _check_length(text_id: str, text: str, language: str, words: range, characters: range) -> None:
    """Check the length of a text in the unit that suits its language."""
    if language in UNSPACED_LANGUAGES:
        size, allowed, unit = len(text), characters, "characters"
    else:
        size, allowed, unit = len(text.split()), words, "words"
    _check(
        size in allowed,
        f"{text_id}: {size} {unit}, expected {allowed.start} to {allowed.stop - 1}",
    )


def validate_topic(topic: Topic) -> None:
    """Check the sizes, ids, lengths and grades of one topic."""
    name = topic.name
    expected_ids = [f"{name}-{n:02d}" for n in range(1, PASSAGES_PER_TOPIC + 1)]
    _check(list(topic.passages) == expected_ids, f"{name}: unexpected passage ids")
    expected_ids = [f"{name}-q{n}" for n in range(1, QUERIES_PER_TOPIC + 1)]
    query_ids = [query.query_id for query in topic.queries]
    _check(query_ids == expected_ids, f"{name}: unexpected query ids")

    for doc_id, text in topic.passages.items():
        _check_length(doc_id, text, topic.language, PASSAGE_WORDS, PASSAGE_CHARACTERS)
    for query in topic.queries:
        query_id = query.query_id
        _check_length(query_id, query.text, topic.language, QUERY_WORDS, QUERY_CHARACTERS)
        _check(
            1 <= len(query.relevance) <= MAX_RELEVANT,
            f"{query_id}: {len(query.relevance)} relevant passages",
        )
        for doc_id, grade in query.relevance.items():
            _check(doc_id in topic.passages, f"{query_id}: no passage {doc_id}")
            _check(
                type(grade) is int and 1 <= grade <= MAX_GRADE,
                f"{query_id}: grade {grade!r} of {doc_id}",
            )
        _check(
            MAX_GRADE in query.relevance.values(),
            f"{query_id}: no passage answers it",
        )


def validate(topics: list[Topic]) -> None:
    """Check every topic, and what must hold across topics."""
    for topic in topics:
        validate_topic(topic)
    names = [topic.name for topic in topics]
    _check(len(set(names)) == len(names), "two files have the same topic")
    texts = [text for topic in topics for text in topic.passages.values()]
    _check(len(set(texts)) == len(texts), "two passages have the same text")
    queries = [query.text for topic in topics for query in topic.queries]
    _check(len(set(queries)) == len(queries), "two queries have the same text")
    _check(
        len(queries) == TOTAL_QUERIES,
        f"{len(queries)} queries, expected {TOTAL_QUERIES}",
    )


def normalize(text: str) -> str:
    """Fold case and width, and put single spaces between words."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def trigrams(text: str) -> set[str]:
    """Return the distinct character trigrams of a normalized text."""
    return {text[start : start + 3] for start in range(len(text) - 2)}


def first_stage_score(query: str, passage: str) -> float:
    """Score a passage by the trigrams it shares with the query, per character.

    Nothing is weighted: common endings and function words count as much as
    telling words, which is what makes this first stage weak in a natural way.
    """
    query, passage = normalize(query), normalize(passage)
    return len(trigrams(query) & trigrams(passage)) / len(passage)


def rank_candidates(topic: Topic, query: Query) -> list[dict[str, Any]]:
    """Return the candidates of a query, best score first and ties by id."""
    candidates = [
        {
            "doc_id": doc_id,
            "text": text,
            "first_stage_score": first_stage_score(query.text, text),
            "relevance": query.relevance.get(doc_id, 0),
        }
        for doc_id, text in topic.passages.items()
    ]
    return sorted(candidates, key=lambda c: (-c["first_stage_score"], c["doc_id"]))


def build_rows(topics: list[Topic]) -> list[dict[str, Any]]:
    """Return one row per query, in the order of the topics and their queries."""
    return [
        {
            "query_id": query.query_id,
            "query": query.text,
            "language": topic.language,
            "topic": topic.name,
            "candidates": rank_candidates(topic, query),
        }
        for topic in topics
        for query in topic.queries
    ]


def split_shards(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Deal the English rows into equal runs and keep the other languages together."""
    english = [row for row in rows if row["language"] == "en"]
    size = math.ceil(len(english) / ENGLISH_SHARDS)
    shards = {f"en-{n}.parquet": english[n * size : (n + 1) * size] for n in range(ENGLISH_SHARDS)}
    shards["world-0.parquet"] = [row for row in rows if row["language"] != "en"]
    return shards


def write_shard(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows of one shard, a few queries to a row group."""
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, path, compression="zstd", row_group_size=ROW_GROUP_SIZE)


def ndcg_at_10(grades: list[int]) -> float:
    """Return nDCG@10 of grades in ranked order, with the grade itself as gain."""

    def dcg(ranked: list[int]) -> float:
        return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(ranked[:10], 1))

    return dcg(grades) / dcg(sorted(grades, reverse=True))


def report(rows: list[dict[str, Any]]) -> None:
    """Print the mean nDCG@10 of the first-stage order, overall and by language."""
    by_language: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        grades = [candidate["relevance"] for candidate in row["candidates"]]
        by_language[row["language"]].append(ndcg_at_10(grades))
    everything = [value for values in by_language.values() for value in values]
    print("first-stage nDCG@10")
    for label, values in [("all", everything), *sorted(by_language.items())]:
        mean = sum(values) / len(values)
        print(f"  {label:<4} {mean:.4f}  ({len(values)} queries)")


def main() -> None:
    """Read and check the sources, write the shards and print the figures."""
    parser = argparse.ArgumentParser(description="Build the demo candidates.")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        help="folder for the Parquet shards (default: the package's demo folder)",
    )
    output: Path = parser.parse_args().output

    topics = [read_topic(path) for path in sorted(TOPICS_DIR.glob("*.toml"))]
    validate(topics)
    rows = build_rows(topics)
    output.mkdir(parents=True, exist_ok=True)
    for name, shard in split_shards(rows).items():
        write_shard(output / name, shard)
        print(f"{name}: {len(shard)} queries")
    report(rows)


if __name__ == "__main__":
    main()
