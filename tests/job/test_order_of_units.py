"""In which order units are done, and how many at once."""

from hypothesis import given
from hypothesis import strategies as st

from shardrank.job.parcel import Order
from shardrank.job.pipeline import largest_first, waves
from shardrank.types import Shard, Unit


def unit(number: int, num_pairs: int | None) -> Unit:
    return Unit(number, Shard("a", 1, "", 1), 0, 1, num_pairs)


def test_unknown_and_large_units_come_first_and_equal_ones_in_their_order() -> None:
    units = [unit(0, 10), unit(1, 30), unit(2, None), unit(3, 30), unit(4, 20)]
    assert [found.number for found in largest_first(units)] == [2, 1, 3, 4, 0]


@given(st.integers(1, 300), st.integers(1, 60))
def test_every_order_is_in_one_wave_and_none_is_too_large(num_orders: int, most: int) -> None:
    orders = [Order(unit(number, 1)) for number in range(num_orders)]
    found = list(waves(orders, most))
    assert [order for wave in found for order in wave] == orders
    sizes = [len(wave) for wave in found]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-num_orders // most)
