"""Labels of a whole output: resumable, deterministic, and never of two minds."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shardrank.cli import main
from shardrank.errors import InputError, OutputError, OutputMismatchError
from shardrank.job.labels import LabelSet, make_label_set
from shardrank.labels.formats import LabelFormat
from shardrank.labels.rules import FORMATS, LabelRules
from shardrank.store.filesystem import Storage
from store.small_job import do_job, nested, pairs

TEXTS = [[f"text {query} {place}" for place in range(6)] for query in range(8)]
POINTWISE = LabelFormat("pointwise")


@pytest.fixture
def output(tmp_path: Path) -> str:
    table = nested(*TEXTS, instruction=["find it"] + [None] * 7)
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out")), unit_pairs=12)
    return str(tmp_path / "out")


def make(output: str, target: Path, form: LabelFormat = POINTWISE, **rules) -> LabelSet:
    return make_label_set(output, str(target), form, LabelRules(**rules))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}


def test_each_unit_of_the_output_is_a_file_of_labels(output, tmp_path) -> None:
    found = make(output, tmp_path / "labels")
    names = [path.name for path in sorted((tmp_path / "labels").glob("*.parquet"))]
    assert names == [path.name for path in sorted(Path(output).glob("*.parquet"))]
    assert (found.counts.rows, found.counts.labelled) == (48, 8)
    success = json.loads((tmp_path / "labels" / "_SUCCESS").read_text())
    assert sorted(success["files"]) == names
    assert success["counts"]["rows"] == 48


def test_labels_that_were_interrupted_go_on_and_end_the_same(output, tmp_path) -> None:
    rules = {"num_negatives": 2, "sampling": "random"}
    make(output, tmp_path / "whole", **rules)
    make(output, tmp_path / "labels", **rules)
    folder = tmp_path / "labels"
    (folder / "_SUCCESS").unlink()
    # One unit died before its file, one between its file and its commit.
    sorted(folder.glob("*.parquet"))[0].unlink()
    for done in sorted((folder / "_shardrank" / "done").iterdir())[:2]:
        done.unlink()
    assert make(output, folder, **rules).num_units_done == 2
    assert contents(folder) == contents(tmp_path / "whole")


def test_finished_labels_made_again_do_nothing(output, tmp_path) -> None:
    make(output, tmp_path / "labels")
    assert make(output, tmp_path / "labels").num_units_done == 0


@pytest.mark.parametrize(
    ("rules", "form", "message"),
    [
        ({"margin": 1.0}, POINTWISE, "rules.margin was None, now 1.0"),
        ({}, LabelFormat("pointwise", ids=True), "format.ids was False, now True"),
        ({}, LabelFormat("listwise"), "format.name was pointwise, now listwise"),
    ],
)
def test_other_labels_in_the_same_folder_are_refused_by_name(
    output, tmp_path, rules, form, message
) -> None:
    make(output, tmp_path / "labels")
    with pytest.raises(OutputMismatchError, match=message):
        make(output, tmp_path / "labels", form, **rules)


def test_labels_do_not_depend_on_how_the_output_was_cut(output, tmp_path) -> None:
    do_job(str(tmp_path / "in.parquet"), Storage(str(tmp_path / "out2")), unit_pairs=1000)
    rules = {"num_negatives": 2, "sampling": "random"}
    rows = []
    for source in (output, str(tmp_path / "out2")):
        folder = tmp_path / f"labels-{Path(source).name}"
        make(source, folder, **rules)
        files = sorted(folder.glob("*.parquet"))
        rows.append([row for file in files for row in pq.read_table(file).to_pylist()])
    assert rows[0] == rows[1]


def test_positives_come_from_qrels(output, tmp_path) -> None:
    (tmp_path / "qrels").write_text("q1 0 q1d4 1\nq2 0 q2d0 0\n")
    found = make_label_set(
        output,
        str(tmp_path / "labels"),
        LabelFormat("flagembedding"),
        LabelRules(),
        qrels=str(tmp_path / "qrels"),
    )
    lines = [
        json.loads(line)
        for file in (tmp_path / "labels").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert [line["pos"] for line in lines] == [["text 1 4"]]
    assert found.counts.without_positives == 7


def test_a_rows_own_instruction_is_its_prompt(output, tmp_path) -> None:
    make(output, tmp_path / "labels", LabelFormat("flagembedding"))
    lines = [
        json.loads(line)
        for file in sorted((tmp_path / "labels").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert [line["prompt"] for line in lines] == ["find it"] + [""] * 7


def test_pairs_give_the_labels_that_nested_rows_give(output, tmp_path) -> None:
    texts = [text for row in TEXTS for text in row]
    ids = [f"q{i // 6}d{i % 6}" for i in range(48)]
    query_ids = [f"q{i // 6}" for i in range(48)]
    table = pairs(query_ids, doc_id=ids, text=texts, query=[f"query {q[1:]}" for q in query_ids])
    pq.write_table(table, tmp_path / "pairs.parquet")
    do_job(str(tmp_path / "pairs.parquet"), Storage(str(tmp_path / "out2")), layout="pairs")
    rows = []
    for name, source in (("a", output), ("b", str(tmp_path / "out2"))):
        make(source, tmp_path / name, LabelFormat("listwise", ids=True))
        files = sorted((tmp_path / name).glob("*.parquet"))
        rows.append([row for file in files for row in pq.read_table(file).to_pylist()])
    assert rows[0] == rows[1]


def test_rules_that_leave_nothing_say_so(output, tmp_path) -> None:
    with pytest.raises(InputError, match="no query of .* gave a label"):
        make(output, tmp_path / "labels", LabelFormat("listwise"), rank_from=50)


def test_a_folder_with_other_files_and_the_output_itself_are_refused(output, tmp_path) -> None:
    with pytest.raises(OutputError, match="lie in each other"):
        make(output, Path(output) / "labels")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(OutputError, match="holds no labels"):
        make(output, tmp_path / "full")


@pytest.mark.parametrize("name", FORMATS)
def test_the_command_makes_every_format(output, tmp_path, name: str) -> None:
    command = ["labels", output, "--format", name, "--output", str(tmp_path / "labels")]
    found = CliRunner().invoke(main, [*command, "--negatives", "3", "--json"])
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["counts"]["labelled"] == 8


def test_a_range_of_ranks_is_read_and_a_wrong_one_is_wrong_usage(output, tmp_path) -> None:
    command = ["labels", output, "--format", "listwise", "--output", str(tmp_path / "labels")]
    assert CliRunner().invoke(main, [*command, "--ranks", "3"]).exit_code == 2
    found = CliRunner().invoke(main, [*command, "--ranks", "3-5", "--json"])
    assert json.loads(found.stdout)["counts"]["negatives"] == 24


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_tasks_of_a_cluster_make_the_same_labels(output, tmp_path) -> None:
    make(output, tmp_path / "here")
    make_label_set(output, str(tmp_path / "there"), POINTWISE, LabelRules(), address="local")
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
