"""One work unit on its way through the stages: one row of a Ray Dataset, bodies as bytes.

A unit stays one row and one block, so that nothing splits or merges it; the arrays travel as raw
little-endian bytes and the rows as Arrow IPC, which no stage decodes but the ones that need it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from shardrank.store.pair_hash import HashArray
from shardrank.types import BoolArray, Float32Array, Int32Array, Int64Array, Rejection, Shard, Unit

_EMPTY_INT64 = np.zeros(0, np.int64)
_EMPTY_INT32 = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a unit could not be done.

    permanent: the shard cannot be read at all, now or later: the unit is closed by a tombstone.
    """

    code: str
    message: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done with a unit.

    first_attempt, last_attempt: the numbers under which the unit may be tried.
    poison: rows of the shard that are rejected without being tried.
    """

    unit: Unit
    first_attempt: int = 1
    last_attempt: int = 1
    poison: tuple[int, ...] = ()

    def to_row(self) -> dict[str, str]:
        """A row of a Ray Dataset."""
        return {"order": json.dumps(asdict(self))}

    @staticmethod
    def from_table(table: pa.Table) -> Order:
        """The inverse of to_row, of a table of one row."""
        values = json.loads(table["order"][0].as_py())
        unit, poison = unit_from_dict(values["unit"]), tuple(values["poison"])
        return Order(**{**values, "unit": unit, "poison": poison})


@dataclass(frozen=True, slots=True)
class Parcel:
    """A unit and what is known of it so far.

    attempts: the first and the last number under which the unit may be tried.
    rows: the unit's rows as the store's UnitTable writes them; empty bytes if there is a fault.
    pairs: int64 [num_prompts], the place among the unit's pairs of each prompt.
    token_ids, offsets, num_shared, truncated: the prompts (see types.Prompts); token_ids are
        dropped once they are scored.
    log_odds: float32 [num_prompts], empty before scoring.
    reused_places, reused_log_odds, reused_num_tokens, reused_truncated: [num_reused], what was
        found in an earlier output; the places are among the unit's pairs, as those in `pairs`.
    pair_hashes: uint8 [16 * the unit's pairs], empty where none are written.
    ready_at: when it could be scored, in Unix time. scorer: the process that scored it.
    rejections: found while tokenizing; the reader's own are in `rows`.
    """

    unit: Unit
    attempts: tuple[int, int] = (1, 1)
    rows: bytes = b""
    pairs: Int64Array = field(default_factory=lambda: _EMPTY_INT64)
    token_ids: Int32Array = field(default_factory=lambda: _EMPTY_INT32)
    offsets: Int64Array = field(default_factory=lambda: np.zeros(1, np.int64))
    num_shared: Int32Array = field(default_factory=lambda: _EMPTY_INT32)
    truncated: BoolArray = field(default_factory=lambda: np.zeros(0, np.bool_))
    log_odds: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    reused_places: Int64Array = field(default_factory=lambda: _EMPTY_INT64)
    reused_log_odds: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    reused_num_tokens: Int32Array = field(default_factory=lambda: _EMPTY_INT32)
    reused_truncated: BoolArray = field(default_factory=lambda: np.zeros(0, np.bool_))
    pair_hashes: HashArray = field(default_factory=lambda: np.zeros(0, np.uint8))
    rejections: tuple[Rejection, ...] = ()
    fault: Fault | None = None
    engine: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ready_at: float = 0.0
    scorer: str = ""

    def to_table(self) -> pa.Table:
        """One row: a JSON header and a cell of bytes for each body."""
        header = {
            "unit": asdict(self.unit),
            "attempts": self.attempts,
            "rejections": [asdict(rejection) for rejection in self.rejections],
            "fault": asdict(self.fault) if self.fault else None,
            "engine": self.engine,
            "seconds": self.seconds,
            "ready_at": self.ready_at,
            "scorer": self.scorer,
        }
        columns: dict[str, Any] = {"header": pa.array([json.dumps(header)], pa.string())}
        columns["rows"] = _cell(pa.py_buffer(self.rows))
        for name in _ARRAYS:
            columns[name] = _cell(pa.py_buffer(np.ascontiguousarray(getattr(self, name))))
        return pa.table(columns)

    @staticmethod
    def from_table(table: pa.Table) -> Parcel:
        """The inverse of to_table; the arrays are views of the table's memory."""
        header = json.loads(table["header"][0].as_py())
        arrays = {
            name: np.frombuffer(table[name][0].as_buffer(), dtype)
            for name, dtype in _ARRAYS.items()
        }
        return Parcel(
            unit=unit_from_dict(header["unit"]),
            attempts=(header["attempts"][0], header["attempts"][1]),
            rows=table["rows"][0].as_buffer(),
            rejections=tuple(Rejection(**values) for values in header["rejections"]),
            fault=Fault(**header["fault"]) if header["fault"] else None,
            engine=header["engine"],
            seconds=header["seconds"],
            ready_at=header["ready_at"],
            scorer=header["scorer"],
            **arrays,
        )


def unit_from_dict(values: dict[str, Any]) -> Unit:
    """The inverse of dataclasses.asdict on a Unit that went through JSON."""
    shard = values["shard"]
    partition = tuple((key, value) for key, value in shard["partition"])
    return Unit(**{**values, "shard": Shard(**{**shard, "partition": partition})})


_ARRAYS: dict[str, Any] = {
    "pairs": np.int64,
    "token_ids": np.int32,
    "offsets": np.int64,
    "num_shared": np.int32,
    "truncated": np.bool_,
    "log_odds": np.float32,
    "reused_places": np.int64,
    "reused_log_odds": np.float32,
    "reused_num_tokens": np.int32,
    "reused_truncated": np.bool_,
    "pair_hashes": np.uint8,
}


def _cell(body: pa.Buffer) -> pa.Array:
    """A large_binary array of one value, without a copy."""
    offsets = pa.py_buffer(np.array([0, body.size], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, body])
