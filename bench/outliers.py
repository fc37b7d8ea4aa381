"""What smoothing and keeping products are worth on checkpoints with outliers of several kinds.

    python bench/outliers.py --tokenizer TOKENIZER.json[.xz] --pairs SHARD.parquet...
        [--kind KIND]... [--keep N]... [--max-error X]... [--narrow 1] [--num-pairs 100]

For each kind, makes a random checkpoint of four layers of the 0.6B shape, prepares it in fp32,
int8 and w8a8 (plain, smoothed, smoothed with N groups of products kept in fp32), and prints the rms
error of the log-odds over their standard deviation, and the CPU seconds of scoring, measured in
turn. Scales and groups are chosen on the built-in sample, never on the pairs that are scored.
"""

from __future__ import annotations

import argparse
import lzma
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from results import make_parser, make_row
from safetensors.numpy import load_file, save_file

from shardrank import Reranker
from shardrank.engine.ranking import log_odds
from shardrank.engine.tokenizer import Tokenizer
from shardrank.graph.prepare import prepare
from shardrank.graph.tuning import TuningRequest
from shardrank.types import Prompts

# The generator is the tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.checkpoints import Shape, make_random_checkpoint

SHAPE = Shape(4, 1024, 16, 8, 128, 3072, 151_669, dtype="bfloat16")
ROUNDS = 3
# What makes the channels of the inputs of o_proj and down_proj.
PRODUCERS = ("self_attn.v_proj", "mlp.up_proj")
Tensors = dict[str, np.ndarray]


def hidden_channels(tensors: Tensors, random: np.random.Generator, start: int) -> None:
    """Loud channels that the weights undo: the model says what it said. Made to be smoothed."""
    for layer in range(count_layers(tensors)):
        for norm, names in (
            ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
            ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
        ):
            name = f"model.layers.{layer}.{norm}.weight"
            loud = random.choice(len(tensors[name]), 8, replace=False)
            scale_channels(tensors, name, loud, 32)
            for product in names:
                weight = tensors[f"model.layers.{layer}.{product}.weight"]
                weight[:, loud] = weight[:, loud] / 32


def loud_channels(tensors: Tensors, random: np.random.Generator, start: int) -> None:
    """Loud channels of norms, values and middle layers, which nothing undoes."""
    for layer in range(count_layers(tensors)):
        for part in ("input_layernorm", "post_attention_layernorm", *PRODUCERS):
            name = f"model.layers.{layer}.{part}.weight"
            loud = random.choice(len(tensors[name]), 8, replace=False)
            scale_channels(tensors, name, loud, 16)


def loud_token(tensors: Tensors, random: np.random.Generator, start: int) -> None:
    """The first token of every prompt has four channels of 500 times the usual size."""
    row = tensors["model.embed_tokens.weight"][start]
    row[random.choice(len(row), 4, replace=False)] = 500 * row.astype(np.float32).std()


def single_weights(tensors: Tensors, random: np.random.Generator, start: int) -> None:
    """Sixteen weights of every matrix are 60 times the usual size."""
    for name, values in tensors.items():
        if name.endswith("_proj.weight"):
            rows = random.choice(values.shape[0], 16, replace=False)
            places = random.choice(values.shape[1], 16, replace=False)
            values[rows, places] = 60 * values.astype(np.float32).std()


def none(tensors: Tensors, random: np.random.Generator, start: int) -> None:
    """No outliers."""


KINDS: dict[str, Callable[[Tensors, np.random.Generator, int], None]] = {
    "none": none,
    "channels that weights undo": hidden_channels,
    "channels": loud_channels,
    "first token": loud_token,
    "single weights": single_weights,
}


def narrowed(divisor: int) -> Shape:
    """The shape with fewer heads of the same size, and narrower all through."""
    return replace(
        SHAPE,
        hidden=SHAPE.hidden // divisor,
        heads=SHAPE.heads // divisor,
        kv_heads=SHAPE.kv_heads // divisor,
        intermediate=SHAPE.intermediate // divisor,
    )


def count_layers(tensors: Tensors) -> int:
    """Layers of a checkpoint."""
    return sum(name.endswith("input_layernorm.weight") for name in tensors)


def scale_channels(tensors: Tensors, name: str, places: np.ndarray, factor: float) -> None:
    """Multiply some values of a norm, or rows of a matrix."""
    tensors[name][places] = tensors[name][places] * factor


def make_checkpoint(folder: Path, kind: str, shape: Shape, tokenizer: bytes) -> Path:
    """Random weights with outliers of one kind, and a real tokenizer."""
    make_random_checkpoint(folder, shape)
    (folder / "tokenizer.json").write_bytes(tokenizer)
    tensors = {
        name: value.copy() for name, value in load_file(folder / "model.safetensors").items()
    }
    (start,) = Tokenizer(tokenizer).encode_template("<|im_start|>").tolist()
    KINDS[kind](tensors, np.random.default_rng(1), start)
    save_file(tensors, folder / "model.safetensors")
    return folder


def read_pairs(reranker: Reranker, shards: list[Path], num_pairs: int) -> Prompts:
    """Prompts of the first queries of each shard, ten candidates each."""
    queries = num_pairs // (10 * len(shards))
    rows = [row for shard in shards for row in pq.read_table(shard).slice(0, queries).to_pylist()]
    return Prompts.concatenate(
        [
            reranker.prompts.build(row["query"], [c["text"] for c in row["candidates"][:10]])
            for row in rows
        ]
    )


def measure(kind: str, folder: Path, tokenizer: bytes, arguments: argparse.Namespace) -> None:
    """One kind of outliers: prepare every variant, score in turn, print."""
    source = make_checkpoint(folder / "checkpoint", kind, narrowed(arguments.narrow), tokenizer)
    variants: dict[str, tuple[str, TuningRequest]] = {
        "fp32": ("fp32", TuningRequest()),
        "int8": ("int8", TuningRequest()),
        "w8a8": ("w8a8", TuningRequest()),
        "w8a8 smoothed": ("w8a8", TuningRequest(smooth=True)),
    }
    if arguments.only:
        variants = {name: variants[name] for name in ("fp32", "w8a8")}
    for num in arguments.keep:
        variants[f"w8a8 smoothed, {num} kept"] = ("w8a8", TuningRequest(True, num))
    for error in arguments.max_error or ():
        variants[f"w8a8 held to {error}"] = ("w8a8", TuningRequest(max_error=error))
    rerankers = {}
    for place, (name, (precision, tuning)) in enumerate(variants.items()):
        output = folder / str(place)
        started = time.perf_counter()
        model = prepare(source, output, precision=precision, tuning=tuning, max_tokens=1024)
        seconds = time.perf_counter() - started
        record = model.source.get("tuning", {})
        print(
            f"# {kind}: {name}: prepared in {seconds:.0f} s; smoothed "
            f"{ {k: v['strength'] for k, v in record.get('smoothing', {}).items()} }; kept "
            f"{record.get('kept', {}).get('groups', [])}",
            flush=True,
        )
        rerankers[name] = Reranker(output, threads=1)
    prompts = read_pairs(rerankers["fp32"], arguments.pairs, arguments.num_pairs)
    cpu: dict[str, list[float]] = {name: [] for name in rerankers}
    values = {}
    for _ in range(arguments.rounds):
        for name, reranker in rerankers.items():
            started = time.process_time()
            values[name] = log_odds(reranker.score_prompts(prompts)).astype(np.float64)
            cpu[name].append(time.process_time() - started)
    exact = values.pop("fp32")
    figures = [
        f"{name} {np.sqrt(np.mean((found - exact) ** 2)) / exact.std():.4f} "
        f"({min(cpu[name]):.1f} CPU s)"
        for name, found in values.items()
    ]
    text = (
        f"outliers: {kind}; {len(prompts)} pairs, standard deviation {exact.std():.3f}; rms error "
        f"/ std: {', '.join(figures)}; fp32 {min(cpu['fp32']):.1f} CPU s"
    )
    command = f"bench/outliers.py --kind '{kind}' --narrow {arguments.narrow}"
    print(make_row(command, text, ("onnxruntime", "numpy")), flush=True)


def main() -> None:
    """Parse, and measure each kind in a folder of its own."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--kind", action="append", choices=KINDS)
    parser.add_argument("--keep", type=int, action="append", default=[])
    parser.add_argument("--max-error", type=float, action="append")
    parser.add_argument("--narrow", type=int, default=1, help="Divide every width but the head's.")
    parser.add_argument("--only", action="store_true", help="Leave int8 and smoothing out.")
    parser.add_argument("--num-pairs", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--folder", help="Where the temporary folder is made.")
    arguments = parser.parse_args()
    data = arguments.tokenizer.read_bytes()
    tokenizer = lzma.decompress(data) if arguments.tokenizer.suffix == ".xz" else data
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for place, kind in enumerate(arguments.kind or KINDS):
            measure(kind, Path(folder) / f"kind-{place}", tokenizer, arguments)
            shutil.rmtree(Path(folder) / f"kind-{place}")


if __name__ == "__main__":
    main()
