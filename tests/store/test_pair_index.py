"""The index of an output's pairs: what was put in is found, and nothing else."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardrank.errors import OutputError
from shardrank.store.filesystem import Storage
from shardrank.store.pair_hash import HashArray, as_arrow
from shardrank.store.pair_index import (
    INDEX_NAME,
    INDEX_SCHEMA,
    ROWS_PER_GROUP,
    Buckets,
    PairIndex,
    write_bucket,
)


def random_hashes(num: int, seed: int = 0, queries: int = 0) -> HashArray:
    """queries: how many first halves there are; 0 for as many as hashes."""
    numbers = np.random.default_rng(seed)
    hashes = numbers.integers(0, 256, (num, 16), np.uint8)
    if queries:
        hashes[:, :4] = hashes[numbers.integers(0, queries, num), :4]
    return hashes


def table_of(hashes: HashArray) -> pa.Table:
    """Values that follow from the hashes, so that a mix-up is seen."""
    first = hashes[:, 8].astype(np.int32)
    columns = [as_arrow(hashes), first.astype(np.float32) / 7, first + 1, first % 2 == 0]
    return pa.table([pa.array(column) for column in columns], INDEX_SCHEMA.names)


def build(storage: Storage, hashes: HashArray, most: int) -> PairIndex:
    unsplit = Buckets(max(1, -(-len(hashes) // most)))
    counts = np.bincount(unsplit.numbers(hashes), minlength=unsplit.num)
    buckets = Buckets.of(counts, most)
    keys = buckets.keys(hashes)
    for key in np.unique(keys):
        write_bucket(storage, int(key), table_of(hashes[keys == key]))
    index = PairIndex(storage, buckets)
    index.finish()
    return index


def check(index: PairIndex, known: HashArray, asked: HashArray, places: np.ndarray) -> None:
    found = index.find(asked, places)
    is_known = {row.tobytes() for row in known}
    expected = [place for place in places.tolist() if asked[place].tobytes() in is_known]
    assert found.places.tolist() == expected
    values = table_of(asked[expected])
    np.testing.assert_array_equal(found.log_odds, values["log_odds"].to_numpy())
    np.testing.assert_array_equal(found.num_tokens, values["num_tokens"].to_numpy())
    np.testing.assert_array_equal(found.truncated, values["truncated"].to_numpy())


@settings(max_examples=30)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 5), st.integers(0, 10))
def test_what_was_put_in_is_found_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, num: int, most: int, queries: int, seed: int
) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("index")))
    known = random_hashes(num, seed, min(queries, num))
    built = build(storage, known, most)
    index = PairIndex.load(storage)
    assert index == built
    asked = np.concatenate([random_hashes(20, seed + 99), known[::2], known[:5]])
    check(index, known, asked, np.arange(0, len(asked), 1 + seed % 3))


def test_pairs_of_one_query_lie_in_one_bucket() -> None:
    hashes = random_hashes(1000, queries=1)
    assert len(set(Buckets(64).keys(hashes).tolist())) == 1


def test_a_query_with_very_many_pairs_is_spread_over_buckets_of_bounded_size() -> None:
    hashes = np.concatenate([random_hashes(20_000, queries=1), random_hashes(2_000, seed=1)])
    unsplit = Buckets(22)
    buckets = Buckets.of(np.bincount(unsplit.numbers(hashes), minlength=22), 1000)
    sizes = np.bincount(buckets.keys(hashes), minlength=buckets.num_files)
    assert len(sizes) == buckets.num_files
    assert sizes.max() <= 2000


def test_only_the_row_groups_that_may_hold_a_hash_are_read(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    known = random_hashes(5 * ROWS_PER_GROUP)
    index = build(storage, known, 1 << 20)
    check(index, known, known, np.array([3, 4 * ROWS_PER_GROUP]))
    below = np.zeros((1, 16), np.uint8)
    assert len(index.find(below, np.arange(1))) == 0


def test_a_hash_with_two_scores_keeps_the_lower_whatever_the_order(tmp_path: Path) -> None:
    hashes = np.repeat(random_hashes(1), 2, axis=0)
    for number, scores in enumerate(([1.0, 2.0], [2.0, 1.0])):
        storage = Storage(str(tmp_path / str(number)))
        table = table_of(hashes).set_column(1, "log_odds", pa.array(scores, pa.float32()))
        write_bucket(storage, 0, table)
        found = PairIndex(storage, Buckets(1)).find(hashes, np.arange(2))
        assert found.log_odds.tolist() == [1.0, 1.0]


def test_a_second_builder_changes_nothing(tmp_path: Path) -> None:
    storage, known = Storage(str(tmp_path)), random_hashes(50)
    build(storage, known, 10)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert build(storage, known, 10) == PairIndex.load(storage)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_there_is_no_index_before_it_is_finished(tmp_path: Path) -> None:
    storage, known = Storage(str(tmp_path)), random_hashes(50)
    index = build(storage, known, 10)
    (tmp_path / INDEX_NAME).unlink()
    assert PairIndex.load(storage) is None
    index.finish()
    assert PairIndex.load(storage) == index


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format_version":1,"buckets":[],"splits":1}']
)
def test_a_damaged_index_is_named_with_the_remedy(tmp_path: Path, content: str) -> None:
    storage = Storage(str(tmp_path))
    storage.create_exclusive(INDEX_NAME, content.encode())
    with pytest.raises(OutputError, match=r"index\.json is damaged .* delete the folder"):
        PairIndex.load(storage)


def test_a_damaged_bucket_is_named_with_the_remedy(tmp_path: Path) -> None:
    storage, known = Storage(str(tmp_path)), random_hashes(50)
    index = build(storage, known, 100)
    (tmp_path / "_shardrank/reuse/000000.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(OutputError, match=r"000000\.parquet cannot be read .* delete the folder"):
        index.find(known, np.arange(3))


def test_an_index_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.create_exclusive(INDEX_NAME, b'{"format_version":2,"buckets":1,"splits":[]}')
    with pytest.raises(OutputError, match="format 2"):
        PairIndex.load(storage)
