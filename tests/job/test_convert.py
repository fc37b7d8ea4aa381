"""Shards of lists as shards of pairs, and back: nothing is lost, and what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrank.cli import main
from shardrank.config import InputColumns
from shardrank.errors import ConfigError, InputError, OutputError
from shardrank.job.convert import convert
from store.small_job import nested, pairs
from tables import read_output


def write(folder: Path, table: pa.Table, row_group_size: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "a.parquet", row_group_size=row_group_size)
    return folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return read_output(folder)


candidates = st.lists(st.none() | st.text("ab", max_size=2), max_size=4)


@settings(max_examples=25)
@given(
    rows=st.lists(st.none() | candidates, max_size=7),
    unit_pairs=st.integers(1, 8),
    group=st.integers(1, 4),
)
def test_there_and_back_is_the_same_but_for_rows_without_candidates(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], unit_pairs: int, group: int
) -> None:
    folder = tmp_path_factory.mktemp("convert")
    table = nested(*rows, lang=[f"l{i}" for i in range(len(rows))])
    source = write(folder / "in", table, group)
    there = convert(str(source), f"{folder}/pairs", "pairs", unit_pairs=unit_pairs)
    back = convert(
        f"{folder}/pairs", f"{folder}/back", "nested", row_columns=["lang"], unit_pairs=unit_pairs
    )
    kept = [row for row in table.to_pylist() if row["candidates"]]
    found = sorted(rows_of(folder / "back"), key=lambda row: int(row["query_id"][1:]))
    assert found == [{name: row[name] for name in found[0]} for row in kept] if kept else not found
    assert there.rows == there.pairs == back.pairs == sum(len(row or []) for row in rows)
    assert there.rows_without_candidates == len(rows) - len(kept) == len(rows) - back.rows


def test_pairs_become_lists_in_their_order_and_back(tmp_path: Path) -> None:
    table = pairs(["a", "a", "b", "a2", "a2", "a2"], weight=[1, 2, 3, 4, 5, 6])
    convert(str(write(tmp_path / "in", table)), f"{tmp_path}/nested", "nested")
    assert [len(row["candidates"]) for row in rows_of(tmp_path / "nested")] == [2, 1, 3]
    convert(f"{tmp_path}/nested", f"{tmp_path}/pairs", "pairs")
    assert rows_of(tmp_path / "pairs") == table.to_pylist()


def test_folders_and_names_of_ones_own_come_along(tmp_path: Path) -> None:
    table = pairs(["a", "a"]).rename_columns(["qid", "query", "doc_id", "passage"])
    write(tmp_path / "in" / "lang=de", table)
    names = InputColumns(query_id="qid", text="passage")
    convert(f"{tmp_path}/in", f"{tmp_path}/nested", "nested", columns=names)
    (row,) = rows_of(tmp_path / "nested")
    assert (row["qid"], row["lang"]) == ("a", "de")
    assert [set(candidate) for candidate in row["candidates"]] == [{"doc_id", "passage"}] * 2


def test_it_goes_on_where_it_stopped_and_ends_the_same(tmp_path: Path) -> None:
    source = str(write(tmp_path / "in", nested(*[["a", "b"]] * 6), 1))
    output = tmp_path / "out"
    whole = convert(source, str(output), "pairs", unit_pairs=2)
    before = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    sorted(output.glob("*.parquet"))[1].unlink()
    (output / "_SUCCESS").unlink()
    assert convert(source, str(output), "pairs", unit_pairs=2) == whole
    after = {path.name: path.read_bytes() for path in output.iterdir() if path.is_file()}
    assert after == before
    assert json.loads(before["_SUCCESS"])["pairs"] == 12


@pytest.mark.parametrize(
    ("table", "layout", "error", "message"),
    [
        (pairs(["a", "b", "a"]), "nested", InputError, "whose rows do not stand together"),
        (pairs(["a", None]), "nested", InputError, r"row 1 of shard a\.parquet has no query id"),
        (
            pairs(["a", "a"], query=["x", "y"]),
            "nested",
            InputError,
            r"row 1 of shard a\.parquet has another 'query'",
        ),
        (nested(["a"], text=["b"]), "pairs", ConfigError, "'text' is both a column"),
        (pairs(["a"]), "pairs", InputError, "has no column 'candidates'"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, table: pa.Table, layout: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        convert(str(write(tmp_path / "in", table)), f"{tmp_path}/out", layout)


def test_a_column_of_the_query_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = write(tmp_path / "in", pairs(["a"]))
    with pytest.raises(InputError, match=r"a\.parquet has no column 'typo' \(--row-column\)"):
        convert(str(source), f"{tmp_path}/out", "nested", row_columns=["typo"])


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in", nested(["a"]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"is not empty \(it holds notes\.txt\)"):
        convert(str(source), f"{tmp_path}/out", "pairs")


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    source = write(tmp_path / "in", nested(["a", "b"], []))
    command = ["convert", str(source), "--output", f"{tmp_path}/out", "--layout", "pairs"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        f"done: 2 rows, 2 pairs in {tmp_path}/out\n      left out: 1 rows without candidates\n"
    )
    again = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(again.stdout)["rows_without_candidates"] == 1
    wrong = CliRunner().invoke(main, [*command, "--column", "passage=text"])
    assert (wrong.exit_code, "KEY is one of query_id" in wrong.stderr) == (2, True)
