"""An independent check that every row and pair of an input is accounted for exactly once.

It reads the input itself, and every output file; of job.json it believes only what was asked for:
columns, layout, top_k and min_score, and how rows were divided into units. One unit is in memory
at a time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.errors import OutputError
from shardrank.store.commits import FAILED_FOLDER, SUCCESS_NAME
from shardrank.store.filesystem import Storage
from shardrank.store.plan import Plan, load_plan
from shardrank.store.units import list_shards, output_name
from shardrank.store.verify_input import InputRows, UnreadableError, batches_of
from shardrank.store.verify_tombstone import identity_of, tombstone_problems
from shardrank.store.verify_unit import UnitFiles, check_unit
from shardrank.types import Counts, Shard, Unit

_MAX_PROBLEMS = 20
_COUNTED = (
    "rows_in", "rows_out", "rows_rejected", "rows_cut",
    "pairs_in", "pairs_out", "pairs_rejected", "pairs_cut",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What was found.

    ok: nothing is missing, doubled or changed. counts: counted from the files themselves.
    failed: one line for each unit that was given up; its rows are accounted for by that.
    problems: the first 20 of num_problems.
    """

    ok: bool
    counts: Counts
    num_units: int
    num_missing: int
    failed: tuple[str, ...]
    problems: tuple[str, ...]
    num_problems: int


@dataclass(slots=True)
class _Findings:
    counts: list[Counts] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    num_problems: int = 0

    def report(self, problem: str) -> None:
        self.num_problems += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)


def verify(input_path: str, output: Storage) -> VerifyResult:
    """Compare an output folder with the input that it came from.

    Raises OutputError if the folder holds no job, InputError if there is no input.
    """
    plan = load_plan(output)
    if plan is None:
        raise OutputError(f"{output.display()} holds no shardrank job (no _shardrank/job.json)")
    storage, shards = list_shards(input_path)
    findings = _Findings()
    _check_shards(plan, shards, findings)
    present = {file.path for file in output.list_files(recursive=False)}
    names = {output_name(unit) for unit in plan.units}
    for name in sorted(present - names):
        if not name.startswith((".", "_")):
            findings.report(f"{name} is no file of this job, but whoever reads the folder reads it")
    tombstones = {file.path for file in output.list_files(FAILED_FOLDER, recursive=False)}
    for shard, units in groupby(plan.units, key=lambda unit: unit.shard):
        with InputRows(storage, shard) as rows:
            _check_shard(plan, rows, list(units), output, present, tombstones, findings)
    if SUCCESS_NAME in present:
        _check_success(plan, output, present & names, findings)
    return VerifyResult(
        ok=not findings.num_problems,
        counts=Counts.total(findings.counts),
        num_units=len(plan.units),
        num_missing=len(findings.missing),
        failed=tuple(findings.failed.values()),
        problems=tuple(findings.problems),
        num_problems=findings.num_problems,
    )


def render_verify(result: VerifyResult) -> str:
    """The result for people: what was counted, then what is wrong."""
    counts = result.counts
    lines = [
        f"units  {result.num_units}: {len(result.failed)} given up, {result.num_missing} missing",
        f"rows   {counts.rows_in} in = {counts.rows_out} out + {counts.rows_rejected} rejected"
        + (f" + {counts.rows_cut} cut" if counts.rows_cut else ""),
        f"pairs  {counts.pairs_in} in = {counts.pairs_out} out + {counts.pairs_rejected} rejected"
        f" + {counts.pairs_cut} cut",
        *(f"given up: {line}" for line in result.failed),
        *(f"problem: {line}" for line in result.problems),
    ]
    if result.num_problems > len(result.problems):
        lines.append(f"and {result.num_problems - len(result.problems)} problems more")
    lines.append("ok: every row and pair is accounted for exactly once" if result.ok else "NOT OK")
    return "\n".join(lines)


def _check_shards(plan: Plan, shards: list[Shard], findings: _Findings) -> None:
    planned, found = {s.path for s in plan.shards}, {s.path for s in shards}
    for path in sorted(found - planned):
        findings.report(f"shard {path} is in the input, but no part of the job")
    for path in sorted(planned - found):
        findings.report(f"shard {path} is part of the job, but not in the input")


def _check_shard(
    plan: Plan,
    rows: InputRows,
    units: list[Unit],
    output: Storage,
    present: set[str],
    tombstones: set[str],
    findings: _Findings,
) -> None:
    shard = units[0].shard
    try:
        num_rows = rows.num_rows()
        bounds = [0, *(unit.row_stop for unit in units)]
        starts = [unit.row_start for unit in units]
        if shard.num_rows is not None and (bounds[-1] != num_rows or starts != bounds[:-1]):
            findings.report(f"the units of shard {shard.path} do not cover its {num_rows} rows")
        split_ids = frozenset[Any]()
        if plan.layout == "pairs" and shard.num_rows is not None:
            split_ids = frozenset(rows.split_queries(plan.input_columns.query_id))
    except UnreadableError:
        # Then its units must have been given up: a data file of theirs cannot be proved below.
        split_ids = frozenset()
    for unit in units:
        name, tombstone = output_name(unit), f"{FAILED_FOLDER}/{unit.id}.json"
        place = f"unit {unit.id} (shard {shard.path})"
        if name in present:
            _check_file(plan, rows, unit, output, split_ids, findings)
        elif tombstone in tombstones:
            told = _load(output, tombstone, findings)
            findings.failed[unit.number] = f"{place}: {told.get('code')}: {told.get('message')}"
            for problem in tombstone_problems(plan, unit, told, rows):
                findings.report(f"{place}: {problem}")
        else:
            findings.missing.append(unit.number)
            findings.report(f"{place} is missing: it is not done yet")


def _check_file(
    plan: Plan,
    rows: InputRows,
    unit: Unit,
    output: Storage,
    split_ids: frozenset[Any],
    findings: _Findings,
) -> None:
    def report(problem: str) -> None:
        findings.report(f"unit {unit.id} (shard {unit.shard.path}): {problem}")

    try:
        if unit.row_stop is None:
            raise UnreadableError("it could not be read when the job was planned")
        before = rows.read(unit.row_start, unit.row_stop)
    except UnreadableError as error:
        report(f"it has a data file, but {error}")
        return
    try:
        with output.open_input(output_name(unit)) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            footer = json.loads(file.metadata.metadata[b"shardrank"])
            groups = range(file.metadata.num_row_groups)
            after = pa.Table.from_batches(batches_of(file, groups), file.schema_arrow)
        rejected = _read_rejected(output, footer["rejected"], report)
        _check_poison(unit, output, rejected, report)
        counts = check_unit(plan, UnitFiles(unit, before, after, rejected, split_ids), report)
        said = dict(footer["counts"])
    except MemoryError:
        raise
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        report(f"its data file cannot be read: {type(error).__name__}: {error}"[:300])
        return
    for name, value in identity_of(plan, unit).items():
        if footer.get(name) != value:
            report(f"its footer says {name} = {footer.get(name)!r}, not {value!r}")
    for name in _COUNTED:
        if said.get(name) != getattr(counts, name):
            report(f"its footer says {name} = {said.get(name)}, counted {getattr(counts, name)}")
    findings.counts.append(counts)


def _read_rejected(
    output: Storage, named: dict[str, Any] | None, report: Any
) -> list[dict[str, Any]]:
    if named is None:
        return []
    try:
        data = output.read_bytes(named["file"])
    except FileNotFoundError:
        report(f"its rejected file {named['file']} is missing")
        return []
    if hashlib.sha256(data).hexdigest() != named["sha256"]:
        report(f"its rejected file {named['file']} was changed")
    entries: list[dict[str, Any]] = pq.read_table(pa.BufferReader(data)).to_pylist()
    if len(entries) != named["count"]:
        report(f"its rejected file holds {len(entries)} rows, not {named['count']}")
    return entries


def _check_poison(unit: Unit, output: Storage, rejected: list[dict[str, Any]], report: Any) -> None:
    """A row that is said to kill its worker must have been found to, in a search of its own."""
    for row in {entry["row"] for entry in rejected if entry["code"] == "worker_died"}:
        if not output.exists(f"_shardrank/poison/{unit.id}-{row}.json"):
            report(
                f"row {row} is rejected as worker_died, and nothing in _shardrank/poison says so"
            )


def _check_success(plan: Plan, output: Storage, files: set[str], findings: _Findings) -> None:
    success = _load(output, SUCCESS_NAME, findings)
    counts = Counts.total(findings.counts).as_dict()
    said, files_said = success.get("counts"), success.get("files")
    expected = {
        "units": len(plan.units),
        "failed_units": sorted(findings.failed),
        "files": sorted(files),
        "score_fingerprint": plan.fingerprints.score,
        "output_fingerprint": plan.fingerprints.output,
        "counts": {name: counts[name] for name in _COUNTED},
    }
    found = {
        **success,
        "files": sorted(map(str, files_said)) if isinstance(files_said, list) else files_said,
        "counts": {name: said.get(name) for name in _COUNTED} if isinstance(said, dict) else said,
    }
    for name, value in expected.items():
        if found.get(name) != value:
            findings.report(f"_SUCCESS says {name} = {found.get(name)}, found {value}"[:300])


def _load(output: Storage, name: str, findings: _Findings) -> dict[str, Any]:
    try:
        return dict(json.loads(output.read_bytes(name)))
    except (ValueError, TypeError) as error:
        findings.report(f"{name} is not JSON, or no object: {error}")
        return {}
