"""The nouns that travel between rooms: frozen dataclasses of standard library and numpy types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Layout = Literal["nested", "pairs"]
Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Shard:
    """An input file.

    path: relative to the input's root, with forward slashes.
    size: bytes.
    etag: the store's word for the file's content; for local files the modification time.
    num_rows: None where the footer cannot be read.
    partition: hive partition values of the path, as (column, value) in path order;
        None for hive's word for null.
    num_split_queries: pairs layout: queries whose rows are not contiguous in the shard.
    """

    path: str
    size: int
    etag: str
    num_rows: int | None
    partition: tuple[tuple[str, str | None], ...] = ()
    num_split_queries: int = 0


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows [row_start, row_stop) of one shard: the atom of work, of retry and of resume.

    number: its place in the plan, from 0.
    row_stop: None where the shard's number of rows is not known.
    num_pairs: an upper bound read from the footer; for planning, never for accounting.
    """

    number: int
    shard: Shard
    row_start: int
    row_stop: int | None
    num_pairs: int | None

    @property
    def id(self) -> str:
        """The number as it stands in file names: six digits, more where needed."""
        return f"{self.number:06d}"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row or a candidate that could not be scored.

    row: counted from 0 in the shard.
    position: of the candidate in the row, from 0; None where the whole row is meant.
    num_pairs: the pairs that it takes along (a rejected row may hold none or many).
    """

    row: int
    position: int | None
    code: str
    message: str
    num_pairs: int
    query_id: str | None = None
    doc_id: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """What went in and what became of it. Sums over units are sums of fields.

    rows_cut: pairs layout only, where a pair that top_k or min_score cuts is a row.
    pairs_reused: accepted pairs whose log-odds are those of an earlier output.
    pairs_passed_over: accepted pairs that a cascade does not score again.
    """

    rows_in: int = 0
    rows_out: int = 0
    rows_rejected: int = 0
    rows_cut: int = 0
    pairs_in: int = 0
    pairs_out: int = 0
    pairs_rejected: int = 0
    pairs_cut: int = 0
    pairs_truncated: int = 0
    pairs_reused: int = 0
    pairs_passed_over: int = 0
    tokens: int = 0

    @property
    def balanced(self) -> bool:
        """True if every row and every pair is accounted for exactly once."""
        rows = self.rows_out + self.rows_rejected + self.rows_cut
        pairs = self.pairs_out + self.pairs_rejected + self.pairs_cut
        return rows == self.rows_in and pairs == self.pairs_in

    def as_dict(self) -> dict[str, int]:
        """The fields by name, in their order."""
        return asdict(self)

    @staticmethod
    def total(parts: Iterable[Counts]) -> Counts:
        """The sum of many counts, field by field."""
        sums = dict.fromkeys((field.name for field in fields(Counts)), 0)
        for part in parts:
            for name in sums:
                sums[name] += getattr(part, name)
        return Counts(**sums)


Outcome = Literal["committed", "already_committed", "tombstone", "failed"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a worker tells the driver about a unit.

    outcome: `failed` means that nothing was committed and the unit is still pending;
        `tombstone` that the shard cannot be read and the unit is closed for good.
    worker: the process that scored it, host:process.
    """

    unit: int
    outcome: Outcome
    counts: Counts = Counts()
    code: str | None = None
    message: str | None = None
    seconds_read: float = 0.0
    seconds_score: float = 0.0
    seconds_write: float = 0.0
    worker: str = ""

    @property
    def seconds(self) -> float:
        """Of work on the unit, waiting between the steps left out."""
        return self.seconds_read + self.seconds_score + self.seconds_write

    def as_dict(self) -> dict[str, Any]:
        """Nested plain dictionaries, ready for JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Receipt:
        """The inverse of as_dict."""
        return Receipt(**{**values, "counts": Counts(**values["counts"])})


@dataclass(frozen=True, slots=True)
class Prompts:
    """Many prompts as flat arrays; prompt i is token_ids[offsets[i]:offsets[i + 1]].

    token_ids: int32 [num_tokens], offsets: int64 [num_prompts + 1] beginning with 0,
    num_shared: int32 [num_prompts], the ids at the front that do not depend on the document,
    truncated: bool [num_prompts], True where the document was cut.
    """

    token_ids: Int32Array
    offsets: Int64Array
    num_shared: Int32Array
    truncated: BoolArray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Int32Array:
        """The ids of one prompt."""
        return self.token_ids[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> Int64Array:
        """Number of tokens of each prompt, int64 [num_prompts]."""
        return np.diff(self.offsets)

    @staticmethod
    def concatenate(parts: list[Prompts]) -> Prompts:
        """All prompts of the parts, in order."""
        lengths = [part.lengths for part in parts]
        offsets = np.concatenate(
            [np.zeros(1, np.int64), np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))]
        )
        return Prompts(
            token_ids=np.concatenate([np.zeros(0, np.int32), *(part.token_ids for part in parts)]),
            offsets=offsets.astype(np.int64),
            num_shared=np.concatenate([np.zeros(0, np.int32), *(p.num_shared for p in parts)]),
            truncated=np.concatenate([np.zeros(0, np.bool_), *(part.truncated for part in parts)]),
        )
