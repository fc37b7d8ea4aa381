"""Every kind of head is cut to two columns that say what the whole head says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from exports import NO, YES, make_export
from graph_models import pad, random_prompts
from heads import HEADS, HIDDEN, MATRIX, VOCABULARY, Parts, dynamic_whole, node
from shardrank.engine.onnx_session import open_session
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare


def run_whole(path: Path, prompt: np.ndarray) -> np.ndarray:
    """yes and no among all logits of the last token, float32 [2]."""
    session = onnxruntime.InferenceSession(str(path))
    feeds = {"input_ids": prompt[None], "attention_mask": np.ones((1, len(prompt)), np.int64)}
    given = {value.name for value in session.get_inputs()}
    feeds = {name: values for name, values in feeds.items() if name in given}
    return session.run(["logits"], feeds)[0].reshape(-1, VOCABULARY)[-1][[YES, NO]]


def export(folder: Path, parts: Parts, name: str = "model.onnx") -> Path:
    # A graph that never reads its mask keeps it as an input, as exporters do.
    return make_export(folder / name, parts[0], parts[1], hidden=HIDDEN, vocabulary=VOCABULARY)


def cut(path: Path, prompts: Sequence[np.ndarray], together: bool) -> np.ndarray:
    folder = path.parent / "model"
    session = open_session(folder, prepare(path, folder), threads=1)
    batches = [list(prompts)] if together else [[prompt] for prompt in prompts]
    return np.concatenate([session.run(*pad(batch, 0)) for batch in batches])


@pytest.mark.parametrize("kind", HEADS)
def test_two_columns_say_what_the_whole_head_says(kind: str, tmp_path: Path) -> None:
    path = export(tmp_path, HEADS[kind])
    prompts = random_prompts([2, 7, 1, 12, 12])
    expected = np.stack([run_whole(path, prompt) for prompt in prompts])
    found = cut(path, prompts, together="dynamic" not in kind)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


REFUSED = {
    "Softmax": (
        [node("MatMul", "hidden w", "product"), node("Softmax", "product", "logits")],
        r"the logits come from node '/logits' \(Softmax\), behind which no head was found",
    ),
    "a weight that is computed": (
        [node("Mul", "w w", "square"), node("MatMul", "hidden square", "logits")],
        r"node '/logits' \(MatMul\) should be the head, and its weight square is made by Mul",
    ),
    "the first token": (
        [node("Gather", "hidden zero", "row", axis=1), node("MatMul", "row w", "logits")],
        r"node '/row' \(Gather\) of the head takes tokens other than the last",
    ),
    "all but the last token": (
        [node("Slice", "hidden start stop axes", "row"), node("MatMul", "row w", "logits")],
        r"node '/row' \(Slice\) of the head takes tokens other than the last",
    ),
    "an unknown scale": (
        [
            node("ReduceMax", "hidden", "peak"),
            node("MatMul", "hidden w", "product"),
            node("Mul", "product peak", "logits"),
        ],
        r"node '/logits' \(Mul\) of the head reads peak, which is neither fixed nor a scale",
    ),
    "a weight of another size": (
        [node("MatMul", "hidden w", "product"), node("Add", "product odd", "logits")],
        r"node '/logits' \(Add\) of the head reads a weight of shape \[1, 2, 397\]",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_another_head_is_refused_by_node(kind: str, tmp_path: Path) -> None:
    nodes, message = REFUSED[kind]
    weights = {
        "w": MATRIX,
        "zero": np.array(0),
        "start": np.array([0]),
        "stop": np.array([-1]),
        "axes": np.array([1]),
        "odd": np.zeros((1, 2, VOCABULARY), np.float32),
    }
    with pytest.raises(ModelError, match=message):
        prepare(export(tmp_path, (nodes, weights)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_classifier_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path, ([node("MatMul", "hidden w", "logits")], {"w": MATRIX[:, :2]}))
    with pytest.raises(ModelError, match=r"ids up to 396 and the head's number of columns = 2"):
        prepare(path, tmp_path / "model")


def test_an_operator_that_quantizes_by_itself_is_refused_where_it_differs(tmp_path: Path) -> None:
    """DynamicQuantizeMatMul would take its scale from the last tokens alone."""
    path = export(tmp_path, dynamic_whole())
    with pytest.raises(ModelError, match="after mending, its logits differ by"):
        prepare(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()
