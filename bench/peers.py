"""shardrank and its peers on CPUs: the same pairs, weights and cores, measured in turn.

    python bench/peers.py --tokenizer TOKENIZER --pairs FOLDER [--workload short]... [--rounds 2]

Writes a random checkpoint of the shape of Qwen3-Reranker-0.6B (or takes --folder, where one was
kept), prepares it in w8a8, and scores real text: short (sentences, about 115 tokens a prompt),
long (about 350), longer (about 1000), and one query with many candidates. Peers: the code of the
model card (transformers), sentence-transformers' CrossEncoder in float32, in bfloat16 and through
ONNX, and onnxruntime on the checkpoint as optimum exports it, each in batches of several sizes, the
best of which counts. Needs sentence-transformers (sentence-transformers[onnx] for the two that are
exported), a tokenizer.json of Qwen3 (or .xz) and Parquet files of queries with candidates.
llama.cpp is one more, where --llama gives its program llama-embedding and what
convert_hf_to_gguf.py made.

Seconds of the CPU are told besides those of the clock: other work disturbs them less.
"""

from __future__ import annotations

import lzma
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import cpu_peers
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
from onnx import TensorProto, helper, numpy_helper
from results import make_parser, make_row

from shardrank import Reranker
from shardrank.engine.machine import num_cores
from shardrank.engine.model import PreparedModel
from shardrank.engine.prefixes import distinct, num_new_tokens, plan_prefixes
from shardrank.engine.session import Session
from shardrank.graph.prepare import prepare
from shardrank.types import Prompts

# The generator is the tests' own.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles.checkpoints import REAL_SHAPE, make_random_checkpoint

FLOP_PER_TOKEN = 0.857e9
"""Of the matrix products that are executed for a token, attention not counted; the last layer's
output projection and MLP work on one token of a prompt (bench/gpu.py, Workplace.flop)."""

Pair = tuple[str, str]


@dataclass(frozen=True)
class Workload:
    """So many queries, with so many documents each, of about so many characters."""

    num_queries: int
    num_documents: int
    num_characters: int


WORKLOADS = {
    "short": Workload(6, 20, 0),
    "long": Workload(1, 16, 1250),
    "longer": Workload(1, 6, 4800),
    "one query": Workload(1, 200, 0),
}


@dataclass
class Times:
    """Seconds of each round, by the clock and of the CPU."""

    clock: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, work: Callable[[], object]) -> None:
        """Do it once."""
        clock, cpu = time.perf_counter(), _cpu_seconds()
        work()
        self.clock.append(time.perf_counter() - clock)
        self.cpu.append(_cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + waited_for.ru_utime + waited_for.ru_stime


def make_pairs(folder: Path, workload: Workload) -> list[Pair]:
    """Queries of the English shards, and their candidates joined to documents of that size."""
    rows = [
        row
        for path in sorted(folder.glob("en*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    # Questions about one paragraph share candidates, and a pair that comes twice is scored once.
    found = [candidate["text"] for row in rows for candidate in row["candidates"]]
    texts = list(dict.fromkeys(found))
    pairs: list[Pair] = []
    place = 0
    for row in rows[: workload.num_queries]:
        for _ in range(workload.num_documents):
            document = texts[place]
            place += 1
            while len(document) < workload.num_characters:
                document += " " + texts[place]
                place += 1
            pairs.append((row["query"], document))
    return pairs


def make_workplace(folder: Path, tokenizer: Path, layout: str | None = None) -> tuple[Path, Path]:
    """The checkpoint, and the model prepared from it; what is there already stays."""
    checkpoint, model = folder / "checkpoint", folder / f"w8a8-{layout or 'fastest'}"
    if not (checkpoint / "config.json").is_file():
        make_random_checkpoint(checkpoint, replace(REAL_SHAPE, untrained=True))
        content = tokenizer.read_bytes()
        if tokenizer.suffix == ".xz":
            content = lzma.decompress(content)
        (checkpoint / "tokenizer.json").write_bytes(content)
    if not model.is_dir():
        prepare(checkpoint, model, layout=layout)
    return checkpoint, model


def prompts_of(reranker: Reranker, pairs: Sequence[Pair]) -> Prompts:
    """The prompts of all pairs."""
    queries = list(dict.fromkeys(query for query, _ in pairs))
    query_index = np.array([queries.index(query) for query, _ in pairs], np.int64)
    return reranker.prompts.build_many(queries, [text for _, text in pairs], query_index).prompts


def num_computed_tokens(prompts: Prompts, session: Session) -> int:
    """Tokens that the engine computes where it shares fronts, padding not counted."""
    firsts, _ = distinct(prompts)
    plan = plan_prefixes(
        prompts, firsts, 4096, batches_past=session.batches_past, shares_past=session.shares_past
    )
    return plan.trunk + sum(
        group.num_shared - plan.trunk + num_new_tokens(group, prompts.lengths)
        for group in plan.groups
    )


def product_rate(num_threads: int, rounds: int = 200) -> float:
    """Operations a second of a large MatMulIntegerToFloat on that many threads: the ceiling."""
    rows, inputs, outputs = 256, 1024, 3072
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    constants = {
        "weight": weight, "one": np.float32(1), "zero": np.uint8(128),
        "scales": np.full(outputs, 0.01, np.float32),
    }  # fmt: skip
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "weight", "one", "scales", "zero"], ["y"],
        domain="com.microsoft",
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, outputs])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    feeds = {"x": random.integers(0, 256, (rows, inputs)).astype(np.uint8)}
    rates = [0.0] * num_threads

    def work(number: int) -> None:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        session.run(None, feeds)
        seconds = []
        for _ in range(rounds):
            start = time.thread_time()
            session.run(None, feeds)
            seconds.append(time.thread_time() - start)
        rates[number] = 2 * rows * inputs * outputs / statistics.median(seconds)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def compare(
    reranker: Reranker,
    checkpoint: Path,
    pairs: list[Pair],
    rounds: int,
    names: Sequence[str],
    llama: cpu_peers.Llama | None,
) -> Iterator[str]:
    """Score the pairs with each engine in turn, some rounds; yields lines of what was found."""
    prompts = prompts_of(reranker, pairs)
    shared, alone = (
        replace(reranker.options, reuse_prefix=is_reused) for is_reused in (True, False)
    )
    scores: dict[str, np.ndarray] = {}

    def ours(name: str, number: int) -> None:
        reranker.options = shared if name == "shardrank" else alone
        scores[name] = reranker.score_prompts(prompts_of(reranker, pairs[:number]))

    engines: dict[str, Callable[[int], object]] = {
        name: partial(ours, name) for name in ("shardrank", "shardrank, no reuse")
    }
    texts = [cpu_peers.template_pair(query, document) for query, document in pairs]
    engines |= cpu_peers.engines(checkpoint, texts, names)
    if llama is not None:
        engines["llama.cpp"] = llama.engine(texts)
    times = {name: Times() for name in engines}
    for engine in engines.values():
        engine(min(16, len(pairs)))  # what is done once only
    rates = []
    for _ in range(rounds):
        for name, engine in engines.items():
            # Right before and after, since the clock of a processor wanders.
            is_ours = name == "shardrank"
            if is_ours:
                rates.append(product_rate(num_cores()))
            if is_ours and reranker.session.takes_past:
                # What is remembered of the round before is not to help.
                reranker.session.extend(np.zeros((1, 2), np.int64))
            times[name].add(partial(engine, len(pairs)))
            if is_ours:
                rates.append(product_rate(num_cores()))
    assert np.array_equal(scores["shardrank"], scores["shardrank, no reuse"])
    quantiles = np.percentile(prompts.lengths, [0, 50, 100]).astype(int)
    computed = num_computed_tokens(prompts, reranker.session)
    num_tokens = int(prompts.lengths.sum())
    yield (
        f"{len(pairs)} pairs of {quantiles[0]} to {quantiles[2]} tokens, median {quantiles[1]}; "
        f"{computed} of {num_tokens} tokens computed"
    )
    rate = statistics.median(rates)
    ours_seconds = statistics.median(times["shardrank"].cpu)
    share = computed * FLOP_PER_TOKEN / ours_seconds / (rate / num_cores())
    yield f"a large product {rate / 1e9:,.0f} GOPS, of which shardrank reaches {share:.0%}"
    for name, measured in times.items():
        clock, cpu = statistics.median(measured.clock), statistics.median(measured.cpu)
        yield (
            f"{name} {len(pairs) / clock:.2f} pairs/s, {num_tokens / clock:,.0f} tokens/s, "
            f"{len(pairs) / cpu:.2f} pairs a CPU second "
            f"(shardrank {cpu / ours_seconds:.2f} times by CPU, "
            f"{clock / statistics.median(times['shardrank'].clock):.2f} by clock)"
        )


def main() -> None:
    """Parse, prepare, measure, print rows for RESULTS.md."""
    parser = make_parser(__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--folder", type=Path, help="Where what is prepared is kept.")
    parser.add_argument("--workload", action="append", choices=list(WORKLOADS))
    parser.add_argument("--peer", action="append", choices=list(cpu_peers.PEERS))
    parser.add_argument("--llama", nargs=2, metavar=("PROGRAM", "GGUF"), help="llama-embedding.")
    parser.add_argument("--layout", help="Of the prepared model; the fastest by default.")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    llama = cpu_peers.Llama(*map(Path, arguments.llama)) if arguments.llama else None
    plain = [name for name in cpu_peers.PEERS if name not in cpu_peers.NEED_OPTIMUM]
    peers = arguments.peer or plain
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        checkpoint, model = make_workplace(folder, arguments.tokenizer, arguments.layout)
        reranker = Reranker(model)
        for name in arguments.workload or list(WORKLOADS):
            pairs = make_pairs(arguments.pairs, WORKLOADS[name])
            lines = []
            print(f"{name}:", flush=True)
            for line in compare(reranker, checkpoint, pairs, arguments.rounds, peers, llama):
                print(f"  {line}", flush=True)
                lines.append(line)
            packages = ["onnxruntime", "torch", "transformers", "sentence-transformers"]
            command = f"bench/peers.py --workload '{name}' --rounds {arguments.rounds}"
            lines.insert(0, f"layout {PreparedModel.load(model).layout}")
            rows.append(make_row(command, "; ".join(lines), packages))
    print("\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
