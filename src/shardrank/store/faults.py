"""The edge of a shard: whatever goes wrong inside is the shard's fault, or the store's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shardrank.errors import InputError, ShardError, ShardrankError
from shardrank.store.filesystem import Storage
from shardrank.types import Shard


@dataclass(slots=True)
class Caught:
    """What was caught: None as long as nothing was."""

    fault: ShardError | None = None


@contextmanager
def shard_fault(storage: Storage, shard: Shard) -> Iterator[Caught]:
    """Catch what a broken shard can raise; pyarrow has no narrower word for it than Exception.

    A failure of the store is not the shard's fault, and raises InputError: a shard must not be
    given up for ever because a network was down or a permission was missing.
    """
    caught = Caught()
    try:
        yield caught
    except ShardError as error:
        caught.fault = error
    except ShardrankError:
        raise
    except FileNotFoundError as error:
        raise InputError(
            f"input changed: shard {shard.path} is no longer in {storage.display()}; put it back, "
            "or give the output another folder"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise InputError(
                f"cannot read {storage.display(shard.path)}: {error.strerror}; run the same "
                "command again when it can be read"
            ) from error
        caught.fault = ShardError(
            "not_parquet",
            f"shard {shard.path} is not a readable Parquet file: {type(error).__name__}: "
            f"{_one_line(error)}; replace it, or allow for it with errors.max_failed_shards",
        )


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).encode("utf-8", "replace").decode().split())
    return text if len(text) <= 300 else f"{text[:300]}..."
