"""Small inputs beside the shards: text files and tables, local or behind any fsspec URL."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.errors import InputError
from shardrank.store.filesystem import Purpose, Storage, absolute

QUERY_ID = ("query_id", "query-id", "qid", "_id", "id")
DOC_ID = ("doc_id", "corpus-id", "docid", "pid", "document_id", "_id", "id")
RELEVANCE = ("relevance", "score", "label", "rel", "grade")
SCORE = ("score", "first_stage_score", "log_odds", "similarity")
TEXT = ("text", "contents", "passage", "document", "body", "query", "question")
TITLE = ("title",)
PARQUET = (".parquet", ".parq", ".pq")


def place_of(url: str, purpose: Purpose = "input") -> tuple[Storage, str]:
    """A file as the storage of its folder and its name in it."""
    root, _, name = absolute(url).rstrip("/").rpartition("/")
    return Storage(root or "/", purpose), name


def read_lines(url: str) -> list[str]:
    """The lines of a text file, unpacked where its name ends in .gz.

    Raises InputError if it is not there, or is not UTF-8.
    """
    storage, name = place_of(url)
    try:
        data = storage.read_bytes(name)
        if name.endswith(".gz"):
            data = gzip.decompress(data)
        # Not splitlines: an id may hold what Unicode calls a line end.
        return data.decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise InputError(f"there is no file {storage.display(name)}; check its name") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{storage.display(name)} is not UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise InputError(f"{storage.display(name)} is not a whole gzip file ({error})") from error


def read_parquet(url: str) -> pa.Table:
    """A Parquet file as a table. Raises InputError if it cannot be read."""
    storage, name = place_of(url)
    try:
        with storage.open_input(name) as source:
            return pq.read_table(source)
    except FileNotFoundError:
        raise InputError(f"there is no file {storage.display(name)}; check its name") from None
    except pa.ArrowException as error:
        raise InputError(f"{storage.display(name)} is not readable Parquet: {error}") from error


def write_new(url: str, data: bytes) -> None:
    """Write a file, or replace it."""
    storage, name = place_of(url, "output")
    storage.replace(name, data)


def is_parquet(url: str) -> bool:
    """True if the name says so."""
    return url.lower().endswith(PARQUET)


def find_column(names: Sequence[str], wanted: Sequence[str], what: str, place: str) -> str:
    """The first of some names that a table has. Raises InputError, naming both, if it has none."""
    for name in wanted:
        if name in names:
            return name
    raise InputError(
        f"{place} has no column for {what}: it has {', '.join(names)}, and would need one of "
        f"{', '.join(wanted)}; rename it"
    )


def as_strings(column: Any) -> list[str | None]:
    """Ids as text, whatever their type."""
    values: list[str | None] = column.cast(pa.string()).to_pylist()
    return values
