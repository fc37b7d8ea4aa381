"""The CUDA engine on this machine: is it right, what does it rest on, how fast is it.

    python bench/gpu.py [--section correctness|checks|throughput|peer]... [--folder DIR] [--small]

One command, some ten minutes. Writes an untrained checkpoint of the shape of Qwen3-Reranker-0.6B
(1.2 GB) into a folder, prepares it, and prints lines as it finds them and rows for RESULTS.md at
the end. With --folder everything that was prepared stays there for the next time. Needs an NVIDIA
GPU, onnxruntime-gpu and onnx; for the peer sentence-transformers and a torch with CUDA, too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import gpu_peer
import numpy as np
import onnxruntime
from gpu_checks import (
    error,
    log_odds,
    make_prompts,
    median_seconds,
    open_paged,
    random_rows,
    score,
    verify,
)
from results import make_parser, make_row

from shardrank.engine.cuda_device import read_cuda_device
from shardrank.engine.machine import num_cores
from shardrank.engine.memory_plan import NUM_CUDA_CALLERS
from shardrank.engine.model import FILE_NAME, PreparedModel
from shardrank.engine.onnx_session import open_session
from shardrank.engine.packing import DEFAULT_LIMITS, plan_runs
from shardrank.engine.scoring import DEFAULT_MAX_BATCH_TOKENS, ScoringOptions, score_prompts
from shardrank.graph.prepare import prepare
from shardrank.types import Prompts

# The generator is the tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.checkpoints import REAL_SHAPE, Shape, make_random_checkpoint

SECTIONS = ("correctness", "checks", "throughput", "peer")
LENGTHS = {150: 4000, 350: 1500, 1000: 600}
"""Tokens of a pair, and how many pairs. The peer takes a quarter of them."""
SMALL_SHAPE = Shape(2, 256, 4, 2, 128, 512, 320, dtype="bfloat16")

# Dense bfloat16 with sums in float32, TFLOP/s, from the makers' data sheets.
PEAKS = {
    "GB200": 2500, "B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312,
    "L40S": 362, "L4": 121, "A10G": 70, "RTX 5090": 209, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


@dataclass(frozen=True)
class Workplace:
    """The checkpoint and what was prepared from it, each in a folder."""

    source: Path
    paged: Path
    padded: Path
    fused: Path
    fp16: Path
    fp32: Path

    @property
    def flop(self) -> float:
        """Of the matrix products that are executed for a token, attention not counted.

        Output projection and MLP of the last layer are computed for one token of a prompt.
        """
        shape = PreparedModel.load(self.paged).architecture
        hidden, query = shape["hidden_size"], shape["num_heads"] * shape["head_size"]
        after = hidden * (query + 3 * shape["intermediate_size"])
        before = hidden * (query + 2 * shape["num_key_value_heads"] * shape["head_size"])
        return 2.0 * (shape["num_layers"] * before + (shape["num_layers"] - 1) * after)


def make_workplace(folder: Path, shape: Shape) -> Workplace:
    """Prepare what is not there yet."""
    source = folder / "checkpoint"
    if not (source / "config.json").is_file():
        tell("writing a random checkpoint")
        make_random_checkpoint(source, shape)
    kinds = {
        "paged": ("bf16", "paged"), "padded": ("bf16", "padded"), "fused": ("bf16", "fused"),
        "fp16": ("fp16", "fused"), "fp32": ("fp32", "padded"),
    }  # fmt: skip
    for name, (precision, layout) in kinds.items():
        if not (folder / name / FILE_NAME).is_file():
            tell(f"preparing {precision}, layout {layout}")
            prepare(source, folder / name, precision=precision, layout=layout)
    return Workplace(source, *(folder / name for name in kinds))


def check_correctness(place: Workplace) -> Iterator[str]:
    """Log-odds in bfloat16 on the GPU against float32 on the CPU."""
    # 6 queries of 71 tokens with 10 documents each.
    fronts = random_rows(6, 71, seed=1)
    rows = [np.concatenate([f, d]) for f in fronts for d in random_rows(10, 44, seed=len(f))]
    prompts = make_prompts(rows)
    model = PreparedModel.load(place.fp32)
    session = open_session(place.fp32, model, threads=1)
    options = ScoringOptions(num_callers=num_cores())
    expected = log_odds(score_prompts(session, prompts, model.pad_id, options))
    sharing = error(log_odds(score(open_paged(place.paged), prompts)), expected)
    plain = replace(DEFAULT_LIMITS, block_sizes=(128,))
    without = error(log_odds(score(open_paged(place.paged, plain), prompts)), expected)
    padded, fused, fp16 = (
        error(score_padded(folder, prompts), expected)
        for folder in (place.padded, place.fused, place.fp16)
    )
    yield (
        f"rms error of log-odds, of their standard deviation, {len(rows)} prompts: fused bf16 "
        f"{fused:.4f}, fused fp16 {fp16:.4f}, padded bf16 {padded:.4f}, paged bf16 {sharing:.4f} "
        f"({without:.4f} without shared blocks)"
    )
    folder = place.source.parent / "cross-encoder"
    if _has("torch"):
        if not (folder / "config.json").is_file():
            gpu_peer.make_cross_encoder(place.source, folder, model.yes_id, model.no_id)
        theirs = error(gpu_peer.log_odds(folder, rows), expected)
        yield f"the same of transformers in bf16: {theirs:.4f}"


def measure_throughput(place: Workplace) -> Iterator[str]:
    """Pairs a second by length, and where prompts begin alike."""
    name = read_cuda_device().name
    peak = next((value * 1e12 for key, value in PEAKS.items() if key in name), None)
    if _has("torch"):
        rate = gpu_peer.product_rate()
        yield f"{name}: a product of 8192 x 8192 in bf16 runs at {rate / 1e12:,.0f} TFLOP/s"
    session = open_paged(place.paged)
    for length, number in LENGTHS.items():
        prompts = make_prompts(random_rows(number, length))
        tokens = int(prompts.lengths.sum())
        fused, fp16, padded = (
            median_seconds(lambda f=folder, p=prompts: score_padded(f, p))
            for folder in (place.fused, place.fp16, place.padded)
        )
        paged = median_seconds(lambda p=prompts: score(session, p))
        share = f"{tokens * place.flop / fused / peak:.1%}" if peak else "peak not known"
        yield (
            f"{length} tokens: fused {number / fused:,.0f} pairs/s, {tokens / fused:,.0f} "
            f"tokens/s, {tokens * place.flop / fused / 1e12:,.0f} TFLOP/s, of the dense bf16 peak "
            f"{share}; fp16 {number / fp16:,.0f} pairs/s; padded {number / padded:,.0f} pairs/s; "
            f"paged {number / paged:,.0f} pairs/s"
        )
    for what, num_queries, num_documents, front, own in (
        ("71 of about 115 tokens shared, 20 documents a query", 100, 20, 71, 44),
        ("one query with 1000 candidates of about 150 tokens, 71 shared", 1, 1000, 71, 79),
        ("520 of about 600 tokens shared, 20 documents a query", 20, 20, 520, 80),
    ):
        random = np.random.default_rng(2)
        fronts = [random.integers(0, 256, front) for _ in range(num_queries)]
        prompts = make_prompts(
            [np.concatenate([f, d]) for f in fronts for d in random_rows(num_documents, own, 3)]
        )
        plan = plan_runs(prompts, np.arange(len(prompts)), DEFAULT_LIMITS)
        shared = median_seconds(lambda p=prompts: score(session, p))
        fused = median_seconds(lambda p=prompts: score_padded(place.fused, p))
        yield (
            f"{what}: fused {len(prompts) / fused:,.0f} pairs/s; paged "
            f"{len(prompts) / shared:,.0f} pairs/s in blocks of {plan.block_size}, "
            f"{plan.num_tokens / prompts.lengths.sum():.0%} of the tokens computed"
        )
    prompts = make_prompts(random_rows(2500, 150))
    seconds = _seconds(lambda: plan_runs(prompts, np.arange(len(prompts)), DEFAULT_LIMITS))
    yield f"planning the runs on the host: {len(prompts) / seconds:,.0f} pairs/s"


def measure_peer(place: Workplace) -> Iterator[str]:
    """sentence-transformers on the same weights and lengths."""
    folder = place.source.parent / "cross-encoder"
    if not (_has("torch") and _has("sentence-transformers")):
        yield "sentence-transformers is not installed"
        return
    if not (folder / "config.json").is_file():
        model = PreparedModel.load(place.paged)
        gpu_peer.make_cross_encoder(place.source, folder, model.yes_id, model.no_id)
    for length, number in LENGTHS.items():
        lengths = [len(row) for row in random_rows(number // 4, length)]
        for line in gpu_peer.measure(folder, lengths):
            yield f"{length} tokens, {line}"


def tell(line: str) -> None:
    """Say what is going on, at once."""
    print(f"  {line}", flush=True)


def score_padded(folder: Path, prompts: Prompts) -> np.ndarray:
    """Log-odds by a graph of layout padded, as the product scores them."""
    if folder not in _OPEN:
        model = PreparedModel.load(folder)
        _OPEN[folder] = open_session(folder, model, device="cuda"), model.pad_id
    session, pad_id = _OPEN[folder]
    max_tokens = DEFAULT_MAX_BATCH_TOKENS["cuda"]
    options = ScoringOptions(
        max_batch_tokens=max_tokens,
        num_callers=NUM_CUDA_CALLERS,
        max_tokens_in_hand=NUM_CUDA_CALLERS * max_tokens,
    )
    return log_odds(score_prompts(session, prompts, pad_id, options))


_OPEN: dict[Path, tuple] = {}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _has(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def run_sections(place: Workplace, names: list[str]) -> list[str]:
    """Print what each section finds; returns the rows for RESULTS.md."""
    work = {
        "correctness": check_correctness,
        "checks": lambda place: verify(place.paged),
        "throughput": measure_throughput,
        "peer": measure_peer,
    }
    packages = [p for p in ("onnxruntime-gpu", "torch", "sentence-transformers") if _has(p)]
    rows = []
    for name in names:
        print(f"{name}:", flush=True)
        lines = []
        for line in work[name](place):
            tell(line)
            lines.append(line)
        figures = f"{read_cuda_device().name}. {'; '.join(lines)}"
        rows.append(make_row(f"bench/gpu.py --section {name}", figures, packages))
    return rows


def main() -> None:
    """Parse, prepare, measure."""
    parser = make_parser(__doc__)
    parser.add_argument("--section", action="append", choices=SECTIONS)
    parser.add_argument("--folder", type=Path, help="Where what is prepared is kept.")
    parser.add_argument("--small", action="store_true", help="A tiny model: tries the script.")
    arguments = parser.parse_args()
    onnxruntime.preload_dlls()
    device = read_cuda_device()
    print(f"{device.name}, {device.free_bytes / 2**30:.0f} GiB free", flush=True)
    shape = replace(SMALL_SHAPE if arguments.small else REAL_SHAPE, untrained=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        place = make_workplace(folder, shape)
        rows = run_sections(place, arguments.section or list(SECTIONS))
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
