"""The layout `prefix`: a prompt after a past, beside the same prompt from its first token."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from graph_models import SHAPES, Built, build, build_from, pad, random_prompts
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

EXACT = ("fp32", "w8a8", "int8", "int4")
FUSED = pytest.param(
    ("w8a8", "fused-prefix"),
    marks=pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler"),
    id="fused w8a8",
)


@pytest.fixture(scope="module", name="folder")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefix")


EACH = [*(pytest.param((precision, "prefix"), id=precision) for precision in EXACT), FUSED]


@pytest.fixture(scope="module", params=EACH, name="built")
def build_each(request: pytest.FixtureRequest, folder: Path) -> Built:
    precision, layout = request.param
    return build(folder / layout / precision, SHAPES["wide heads"], precision, layout)


def after_a_past(built: Built, prompt: np.ndarray, *cuts: int) -> np.ndarray:
    """Logits [1, 2] of a prompt that is given in pieces."""
    past = None
    for start, stop in zip((0, *cuts), cuts, strict=False):
        past = built.session.extend(prompt[None, start:stop], past)
        assert past.num_tokens == stop
    rest = prompt[None, cuts[-1] if cuts else 0 :]
    return built.session.run(rest, np.ones_like(rest), past)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_in_pieces_scores_as_the_oracle_scores_it_whole(
    tmp_path: Path, shape: str
) -> None:
    built = build(tmp_path, SHAPES[shape], layout="prefix")
    prompts = random_prompts((61, 128, 7))
    found = np.concatenate([after_a_past(built, prompts[0], 20, 42),
                            after_a_past(built, prompts[1], 100),
                            after_a_past(built, prompts[2], 2, 4, 6)])  # fmt: skip
    np.testing.assert_allclose(found, built.expected(prompts), rtol=0, atol=1e-4)


def test_every_number_of_new_tokens_scores_bit_for_bit_as_without_a_past(built: Built) -> None:
    for num_new in range(1, 34):
        for num_past in (2, 30, 70):
            (prompt,) = random_prompts([num_past + num_new], seed=num_new)
            whole = after_a_past(built, prompt)
            np.testing.assert_array_equal(after_a_past(built, prompt, num_past), whole)


def test_long_prompts_in_pieces_of_any_size_keep_their_bits(built: Built) -> None:
    (prompt,) = random_prompts([513])
    whole = after_a_past(built, prompt)
    for size in (64, 130, 256, 510):
        cuts = range(size, 513, size)
        np.testing.assert_array_equal(after_a_past(built, prompt, *cuts), whole)


def test_without_a_past_it_is_the_layout_padded(built: Built, tmp_path: Path) -> None:
    padded = build_from(built.source, tmp_path / "padded", built.model.precision)
    prompts = random_prompts((40, 3, 129, 257))
    for side in ("left", "right"):
        found, expected = built.logits(prompts, side), padded.logits(prompts, side)
        if built.model.layout == "prefix":
            np.testing.assert_array_equal(found, expected)
        else:
            # Rounded elsewhere: by no more than w8a8 moves them itself.
            moved = np.abs(expected - built.expected(prompts)).max()
            assert np.abs(found - expected).max() < 2 * moved


def test_only_the_layout_prefix_takes_a_past(built: Built, tmp_path: Path) -> None:
    padded = build_from(built.source, tmp_path / "padded", built.model.precision)
    assert built.session.takes_past
    assert not padded.session.takes_past


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_has_no_layout_prefix(
    folder: Path, tmp_path: Path, built: Built, precision: str
) -> None:
    with pytest.raises(ModelError, match="the layout 'prefix' is for CPUs"):
        prepare(built.source, tmp_path / "model", precision=precision, layout="prefix")


def test_the_past_of_a_prompt_stays_as_it_was(built: Built) -> None:
    front, one, other = random_prompts((30, 12, 9))
    past = built.session.extend(front[None])
    expected = built.session.run(one[None], np.ones((1, 12), np.int64), past)
    built.session.run(other[None], np.ones((1, 9), np.int64), past)
    found = built.session.run(one[None], np.ones((1, 12), np.int64), past)
    np.testing.assert_array_equal(found, expected)


def test_a_batch_without_a_past_may_be_padded_and_mixed(built: Built) -> None:
    prompts = random_prompts((5, 33, 64))
    alone = np.concatenate([built.logits([prompt]) for prompt in prompts])
    np.testing.assert_array_equal(built.session.run(*pad(prompts, 300, extra=3)), alone)


def test_prompts_of_any_lengths_go_on_together_after_one_past_bit_for_bit(built: Built) -> None:
    front, *ends = random_prompts((30, 1, 12, 2, 33, 7, 45))
    past = built.session.extend(front[None])
    assert built.session.batches_past
    whole = np.concatenate([built.logits([np.concatenate([front, end])]) for end in ends])
    for side in ("left", "right"):
        found = built.session.run(*pad(ends, built.model.pad_id, side), past)
        np.testing.assert_array_equal(found, whole)
    # One row again, after several.
    found = built.session.run(*pad(ends[3:4], built.model.pad_id), past)
    np.testing.assert_array_equal(found, whole[3:4])


def test_every_number_of_prompts_goes_on_together_bit_for_bit(built: Built) -> None:
    front, *ends = random_prompts((70, *range(1, 34)))
    past = built.session.extend(front[None])
    whole = np.concatenate([built.logits([np.concatenate([front, end])]) for end in ends])
    for number in range(1, 34):
        found = built.session.run(*pad(ends[:number], built.model.pad_id), past)
        np.testing.assert_array_equal(found, whole[:number])


def test_fronts_that_are_computed_together_are_those_computed_alone(built: Built) -> None:
    trunk, *fronts, end = random_prompts((20, 2, 12, 30, 9))
    past = built.session.extend(trunk[None])
    if not built.session.shares_past:
        with pytest.raises(ValueError, match="gives the past of one row"):
            built.session.extend_each(*pad(fronts, built.model.pad_id), past)
        return
    for side in ("left", "right"):
        found = built.session.extend_each(*pad(fronts, built.model.pad_id, side), past)
        for front, each in zip(fronts, found, strict=True):
            assert each.num_tokens == 20 + len(front)
            rest = end[None], np.ones((1, 9), np.int64)
            alone = built.session.run(*rest, built.session.extend(front[None], past))
            np.testing.assert_array_equal(built.session.run(*rest, each), alone)


def test_the_beginning_that_was_asked_for_last_is_remembered(built: Built) -> None:
    one, other = random_prompts((30, 30))
    past = built.session.extend(one[None])
    assert (built.session.extend(one[None]) is past) == built.session.shares_past
    assert built.session.extend(other[None]) is not past
    end = np.array([[5, 6, 7]])
    whole = built.logits([np.concatenate([other, end[0]])])
    again = built.session.extend(other[None])
    np.testing.assert_array_equal(built.session.run(end, np.ones_like(end), again), whole)
