"""A file as a listing shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class File:
    """A file of a storage.

    path: relative to the storage's root, with forward slashes.
    size: bytes.
    etag: the store's word for the content; for local files the modification time in ns.
    """

    path: str
    size: int
    etag: str


def is_hidden(path: str) -> bool:
    """True if any part of a relative path begins with `_` or `.`.

    Hive's `key=value` folders are never hidden: a partition column may begin with `_`.
    """
    *folders, name = path.split("/")
    return name.startswith(("_", ".")) or any(
        part.startswith((".", "_")) and "=" not in part for part in folders
    )
