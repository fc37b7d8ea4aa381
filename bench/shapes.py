"""Two shapes of the job, and the bare engine: `python bench/shapes.py --pairs FOLDER [--model M]`.

"three stages" is the product: tasks read and tokenize, an actor scores, tasks write, and a unit's
body travels between them through Ray's object store. "one actor" does all three for a unit itself,
in three calls at once that take turns at the scoring, so that bodies stay in one process. Both are
measured in turn, from the first commit to the last; the engine scores the same prompts by itself.

--model free: scoring that costs nothing (shardrank.testing.fake_model): what the job can feed.
--actors: of so many threads together as there are cores. --shape: one of the two only.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import ray
from commits import committed
from ray.data import ActorPoolStrategy
from results import make_parser, make_row, typed

from shardrank import load_config
from shardrank.engine.machine import num_cores
from shardrank.engine.reranker import Reranker
from shardrank.errors import ShardrankError
from shardrank.job import worker
from shardrank.job.cluster import Shape, connected
from shardrank.job.drain import RemoteBrake
from shardrank.job.opening import Job, open_job
from shardrank.job.pairs import tokenize
from shardrank.job.parcel import Order
from shardrank.job.pipeline import largest_first, run_units
from shardrank.job.spec import JobSpec
from shardrank.store.reader import read_unit
from shardrank.testing import fake_model
from shardrank.types import Prompts, Receipt

SHAPES = ("three stages", "one actor")


class WholeUnit:
    """An actor that reads, scores and writes; calls overlap but for the scoring."""

    def __init__(self, spec: JobSpec, brake: RemoteBrake) -> None:
        self._spec, self._brake = spec, brake
        self._scorer = worker.Scorer(spec, brake)
        self._lock = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        """An order in, a receipt out."""
        parcel = worker.read(table, self._spec, self._brake)
        with self._lock:
            parcel = self._scorer(parcel)
        return worker.write(parcel, self._spec)


def one_actor(spec: JobSpec, orders: Sequence[Order], num_actors: int) -> Iterator[Receipt]:
    """The other shape."""
    rows = [order.to_row() for order in orders]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        WholeUnit,
        fn_constructor_args=(spec, RemoteBrake()),
        compute=ActorPoolStrategy(
            size=num_actors,
            max_tasks_in_flight_per_actor=4,
            max_concurrent_calls_per_actor=3,
            enable_true_multi_threading=True,
        ),
        num_cpus=num_cores() / num_actors / 2,
        batch_size=1,
        batch_format="pyarrow",
    )
    for batch in dataset.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
        yield Receipt.from_dict(json.loads(batch["receipt"][0].as_py()))


@dataclass
class Stages:
    """Seconds of work of all units, by stage."""

    read: float = 0.0
    score: float = 0.0
    write: float = 0.0

    def add(self, receipt: Receipt) -> None:
        """One unit more."""
        self.read += receipt.seconds_read
        self.score += receipt.seconds_score
        self.write += receipt.seconds_write


def pairs_per_second(job: Job, output: Path, receipts: Iterator[Receipt], stages: Stages) -> float:
    """From the first commit to the last."""
    for receipt in receipts:
        stages.add(receipt)
    return committed(output, sum(unit.num_pairs or 0 for unit in job.plan.units)).pairs_per_second


def engine_rate(job: Job, model: str) -> float:
    """Pairs a second of the engine alone, on the prompts of all units."""
    reranker = Reranker(model)
    columns = job.config.input.columns
    prompts: list[Prompts] = []
    for unit in job.plan.units:
        rows = read_unit(job.input, unit, "nested", columns, 10**9)
        prompts.append(tokenize(rows, reranker.prompts)[0])
    reranker.score_prompts(prompts[0])
    started = time.perf_counter()
    for part in prompts:
        reranker.score_prompts(part)
    return sum(map(len, prompts)) / (time.perf_counter() - started)


def main() -> None:
    """Measure in turn and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--pairs", required=True, help="A folder of shards, or one.")
    parser.add_argument("--set", action="append", default=[], help="As of shardrank rerank.")
    parser.add_argument("--model", default="demo", help="A prepared model, demo, or free.")
    parser.add_argument("--unit-pairs", type=int, default=1024)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="May be repeated.")
    arguments = parser.parse_args()
    shapes = arguments.shape or SHAPES
    rates: dict[str, list[float]] = {name: [] for name in (*shapes, "engine")}
    stages = {name: Stages() for name in shapes}
    with tempfile.TemporaryDirectory() as folder, connected("local"):
        model = arguments.model
        if model == "free":
            model = str(fake_model(Path(folder) / "model"))
        for number in range(arguments.rounds):
            for shape in shapes:
                output = Path(folder) / f"{shape}-{number}"
                settings = {
                    "input.path": arguments.pairs,
                    "output.path": output,
                    "model.path": model,
                    "units.pairs": arguments.unit_pairs,
                }
                written = [f"{key}={value}" for key, value in settings.items()]
                job = open_job(load_config(None, [*written, *arguments.set]))
                spec = job.spec(max(1, num_cores() // arguments.actors))
                orders = [Order(unit, 1, 1) for unit in largest_first(job.plan.units)]
                num_cpus = num_cores() / arguments.actors / 2
                size = Shape(arguments.actors, arguments.actors, num_cpus, 0.0, spec.threads)
                begin = {
                    "three stages": partial(run_units, spec, orders, size, 1800, RemoteBrake()),
                    "one actor": partial(one_actor, spec, orders, arguments.actors),
                }[shape]
                rates[shape].append(pairs_per_second(job, output, begin(), stages[shape]))
            if arguments.model != "free":
                rates["engine"].append(engine_rate(job, model))
    figures = ", ".join(f"{name} {_rate(found)} pairs/s" for name, found in rates.items() if found)
    if engine := rates.pop("engine"):
        figures += "".join(f"; {name} {_share(found, engine)}" for name, found in rates.items())
    seconds = stages[shapes[0]]
    figures += (
        f"; {shapes[0]}, seconds of work in {arguments.rounds} rounds: read {seconds.read:.1f}, "
        f"score {seconds.score:.1f}, write {seconds.write:.1f}"
    )
    print(make_row(typed(), f"{len(job.plan.units)} units; {figures}", ["ray", "onnxruntime"]))


def _rate(rates: Sequence[float]) -> str:
    rate = statistics.median(rates)
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}"


def _share(rates: Sequence[float], engine: Sequence[float]) -> str:
    """Of the engine's rate, in the same round."""
    shares = [100 * ours / its for ours, its in zip(rates, engine, strict=True)]
    return (
        f"{statistics.median(shares):.1f} % of the engine ({min(shares):.0f} to {max(shares):.0f})"
    )


if __name__ == "__main__":
    try:
        main()
    except ShardrankError as error:
        sys.exit(f"shardrank: {error}")
