"""Which shards there are, and how they are cut into work units."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from urllib.parse import unquote

import numpy as np

from shardrank.errors import InputError
from shardrank.store.filesystem import Storage, absolute
from shardrank.store.footers import Footer, RowGroup
from shardrank.store.listing import File, is_hidden
from shardrank.store.pattern import Pattern
from shardrank.types import Int64Array, Layout, Shard, Unit

logger = logging.getLogger(__name__)

_SUFFIXES = (".parquet", ".parq", ".pq")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_BYTES_PER_PAIR = 1024
_ALL_BYTES_PER_PAIR = 16 * 1024
_MIN_FILE_BYTES_PER_UNIT = 64
_TAIL_SHARE, _TAIL_CUT, _TAIL_FROM_UNITS = 0.1, 4, 20
"""The last tenth is cut smaller, so that at the end no actor waits long for another's unit."""


def list_shards(path: str, output: Storage | None = None) -> tuple[Storage, list[Shard]]:
    """Find the shards of an input: a file, a folder with all below it, or a glob.

    A file or folder that is there is meant, whatever wildcards its name holds.

    A file is taken whatever its name, a glob takes what it matches, and a folder takes what ends
    in .parquet, .parq or .pq; below the root, names that begin with `_` or `.` are left out.

    Returns the storage of their common root, and the shards in the order of their paths, with
    num_rows still None.

    Raises InputError if there are none, and if the output lies inside the input or the input
    inside the output: a second job would read the first one's results.
    """
    pattern, storage, files = _find(absolute(path))
    shards = [_shard(file) for file in files if _is_shard(file.path, pattern)]
    num_ignored = sum(not is_hidden(file.path) for file in files) - len(shards)
    if not shards:
        found = "it is not there, or empty"
        if files:
            found = f"none of its {len(files)} files is a shard"
        raise InputError(
            f"no input at {Storage(path, 'input').display()}: {found}; a folder's shards end in "
            f"{', '.join(_SUFFIXES)} and do not begin with '_' or '.'"
        )
    if num_ignored and pattern.is_folder:
        left_out = (
            "1 file of %s is left out, since it does not end in %s"
            if num_ignored == 1
            else f"{num_ignored} files of %s are left out, since they do not end in %s"
        )
        logger.warning(left_out, storage.display(), ", ".join(_SUFFIXES))
    if output is not None:
        _refuse_overlap(storage, pattern, shards, output)
    return storage, shards


def hive_values(path: str) -> tuple[tuple[str, str | None], ...]:
    """The `key=value` folders of a relative path, in their order, as (column, value).

    Raises InputError for a key that occurs twice, and for escaped bytes that are not UTF-8: two
    partitions would become one.
    """
    pairs = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    try:
        values = tuple(
            (
                unquote(key, errors="strict"),
                None if value == _HIVE_NULL else unquote(value, errors="strict"),
            )
            for key, value in pairs
        )
    except UnicodeDecodeError as error:
        raise InputError(
            f"a folder of {path} holds escaped bytes that are not UTF-8 ({error.reason}); rename it"
        ) from error
    names = [name for name, _ in values]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"the folders of {path} give the partition column {name!r} twice")
    return values


def cut_units(footers: Sequence[Footer], unit_pairs: int, layout: Layout) -> list[Unit]:
    """Cut shards into units of about `unit_pairs` pairs, fewer where documents are long.

    Cuts fall on row-group boundaries; a row group that is too large is cut by rows. In the pairs
    layout each cut moves on to where the next query begins, so that a query is never divided. A
    shard that cannot be read, or has no rows, is one unit. Every row is in exactly one unit. Where
    there are many, those at the end are smaller.
    """
    units: list[Unit] = []
    costs = [sum(map(_cost, footer.row_groups)) for footer in footers]
    tail_begins = sum(costs) * (1 - _TAIL_SHARE)
    if sum(costs) < _TAIL_FROM_UNITS * unit_pairs:
        tail_begins = float("inf")
    cost_before = 0
    for footer, cost in zip(footers, costs, strict=True):
        shard = footer.shard
        if shard.num_rows is None or footer.fault is not None:
            units.append(Unit(len(units), shard, 0, shard.num_rows, None))
            continue
        cuts = _cuts(footer, unit_pairs, tail_begins - cost_before)
        cost_before += cost
        if layout == "pairs":
            cuts = footer.next_query_starts(cuts)
        bounds = np.unique(np.concatenate([[0], cuts, [shard.num_rows]])).tolist()
        if len(bounds) == 1:
            bounds = [0, 0]
        for start, stop in pairwise(bounds):
            units.append(Unit(len(units), shard, start, stop, _num_pairs(footer, start, stop)))
    return units


def output_name(unit: Unit) -> str:
    """The name of a unit's data file: `<shard's base name>-<8 hex of its path>-<unit>.parquet`."""
    name = unit.shard.path.rsplit("/", 1)[-1]
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
            break
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip("_.")[:80] or "shard"
    digest = hashlib.sha256(unit.shard.path.encode()).hexdigest()
    return f"{safe}-{digest[:8]}-{unit.id}.parquet"


def _find(url: str) -> tuple[Pattern, Storage, list[File]]:
    root, _, name = url.rstrip("/").rpartition("/")
    if name and not root.endswith(":/"):
        parent = Storage(root or "/", "input")
        file = parent.stat(name)
        if file is not None:
            return Pattern.one(name), parent, [file]
    root, pattern = Pattern.split(url, _is_folder)
    storage = Storage(root, "input")
    return pattern, storage, storage.list_files()


def _is_folder(url: str) -> bool:
    """True if a folder is there whose name holds wildcards."""
    storage = Storage(url, "input")
    return os.path.isdir(storage.url) if storage.is_local else bool(storage.list_files())


def _is_shard(path: str, pattern: Pattern) -> bool:
    if pattern.is_file:
        return pattern.matches(path)
    if is_hidden(path):
        return False
    return pattern.matches(path) or (
        pattern.matches_folder_of(path) and path.lower().endswith(_SUFFIXES)
    )


def _shard(file: File) -> Shard:
    if not file.path.isprintable():
        raise InputError(
            f"the name {file.path!r} holds characters that cannot be printed; rename the file"
        )
    return Shard(file.path, file.size, file.etag, None, hive_values(file.path))


def _refuse_overlap(
    storage: Storage, pattern: Pattern, shards: Sequence[Shard], output: Storage
) -> None:
    root, folder = storage.location.rstrip("/"), output.location.rstrip("/")
    inside = f"{folder}/".startswith(f"{root}/")
    if inside and _is_shard(f"{folder[len(root) :]}/x.parquet".lstrip("/"), pattern):
        raise InputError(
            f"the output {output.display()} lies inside the input {storage.display()}, whose "
            "shards its files would become; choose another output.path"
        )
    for shard in shards:
        if f"{root}/{shard.path}".startswith(f"{folder}/"):
            raise InputError(
                f"the input {storage.display(shard.path)} lies inside the output "
                f"{output.display()}; choose another output.path"
            )


def _cuts(footer: Footer, unit_pairs: int, tail_begins: float) -> Int64Array:
    """The rows, in order, where units would begin if queries could be divided.

    tail_begins: the cost from the shard's start after which units are smaller.
    """
    # A damaged footer may claim any number of rows; it must not become any number of units.
    most = 1 + footer.shard.size // _MIN_FILE_BYTES_PER_UNIT
    cuts: list[int] = []
    row, open_cost, all_cost = 0, 0, 0
    for group in footer.row_groups:
        cost = _cost(group)
        size = unit_pairs if all_cost < tail_begins else max(1, unit_pairs // _TAIL_CUT)
        if open_cost and open_cost + cost > size:
            cuts.append(row)
            open_cost = 0
        slices = max(1, min(-(-cost // size), group.num_rows, most))
        cuts += [row + group.num_rows * i // slices for i in range(1, slices)]
        row += group.num_rows
        open_cost += cost
        all_cost += cost
    return np.asarray(cuts, np.int64)


def _cost(group: RowGroup) -> int:
    """Pairs that cost as much to score as these: long documents count for more.

    The bytes of all columns count far less: they bound the memory of a unit, not its time.
    """
    return max(
        group.num_pairs,
        group.num_text_bytes // _BYTES_PER_PAIR,
        group.num_bytes // _ALL_BYTES_PER_PAIR,
    )


def _num_pairs(footer: Footer, start: int, stop: int) -> int:
    rows = np.cumsum([0, *(group.num_rows for group in footer.row_groups)])
    pairs = np.cumsum([0, *(group.num_pairs for group in footer.row_groups)])
    low, high = np.interp([start, stop], rows, pairs)
    return int(np.ceil(high) - np.floor(low))
