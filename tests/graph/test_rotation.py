"""A rotation spreads what is loud and leaves every product what it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from shardrank.graph.quantize import quantize_rows
from shardrank.graph.rotation import hadamard, rotate_values, rotate_weights, rotation_size

floats = st.floats(-100, 100, width=32)


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32])
def test_the_matrix_is_hadamards(size: int) -> None:
    matrix = hadamard(size)
    assert (np.abs(matrix) == 1).all()
    np.testing.assert_array_equal(matrix @ matrix.T, size * np.eye(size))


@given(
    values=arrays(np.float32, (3, 64), elements=floats),
    weights=arrays(np.float32, (5, 64), elements=floats),
    size=st.sampled_from([1, 4, 32]),
)
def test_products_stay_what_they_were(values: np.ndarray, weights: np.ndarray, size: int) -> None:
    found = rotate_values(values, size) @ rotate_weights(weights, size).T
    bound = 1e-5 * np.linalg.norm(values) * np.linalg.norm(weights) + 1e-30
    assert (np.abs(found - values @ weights.T) <= bound).all()


@pytest.mark.parametrize(
    ("name", "num_inputs", "expected"),
    [
        ("layers.0.mlp.down_proj", 3072, 32),
        ("layers.0.mlp.down_proj", 112, 16),
        ("layers.0.mlp.down_proj", 33, 1),
        ("layers.0.self_attn.o_proj", 2048, 1),
    ],
)
def test_only_the_input_of_down_proj_is_rotated(name: str, num_inputs: int, expected: int) -> None:
    assert rotation_size(name, num_inputs) == expected


def test_values_with_heavy_tails_are_rounded_with_less_error() -> None:
    random = np.random.default_rng(0)
    # As silu(gate) x up makes them.
    values = np.prod(random.standard_normal((2, 200, 3072)), axis=0).astype(np.float32)

    def error(rows: np.ndarray) -> float:
        integers, scales = quantize_rows(rows)
        return float(np.sqrt(np.mean((integers * scales[:, None] - rows) ** 2 / np.mean(rows**2))))

    assert error(rotate_values(values, 32)) < 0.6 * error(values)
