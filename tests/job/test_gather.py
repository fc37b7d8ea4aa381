"""A run, its queries and a corpus, joined by Ray Data into shards that the job takes."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shardrank.cli import main
from shardrank.errors import InputError, OutputError
from shardrank.job.gather import gather
from tables import read_output

NUM_QUERIES, NUM_CANDIDATES = 9, 7


class Collection:
    """A small collection; each query's documents are d<query> to d<query + 6>."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run, self.queries = root / "run.trec", root / "queries.jsonl"
        self.corpus, self.output = root / "corpus.jsonl", root / "out"
        self.run.write_text(
            "".join(
                f"q{q} Q0 d{q + i} {i + 1} {10.0 - i} bm25\n"
                for q in range(NUM_QUERIES)
                for i in range(NUM_CANDIDATES)
            )
        )
        self.write(self.queries, [{"_id": f"q{q}", "text": f"query {q}"} for q in range(9)])
        self.write(
            self.corpus, [{"_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(40)]
        )

    @staticmethod
    def write(path: Path, rows: list[dict]) -> None:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def gather(self, **options):
        paths = (self.run, self.queries, self.corpus, self.output)
        return gather(*map(str, paths), **options)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


ray = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]


class TestOnRay:
    pytestmark = ray

    def test_every_candidate_is_there_in_the_order_of_the_first_stage(self, collection) -> None:
        found = collection.gather()
        rows = {row["query_id"]: row for row in read_output(collection.output)}
        assert len(rows) == NUM_QUERIES
        for q in range(NUM_QUERIES):
            assert rows[f"q{q}"]["query"] == f"query {q}"
            assert rows[f"q{q}"]["candidates"] == [
                {"doc_id": f"d{q + i}", "text": f"text {q + i}", "first_stage_score": 10.0 - i}
                for i in range(NUM_CANDIDATES)
            ]
        assert (found.counts.candidates, found.counts.no_document) == (63, 0)
        assert (collection.output / "_SUCCESS").exists()

    def test_missing_ids_are_counted_and_listed_and_cost_nothing_else(self, collection) -> None:
        collection.write(collection.queries, [{"_id": f"q{q}", "text": "x"} for q in range(1, 9)])
        collection.write(collection.corpus, [{"_id": f"d{i}", "text": "x"} for i in range(10)])
        found = collection.gather(top_k=5)
        missing = [
            row
            for path in (collection.output / "_shardrank" / "missing").iterdir()
            for row in pq.read_table(path).to_pylist()
        ]
        reasons = [row["reason"] for row in missing]
        assert found.counts.no_query == reasons.count("no_query") == 5
        assert found.counts.no_document == reasons.count("no_document") == 6
        assert found.counts.cut == 18
        assert found.counts.candidates == 45 - 11

    def test_other_formats_give_the_same_shards(self, collection, tmp_path) -> None:
        collection.gather()
        expected = read_output(collection.output)
        other = Collection.__new__(Collection)
        other.run, other.queries = tmp_path / "run.parquet", tmp_path / "queries.tsv"
        other.corpus, other.output = tmp_path / "corpus", tmp_path / "out2"
        rows = [line.split() for line in collection.run.read_text().splitlines()]
        pq.write_table(
            pa.table(
                {
                    "qid": [row[0] for row in rows],
                    "docid": [row[2] for row in rows],
                    "score": [float(row[4]) for row in rows],
                }
            ),
            other.run,
        )
        other.queries.write_text("".join(f"q{q}\tquery {q}\n" for q in range(NUM_QUERIES)))
        other.corpus.mkdir()
        for part in range(4):
            ids = range(part * 10, part * 10 + 10)
            table = pa.table({"id": [f"d{i}" for i in ids], "contents": [f"text {i}" for i in ids]})
            pq.write_table(table, other.corpus / f"{part}.parquet")
        other.gather()
        assert read_output(other.output) == expected

    def test_missing_ids_are_fatal_where_that_is_asked(self, collection) -> None:
        collection.write(collection.corpus, [{"_id": "d3", "text": "x"}])
        with pytest.raises(InputError, match="candidates without a document"):
            collection.gather(fail_on_missing=True)
        assert not (collection.output / "_SUCCESS").exists()

    def test_ids_that_do_not_match_at_all_are_shown(self, collection) -> None:
        collection.write(collection.corpus, [{"_id": "17", "text": "x"}])
        with pytest.raises(InputError, match=r"no candidate .* do the ids match"):
            collection.gather()

    def test_a_broken_line_of_the_corpus_is_named(self, collection) -> None:
        with collection.corpus.open("a") as file:
            file.write("no json\n")
        with pytest.raises(InputError, match="not a JSON object on one line"):
            collection.gather()


def test_a_folder_with_files_is_refused(collection) -> None:
    collection.output.mkdir()
    (collection.output / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="is not empty"):
        collection.gather()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run", "q d 1\n", "3 columns, where a run has six"),
        ("run", "", "holds no candidates"),
        ("queries", '{"name": "q0", "value": "x"}\n', "has no column for query ids"),
        ("corpus", '{"name": "d0", "text": "x"}\n', "has no column for document ids"),
        ("corpus", '{"_id": "d0", "blob": "x"}\n', "has no column for texts"),
    ],
)
def test_an_input_that_does_not_fit_is_named_before_ray_starts(
    collection, name: str, content: str, message: str
) -> None:
    getattr(collection, name).write_text(content)
    with pytest.raises(InputError, match=message):
        collection.gather()


def test_the_command_says_what_is_not_there(collection) -> None:
    command = ["gather", "--run", "absent", "--queries", str(collection.queries)]
    command += ["--corpus", str(collection.corpus), "--output", str(collection.output)]
    found = CliRunner().invoke(main, command)
    assert (found.exit_code, "there is no file" in found.stderr) == (1, True)
