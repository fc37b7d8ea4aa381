"""Verify believes nobody: it passes honest outputs and fails on every kind of tampering."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrank.errors import OutputError
from shardrank.store.filesystem import Storage
from shardrank.store.verify import render_verify, verify
from store.small_job import commit, do_job, nested, open_plan, pairs, parquet, propose

cuts = {"top_k": st.none() | st.integers(1, 3), "min_score": st.none() | st.floats(0, 1)}
texts = st.lists(
    st.none() | st.lists(st.none() | st.text("ab ", max_size=3), max_size=4), max_size=8
)
sizes = st.integers(1, 6)


def in_memory() -> Storage:
    return Storage(f"memory://{uuid4().hex}")


@settings(max_examples=40)
@given(rows=texts, data=st.data(), unit_pairs=sizes, row_group_size=sizes, **cuts)
def test_honest_nested_outputs_pass(
    rows: list[Any], data: st.DataObject, unit_pairs: int, row_group_size: int, **cut: Any
) -> None:
    queries = [data.draw(st.sampled_from(["q", None, ""])) for _ in rows]
    table = nested(*rows, query=pa.array(queries, pa.string()), weight=[float("nan")] * len(rows))
    source, output = in_memory(), in_memory()
    source.replace("a.parquet", parquet(table, row_group_size=row_group_size))
    do_job(source.url, output, unit_pairs=unit_pairs, **cut)
    result = verify(source.url, output)
    assert result.problems == ()
    assert result.ok
    assert result.counts.pairs_in == sum(len(row or []) for row in rows)


@settings(max_examples=40)
@given(
    ids=st.lists(st.sampled_from(["a", "b", None]), max_size=9),
    unit_pairs=sizes,
    row_group_size=sizes,
)
def test_honest_pairs_pass_though_queries_are_scattered(
    ids: list[str | None], unit_pairs: int, row_group_size: int
) -> None:
    source, output = in_memory(), in_memory()
    table = pairs(pa.array(ids, pa.string()).to_pylist(), flag=[True] * len(ids))
    source.replace("a.parquet", parquet(table, row_group_size=row_group_size))
    do_job(source.url, output, layout="pairs", unit_pairs=unit_pairs)
    assert verify(source.url, output).problems == ()


@settings(max_examples=40)
@given(ids=st.lists(st.sampled_from("abcd"), max_size=12).map(sorted), unit_pairs=sizes, **cuts)
def test_honest_pairs_pass_when_they_are_cut(ids: list[str], unit_pairs: int, **cut: Any) -> None:
    source, output = in_memory(), in_memory()
    source.replace("a.parquet", parquet(pairs(ids), row_group_size=5))
    do_job(source.url, output, layout="pairs", unit_pairs=unit_pairs, **cut)
    assert verify(source.url, output).problems == ()


LISTS = [["a", "b", "c"], [None, "d"], ["e"], ["f", "g", "h"]]
TABLES = {
    "nested": nested(*LISTS, query=pa.array(["q", "q", None, "q"])),
    "pairs": pairs(list("aabbbccc"), text=["1", "2", None, "4", "5", "6", "7", "8"]),
}


class Job:
    """A finished job of two shards, with one unit a shard, and the means to tamper with it."""

    def __init__(self, folder: Path, layout: Any, **cut: Any) -> None:
        self.input = folder / "data"
        self.input.mkdir()
        for name in ("a", "b"):
            pq.write_table(TABLES[layout], self.input / f"{name}.parquet")
        self.output = Storage(str(folder / "output"))
        plan = do_job(str(self.input), self.output, layout=layout, unit_pairs=100, **cut)
        self.folder = folder / "output"
        self.plan = plan
        self.file = sorted(self.folder.glob("*.parquet"))[0]

    def problems(self) -> tuple[str, ...]:
        result = verify(str(self.input), self.output)
        assert result.ok == (not result.problems)
        return result.problems

    def rewrite(self, change: Callable[[pa.Table], pa.Table], **footer: Any) -> None:
        """Change the first data file's rows, and entries of its footer."""
        metadata = json.loads(pq.read_metadata(self.file).metadata[b"shardrank"])
        table = change(pq.read_table(self.file))
        with pq.ParquetWriter(self.file, table.schema) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({"shardrank": json.dumps(metadata | footer)})

    def rewrite_rejected(
        self, change: Callable[[list[dict[str, Any]]], Any], *, hide: bool
    ) -> None:
        """Change the first rejected file; `hide` mends count and sha256 in the footer."""
        named = json.loads(pq.read_metadata(self.file).metadata[b"shardrank"])["rejected"]
        path = self.folder / named["file"]
        table = pq.read_table(path)
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        if hide:
            named |= {"count": len(rows), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            self.rewrite(lambda table: table, rejected=named)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """Nested, two candidates kept of each list."""
    return Job(tmp_path, "nested", top_k=2)


@pytest.fixture
def pairs_job(tmp_path: Path) -> Job:
    """Pairs, all kept."""
    return Job(tmp_path, "pairs")


def candidates(
    change: Callable[[list[list[dict[str, Any]]]], Any],
) -> Callable[[pa.Table], pa.Table]:
    """A change of the lists of candidates as Python values."""

    def apply(table: pa.Table) -> pa.Table:
        lists = table["candidates"].to_pylist()
        change(lists)
        column = pa.array(lists, table.schema.field("candidates").type)
        return table.set_column(2, "candidates", column)

    return apply


def column(name: str, change: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    """A change of one column as Python values."""

    def apply(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        change(values)
        index = table.column_names.index(name)
        return table.set_column(index, name, pa.array(values, table.schema.field(name).type))

    return apply


def swap(values: list[Any], one: int = 0, two: int = 1) -> None:
    values[one], values[two] = values[two], values[one]


def put(key: Any, value: Any) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values[key] = value

    return change


def test_the_untouched_jobs_pass(job: Job, tmp_path: Path) -> None:
    assert job.problems() == ()
    (tmp_path / "other").mkdir()
    assert Job(tmp_path / "other", "pairs").problems() == ()


NESTED_TAMPERING = {
    "a row is dropped": lambda table: table.slice(1),
    "a row is doubled": lambda table: pa.concat_tables([table, table.slice(0, 1)]),
    "a row is in the place of another": lambda table: table.take([0, 0, 2]),
    "two rows are exchanged": lambda table: table.take([1, 0, 2]),
    "a column is dropped": lambda table: table.drop_columns("query"),
    "a column is added": lambda table: table.append_column("new", pa.nulls(len(table))),
    "a query is changed": column("query", put(0, "other")),
    "an id is changed": column("query_id", put(0, "other")),
    "num_cut is changed": column("num_cut", put(0, 0)),
    "num_rejected is changed": column("num_rejected", put(1, 0)),
    "a list is emptied": candidates(lambda lists: lists[0].clear()),
    "a candidate is dropped": candidates(lambda lists: lists[0].pop()),
    "a candidate is doubled": candidates(lambda lists: put(1, lists[0][0] | {"rank": 2})(lists[0])),
    "two candidates are exchanged": candidates(lambda lists: swap(lists[2])),
    "candidates of two rows are exchanged": candidates(lambda lists: swap(lists, 0, 2)),
    "a text is changed": candidates(lambda lists: put("text", "other")(lists[0][0])),
    "a doc_id is changed": candidates(lambda lists: put("doc_id", "other")(lists[0][0])),
    "a position is changed": candidates(lambda lists: put("position", 2)(lists[0][0])),
    "a position is outside": candidates(lambda lists: put("position", 9)(lists[0][0])),
    "a rank is changed": candidates(lambda lists: put("rank", 2)(lists[0][0])),
    "a score is changed": candidates(lambda lists: put("score", 0.123)(lists[0][0])),
    "log_odds are changed": candidates(lambda lists: put("log_odds", 9.0)(lists[0][1])),
    "log_odds are not finite": candidates(lambda lists: put("log_odds", float("nan"))(lists[0][0])),
}


@pytest.mark.parametrize("change", NESTED_TAMPERING.values(), ids=NESTED_TAMPERING)
def test_a_tampered_data_file_fails(job: Job, change: Callable[[pa.Table], pa.Table]) -> None:
    job.rewrite(change)
    assert job.problems() != ()


PAIRS_TAMPERING = {
    "a row is dropped": lambda table: table.slice(1),
    "a row is doubled": lambda table: table.take([0, 0, 1, 2, 3, 4, 5, 6]),
    "two rows are exchanged": lambda table: table.take([1, 0, 2, 3, 4, 5, 6]),
    "a row of another query is put there": lambda table: table.take([0, 1, 2, 3, 4, 5, 0]),
    "a text is changed": column("text", put(0, "other")),
    "a query is changed": column("query", put(0, "other")),
    "a rank is changed": column("rank", put(0, 3)),
    "a rank is null": column("rank", put(0, None)),
    "two ranks are exchanged": column("rank", swap),
    "a position is changed": column("position", put(1, 0)),
    "a position is null": column("position", put(1, None)),
    "a score is changed": column("score", put(0, 0.123)),
    "log_odds are changed": column("log_odds", put(0, 9.0)),
    "log_odds are null": column("log_odds", put(0, None)),
    "a column is dropped": lambda table: table.drop_columns("text"),
}


@pytest.mark.parametrize("change", PAIRS_TAMPERING.values(), ids=PAIRS_TAMPERING)
def test_tampered_pairs_fail(pairs_job: Job, change: Callable[[pa.Table], pa.Table]) -> None:
    pairs_job.rewrite(change)
    assert pairs_job.problems() != ()


REJECTED_TAMPERING: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "an entry is dropped": list.pop,
    "an entry is doubled": lambda rows: rows.append(rows[0]),
    "another row": lambda rows: put("row", 3)(rows[0]),
    "a row outside": lambda rows: put("row", 99)(rows[0]),
    "another position": lambda rows: put("position", 1)(rows[0]),
    "another number of pairs": lambda rows: put("num_pairs", 2)(rows[0]),
    "another shard": lambda rows: put("shard", "b.parquet")(rows[0]),
}


@pytest.mark.parametrize("change", REJECTED_TAMPERING.values(), ids=REJECTED_TAMPERING)
@pytest.mark.parametrize("hide", [False, True])
def test_a_tampered_rejected_file_fails(
    job: Job, change: Callable[[list[dict[str, Any]]], Any], hide: bool
) -> None:
    job.rewrite_rejected(change, hide=hide)
    assert job.problems() != ()


def test_an_edited_message_of_a_rejected_row_fails(job: Job) -> None:
    job.rewrite_rejected(lambda rows: put("message", "other")(rows[0]), hide=False)
    assert any("was changed" in problem for problem in job.problems())


def test_a_row_that_was_rejected_without_reason_fails(pairs_job: Job) -> None:
    def hide_first(rows: list[dict[str, Any]]) -> None:
        rows[0]["row"] = 0

    pairs_job.rewrite_rejected(hide_first, hide=True)
    assert any(
        "is rejected as null_text, but is not" in problem for problem in pairs_job.problems()
    )


FOOTER_TAMPERING = {
    "the unit": {"unit": 1},
    "the shard": {"shard": "b.parquet"},
    "the rows": {"row_stop": 3},
    "the score fingerprint": {"score_fingerprint": "other"},
    "the output fingerprint": {"output_fingerprint": "other"},
    "the counts": {"counts": {"rows_in": 4}},
    "the rejected file": {"rejected": None},
    "a rejected file that is missing": {
        "rejected": {"file": "_shardrank/rejected/no", "sha256": "", "count": 1}
    },
}


@pytest.mark.parametrize("footer", FOOTER_TAMPERING.values(), ids=FOOTER_TAMPERING)
def test_a_tampered_footer_fails(job: Job, footer: dict[str, Any]) -> None:
    job.rewrite(lambda table: table, **footer)
    assert job.problems() != ()


def test_a_data_file_of_another_unit_fails(job: Job) -> None:
    files = sorted(job.folder.glob("*.parquet"))
    files[0].write_bytes(files[1].read_bytes())
    assert any("its footer says unit = 1" in problem for problem in job.problems())


def test_a_doubled_file_fails(job: Job) -> None:
    (job.folder / "copy.parquet").write_bytes(job.file.read_bytes())
    assert any("copy.parquet is no file of this job" in problem for problem in job.problems())


def test_a_damaged_file_fails(job: Job) -> None:
    job.file.write_bytes(job.file.read_bytes()[:-10])
    assert any("cannot be read" in problem for problem in job.problems())


def test_a_flipped_byte_fails(job: Job) -> None:
    data = bytearray(job.file.read_bytes())
    data[60] ^= 1
    job.file.write_bytes(data)
    assert job.problems() != ()


def test_a_missing_file_is_a_missing_unit(job: Job) -> None:
    job.file.unlink()
    result = verify(str(job.input), job.output)
    assert result.num_missing == 1
    assert any("unit 000000 (shard a.parquet) is missing" in line for line in result.problems)


@pytest.mark.parametrize(
    "change", [{"units": 3}, {"files": []}, {"failed_units": [0]}, {"counts": {}}]
)
def test_a_tampered_success_fails(job: Job, change: dict[str, Any]) -> None:
    path = job.folder / "_SUCCESS"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert any("_SUCCESS says" in problem for problem in job.problems())


def test_success_that_is_not_json_fails(job: Job) -> None:
    (job.folder / "_SUCCESS").write_text("yes")
    assert any("_SUCCESS is not JSON" in problem for problem in job.problems())


def test_a_shard_that_came_later_fails(job: Job) -> None:
    pq.write_table(TABLES["nested"], job.input / "c.parquet")
    assert "shard c.parquet is in the input, but no part of the job" in job.problems()


def test_a_shard_that_is_gone_fails(job: Job) -> None:
    (job.input / "b.parquet").unlink()
    assert "shard b.parquet is part of the job, but not in the input" in job.problems()


def test_a_shard_that_grew_fails(job: Job) -> None:
    table = pa.concat_tables([TABLES["nested"]] * 2)
    pq.write_table(table, job.input / "a.parquet")
    assert any("do not cover its 8 rows" in problem for problem in job.problems())


def test_an_input_that_was_copied_elsewhere_passes(job: Job, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in job.input.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert verify(str(copy), job.output).ok


def test_candidates_that_nobody_asked_to_cut_fail(tmp_path: Path) -> None:
    job = Job(tmp_path, "nested")
    cut = candidates(lambda lists: lists[0].pop())
    job.rewrite(lambda table: column("num_cut", put(0, 1))(cut(table)))
    assert any("neither top_k nor min_score asked for" in problem for problem in job.problems())


def test_scores_below_the_least_one_fail(tmp_path: Path) -> None:
    job = Job(tmp_path, "nested", min_score=0.5)
    assert job.problems() == ()

    def lower(lists: list[list[dict[str, Any]]]) -> None:
        last = max(lists, key=len)[-1]
        last |= {"log_odds": -1.0, "score": 0.2689414213699951}

    job.rewrite(candidates(lower))
    assert any("less than min_score" in problem for problem in job.problems())


def test_a_shard_that_was_given_up_is_told_of_but_accounted_for(
    tmp_path: Path, output: Storage
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.parquet").write_bytes(b"broken")
    pq.write_table(nested(["a"]), tmp_path / "data/b.parquet")
    do_job(str(tmp_path / "data"), output)
    result = verify(str(tmp_path / "data"), output)
    assert result.ok
    assert "not_parquet" in result.failed[0]
    assert "given up: unit 000000 (shard a.parquet)" in render_verify(result)


def test_a_job_half_done_is_not_ok(tmp_path: Path, output: Storage) -> None:
    pq.write_table(nested(["a"], ["b"]), tmp_path / "a.parquet")
    source, proposed = propose(str(tmp_path / "a.parquet"), output, unit_pairs=1)
    plan = open_plan(output, proposed)
    commit(source, output, plan, plan.units[1])
    result = verify(str(tmp_path / "a.parquet"), output)
    assert (result.ok, result.num_missing, result.counts.rows_in) == (False, 1, 1)


def test_a_folder_without_a_job_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds no shardrank job"):
        verify(str(tmp_path), Storage(str(tmp_path)))


def test_many_problems_are_counted_and_some_are_shown(job: Job) -> None:
    for number in range(30):
        (job.folder / f"copy-{number}.parquet").write_bytes(b"")
    result = verify(str(job.input), job.output)
    assert result.num_problems == 30
    assert len(result.problems) == 20
    assert "and 10 problems more" in render_verify(result)


def test_invalid_utf8_in_the_input_does_not_stop_the_proof(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"good"]).view(pa.string())
    source, output = Storage(str(tmp_path / "data")), Storage(str(tmp_path / "output"))
    table = pairs(["a", "a", "b"]).set_column(3, "text", texts)
    table = table.append_column("raw", pc.fill_null(texts, ""))
    source.replace("a.parquet", parquet(table))
    do_job(source.url, output, layout="pairs")
    result = verify(source.url, output)
    assert result.problems == ()
    assert result.counts.rows_rejected == 1


def test_every_kind_of_list_is_proved(tmp_path: Path) -> None:
    plain = nested(["a", "b"], None, [], ["c"])
    for data_type in (pa.large_list, pa.list_view, pa.large_list_view):
        name = data_type.__name__
        lists = pa.array(
            plain["candidates"].to_pylist(),
            data_type(plain.schema.field("candidates").type.value_type),
        )
        source, output = Storage(str(tmp_path / f"in-{name}")), Storage(str(tmp_path / name))
        source.replace("a.parquet", parquet(plain.set_column(2, "candidates", lists)))
        do_job(source.url, output, unit_pairs=1)
        assert verify(source.url, output).problems == ()


def test_the_output_is_readable_as_one_dataset(job: Job) -> None:
    table = pq.read_table(io.BytesIO(job.file.read_bytes()))
    assert pq.read_table(str(job.folder)).num_rows == 2 * table.num_rows
