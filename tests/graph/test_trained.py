"""A model that was trained keeps its ranking in every precision."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from oracles.checkpoints import Shape
from shardrank import Reranker
from shardrank.engine.model import PreparedModel, builtin_folder
from shardrank.graph.prepare import prepare

# rms error of the log-odds over their standard deviation, against fp32: found were 0.017 for w8a8,
# 0.007 for int8 and 0.13 for int4.
BOUNDS = {"w8a8": 0.06, "int8": 0.06, "int4": 0.25}
NUM_QUERIES, NUM_CANDIDATES = 10, 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint that the built-in model was made from, taken out of its fp32 graph."""
    folder = tmp_path_factory.mktemp("trained")
    built = PreparedModel.load(builtin_folder())
    tensors = {}
    for tensor in onnx.load(builtin_folder() / "model.onnx").graph.initializer:
        if tensor.name.endswith(".weight"):
            values = onnx.numpy_helper.to_array(tensor)
            is_product = values.ndim == 2 and tensor.name != "embed_tokens.weight"
            tensors[f"model.{tensor.name}"] = np.ascontiguousarray(
                values.T if is_product else values
            )
    save_file(tensors, folder / "model.safetensors")
    sizes = built.architecture
    shape = Shape(
        num_layers=sizes["num_layers"],
        hidden=sizes["hidden_size"],
        heads=sizes["num_heads"],
        kv_heads=sizes["num_key_value_heads"],
        head_dim=sizes["head_size"],
        intermediate=sizes["intermediate_size"],
        vocab=sizes["vocabulary_size"],
        rope_theta=sizes["rope_theta"],
    )
    config = {**shape.config(), "max_position_embeddings": sizes["max_positions"]}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(builtin_folder() / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """200 of the pairs that are shipped with the package, query by query."""
    shard = sorted((builtin_folder().parent / "candidates").glob("*.parquet"))[0]
    rows = pq.read_table(shard).slice(0, NUM_QUERIES).to_pylist()
    found = [(row["query"], candidate["text"]) for row in rows for candidate in row["candidates"]]
    assert len(found) == NUM_QUERIES * NUM_CANDIDATES
    return found


@pytest.fixture(scope="module")
def expected(pairs: list[tuple[str, str]]) -> np.ndarray:
    return Reranker("demo").score(pairs).astype(np.float64)


@pytest.mark.parametrize("precision", BOUNDS)
def test_rankings_and_log_odds_stay(
    source: Path,
    pairs: list[tuple[str, str]],
    expected: np.ndarray,
    tmp_path: Path,
    precision: str,
) -> None:
    prepare(source, tmp_path / "model", precision=precision)
    log_odds = Reranker(tmp_path / "model").score(pairs).astype(np.float64)
    relative = np.sqrt(np.mean((log_odds - expected) ** 2)) / expected.std()
    print(f"{precision}: {relative:.4f}")
    assert 0 < relative < BOUNDS[precision]
    first = log_odds.reshape(NUM_QUERIES, NUM_CANDIDATES).argmax(axis=1)
    assert (first == expected.reshape(NUM_QUERIES, NUM_CANDIDATES).argmax(axis=1)).mean() >= 0.9
