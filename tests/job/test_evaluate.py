"""An output against judgements: what counts, what is left out, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shardrank.cli import main
from shardrank.errors import IncompleteError, InputError, OutputError
from shardrank.job.evaluate import evaluate
from shardrank.job.evaluation import render_evaluation
from shardrank.measures.ndcg import ndcg
from shardrank.store.filesystem import Storage
from store.small_job import do_job, nested, pairs
from tables import read_output

TEXTS = [[f"text {query} {place}" for place in range(6)] for query in range(8)]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Eight queries, the third document of each relevant; two languages."""
    table = nested(*TEXTS, lang=["en"] * 5 + ["zh"] * 3)
    table = table.append_column("relevant", pa.array([[f"q{i}d2"] for i in range(8)]))
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in" / "a.parquet", row_group_size=2)
    return tmp_path / "in"


@pytest.fixture
def output(shards: Path, tmp_path: Path) -> str:
    do_job(str(shards), Storage(str(tmp_path / "out")), unit_pairs=12)
    return str(tmp_path / "out")


def qrels(folder: Path, queries: range = range(8)) -> str:
    path = folder / "qrels.txt"
    path.write_text("".join(f"q{i} 0 q{i}d2 1\n" for i in queries))
    return str(path)


def test_before_is_the_order_of_the_input_and_after_that_of_the_ranks(output, tmp_path) -> None:
    found = evaluate(output, qrels(tmp_path), measures="nDCG@10,RR")
    rows = {row["query_id"]: row["candidates"] for row in read_output(Path(output))}
    assert len(found.queries) == 8
    for query in found.queries:
        relevant = f"{query.query_id}d2"
        rank = next(c["rank"] for c in rows[query.query_id] if c["doc_id"] == relevant)
        grades = [int(c["doc_id"] == relevant) for c in rows[query.query_id]]
        assert query.before["RR"] == pytest.approx(1 / 3, abs=1e-9)
        assert query.after["RR"] == pytest.approx(1 / rank, abs=1e-9)
        assert query.after["nDCG@10"] == pytest.approx(ndcg(grades, 10), abs=1e-9)


def test_every_kind_of_judgements_gives_the_same(output, tmp_path) -> None:
    table = pa.table(
        {
            "query-id": [f"q{i}" for i in range(8)],
            "corpus-id": [f"q{i}d2" for i in range(8)],
            "score": [1] * 8,
        }
    )
    pq.write_table(table, tmp_path / "qrels.parquet")
    (tmp_path / "beir.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\tq{i}d2\t1\n" for i in range(8))
    )
    sources = (
        qrels(tmp_path),
        str(tmp_path / "qrels.parquet"),
        str(tmp_path / "beir.tsv"),
        "column:relevant",
    )
    first, *others = [evaluate(output, source).measures for source in sources]
    assert others == [first] * 3


def test_a_field_of_the_candidates_may_hold_the_grades(tmp_path) -> None:
    rows = [{"doc_id": f"d{i}", "text": f"text {i}", "grade": i % 2 or None} for i in range(4)]
    table = pa.table({"query_id": ["q"], "query": ["x"], "candidates": [rows]})
    pq.write_table(table, tmp_path / "in.parquet")
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out")))
    assert evaluate(str(tmp_path / "out"), "column:grade", measures="R@4").measures["R@4"][
        "after"
    ] == pytest.approx(1.0)


def test_groups_are_the_values_of_a_column(output, tmp_path) -> None:
    found = evaluate(output, qrels(tmp_path), by="lang")
    assert {name: group["queries"] for name, group in found.groups.items()} == {"en": 5, "zh": 3}
    assert "zh (3 queries)" in render_evaluation(found)


def test_what_is_judged_and_what_is_there_may_differ(output, tmp_path) -> None:
    found = evaluate(output, qrels(tmp_path, range(5, 12)))
    assert (found.counts.evaluated, found.counts.without_qrels) == (3, 5)
    assert found.counts.without_results == 4
    assert "5 queries of the output have no judgements" in render_evaluation(found)
    assert "4 judged queries are not in the output" in render_evaluation(found)


def test_a_query_without_documents_counts_nothing(tmp_path) -> None:
    pq.write_table(nested(["text"], []), tmp_path / "in.parquet")
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out")))
    (tmp_path / "qrels").write_text("q0 0 q0d0 1\nq1 0 q1d0 1\n")
    found = evaluate(str(tmp_path / "out"), str(tmp_path / "qrels"), measures="RR")
    assert found.measures["RR"]["after"] == 0.5
    assert found.counts.empty == 1


def test_pairs_are_measured_as_nested_rows_are(output, shards, tmp_path) -> None:
    texts = [text for row in TEXTS for text in row]
    ids = [f"q{i // 6}d{i % 6}" for i in range(48)]
    table = pairs([f"q{i // 6}" for i in range(48)], doc_id=ids, text=texts)
    pq.write_table(table, tmp_path / "pairs.parquet")
    do_job(str(tmp_path / "pairs.parquet"), Storage(str(tmp_path / "out2")), layout="pairs")
    judged = qrels(tmp_path)
    assert evaluate(str(tmp_path / "out2"), judged).measures == evaluate(output, judged).measures


def test_a_first_stage_that_was_cut_is_not_made_up(shards, tmp_path) -> None:
    do_job(str(shards), Storage(str(tmp_path / "cut")), top_k=2)
    found = evaluate(str(tmp_path / "cut"), qrels(tmp_path), measures="RR")
    assert found.measures["RR"]["before"] is None
    assert "'before' is not known" in render_evaluation(found)
    run = tmp_path / "first.run"
    run.write_text("".join(f"q{i} Q0 q{i}d2 1 9.5 bm25\n" for i in range(8)))
    found = evaluate(str(tmp_path / "cut"), qrels(tmp_path), measures="RR", before=str(run))
    assert found.measures["RR"]["before"] == 1.0


def test_a_run_is_written_in_our_order_and_measures_the_same(output, tmp_path) -> None:
    run = tmp_path / "out.run"
    written = evaluate(output, qrels(tmp_path), measures="nDCG@10", trec_run=str(run))
    assert len(run.read_text().splitlines()) == 48
    again = evaluate(output, qrels(tmp_path), measures="nDCG@10", before=str(run))
    assert again.measures["nDCG@10"]["before"] == written.measures["nDCG@10"]["after"]


def test_p_mrr_compares_two_instructions_of_one_query(tmp_path) -> None:
    table = nested(["a", "b", "c"], ["a", "b", "c"], query_id=["7-og", "7-changed"])
    pq.write_table(table, tmp_path / "in.parquet")
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out")))
    (tmp_path / "qrels").write_text("7-og 0 q0d0 1\n")
    (tmp_path / "changed").write_text("7 0 q0d0 0\n")
    found = evaluate(
        str(tmp_path / "out"), str(tmp_path / "qrels"), changed=str(tmp_path / "changed")
    )
    assert set(found.as_dict()["p_mrr"]["per_query"]) == {"7"}
    lists = pa.table({"query-id": ["7"], "corpus-ids": [["q0d0"]]})
    pq.write_table(lists, tmp_path / "changed.parquet")
    again = evaluate(
        str(tmp_path / "out"), str(tmp_path / "qrels"), changed=str(tmp_path / "changed.parquet")
    )
    assert again.p_mrr == found.p_mrr


def test_an_unfinished_output_is_measured_only_when_asked(output, tmp_path) -> None:
    sorted(Path(output).glob("*.parquet"))[0].unlink()
    (Path(output) / "_SUCCESS").unlink()
    with pytest.raises(IncompleteError, match="1 of 4 units are missing"):
        evaluate(output, qrels(tmp_path))
    assert evaluate(output, qrels(tmp_path), partial=True).counts.evaluated == 6


def test_files_of_another_origin_are_not_read(output, shards, tmp_path) -> None:
    before = evaluate(output, qrels(tmp_path)).measures
    pq.write_table(pq.read_table(shards / "a.parquet"), Path(output) / "foreign.parquet")
    assert evaluate(output, qrels(tmp_path)).measures == before


def test_one_query_id_in_two_rows_is_refused(tmp_path) -> None:
    pq.write_table(nested(["a"], ["b"], query_id=["q", "q"]), tmp_path / "in.parquet")
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out")))
    (tmp_path / "qrels").write_text("q 0 q0d0 1\n")
    with pytest.raises(InputError, match="'q' stands in two rows"):
        evaluate(str(tmp_path / "out"), str(tmp_path / "qrels"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("column:absent", "no relevance column 'absent'; a candidate has the fields doc_id, text"),
        ("absent.txt", "there is no file"),
        ("absent.parquet", "there is no file"),
    ],
)
def test_judgements_that_are_not_there_are_said_so(output, source: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(output, source)


def test_ids_that_do_not_match_are_shown(output, tmp_path) -> None:
    (tmp_path / "other").write_text("17 0 d 1\n")
    with pytest.raises(InputError, match="the output has 'q0', the qrels have '17'"):
        evaluate(output, str(tmp_path / "other"))


def test_a_folder_without_a_job_is_said_so(tmp_path) -> None:
    with pytest.raises(OutputError, match="is not the output of a job"):
        evaluate(str(tmp_path), "qrels")


def test_the_command_prints_a_table_or_json(output, tmp_path) -> None:
    judged = qrels(tmp_path)
    table = CliRunner().invoke(main, ["evaluate", output, "--qrels", judged])
    assert table.exit_code == 0
    assert "nDCG@10" in table.stdout
    found = CliRunner().invoke(main, ["evaluate", output, "--qrels", judged, "--json"])
    assert json.loads(found.stdout)["queries"]["evaluated"] == 8


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--qrels", "absent"], 1, "there is no file"),
        (["--qrels", "column:relevant", "--measures", "nDGC"], 1, "is unknown"),
        (["--qrels", "column:relevant", "--by", "topic"], 1, "has no column 'topic'"),
        ([], 2, "--qrels"),
    ],
)
def test_a_wrong_command_has_one_message_and_its_exit_code(
    output, arguments: list[str], code: int, message: str
) -> None:
    found = CliRunner().invoke(main, ["evaluate", output, *arguments])
    assert (found.exit_code, message in found.stderr) == (code, True)
    assert "Traceback" not in found.output


def test_an_unfinished_output_has_exit_code_3(output, tmp_path) -> None:
    (Path(output) / "_SUCCESS").unlink()
    found = CliRunner().invoke(main, ["evaluate", output, "--qrels", qrels(tmp_path)])
    assert found.exit_code == 3
