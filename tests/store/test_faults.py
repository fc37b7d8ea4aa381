"""A shard is given up only for what it is, never for what happens around it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from shardrank.errors import InputError
from store.small_job import nested
from store.test_reader import fault, one_unit, read


def test_memory_that_runs_out_does_not_break_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    for place in ("shardrank.store.reader._read_rows", "shardrank.store.unit_table.check_nested"):
        for error in (MemoryError(), pa.ArrowMemoryError("malloc of size 1048576 failed")):
            with monkeypatch.context() as context:
                context.setattr(place, raising(error))
                with pytest.raises(InputError, match=r"not enough memory to read .*a\.parquet"):
                    read(storage, unit)


def test_a_shard_that_asks_for_more_memory_than_any_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    error = pa.ArrowMemoryError("malloc of size 17179869184 failed")
    monkeypatch.setattr("shardrank.store.reader._read_rows", raising(error))
    assert fault(storage, unit) == "not_parquet"


@pytest.mark.parametrize(
    "place", ["shardrank.store.reader._read_rows", "shardrank.store.unit_table.check_nested"]
)
def test_a_bug_of_ours_does_not_break_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    monkeypatch.setattr(place, raising(TypeError("a bug")))
    with pytest.raises(TypeError, match="a bug"):
        read(storage, unit)


def test_what_fails_after_the_reading_does_not_break_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, unit = one_unit(tmp_path, nested(["a"]))
    error = pa.ArrowNotImplementedError("no kernel")
    monkeypatch.setattr("shardrank.store.unit_table.check_nested", raising(error))
    with pytest.raises(pa.ArrowNotImplementedError, match="no kernel"):
        read(storage, unit)


def raising(error: Exception) -> Any:
    def fail(*_: object) -> None:
        raise error

    return fail
