"""Files whose content is known beforehand, so that a second attempt writes the same."""

from __future__ import annotations

from shardrank.errors import OutputError
from shardrank.store.filesystem import Storage


def create_same(storage: Storage, name: str, content: bytes) -> None:
    """Write a file; one that is there already, from an attempt that died, must be the same.

    Raises OutputError if it is not.
    """
    try:
        storage.create_exclusive(name, content)
    except FileExistsError:
        if storage.read_bytes(name) != content:
            raise OutputError(
                f"{storage.display(name)} is there already and is not what this command writes; "
                "choose another folder, or move this one away and run the same command again"
            ) from None
