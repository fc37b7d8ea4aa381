"""The graph that was built says what the model says, however its rows are padded."""

from __future__ import annotations

import numpy as np
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_models import Built, pad, random_prompts

LENGTHS = (1, 2, 3, 7, 16, 33, 64, 100, 127, 128, 129, 200, 257, 400, 513, 600)


def test_logits_equal_the_numpy_model(built: Built) -> None:
    prompts = random_prompts(LENGTHS)
    expected = built.expected(prompts)
    np.testing.assert_allclose(built.logits(prompts), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.5


def test_padding_on_the_right_changes_no_bit(built: Built) -> None:
    prompts = random_prompts(LENGTHS)
    np.testing.assert_array_equal(built.logits(prompts, "right"), built.logits(prompts, "left"))


def test_a_prompt_alone_has_the_logits_of_its_row_in_a_batch_bit_for_bit(built: Built) -> None:
    prompts = random_prompts(LENGTHS)
    alone = np.concatenate([built.logits([prompt]) for prompt in prompts])
    np.testing.assert_array_equal(alone, built.logits(prompts))


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=12),
    side=st.sampled_from(["left", "right"]),
    extra=st.integers(0, 40),
    data=st.data(),
)
@settings(max_examples=40)
def test_a_prompt_has_the_same_logits_in_every_batch(
    grouped: Built, lengths: list[int], side: str, extra: int, data: st.DataObject
) -> None:
    prompts = random_prompts(lengths)
    order = data.draw(st.permutations(range(len(prompts))))
    shuffled = [prompts[place] for place in order]
    mixed = grouped.session.run(*pad(shuffled, grouped.model.pad_id, side, extra))
    alone = np.concatenate([grouped.logits([prompt]) for prompt in shuffled])
    np.testing.assert_array_equal(mixed, alone)


def test_a_row_with_padding_on_both_sides_is_exact(grouped: Built) -> None:
    prompts = random_prompts((40, 25))
    ids, mask = pad(prompts, grouped.model.pad_id)
    ids, mask = np.roll(ids, -10, axis=1)[1:], np.roll(mask, -10, axis=1)[1:]
    assert mask[0, 0] == mask[0, -1] == 0
    np.testing.assert_array_equal(grouped.session.run(ids, mask), grouped.logits(prompts[1:]))


def test_what_stands_in_the_padding_does_not_matter(grouped: Built) -> None:
    prompts = random_prompts((40, 3, 25))
    np.testing.assert_array_equal(
        grouped.session.run(*pad(prompts, pad_id=9)), grouped.session.run(*pad(prompts, pad_id=300))
    )


def test_a_row_without_tokens_does_not_disturb_its_neighbours(grouped: Built) -> None:
    prompts = random_prompts((40, 3, 25))
    ids, mask = pad(prompts, grouped.model.pad_id)
    mask[1] = 0
    # Our session refuses such a mask; the graph itself must be harmless too.
    session = onnxruntime.InferenceSession(grouped.folder / "model.onnx")
    (logits,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    assert np.isfinite(logits).all()
    expected = grouped.logits([prompts[0], prompts[2]])
    np.testing.assert_allclose(logits[[0, 2]], expected, rtol=0, atol=1e-6)


def test_the_longest_prompt_is_taken(grouped: Built) -> None:
    assert grouped.model.max_tokens == 1024
    prompts = random_prompts((1024, 1023))
    np.testing.assert_allclose(
        grouped.logits(prompts), grouped.expected(prompts), rtol=0, atol=1e-4
    )


def test_the_graph_gives_two_logits_and_nothing_else(grouped: Built) -> None:
    session = onnxruntime.InferenceSession(grouped.folder / "model.onnx")
    assert [(node.name, node.type, node.shape) for node in session.get_outputs()] == [
        ("logits", "tensor(float)", ["batch", 2])
    ]
    assert [(node.name, node.type) for node in session.get_inputs()] == [
        ("input_ids", "tensor(int64)"),
        ("attention_mask", "tensor(int64)"),
    ]
