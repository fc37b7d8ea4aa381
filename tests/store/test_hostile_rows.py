"""Rows that are odd, large or meant to do harm go through a whole job, and through nothing else."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrank.config import InputColumns
from shardrank.errors import ShardError
from shardrank.store import reader
from shardrank.store.filesystem import Storage
from shardrank.store.footers import read_footers
from shardrank.store.reader import read_unit
from shardrank.store.units import cut_units, list_shards
from shardrank.store.verify import VerifyResult, verify
from store.small_job import NESTED, do_job, nested, pairs

SHARED = Path(__file__).parents[2].parent / "shared/data"
HOSTILE = sorted((SHARED / "hostile-parquet").glob("*.parquet"))
NAUGHTY = SHARED / "blns.json"


def job(tmp_path: Path, **options: Any) -> VerifyResult:
    output = Storage(str(tmp_path / "output"))
    do_job(str(tmp_path / "in"), output, **options)
    return verify(str(tmp_path / "in"), output)


def write(tmp_path: Path, table: pa.Table, name: str = "a.parquet", **options: Any) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)


def rows_out(tmp_path: Path) -> list[dict[str, Any]]:
    files = sorted((tmp_path / "output").glob("*.parquet"))
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


@pytest.mark.skipif(not HOSTILE, reason="the hostile files are not there")
def test_every_hostile_file_costs_itself_among_good_ones(tmp_path: Path) -> None:
    write(tmp_path, nested(["a", "b"], ["c"]), "0.parquet")
    for path in HOSTILE:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    write(tmp_path, nested(["d"]), "zzz.parquet")
    before = pa.total_allocated_bytes()
    result = job(tmp_path)
    assert result.ok, result.problems
    assert len(result.failed) == len(HOSTILE)
    assert len(rows_out(tmp_path)) == 3
    assert pa.total_allocated_bytes() - before < 100 << 20


@pytest.fixture
def naughty() -> list[str]:
    if not NAUGHTY.exists():
        pytest.skip("the big list of naughty strings is not there")
    strings: list[str] = json.loads(NAUGHTY.read_text(encoding="utf-8"))
    return strings


def test_naughty_strings_go_through_as_they_are(tmp_path: Path, naughty: list[str]) -> None:
    rows = [
        {
            "query_id": text,
            "query": text,
            "candidates": [{"doc_id": text, "text": text}, {"doc_id": text, "text": "x"}],
            "instruction": text,
        }
        for text in naughty
    ]
    schema = NESTED.append(pa.field("instruction", pa.string()))
    write(tmp_path, pa.Table.from_pylist(rows, schema))
    result = job(tmp_path, unit_pairs=200)
    assert result.ok, result.problems
    assert (result.counts.rows_in, result.counts.pairs_in) == (len(naughty), 2 * len(naughty))
    kept = {row["query_id"] for row in rows_out(tmp_path)}
    assert kept == {text for text in naughty if text.strip()}


def test_naughty_strings_as_names_of_files_and_partitions_write_nowhere_else(
    tmp_path: Path, naughty: list[str]
) -> None:
    names = [
        text
        for text in dict.fromkeys(naughty)
        if text.strip()
        and text.isprintable()
        and not {"/", "\0"} & set(text)
        and len(text.encode()) < 200
    ][:50]
    for text in names:
        value = text.replace("%", "%25")
        write(tmp_path, nested(["a"]), f"tag={value}/{text.lstrip('._') or 'x'}.parquet")
    before = {path for path in tmp_path.rglob("*") if "output" not in path.parts}
    result = job(tmp_path)
    assert result.ok, result.problems
    assert result.counts.rows_out == len(names)
    assert {path for path in tmp_path.rglob("*") if "output" not in path.parts} == before
    written = {path.parent for path in (tmp_path / "output").rglob("*") if path.is_file()}
    assert written <= {tmp_path / "output", tmp_path / "output/_shardrank"}
    assert {row["tag"] for row in rows_out(tmp_path)} == set(names)


def test_a_document_of_two_megabytes_costs_itself(tmp_path: Path) -> None:
    write(tmp_path, nested(["a", "b" * (2 << 20), "c"]))
    result = job(tmp_path)
    assert result.ok, result.problems
    assert (result.counts.pairs_out, result.counts.pairs_rejected) == (2, 1)


def test_ten_thousand_candidates_are_one_row(tmp_path: Path) -> None:
    write(tmp_path, nested([f"text {number}" for number in range(10_000)], ["a"]))
    result = job(tmp_path, top_k=10)
    assert result.ok, result.problems
    assert (result.counts.pairs_out, result.counts.pairs_cut) == (11, 9_990)


def test_what_is_nested_deeply_passes_through(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(30):
        deep = {"inside": [deep]}
    write(tmp_path, nested(["a"], ["b"]).append_column("deep", pa.array([deep, None])))
    result = job(tmp_path)
    assert result.ok, result.problems
    assert [row["deep"] for row in rows_out(tmp_path)] == [deep, None]


def test_ids_that_repeat_are_rows_of_their_own(tmp_path: Path) -> None:
    table = nested(["a", "b"], ["c", "d"], query_id=["same", "same"])
    candidates = [[{"doc_id": "same", "text": text} for text in "ab"] for _ in range(2)]
    table = table.set_column(2, "candidates", pa.array(candidates, NESTED.field(2).type))
    write(tmp_path, table)
    result = job(tmp_path)
    assert result.ok, result.problems
    assert result.counts.pairs_out == 4


def with_type(data_type: pa.DataType) -> pa.Table:
    """A shard whose query is of another type of text."""
    table = nested(["a"], ["b", None])
    query = table["query"].combine_chunks()
    dictionary = pa.types.is_dictionary(data_type)
    return table.set_column(
        1, "query", query.dictionary_encode() if dictionary else query.cast(data_type)
    )


def test_a_schema_that_drifts_between_shards_is_each_shards_own(tmp_path: Path) -> None:
    types = [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
    for number, data_type in enumerate(types):
        write(tmp_path, with_type(data_type), f"{number}.parquet")
    struct = pa.struct([("text", pa.large_string()), ("more", pa.int8()), ("doc_id", pa.int64())])
    candidates = pa.array([[{"text": "a", "more": 1, "doc_id": 7}], []], pa.large_list(struct))
    table = nested(["a"], []).set_column(2, "candidates", candidates)
    write(tmp_path, table.append_column("extra", pa.array([1, 2])), "3.parquet")
    result = job(tmp_path)
    assert result.ok, result.problems
    assert (result.counts.rows_out, result.counts.pairs_out) == (8, 7)


@pytest.mark.parametrize("layout", ["nested", "pairs"])
def test_a_dictionary_that_arrow_keeps_is_counted_as_what_it_means(
    tmp_path: Path, layout: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that stands in a dictionary once would be copied for each row that names it."""
    monkeypatch.setattr(reader, "MAX_UNIT_BYTES", 50 << 20)
    number = 3000
    texts = pa.DictionaryArray.from_arrays(pa.nulls(number, pa.int32()).fill_null(0), ["x" * 10**5])
    if layout == "pairs":
        table = pairs([str(n // 10) for n in range(number)]).set_column(3, "text", texts)
    else:
        ids = pa.array([str(n) for n in range(number)])
        structs = pa.StructArray.from_arrays([ids, texts], ["doc_id", "text"])
        lists = pa.ListArray.from_arrays(pa.array([0, number], pa.int32()), structs)
        table = nested(["a"]).set_column(2, "candidates", lists)
    write(tmp_path, table)
    assert (tmp_path / "in/a.parquet").stat().st_size < 10**6
    source, shards = list_shards(str(tmp_path / "in"))
    footers = read_footers(source, shards, layout, InputColumns())
    before = pa.total_allocated_bytes()
    [unit] = cut_units(footers, 10**6, layout)
    with pytest.raises(ShardError, match="more than the") as error:
        read_unit(source, unit, layout, InputColumns(), 1000)
    assert error.value.code == "row_group_too_large"
    assert pa.total_allocated_bytes() - before < 50 << 20
