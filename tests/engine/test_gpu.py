"""What only a GPU can show: `pytest -m gpu tests/engine/test_gpu.py`, without ray or a network."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from graph_models import pad
from oracles.checkpoints import Shape, make_random_checkpoint
from oracles.numpy_qwen3 import NumpyQwen3
from packed_runs import prompts_of
from shardrank.engine.batching import left_pad
from shardrank.engine.cuda_batches import CudaBatches
from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.cuda_runner import CudaRunner
from shardrank.engine.device_memory import OutOfDeviceMemoryError
from shardrank.engine.halving_session import HalvingSession
from shardrank.engine.model import PreparedModel
from shardrank.engine.onnx_session import CUDA_OPTIONS, open_session
from shardrank.engine.packing import DEFAULT_LIMITS, PackLimits, pack
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.scoring import ScoringOptions, score_prompts
from shardrank.engine.session import SessionDescription
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
        reason="this onnxruntime has no CUDA",
    ),
]

# The head of Qwen3, which decides the kernel, and small otherwise.
SHAPE = Shape(4, 256, 4, 2, 128, 512, 320, dtype="bfloat16")
# Of the standard deviation of the log-odds, rms. Halves carry 8 bits (bf16) and 11 (fp16), and
# random layers pass on what was rounded.
TOLERANCES = {"bf16": 0.05, "fp16": 0.01}
MIB = 2**20


@dataclass(frozen=True)
class Prepared:
    """A checkpoint prepared for the GPU in one precision, in the layouts paged, padded and fused.

    expected: log-odds of the rows below in float32, by numpy, prompt by prompt.
    """

    source: Path
    folder: Path
    model: PreparedModel
    padded: Path
    fused: Path
    expected: np.ndarray

    def batches(self, **options: str) -> CudaBatches:
        """A runner of the layout padded, with these options of the CUDA provider."""
        providers = [("CUDAExecutionProvider", {**CUDA_OPTIONS, **options})]
        session = onnxruntime.InferenceSession(self.padded / "model.onnx", providers=providers)
        return CudaBatches(session, DESCRIPTION)

    def runner(self, limits: PackLimits = DEFAULT_LIMITS, **options: str) -> CudaRunner:
        """A runner of its own, with these options of the CUDA provider."""
        providers = [("CUDAExecutionProvider", {**CUDA_OPTIONS, **options})]
        session = onnxruntime.InferenceSession(self.folder / "model.onnx", providers=providers)
        return CudaRunner(session, limits.max_cache_tokens)

    def log_odds(
        self, rows: Sequence[np.ndarray], limits: PackLimits = DEFAULT_LIMITS
    ) -> np.ndarray:
        """Packed within these limits."""
        session = PagedSession(self.runner(limits), DESCRIPTION, limits)
        return difference(session.score(prompts_of(rows), np.arange(len(rows))))


DESCRIPTION = SessionDescription("0", "CUDAExecutionProvider", "none")


def some_rows(seed: int = 0) -> list[np.ndarray]:
    """Prompts of many lengths, among them around the ends of blocks; some begin alike."""
    random = np.random.default_rng(seed)
    lengths = [1, 2, 15, 16, 17, 127, 128, 129, 255, 256, 257, 600, *range(3, 200, 8)]
    front = random.integers(0, 256, 150)
    rows = [random.integers(0, 256, length) for length in lengths]
    return rows + [np.concatenate([front, row]) for row in rows[:20]]


def difference(logits: np.ndarray) -> np.ndarray:
    return (logits[:, 0] - logits[:, 1]).astype(np.float64)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """rms, in standard deviations of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.fixture(scope="module", params=["bf16", "fp16"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp(request.param)
    source = make_random_checkpoint(folder / "checkpoint", SHAPE)
    options = {"precision": request.param, "max_tokens": 2048}
    model = prepare(source, folder / "model", layout="paged", **options)
    for layout in ("padded", "fused"):
        prepare(source, folder / layout, layout=layout, **options)
    # As every session of the product does, before CUDA is used for the first time.
    open_session(folder / "model", model, device="cuda")
    oracle = NumpyQwen3(source)
    answers = model.yes_id, model.no_id
    expected = np.array([oracle.log_odds(row, *answers) for row in some_rows()])
    return Prepared(source, folder / "model", model, folder / "padded", folder / "fused", expected)


@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
def test_packed_prompts_score_as_the_oracle(prepared: Prepared, block_size: int) -> None:
    rows = some_rows()
    found = prepared.log_odds(rows, replace(DEFAULT_LIMITS, block_sizes=(block_size,)))
    assert error(found, prepared.expected) < TOLERANCES[prepared.model.precision]


def test_sharing_blocks_changes_scores_by_rounding_only(prepared: Prepared) -> None:
    rows = some_rows()
    session = PagedSession(prepared.runner(), DESCRIPTION)
    prompts = prompts_of(rows)
    shared = difference(session.score(prompts, np.arange(len(rows))))
    alone = [session.score(prompts, np.array([number])) for number in range(len(rows))]
    found = error(shared, difference(np.concatenate(alone)))
    assert found < TOLERANCES[prepared.model.precision]


def test_a_full_run_of_256_scores_as_small_ones(prepared: Prepared) -> None:
    random = np.random.default_rng(1)
    rows = [random.integers(0, 256, length) for length in random.integers(20, 200, 700)]
    small = prepared.log_odds(rows, replace(DEFAULT_LIMITS, max_rows=32))
    assert error(prepared.log_odds(rows), small) < TOLERANCES[prepared.model.precision]


def test_a_session_opens_with_every_node_on_the_gpu(prepared: Prepared) -> None:
    session = open_session(prepared.folder, prepared.model, device="cuda")
    assert isinstance(session, PagedSession)
    rows = some_rows()
    found = difference(session.run(*pad(rows, prepared.model.pad_id)))
    assert error(found, prepared.expected) < TOLERANCES[prepared.model.precision]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("layout", ["padded", "fused"])
def test_padded_batches_score_as_the_oracle(prepared: Prepared, layout: str, side: str) -> None:
    folder: Path = getattr(prepared, layout)
    model = PreparedModel.load(folder)
    session = open_session(folder, model, device="cuda")
    assert isinstance(session, HalvingSession)
    found = difference(session.run(*pad(some_rows(), model.pad_id, side)))
    assert error(found, prepared.expected) < TOLERANCES[prepared.model.precision]


def test_padded_batches_without_room_are_halved(prepared: Prepared) -> None:
    random = np.random.default_rng(3)
    rows = prompts_of([random.integers(0, 256, length) for length in range(150, 250)] * 8)
    batch = left_pad(rows, np.arange(len(rows)), prepared.model.pad_id)
    expected = difference(HalvingSession(prepared.batches(), 40960).run(*batch))
    session = HalvingSession(prepared.batches(gpu_mem_limit=str(64 * MIB)), 10**9)
    found = difference(session.run(*batch))
    assert session.max_tokens < batch[0].size
    assert error(found, expected) < TOLERANCES[prepared.model.precision]


def test_callers_do_not_disturb_each_other(prepared: Prepared) -> None:
    session = open_session(prepared.folder, prepared.model, device="cuda")
    cases = [prompts_of(some_rows(seed)) for seed in range(6)]
    alone = [session.score(prompts, np.arange(len(prompts))) for prompts in cases]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda p: session.score(p, np.arange(len(p))), cases))
    for values, expected in zip(found, alone, strict=True):
        np.testing.assert_array_equal(values, expected)


def test_runs_without_room_are_halved(prepared: Prepared) -> None:
    random = np.random.default_rng(2)
    rows = [random.integers(0, 256, 200) for _ in range(600)]
    limits = replace(DEFAULT_LIMITS, max_tokens=40960)
    expected = prepared.log_odds(rows, limits)
    session = PagedSession(
        prepared.runner(limits, gpu_mem_limit=str(64 * MIB)), DESCRIPTION, limits
    )
    found = difference(session.score(prompts_of(rows), np.arange(len(rows))))
    assert session.limits.max_tokens < limits.max_tokens
    assert error(found, expected) < TOLERANCES[prepared.model.precision]


def test_a_run_that_can_never_fit_is_told_by_name(prepared: Prepared) -> None:
    runner = prepared.runner(DEFAULT_LIMITS, gpu_mem_limit=str(24 * MIB))
    prompts = prompts_of([np.arange(60000) % 256])
    with pytest.raises(OutOfDeviceMemoryError):
        runner.run(pack(prompts, np.arange(1), 128, DEFAULT_LIMITS))


@pytest.mark.parametrize("layout", ["folder", "padded", "fused"])
def test_memory_reaches_a_plateau(prepared: Prepared, layout: str) -> None:
    folder: Path = getattr(prepared, layout)
    model = PreparedModel.load(folder)
    session = open_session(folder, model, device="cuda")
    free = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        rows = [random.integers(0, 256, length) for length in random.integers(20, 300, 400)]
        score_prompts(session, prompts_of(rows), model.pad_id, ScoringOptions(16384, 2))
        free.append(read_cuda_device().free_bytes)
    assert free[5] - free[-1] < 64 * MIB


@pytest.mark.parametrize("precision", ["fp32", "w8a8", "int8"])
def test_precisions_without_kernels_are_refused(
    prepared: Prepared, tmp_path: Path, precision: str
) -> None:
    options = {"precision": precision, "layout": "padded", "max_tokens": 64}
    model = prepare(prepared.source, tmp_path / "model", **options)
    with pytest.raises(ModelError, match="prepare the model with --precision bf16"):
        open_session(tmp_path / "model", model, device="cuda")
