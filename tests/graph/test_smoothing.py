"""Smoothing changes no score of the exact model, and makes 8-bit products nearer where it can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import load_file, save_file

from graph_models import SHAPES, build_from, random_prompts
from oracles.checkpoints import Shape, make_random_checkpoint
from oracles.numpy_qwen3 import NumpyQwen3
from shardrank.graph.architecture import parse_architecture
from shardrank.graph.product_group import ProductGroup, product_groups
from shardrank.graph.smoothing import (
    SmoothedCheckpoint,
    choose_smoothing,
    fold_scales,
    product_error,
    smoothing_scales,
)
from shardrank.graph.tuning import TuningRequest
from shardrank.graph.weights import Checkpoint

WHOLE = (1, 1, 16)
floats = st.floats(-100, 100, width=32)


def random_scales(groups: list[ProductGroup]) -> dict[str, np.ndarray]:
    """Powers of two, the same for the heads that share a value."""
    random = np.random.default_rng(0)
    scales = {}
    for group in groups:
        sources, _, size = group.heads
        exponents = random.integers(-4, 5, (sources, 1, size))
        scales[group.name] = np.broadcast_to(2.0**exponents, group.heads).astype(np.float32)
    return {name: values.reshape(-1) for name, values in scales.items()}


def smoothed_by_chance(source: Path) -> SmoothedCheckpoint:
    groups = product_groups(parse_architecture(Checkpoint(source).config))
    return SmoothedCheckpoint(source, *fold_scales(groups, random_scales(groups)))


def save_scaled(checkpoint: SmoothedCheckpoint, folder: Path) -> Path:
    """The scaled tensors as a checkpoint of their own."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((checkpoint.folder / name).read_bytes())
    tensors = {name: checkpoint.read(name) for name in checkpoint.names}
    save_file({f"model.{n}" if n != "lm_head.weight" else n: t for n, t in tensors.items()},
              folder / "model.safetensors")  # fmt: skip
    return folder


@pytest.mark.parametrize("shape", ["grouped", "ungrouped", "untied", "head size of its own"])
def test_any_scales_leave_the_model_what_it_was(tmp_path: Path, shape: str) -> None:
    source = make_random_checkpoint(tmp_path / "source", SHAPES[shape])
    scaled = save_scaled(smoothed_by_chance(source), tmp_path / "scaled")
    before, after = NumpyQwen3(source), NumpyQwen3(scaled)
    changed = [
        name for name in before.weights if (before.weights[name] != after.weights[name]).any()
    ]
    # All but the table, the head, the last norm, and the norms of queries and keys.
    assert len(changed) == 9 * SHAPES[shape].num_layers
    for prompt in random_prompts((1, 7, 40)):
        np.testing.assert_allclose(
            after.logits(prompt, 3, 5), before.logits(prompt, 3, 5), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("shape", ["grouped", "ungrouped", "untied"])
def test_the_smoothed_graph_in_fp32_gives_the_same_bits(tmp_path: Path, shape: str) -> None:
    source = make_random_checkpoint(tmp_path / "source", SHAPES[shape])
    plain = build_from(source, tmp_path / "plain")
    scaled = save_scaled(smoothed_by_chance(source), tmp_path / "scaled")
    smoothed = build_from(scaled, tmp_path / "smoothed")
    prompts = random_prompts((1, 7, 40, 129))
    np.testing.assert_array_equal(smoothed.logits(prompts), plain.logits(prompts))
    np.testing.assert_allclose(smoothed.logits(prompts), plain.expected(prompts), rtol=0, atol=1e-4)


def test_rows_are_scaled_as_the_whole_is(tmp_path: Path) -> None:
    checkpoint = smoothed_by_chance(make_random_checkpoint(tmp_path / "source"))
    for name in ("layers.0.self_attn.v_proj.weight", "layers.1.mlp.up_proj.weight"):
        whole = checkpoint.read(name)
        np.testing.assert_array_equal(checkpoint.read_rows(name, 3, 9), whole[3:9])
        np.testing.assert_array_equal(np.concatenate(list(checkpoint.blocks(name))), whole)


@given(
    activations=arrays(np.float32, (5, 16), elements=floats),
    weights=arrays(np.float32, (3, 16), elements=floats),
    strength=st.floats(0, 1),
)
def test_scales_are_powers_of_two_and_bounded(
    activations: np.ndarray, weights: np.ndarray, strength: float
) -> None:
    scales = smoothing_scales(activations, [weights], strength, WHOLE)
    assert scales.dtype == np.float32
    assert (np.frexp(scales)[0] == 0.5).all()
    assert (scales >= 2**-15).all()
    assert (scales <= 2**15).all()
    is_dead = (activations == 0).all(axis=0) | (weights == 0).all(axis=0)
    assert (scales[is_dead] == 1).all()


@given(
    activations=arrays(np.float32, (5, 16), elements=floats),
    weights=arrays(np.float32, (3, 16), elements=floats),
    exponents=arrays(np.int64, (5, 1), elements=st.integers(-20, 20)),
    others=arrays(np.int64, (3, 1), elements=st.integers(-20, 20)),
)
def test_loud_tokens_and_heavy_outputs_have_one_vote_each(
    activations: np.ndarray, weights: np.ndarray, exponents: np.ndarray, others: np.ndarray
) -> None:
    # Of normal size, so that scaling is exact.
    activations[np.abs(activations) < 1e-6] = 0
    weights[np.abs(weights) < 1e-6] = 0
    np.testing.assert_array_equal(
        smoothing_scales(activations, [weights], 0.5, WHOLE),
        smoothing_scales(np.ldexp(activations, exponents), [np.ldexp(weights, others)], 0.5, WHOLE),
    )


def test_heads_that_share_a_value_share_its_scales() -> None:
    random = np.random.default_rng(0)
    heads = (2, 3, 4)
    values = random.standard_normal((50, 24)).astype(np.float32)
    values[:, 5] *= 100
    weights = random.standard_normal((8, 24)).astype(np.float32)
    scales = smoothing_scales(values, [weights], 1, heads).reshape(heads)
    assert (scales == scales[:, :1]).all()
    # Channel 5 is channel 1 of the first value's second head.
    assert scales[0, 0, 1] == scales.max() > 16


def layer_group(num_inputs: int) -> ProductGroup:
    return ProductGroup("a", 0, ("b",), num_inputs, 32, "c.weight", (1, 1, num_inputs), False)


def test_a_loud_channel_is_smoothed_and_the_error_falls() -> None:
    random = np.random.default_rng(0)
    activations = random.standard_normal((100, 64)).astype(np.float32)
    activations[:, 7] *= 100
    weights = [random.standard_normal((32, 64)).astype(np.float32)]
    weights[0][:, 7] /= 100
    chosen = choose_smoothing(layer_group(64), activations, weights)
    assert chosen.strength is not None
    assert chosen.error_after < chosen.error_before / 5
    assert chosen.error_after == product_error(activations, weights, chosen.scales)


def test_what_is_even_already_is_left_alone() -> None:
    random = np.random.default_rng(0)
    activations = random.standard_normal((100, 64)).astype(np.float32)
    weights = [random.standard_normal((32, 64)).astype(np.float32)]
    chosen = choose_smoothing(layer_group(64), activations, weights)
    assert chosen.strength is None
    assert (chosen.scales == 1).all()
    assert 0 < chosen.error_after == chosen.error_before < 0.05


@given(
    values=arrays(np.float32, (6, 12), elements=floats),
    weights=arrays(np.float32, (4, 12), elements=floats),
)
def test_the_choice_is_never_worse_on_its_sample(values: np.ndarray, weights: np.ndarray) -> None:
    chosen = choose_smoothing(layer_group(12), values, [weights])
    assert chosen.error_after <= chosen.error_before


def spoil(source: Path) -> None:
    """Loud channels before query, key, value, gate and up, which their weights undo."""
    path = source / "model.safetensors"
    tensors = {name: value.copy() for name, value in load_file(path).items()}
    for name, value in tensors.items():
        if name.endswith("layernorm.weight"):
            value[[3, 50]] *= 64
        elif value.ndim == 2 and name.endswith(
            (
                "q_proj.weight",
                "k_proj.weight",
                "v_proj.weight",
                "gate_proj.weight",
                "up_proj.weight",
            )
        ):
            value[:, [3, 50]] /= 64
    save_file(tensors, path)


def test_a_spoilt_checkpoint_in_w8a8_is_mended(tmp_path: Path) -> None:
    source = make_random_checkpoint(tmp_path / "source", Shape(num_layers=2, hidden=128))
    spoil(source)
    prompts = random_prompts(np.resize((20, 5, 33, 64), 40))
    plain = build_from(source, tmp_path / "plain", "w8a8")
    smoothed = build_from(source, tmp_path / "smoothed", "w8a8", tuning=TuningRequest(smooth=True))
    exact = plain.expected(prompts)
    errors = [np.sqrt(np.mean((built.logits(prompts) - exact) ** 2)) for built in (plain, smoothed)]
    assert errors[1] < errors[0] / 5
