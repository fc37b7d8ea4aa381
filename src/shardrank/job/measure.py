"""How fast one actor scores, tried with a real session on sampled prompts."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayTaskError

from shardrank.engine.reranker import Reranker
from shardrank.errors import ShardrankError
from shardrank.job.cluster import Shape
from shardrank.job.spec import JobSpec
from shardrank.job.worker import build_reranker
from shardrank.types import Prompts

_WARM_UP_PROMPTS = 8
_LEAST_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a session did.

    pairs, tokens: scored within `seconds`, of which processors worked cpu_seconds for this process,
        over all its threads. load_seconds: until the session was ready.
    peak_bytes: of the process's memory; on a GPU that is not the GPU's.
    where: the provider and the machine's instruction set.
    """

    pairs: int
    tokens: int
    seconds: float
    cpu_seconds: float
    load_seconds: float
    peak_bytes: int
    where: str


def measure(
    spec: JobSpec, parts: Sequence[Prompts], seconds: float, shape: Shape, *, on_cluster: bool
) -> Measured:
    """Score sampled prompts for about so many seconds, where the job would score.

    on_cluster: in the cluster that this process is connected to, with what an actor asks for, so
        that it is the same kind of node; else in this process.

    Raises ModelError if the model cannot be used.
    """
    if not on_cluster:
        return measure_here(spec, parts, seconds)
    task: Any = ray.remote(
        num_cpus=shape.num_cpus,
        num_gpus=shape.num_gpus,
        resources=dict(shape.resources),
        max_retries=0,
    )(measure_here)
    try:
        measured: Measured = ray.get(task.remote(spec, parts, seconds))
    except RayTaskError as error:
        if isinstance(error.cause, ShardrankError):
            raise error.cause from None
        raise
    return measured


def measure_here(spec: JobSpec, parts: Sequence[Prompts], seconds: float) -> Measured:
    """The same in this process."""
    started = time.perf_counter()
    reranker = build_reranker(spec)
    load_seconds = time.perf_counter() - started
    warm_up = _head(parts[0], _WARM_UP_PROMPTS)
    reranker.score_prompts(warm_up)
    pace = _timed(lambda: reranker.score_prompts(warm_up)) / max(1, int(warm_up.lengths.sum()))
    prompts = Prompts.concatenate(list(_affordable(parts, seconds, pace)))
    rounds, spent, cpu_before = 0, 0.0, time.process_time()
    while spent < min(_LEAST_SECONDS, seconds):
        spent += _timed(lambda: reranker.score_prompts(prompts))
        rounds += 1
    return Measured(
        pairs=rounds * int((prompts.lengths > 0).sum()),
        tokens=rounds * int(prompts.lengths.sum()),
        seconds=spent,
        cpu_seconds=time.process_time() - cpu_before,
        load_seconds=load_seconds,
        peak_bytes=_peak_bytes(),
        where=_where(reranker),
    )


def _affordable(parts: Sequence[Prompts], seconds: float, pace: float) -> list[Prompts]:
    """Parts that take about so long, one at least, from everywhere rather than the first ones.

    pace: seconds for a token, of a small batch: a large one is faster, never slower.
    """
    cost = [pace * int(part.lengths.sum()) for part in parts]
    wanted = len(parts)
    while wanted > 1 and sum(cost[:: -(-len(parts) // wanted)]) > seconds:
        wanted -= 1
    return list(parts[:: -(-len(parts) // wanted)])


def _head(prompts: Prompts, num_prompts: int) -> Prompts:
    stop = min(num_prompts, len(prompts))
    return Prompts(
        prompts.token_ids[: prompts.offsets[stop]],
        prompts.offsets[: stop + 1],
        prompts.num_shared[:stop],
        prompts.truncated[:stop],
    )


def _timed(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _where(reranker: Reranker) -> str:
    described = reranker.description
    return f"{described['provider']}, {described['instruction_set']}"
