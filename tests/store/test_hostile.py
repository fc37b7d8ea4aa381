"""Parquet files made to break readers cost themselves, and nothing else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.config import InputColumns
from shardrank.errors import ShardError
from shardrank.store import reader
from shardrank.store.filesystem import Storage
from shardrank.store.footers import Footer, read_footers
from shardrank.store.reader import read_unit
from shardrank.store.units import cut_units, list_shards
from shardrank.types import Layout
from store.small_job import nested, pairs, parquet

HOSTILE = Path(__file__).parents[2].parent / "shared/data/hostile-parquet"
FILES = sorted(HOSTILE.glob("*.parquet"))


def read_all(path: str, layout: Layout, columns: InputColumns) -> Footer:
    """Plan and read one shard; only a ShardError may come of it."""
    storage, shards = list_shards(path)
    [footer] = read_footers(storage, shards, layout, columns)
    for unit in cut_units([footer], 1000, layout)[:3]:
        try:
            unit_table = read_unit(storage, unit, layout, columns, 1000)
        except ShardError:
            continue
        assert unit_table.table.num_rows == unit_table.num_rows
        assert len(unit_table.texts) == unit_table.num_pairs
    return footer


@pytest.mark.skipif(not FILES, reason="the hostile files are not there")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-24:])
def test_a_hostile_file_is_read_or_refused(path: Path) -> None:
    for layout in ("nested", "pairs"):
        footer = read_all(str(path), layout, InputColumns())
        assert footer.fault is not None


@pytest.mark.skipif(not FILES, reason="the hostile files are not there")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[-24:])
def test_a_hostile_file_whose_columns_fit_is_read_or_refused(path: Path) -> None:
    storage, shards = list_shards(str(path))
    [footer] = read_footers(storage, shards, "pairs", InputColumns())
    names = [] if footer.schema is None else footer.schema.names
    for name in filter(None, names[:4]):
        columns = InputColumns(query_id=name, query=name, doc_id=name, text=name)
        read_all(str(path), "pairs", columns)


SHARDS: dict[str, tuple[Layout, bytes]] = {
    "nested": ("nested", parquet(nested(["a", None, "b" * 100], None, [], ["c"]))),
    "pairs": ("pairs", parquet(pairs(["a", "a", None, "b", "a"]), row_group_size=2)),
}


@pytest.mark.parametrize(("layout", "data"), SHARDS.values(), ids=SHARDS)
@given(
    where=st.integers(0, 10**6), value=st.integers(0, 255), length=st.none() | st.integers(0, 10**6)
)
def test_a_damaged_byte_or_end_costs_the_shard_at_most(
    layout: Layout, data: bytes, where: int, value: int, length: int | None
) -> None:
    damaged = bytearray(data)
    damaged[where % len(data)] = value
    if length is not None:
        del damaged[length % len(data) :]
    storage = Storage(f"memory://damaged-{layout}", "input")
    storage.replace("a.parquet", bytes(damaged))
    read_all(storage.url, layout, InputColumns())


class Keys(pe.KmsClient):
    """A key service that gives keys away."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        return key_bytes.hex()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        return bytes.fromhex(wrapped_key)


def test_an_encrypted_column_under_a_plain_footer_costs_the_shard() -> None:
    """pyarrow's own look at such a column ends the process."""
    factory = pe.CryptoFactory(lambda _: Keys())
    encryption = pe.EncryptionConfiguration(
        "footer", column_keys={"text": ["text"]}, plaintext_footer=True
    )
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), encryption)
    storage = Storage("memory://encrypted", "input")
    storage.replace("a.parquet", parquet(pairs(["a"]), encryption_properties=properties))
    fault = read_all(storage.url, "pairs", InputColumns()).fault
    assert fault is not None
    assert fault.code == "not_parquet"


def test_a_dictionary_that_inflates_is_given_up_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_UNIT_BYTES", 50 << 20)
    dictionary = pa.DictionaryArray.from_arrays(
        pa.nulls(3000, pa.int32()).fill_null(0), ["x" * 10**5]
    )
    table = pairs([str(n // 10) for n in range(3000)]).set_column(3, "text", dictionary)
    data = parquet(table, store_schema=False)
    assert len(data) < 10**6
    storage = Storage("memory://inflates", "input")
    storage.replace("a.parquet", data)
    source, shards = list_shards(storage.url)
    footers = read_footers(source, shards, "pairs", InputColumns())
    [unit] = cut_units(footers, 10**6, "pairs")
    with pytest.raises(ShardError, match="more than the") as error:
        read_unit(source, unit, "pairs", InputColumns(), 1000)
    assert error.value.code == "row_group_too_large"
