import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardrank.report.histogram import Histogram

VALUES = st.lists(st.floats(-30, 30), max_size=50)


@given(st.lists(VALUES, max_size=5))
def test_values_added_in_pieces_are_values_added_at_once(pieces) -> None:
    whole = Histogram.even(-24, 24, 12).add([value for piece in pieces for value in piece])
    parts = Histogram.even(-24, 24, 12)
    for piece in pieces:
        parts = parts.add(piece)
    assert parts.counts.tolist() == whole.counts.tolist()
    assert (parts.num, parts.least, parts.most) == (whole.num, whole.least, whole.most)


@given(VALUES)
def test_inside_of_its_edges_it_counts_as_numpy_does(values) -> None:
    inside = [value for value in values if -24 <= value <= 24]
    found = Histogram.even(-24, 24, 12).add(inside)
    assert found.counts.tolist() == np.histogram(inside, 12, (-24, 24))[0].tolist()


def test_values_outside_are_in_the_last_bins() -> None:
    assert Histogram.even(0, 2, 2).add([-5, 0.5, 9, 9]).counts.tolist() == [2, 2]


def test_a_quantile_is_exact_to_a_bin() -> None:
    values = np.random.default_rng(1).normal(size=10_000)
    found = Histogram.even(-5, 5, 100).add(values)
    for part in (0.0, 0.25, 0.5, 0.99, 1.0):
        assert found.quantile(part) == pytest.approx(np.quantile(values, part), abs=0.11)


def test_bins_that_grow_cover_what_they_are_asked_to() -> None:
    found = Histogram.doubling(8, 65536)
    assert (found.edges[0], found.edges[4], found.edges[-1]) == (8, 16, 65536)


def test_empty_ends_are_left_out_and_nothing_else() -> None:
    found = Histogram.even(0, 10, 10).add([3.5, 5.5]).trimmed()
    assert (found.edges.tolist(), found.counts.tolist()) == ([3, 4, 5, 6], [1, 0, 1])
    assert len(Histogram.even(0, 1, 4).trimmed().counts) == 4
    assert np.isnan(Histogram.even(0, 1, 4).quantile(0.5))
