"""What shardrank takes for granted of ONNX Runtime on CUDA, one check a line: for bench/gpu.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime

from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.cuda_runner import CudaRunner
from shardrank.engine.onnx_session import CUDA_OPTIONS
from shardrank.engine.packing import DEFAULT_LIMITS, PackedRun, PackLimits, pack
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.session import SessionDescription
from shardrank.types import Float32Array, Prompts

DESCRIPTION = SessionDescription(onnxruntime.__version__, "CUDAExecutionProvider", "none")
ROUNDS = 3
MIB = 2**20
BLOCK_SIZES = (16, 32, 64, 128, 256)
KERNELS = {"0": "its own choice", "1": "flash", "2": "memory-efficient", "3": "ours", "8": "cuDNN"}
_DEBUG = "ORT_ENABLE_ATTENTION_KERNEL_DEBUG_INFO"


def make_prompts(rows: Sequence[np.ndarray]) -> Prompts:
    """Prompts of these ids."""
    return Prompts(
        token_ids=np.concatenate(rows).astype(np.int32),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        num_shared=np.zeros(len(rows), np.int32),
        truncated=np.zeros(len(rows), np.bool_),
    )


def random_rows(num_rows: int, length: int, seed: int = 0) -> list[np.ndarray]:
    """Prompts of 0.7 to 1.3 times this length, which have nothing in common."""
    random = np.random.default_rng(seed)
    lengths = random.integers(int(length * 0.7), int(length * 1.3) + 1, num_rows)
    return [random.integers(0, 256, each) for each in lengths]


def open_runner(
    folder: Path, limits: PackLimits = DEFAULT_LIMITS, num_caches: int = 1, **options: str
) -> CudaRunner:
    """As the product opens one, with these options of the CUDA provider besides."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_mem_pattern = False
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [("CUDAExecutionProvider", {**CUDA_OPTIONS, **options})]
    session = onnxruntime.InferenceSession(folder / "model.onnx", settings, providers=providers)
    return CudaRunner(session, limits.max_cache_tokens, num_caches)


def open_paged(
    folder: Path, limits: PackLimits = DEFAULT_LIMITS, num_caches: int = 1, **options: str
) -> PagedSession:
    """A session over such a runner."""
    return PagedSession(open_runner(folder, limits, num_caches, **options), DESCRIPTION, limits)


def score(session: PagedSession, prompts: Prompts) -> Float32Array:
    """Logits of all."""
    return session.score(prompts, np.arange(len(prompts)))


def log_odds(logits: Float32Array) -> np.ndarray:
    """The logit of yes minus that of no."""
    return (logits[:, 0] - logits[:, 1]).astype(np.float64)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    """rms, in standard deviations of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def median_seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """After one round that does not count."""
    seconds = []
    work()
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def verify(folder: Path, length: int = 150) -> Iterator[str]:
    """Each thing that is taken for granted, and what was found."""
    rows = random_rows(1000, length)
    prompts = make_prompts(rows)
    num_tokens = int(prompts.lengths.sum())
    plain = replace(DEFAULT_LIMITS, block_sizes=(128,))
    expected = log_odds(score(open_paged(folder, plain), prompts))
    yield "nodes: every one is on CUDA, and no cache is an output (the session opened so)"

    def line(name: str, limits: PackLimits, num_caches: int = 1, **options: str) -> str:
        try:
            session = open_paged(folder, limits, num_caches, **options)
            found = error(log_odds(score(session, prompts)), expected)
            seconds = median_seconds(lambda: score(session, prompts))
        except Exception as problem:  # this line says so, and the others go on
            return f"{name}: FAILED, {str(problem).splitlines()[0][:200]}"
        return f"{name}: {num_tokens / seconds:,.0f} tokens/s, rms difference {found:.4f}"

    for size in BLOCK_SIZES:
        kernel = find_kernel(folder, size)
        yield line(f"blocks of {size} ({kernel})", replace(plain, block_sizes=(size,)))
    for value, name in KERNELS.items():
        yield line(f"sdpa_kernel {value} ({name})", plain, sdpa_kernel=value)
    for num_rows in (64, 128, 256, 512):
        yield line(f"{num_rows} rows a run", replace(plain, max_rows=num_rows))
    for num_thousands in (8, 16, 32, 64, 128):
        limits = replace(plain, max_tokens=num_thousands * 1024, max_rows=1024)
        yield line(f"{num_thousands}k tokens a run, up to 1024 rows", limits)
    for num_caches in (1, 2):
        yield line(f"{num_caches} runs at once", plain, num_caches)
    yield _metadata(folder, prompts)
    yield _plateau(folder, length)
    yield _halving(folder, prompts, expected)


def find_kernel(folder: Path, block_size: int) -> str:
    """Which attention ONNX Runtime says that it takes."""
    command = [sys.executable, __file__, str(folder), str(block_size)]
    environment = {**os.environ, _DEBUG: "1"}
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    found = re.search(r"Operator=PagedAttention.*SdpaKernel=(\w+)", answer.stdout + answer.stderr)
    return found.group(1) if found else "kernel not told"


def _metadata(folder: Path, prompts: Prompts) -> str:
    """What it costs to leave the kernel in the dark about lengths."""
    runner = open_runner(folder)
    run = pack(prompts, np.arange(252), 128, DEFAULT_LIMITS)
    dark = replace(run, attention_metadata=np.zeros(3, np.int32))
    told, untold = (median_seconds(lambda r=r: runner.run(r)) for r in (run, dark))
    same = np.abs(_values(runner, run) - _values(runner, dark)).max()
    return (
        f"attention_metadata: {told * 1e3:.1f} ms a run with it, {untold * 1e3:.1f} ms with zeros; "
        f"largest difference {same:.2g}"
    )


def _values(runner: CudaRunner, run: PackedRun) -> np.ndarray:
    return log_odds(runner.run(run)[: run.num_prompts])


def _plateau(folder: Path, length: int) -> str:
    session = open_paged(folder)
    free = []
    for seed in range(10):
        score(session, make_prompts(random_rows(600, length + 10 * seed, seed)))
        free.append(read_cuda_device().free_bytes)
    grown = [(before - after) // MIB for before, after in pairwise(free)]
    return f"memory that each further unit took, MiB: {', '.join(map(str, grown))}"


def _halving(folder: Path, prompts: Prompts, expected: np.ndarray) -> str:
    weights = sum(path.stat().st_size for path in folder.iterdir())
    limit = weights * 5 // 4 + 512 * MIB
    session = open_paged(folder, gpu_mem_limit=str(limit))
    try:
        found = error(log_odds(score(session, prompts)), expected)
    except Exception as problem:  # a line of the report
        return f"out of memory: FAILED, {str(problem).splitlines()[0][:200]}"
    return (
        f"with {limit // MIB} MiB for everything, runs of {DEFAULT_LIMITS.max_tokens} tokens "
        f"became {session.limits.max_tokens}, rms difference {found:.4f}"
    )


def _one_run(folder: Path, block_size: int) -> None:
    onnxruntime.preload_dlls()
    limits = replace(DEFAULT_LIMITS, block_sizes=(block_size,))
    score(open_paged(folder, limits), make_prompts(random_rows(8, 150)))


if __name__ == "__main__":
    _one_run(Path(sys.argv[1]), int(sys.argv[2]))
