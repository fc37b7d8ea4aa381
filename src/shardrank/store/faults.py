"""The edge of a shard: what goes wrong while pyarrow reads is the shard's fault, or the store's.

Only reading and decoding belong inside: a shard that has a fault is given up for ever.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from shardrank.errors import InputError, ShardError, ShardrankError
from shardrank.store.filesystem import Storage
from shardrank.types import Shard

_MAX_HONEST_BYTES = 8 << 30
"""More in one piece than any unit that may be read (MAX_UNIT_BYTES) can need."""
_BUGS = (TypeError, AttributeError, NameError, AssertionError)


@dataclass(slots=True)
class Caught:
    """What was caught: None as long as nothing was."""

    fault: ShardError | None = None


@contextmanager
def shard_fault(storage: Storage, shard: Shard) -> Iterator[Caught]:
    """Catch what a broken shard can raise; pyarrow has no narrower word for it than Exception.

    A failure of the store is not the shard's fault, nor is too little memory: both raise
    InputError, since a shard must not be given up for ever because a network was down, a
    permission was missing or a machine was full. What can only be a bug is raised as it is.
    """
    caught = Caught()
    try:
        with enough_memory(storage, shard):
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
        if isinstance(error, _BUGS) and not isinstance(error, pa.ArrowException):
            raise
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


@contextmanager
def enough_memory(storage: Storage, shard: Shard) -> Iterator[None]:
    """Raise InputError where memory runs out: with more of it, the shard can be read.

    A damaged shard may ask for any amount: what no honest one needs is ArrowInvalid.
    """
    try:
        yield
    except MemoryError as error:
        if isinstance(error, pa.ArrowException) and _num_bytes(error) > _MAX_HONEST_BYTES:
            raise pa.ArrowInvalid(f"it asks for more memory than a shard needs: {error}") from error
        raise InputError(
            f"not enough memory to read {storage.display(shard.path)} ({_one_line(error)}); run "
            "the same command again with fewer actors or a smaller units.pairs"
        ) from error


def _num_bytes(error: Exception) -> int:
    """What was asked for, as Arrow says it: "malloc of size 123 failed"; 0 if it does not."""
    found = re.search(r"of size (\d+) failed", str(error))
    return int(found[1]) if found else 0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).encode("utf-8", "replace").decode().split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}..."
