"""A unit's commit: its data file, or its tombstone, created once and never changed.

The data file is the commit. What was rejected is written before it, and is there for a reader
only if the data file's footer names it, so that a worker that dies in between leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.errors import IncompleteError, OutputError, OutputMismatchError
from shardrank.schema import REJECTED_SCHEMA
from shardrank.store.commits import (
    REJECTED_FOLDER,
    SUCCESS_NAME,
    tombstone_name,
)
from shardrank.store.filesystem import Storage
from shardrank.store.output import Output
from shardrank.store.plan import FORMAT_VERSION, Fingerprints, Plan
from shardrank.store.units import output_name
from shardrank.types import Counts, Receipt, Rejection, Unit

FOOTER_KEY = b"shardrank"
_NUM_THREADS = 16


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a unit, as its footer tells of it.

    id: unlike that of every other try, also of the same unit.
    engine: onnxruntime's version, the execution provider, the instruction set.
    seconds: by step (`read`, `score`).
    reused_from: the earlier output that scores could be taken from, for people; None for none.
    """

    id: str
    engine: Mapping[str, str]
    seconds: Mapping[str, float]
    reused_from: str | None = None


def commit_unit(
    storage: Storage, unit: Unit, fingerprints: Fingerprints, output: Output, attempt: Attempt
) -> Receipt:
    """Write a unit's rejected rows and then its data file.

    If the data file is there already, with the same unit and fingerprints, that is a success,
    whoever wrote it: the receipt then holds the counts of its footer.

    Raises OutputMismatchError if it belongs to another job.
    """
    started = time.monotonic()
    footer = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **_identity(unit, fingerprints),
        "attempt": attempt.id,
        "counts": output.counts.as_dict(),
        "seconds": {name: round(value, 6) for name, value in attempt.seconds.items()},
        "engine": dict(attempt.engine),
        "reused_from": attempt.reused_from,
        "rejected": _write_rejected(storage, unit, attempt.id, output.rejections),
    }
    try:
        storage.create_exclusive(output_name(unit), _encode(output.table, footer))
    except FileExistsError:
        return _receipt_of(storage, unit, fingerprints, attempt.id)
    return Receipt(
        unit=unit.number,
        outcome="committed",
        counts=output.counts,
        seconds_read=attempt.seconds.get("read", 0.0),
        seconds_score=attempt.seconds.get("score", 0.0),
        seconds_write=time.monotonic() - started,
    )


def commit_tombstone(
    storage: Storage, unit: Unit, fingerprints: Fingerprints, code: str, message: str
) -> Receipt:
    """Close a unit that cannot be read. A data file that is there already wins."""
    if storage.exists(output_name(unit)):
        return _receipt_of(storage, unit, fingerprints, None)
    tombstone = {
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **_identity(unit, fingerprints),
        "num_rows": None if unit.row_stop is None else unit.row_stop - unit.row_start,
        "code": code,
        "message": message,
    }
    try:
        storage.create_exclusive(tombstone_name(unit.number), _json(tombstone))
    except FileExistsError:
        _require_same(storage, unit, fingerprints, _read_json(storage, tombstone_name(unit.number)))
    return Receipt(unit=unit.number, outcome="tombstone", code=code, message=message)


def read_footer(storage: Storage, name: str) -> dict[str, Any]:
    """What the footer of a data file says of its unit.

    Raises FileNotFoundError, and OutputError if the file is not one of shardrank's.
    """
    with storage.open_input(name) as source:
        try:
            return dict(json.loads(pq.read_metadata(source).metadata[FOOTER_KEY]))
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise OutputError(
                f"{storage.display(name)} is not a data file of shardrank ({error}); move it away "
                "and run the same command again"
            ) from error


def read_footers_of(storage: Storage, plan: Plan, numbers: Iterable[int]) -> list[dict[str, Any]]:
    """The footers of some units' data files, in the order given.

    Raises OutputMismatchError if one of them belongs to another job.
    """

    def read(number: int) -> dict[str, Any]:
        unit = plan.units[number]
        footer = read_footer(storage, output_name(unit))
        _require_same(storage, unit, plan.fingerprints, footer)
        return footer

    with ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="footers") as threads:
        return list(threads.map(read, numbers))


def read_tombstones(storage: Storage, numbers: Collection[int]) -> list[dict[str, Any]]:
    """The tombstones of some units, by unit.

    numbers: those of Committed.tombstones: a unit that got a data file after all is not among
        them, and its tombstone does not count.

    Raises OutputError if one of them is damaged.
    """
    tombstones = []
    for number in sorted(numbers):
        name = tombstone_name(number)
        tombstone = _read_json(storage, name)
        words = [tombstone.get(key) for key in ("shard", "code", "message")]
        if tombstone.get("unit") != number or not all(isinstance(word, str) for word in words):
            raise OutputError(
                f"{storage.display(name)} is not a tombstone of unit {number}; move it away and "
                "run the same command again"
            )
        tombstones.append(tombstone)
    return tombstones


def write_success(
    storage: Storage,
    plan: Plan,
    footers: Sequence[Mapping[str, Any]],
    tombstones: Sequence[Mapping[str, Any]] = (),
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Say, in `_SUCCESS`, that a job is complete; again and again with the same content.

    footers, tombstones: of all units of the plan, a data file winning over a tombstone.
    model: what a reader should know of the model; the first one that is written stays.

    Returns what is written.

    Raises IncompleteError if a unit has neither, OutputError if `_SUCCESS` says something else.
    """
    by_unit = {footer["unit"]: footer for footer in footers}
    failed = sorted({tombstone["unit"] for tombstone in tombstones} - by_unit.keys())
    missing = len(plan.units) - len(by_unit) - len(failed)
    if missing:
        raise IncompleteError(f"{missing} of {len(plan.units)} units are missing; run it again")
    counts = Counts.total(Counts(**footer["counts"]) for footer in by_unit.values())
    numbers = sorted(by_unit)
    success = {
        "format_version": FORMAT_VERSION,
        "score_fingerprint": plan.fingerprints.score,
        "output_fingerprint": plan.fingerprints.output,
        "units": len(plan.units),
        "failed_units": failed,
        "counts": counts.as_dict(),
        "files": [output_name(plan.units[number]) for number in numbers],
        "rejected_files": [
            by_unit[number]["rejected"]["file"] for number in numbers if by_unit[number]["rejected"]
        ],
    }
    try:
        storage.create_exclusive(SUCCESS_NAME, _json({**success, "model": dict(model or {})}))
    except FileExistsError:
        found = _read_json(storage, SUCCESS_NAME)
        if {name: value for name, value in found.items() if name != "model"} != success:
            raise OutputError(
                f"{storage.display(SUCCESS_NAME)} does not fit the files beside it; find out with "
                "`shardrank verify` what was changed"
            ) from None
    return success


def _identity(unit: Unit, fingerprints: Fingerprints) -> dict[str, Any]:
    return {
        "unit": unit.number,
        "shard": unit.shard.path,
        "row_start": unit.row_start,
        "row_stop": unit.row_stop,
        "score_fingerprint": fingerprints.score,
        "output_fingerprint": fingerprints.output,
    }


def _require_same(
    storage: Storage, unit: Unit, fingerprints: Fingerprints, found: Mapping[str, Any]
) -> None:
    expected = _identity(unit, fingerprints)
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        raise OutputMismatchError(
            f"a file of unit {unit.id} in {storage.display()} belongs to another job: its "
            f"{', '.join(differing)} differ; choose another output.path"
        )


def _receipt_of(
    storage: Storage, unit: Unit, fingerprints: Fingerprints, attempt_id: str | None
) -> Receipt:
    """The receipt of a data file that is there already."""
    footer = read_footer(storage, output_name(unit))
    _require_same(storage, unit, fingerprints, footer)
    # A put that succeeded but whose answer was lost comes back as somebody else's file.
    own = attempt_id is not None and footer["attempt"] == attempt_id
    return Receipt(
        unit=unit.number,
        outcome="committed" if own else "already_committed",
        counts=Counts(**footer["counts"]),
    )


def _write_rejected(
    storage: Storage, unit: Unit, attempt_id: str, rejections: Sequence[Rejection]
) -> dict[str, Any] | None:
    """Write what was rejected; returns what the footer says of it, None if there is nothing."""
    if not rejections:
        return None
    rows = [
        {"unit": unit.id, "shard": unit.shard.path, **asdict(rejection)} for rejection in rejections
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, REJECTED_SCHEMA), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    name = f"{REJECTED_FOLDER}/{unit.id}-{attempt_id}.parquet"
    try:
        storage.create_exclusive(name, data)
    except FileExistsError:
        # Our own put, whose answer was lost: ids of attempts do not repeat.
        if storage.read_bytes(name) != data:
            raise OutputError(
                f"{storage.display(name)} was written by another attempt of the same id"
            ) from None
    return {"file": name, "count": len(rejections), "sha256": hashlib.sha256(data).hexdigest()}


def _encode(table: pa.Table, footer: Mapping[str, Any]) -> bytes:
    """The whole file in memory: a writer that fails half-way would publish what it has."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as file:
        file.write_table(table)
        file.add_key_value_metadata({FOOTER_KEY: _json(footer)})
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, indent=None, separators=(",", ":")).encode()


def _read_json(storage: Storage, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads(storage.read_bytes(name)))
    except (ValueError, TypeError) as error:
        raise OutputError(f"{storage.display(name)} is not JSON ({error}); move it away") from error
