"""Where a sample is drawn from."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.sample import choose
from shardrank.types import Shard, Unit


def units_of(sizes: list[int], pairs_a_row: int = 1) -> list[Unit]:
    """A shard for each size, in units of up to 100 rows."""
    units: list[Unit] = []
    for number, size in enumerate(sizes):
        shard = Shard(f"{number}.parquet", 1, "", size)
        for start in range(0, size, 100):
            stop = min(size, start + 100)
            units.append(Unit(len(units), shard, start, stop, (stop - start) * pairs_a_row))
    return units


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=20), st.integers(1, 30))
def test_no_row_is_drawn_twice_and_all_lie_in_their_units(sizes: list[int], pairs: int) -> None:
    units = {unit.number: unit for unit in units_of(sizes)}
    drawn: Counter[tuple[str, int]] = Counter()
    for part in choose(list(units.values()), 24, pairs):
        unit = units[part.number]
        assert unit.row_start <= part.row_start < part.row_stop <= unit.row_stop  # type: ignore[operator]
        drawn.update((part.shard.path, row) for row in range(part.row_start, part.row_stop or 0))
    assert drawn
    assert max(drawn.values()) == 1


def test_a_shard_is_drawn_from_as_often_as_it_has_pairs() -> None:
    drawn = Counter(part.shard.path for part in choose(units_of([9000, 1000, 2000]), 24, 10))
    assert drawn == {"0.parquet": 18, "1.parquet": 2, "2.parquet": 4}


def test_wide_rows_are_drawn_whole() -> None:
    parts = choose(units_of([1000], pairs_a_row=50), 4, 48)
    assert [(part.row_stop or 0) - part.row_start for part in parts] == [1, 1, 1, 1]


def test_units_of_unknown_size_are_left_out() -> None:
    broken = Unit(0, Shard("0.parquet", 1, "", None), 0, None, None)
    assert choose([broken], 24, 48) == []
    assert choose([], 24, 48) == []
