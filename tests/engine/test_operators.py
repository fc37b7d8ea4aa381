"""Building the operators for GPUs, which needs none."""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime
import pytest

from oracles.checkpoints import Shape, make_random_checkpoint
from shardrank.engine import operators
from shardrank.engine.operators import build_library, compile_operators, find_nvrtc
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
needs_nvrtc = pytest.mark.skipif(find_nvrtc() is None, reason="no NVRTC")
SHAPE = Shape(2, 64, 2, 1, 16, 64, 320, dtype="bfloat16")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The operators over machine code that is none: nothing of it is read before a GPU is there."""
    folder = tmp_path_factory.mktemp("operators")
    (folder / "kernels.cubin").write_bytes(b"none")
    compile_operators(folder / "kernels.cubin", folder / "operators.so")
    return folder / "operators.so"


@needs_compiler
def test_the_library_exports_nothing_but_its_registration(library: Path) -> None:
    loaded = ctypes.CDLL(str(library))
    assert loaded.RegisterCustomOps
    for name in ("kernel_code", "silu_product", "launch"):
        assert not hasattr(loaded, name)


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "missing"), [("bf16", "MatMul"), ("fp16", r"NormRotary\(1\)")]
)
def test_onnxruntime_resolves_names_types_and_shapes(
    library: Path, tmp_path: Path, precision: str, missing: str
) -> None:
    source = make_random_checkpoint(tmp_path / "checkpoint", SHAPE)
    prepare(source, tmp_path / "model", precision=precision, layout="fused")
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(library))
    # Kernels are looked for when all else is settled, and the first that no CPU has is named.
    with pytest.raises(Exception, match=f"Could not find an implementation for {missing}"):
        onnxruntime.InferenceSession(
            tmp_path / "model" / "model.onnx", options, providers=["CPUExecutionProvider"]
        )


@needs_compiler
@needs_nvrtc
def test_the_library_is_built_once_for_an_architecture(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: build_library((9, 0), tmp_path), range(4)))
    (path,) = paths
    assert list(tmp_path.iterdir()) == [path]
    before = path.stat().st_mtime_ns
    assert build_library((9, 0), tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert build_library((8, 0), tmp_path) != path


@needs_nvrtc
def test_a_gpu_that_nvrtc_does_not_know_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot compile the kernels for sm_11"):
        build_library((1, 1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_compiler_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ModelError, match="install gcc, or prepare the model with --layout padded"):
        compile_operators(tmp_path / "kernels.cubin", tmp_path / "operators.so")


@pytest.mark.parametrize(("compiler", "told"), [("false", "cannot compile"), ("no-cc", "started")])
def test_a_compiler_that_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, told: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(ModelError, match=f"{compiler}.*{told}"):
        compile_operators(tmp_path / "kernels.cubin", tmp_path / "operators.so")


def test_the_sources_lie_in_the_package() -> None:
    names = {path.name for path in operators.SOURCES.iterdir()}
    assert names == {
        *(
            "cpu_operators.c",
            "attention.h",
            "integer_product.h",
            "matrix_tiles.h",
            "product.h",
            "rows.h",
            "spare.h",
            "tile.h",
            "vectors.h",
        ),
        *("cuda_operators.c", "cuda_kernels.cu", "runtime.h"),
    }
