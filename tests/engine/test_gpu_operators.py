"""The operators of engine/native on a GPU, against numpy: `pytest -m gpu`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.operators import build_library

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
        reason="this onnxruntime has no CUDA",
    ),
]

KINDS = {
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16, 2.0**-8),
    "fp16": (TensorProto.FLOAT16, np.float16, 2.0**-11),
}
EPSILON = 1e-6


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnxruntime.preload_dlls()
    capability = read_cuda_device().compute_capability
    return build_library(capability, tmp_path_factory.mktemp("cache"))


def run(
    library: Path, operator: str, kind: str, arrays: Mapping[str, np.ndarray], **attributes: float
) -> list[np.ndarray]:
    """Run one operator on arrays of float32; all but those called "float.*" become halves."""
    half = KINDS[kind][0]
    halves = [name for name in arrays if not name.startswith("float.")]
    outputs = [f"{name}.out" for name in halves][: 1 if operator == "SiluProduct" else 2]
    casts = [helper.make_node("Cast", [n], [f"{n}.half"], to=half) for n in halves]
    names = [f"{name}.half" if name in halves else name for name in arrays]
    node = helper.make_node(
        operator, names, [f"{n}.half" for n in outputs], domain="shardrank", **attributes
    )
    backs = [helper.make_node("Cast", [f"{n}.half"], [n], to=TensorProto.FLOAT) for n in outputs]
    graph = helper.make_graph(
        [*casts, node, *backs],
        "one",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("shardrank", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CUDAExecutionProvider"]
    )
    found: list[np.ndarray] = session.run(outputs, dict(arrays))
    return found


def halved(values: np.ndarray, kind: str) -> np.ndarray:
    return values.astype(KINDS[kind][1]).astype(np.float32)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 7, 3072), (2, 1001, 24)])
def test_gates_are_rounded_once(library: Path, kind: str, shape: tuple[int, ...]) -> None:
    gate, up = 4 * normal(*shape), normal(*shape, seed=1)
    (found,) = run(library, "SiluProduct", kind, {"gate": gate, "up": up})
    gate, up = (halved(values, kind).astype(np.float64) for values in (gate, up))
    expected = gate / (1 + np.exp(-gate)) * up
    np.testing.assert_allclose(found, expected, rtol=1.01 * KINDS[kind][2], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_far_from_zero_stay_finite(library: Path, kind: str) -> None:
    gate = np.array([[-1e4, -200, -90, -30, 30, 90, 200, 1e4]], np.float32)
    (found,) = run(library, "SiluProduct", kind, {"gate": gate, "up": np.ones_like(gate)})
    rounded = halved(gate, kind)
    np.testing.assert_allclose(found, np.where(rounded < 0, 0, rounded), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("head_size", "heads", "batch", "width"),
    [(128, (16, 8), 3, 40), (64, (4, 4), 2, 1), (8, (2, 1), 5, 3), (256, (3, 1), 1, 300)],
)
def test_heads_are_normed_and_turned(
    library: Path, kind: str, head_size: int, heads: tuple[int, int], batch: int, width: int
) -> None:
    query, key = (normal(batch, width, n * head_size, seed=n) for n in heads)
    weights = [1 + 0.2 * normal(head_size, seed=seed) for seed in (7, 8)]
    angles = np.outer(np.arange(width + 3), 0.7 ** np.arange(head_size // 2))
    cosines, sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    arrays = {"query": query, "key": key, "float.query": weights[0], "float.key": weights[1]}
    arrays |= {"float.cosines": cosines, "float.sines": sines}
    found = run(library, "NormRotary", kind, arrays, epsilon=EPSILON)
    for values, weight, result in zip((query, key), weights, found, strict=True):
        split = halved(values, kind).astype(np.float64).reshape(batch, width, -1, head_size)
        normed = split / np.sqrt((split**2).mean(-1, keepdims=True) + EPSILON) * weight
        left, right = np.split(normed, 2, axis=-1)
        cosine, sine = cosines[:width, None], sines[:width, None]
        turned = np.concatenate([left * cosine - right * sine, right * cosine + left * sine], -1)
        np.testing.assert_allclose(
            result, turned.reshape(values.shape), rtol=1.01 * KINDS[kind][2], atol=3e-6
        )


def test_rows_longer_than_the_tables_are_an_error(library: Path) -> None:
    arrays: dict[str, Any] = {"query": normal(1, 9, 16), "key": normal(1, 9, 8)}
    arrays |= {"float.query": normal(8), "float.key": normal(8)}
    arrays |= {"float.cosines": normal(8, 4), "float.sines": normal(8, 4)}
    with pytest.raises(Exception, match=r"rotary tables are shorter than the rows \(9\)"):
        run(library, "NormRotary", "bf16", arrays, epsilon=EPSILON)
