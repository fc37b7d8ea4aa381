"""Large collections of texts in the formats that people have, in pieces that fit into memory.

Parquet, JSON lines and tab-separated text, one file or a folder of them. A piece of a text file is
a range of bytes and owns the lines that begin in it, so that a file is read by many at once.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.errors import InputError
from shardrank.store.filesystem import Purpose, Storage, absolute
from shardrank.store.listing import is_hidden

Kind = Literal["parquet", "jsonl", "tsv"]
CHUNK_BYTES = 64 << 20
_ROW_GROUPS_BYTES = 256 << 20
_LINE_BYTES = 1 << 20
_KINDS: tuple[tuple[Kind, tuple[str, ...]], ...] = (
    ("parquet", (".parquet", ".parq", ".pq")),
    ("jsonl", (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson")),
    ("tsv", (".tsv", ".tsv.gz", ".txt", ".txt.gz")),
)
# What tab-separated files without a header hold: MS MARCO's passages and queries, and documents.
_TSV_COLUMNS = {2: ("id", "text"), 4: ("id", "url", "title", "text")}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one file.

    start, stop: bytes of a text file, row groups of a Parquet file.
    columns: the names of all columns (tsv, parquet), or of the first line's keys (jsonl).
    has_header: tsv: the first line of the file is no row.
    """

    storage: Storage
    path: str
    kind: Kind
    start: int
    stop: int
    columns: tuple[str, ...]
    has_header: bool = False

    def read(self, wanted: Sequence[str]) -> pa.Table:
        """Some columns as text (numbers as they would be written), null where there is none.

        Raises InputError for a line that is none of its kind.
        """
        if self.kind == "parquet":
            return self._read_parquet(wanted)
        parse = self._json_values if self.kind == "jsonl" else self._tsv_values
        rows = list(parse(self._lines(), wanted))
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(wanted)
        return pa.table(
            {
                name: pa.array(column, pa.large_string())
                for name, column in zip(wanted, columns, strict=True)
            }
        )

    def _read_parquet(self, wanted: Sequence[str]) -> pa.Table:
        try:
            with (
                self.storage.open_input(self.path) as source,
                pq.ParquetFile(source, page_checksum_verification=True) as file,
            ):
                table = file.read_row_groups(range(self.start, self.stop), columns=list(wanted))
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self.storage, self.path, error) from error
        return pa.table({name: table.column(name).cast(pa.large_string()) for name in wanted})

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that begin in this piece, with where they begin."""
        with self.storage.open_input(self.path) as source:
            if self.path.endswith(".gz"):
                try:
                    yield from _numbered(gzip.decompress(source.read()).split(b"\n"), 0)
                except (gzip.BadGzipFile, EOFError) as error:
                    raise _unreadable(self.storage, self.path, error) from error
                return
            # From one byte before: a line that begins exactly at `start` is preceded by its end.
            begin = max(self.start - 1, 0)
            source.seek(begin)
            data = source.read(self.stop - begin)
            while not data.endswith(b"\n"):
                more = source.read(_LINE_BYTES)
                if not more:
                    break
                end = more.find(b"\n")
                data += more if end < 0 else more[: end + 1]
        if self.start:
            skipped = data.find(b"\n") + 1
            if not skipped or begin + skipped >= self.stop:
                return
            data, begin = data[skipped:], begin + skipped
        yield from _numbered(data.split(b"\n"), begin)

    def _json_values(
        self, lines: Iterable[tuple[int, bytes]], wanted: Sequence[str]
    ) -> Iterator[list[str | None]]:
        for place, line in lines:
            try:
                row = json.loads(line)
                yield [_text(row.get(name)) for name in wanted]
            except (ValueError, AttributeError) as error:
                raise InputError(
                    f"{self.storage.display(self.path)}, byte {place}: not a JSON object on one "
                    f"line ({error}); mend it"
                ) from error

    def _tsv_values(
        self, lines: Iterable[tuple[int, bytes]], wanted: Sequence[str]
    ) -> Iterator[list[str | None]]:
        places = [self.columns.index(name) for name in wanted]
        for place, line in lines:
            if place == 0 and self.has_header:
                continue
            try:
                values = line.decode("utf-8").split("\t")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{self.storage.display(self.path)}, byte {place}: not UTF-8; save it as UTF-8"
                ) from error
            if len(values) != len(self.columns):
                raise InputError(
                    f"{self.storage.display(self.path)}, byte {place}: {len(values)} columns "
                    f"between tabs, where the file has {len(self.columns)}; mend the line"
                )
            yield [values[i] for i in places]


def list_chunks(
    url: str, known_names: Iterable[str], chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    """The pieces of a file, or of all files below a folder.

    known_names: names that make a first line of a tab-separated file its header.

    Raises InputError if there is nothing, or something of no known format.
    """
    storage, files = _find(url)
    if not files:
        raise InputError(
            f"there is no file at {storage.display()} that ends in "
            f"{', '.join(suffix for _, suffixes in _KINDS for suffix in suffixes)}"
        )
    names = frozenset(known_names)
    return [
        chunk for path, size in files for chunk in _cut(storage, path, size, names, chunk_bytes)
    ]


def read_all(url: str, wanted: Sequence[str], chunks: Sequence[Chunk]) -> pa.Table:
    """All pieces as one table. For what fits into memory."""
    if not chunks:
        raise InputError(f"{url} holds no rows")
    return pa.concat_tables([chunk.read(wanted) for chunk in chunks])


def kind_of(path: str) -> Kind | None:
    """The format that a name tells of."""
    for kind, suffixes in _KINDS:
        if path.lower().endswith(suffixes):
            return kind
    return None


def _find(url: str, purpose: Purpose = "input") -> tuple[Storage, list[tuple[str, int]]]:
    root, _, name = absolute(url).rstrip("/").rpartition("/")
    parent = Storage(root or "/", purpose)
    found = parent.stat(name) if name else None
    if found is not None:
        if kind_of(name) is None:
            raise InputError(
                f"the format of {parent.display(name)} is not known by its name; rename it to end "
                "in .parquet, .jsonl or .tsv"
            )
        return parent, [(name, found.size)]
    folder = Storage(url, purpose)
    files = [file for file in folder.list_files() if not is_hidden(file.path)]
    return folder, [(file.path, file.size) for file in files if kind_of(file.path) is not None]


def _cut(
    storage: Storage, path: str, size: int, names: frozenset[str], chunk_bytes: int
) -> Iterator[Chunk]:
    kind = kind_of(path)
    assert kind is not None
    if kind == "parquet":
        yield from _cut_parquet(storage, path)
        return
    head = _first_line(storage, path)
    if head is None:
        return
    columns, has_header = _columns(storage, path, kind, head, names)
    # A compressed file cannot be entered in the middle.
    step = size if path.endswith(".gz") else chunk_bytes
    for start in range(0, size, max(step, 1)):
        yield Chunk(storage, path, kind, start, min(start + step, size), columns, has_header)


def _cut_parquet(storage: Storage, path: str) -> Iterator[Chunk]:
    try:
        with storage.open_input(path) as source:
            metadata = pq.read_metadata(source)
            columns = tuple(metadata.schema.to_arrow_schema().names)
            sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(storage, path, error) from error
    start, open_bytes = 0, 0
    for i, num_bytes in enumerate(sizes):
        if i > start and open_bytes + num_bytes > _ROW_GROUPS_BYTES:
            yield Chunk(storage, path, "parquet", start, i, columns)
            start, open_bytes = i, 0
        open_bytes += num_bytes
    if sizes:
        yield Chunk(storage, path, "parquet", start, len(sizes), columns)


def _first_line(storage: Storage, path: str) -> bytes | None:
    """The first line that holds something; None where there is none."""
    with storage.open_input(path) as source:
        if path.endswith(".gz"):
            try:
                with gzip.GzipFile(fileobj=source) as unpacked:
                    data = unpacked.read(_LINE_BYTES)
            except (gzip.BadGzipFile, EOFError) as error:
                raise _unreadable(storage, path, error) from error
        else:
            data = source.read(_LINE_BYTES)
    return next((line for line in data.split(b"\n") if line.strip()), None)


def _columns(
    storage: Storage, path: str, kind: Kind, line: bytes, names: frozenset[str]
) -> tuple[tuple[str, ...], bool]:
    if kind == "jsonl":
        try:
            return tuple(json.loads(line)), False
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{storage.display(path)} does not begin with a JSON object on one line ({error}); "
                "write it as JSON lines"
            ) from error
    values = line.decode("utf-8", "replace").removeprefix("\ufeff").rstrip("\r").split("\t")
    if sum(value in names for value in values) >= 2:
        return tuple(values), True
    if len(values) not in _TSV_COLUMNS:
        raise InputError(
            f"{storage.display(path)} has {len(values)} columns between tabs and no header; give "
            "it a first line with the columns' names, such as id and text"
        )
    return _TSV_COLUMNS[len(values)], False


def _numbered(lines: Iterable[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    """Lines that hold something, with where they begin; without the return of a Windows line."""
    for line in lines:
        if line.strip():
            yield start, line.removesuffix(b"\r")
        start += len(line) + 1


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _unreadable(storage: Storage, path: str, error: Exception) -> InputError:
    return InputError(f"{storage.display(path)} cannot be read ({error}); replace it")
