from __future__ import annotations

import subprocess
import sys

import pytest

import shardrank


def loaded_by(statement: str) -> set[str]:
    """Names of the modules that a fresh interpreter holds after a statement."""
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_package_itself_loads_nothing_heavy() -> None:
    heavy = {"ray", "onnxruntime", "s3fs", "onnx", "pyarrow", "numpy", "tokenizers", "fsspec"}
    assert not heavy & loaded_by("import shardrank")


def test_the_engine_loads_neither_ray_nor_storage() -> None:
    heavy = {"ray", "fsspec", "pyarrow", "s3fs", "onnx", "torch", "transformers"}
    assert not heavy & loaded_by("import shardrank.engine.reranker")


def test_the_fakes_load_no_ray() -> None:
    assert not {"ray", "onnx", "pyarrow"} & loaded_by("import shardrank.testing")


def test_names_of_the_package_are_loaded_when_they_are_used() -> None:
    assert "onnxruntime" in loaded_by("import shardrank; shardrank.Reranker")
    assert "ray" not in loaded_by("import shardrank; shardrank.load_config")


def test_every_name_is_listed() -> None:
    assert {"Reranker", "RankedDocument", "rerank", "load_config"} <= set(dir(shardrank))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shardrank.nothing
