"""The search for the rows that kill the process that scores them. Nothing is written meanwhile.

The rows of a unit are tried in halves, each in an actor whose death is the answer: an actor outside
of Ray Data, which would try again by itself and drop what died.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from shardrank.errors import ShardrankError
from shardrank.job.cluster import Shape, free_actors
from shardrank.job.pairs import pairs_to_score, tokenize
from shardrank.job.spec import JobSpec
from shardrank.job.worker import build_reranker, prompt_builder
from shardrank.store.reader import read_unit
from shardrank.types import Unit

MAX_DEATHS = 64
"""Of one search. What is found until then is kept."""


class TooManyDeathsError(Exception):
    """A search was ended early."""


def deadly_rows(start: int, stop: int, kills: Callable[[int, int], bool]) -> list[int]:
    """The rows of [start, stop) that kill alone, in order; [] if no single one does. Pure.

    kills: whether a worker dies of rows [start, stop). A half is not tried where the other half
    already shows what it must do, but a row is only named after it was tried by itself.
    """
    return _search(start, stop, kills) if kills(start, stop) else []


def _search(start: int, stop: int, kills: Callable[[int, int], bool]) -> list[int]:
    """deadly_rows of rows that are known to kill together."""
    if stop - start == 1:
        return [start]
    middle = (start + stop) // 2
    if kills(start, middle):
        return [*_search(start, middle, kills), *deadly_rows(middle, stop, kills)]
    if stop - middle == 1:
        return [middle] if kills(middle, stop) else []
    return _search(middle, stop, kills)


def probe_unit(
    spec: JobSpec, unit: Unit, poison: tuple[int, ...], shape: Shape, timeout_seconds: float
) -> list[int] | None:
    """The rows of a unit, counted in the shard, that kill their worker.

    poison: rows that are known already and left out. timeout_seconds: after which a worker that
    does not answer counts as dead.

    Returns [] if none does alone, and None if reading the unit kills already.
    """
    free_actors()
    num_rows = (unit.row_stop or unit.row_start) - unit.row_start
    found: set[int] = set()
    with _Probe(spec, unit, poison, shape, timeout_seconds) as probe:
        if probe.kills(0, 0) and probe.kills(0, 0):
            return None

        def kills(start: int, stop: int) -> bool:
            if stop - start > 1:
                return probe.kills(start, stop)
            # Twice, since a worker may be killed by chance and a row must not be lost for that.
            if probe.kills(start, stop) and probe.kills(start, stop):
                found.add(start)
            return start in found

        # Those that were found until the end make the next search shorter.
        with suppress(TooManyDeathsError):
            found.update(deadly_rows(0, num_rows, kills))
    return [unit.row_start + row for row in sorted(found)]


class Prober:
    """The actor that may die: one session, and parts of units that it scores in vain."""

    def __init__(self, spec: JobSpec) -> None:
        self._spec = spec
        self._reranker = build_reranker(spec)

    def is_ready(self) -> bool:
        """True: the constructor has come to its end."""
        return True

    def score(self, unit: Unit, poison: tuple[int, ...], start: int, stop: int) -> None:
        """Read a unit, and tokenize and score its rows [start, stop), counted in the unit."""
        spec = self._spec
        rows = read_unit(spec.input, unit, spec.layout, spec.input_columns, spec.max_bytes)
        place = rows.row_of_pair
        wanted = (place >= start) & (place < stop) & pairs_to_score(rows, spec, poison)
        part = replace(rows, pair_ok=wanted)
        prompts, _, _ = tokenize(part, prompt_builder(spec))
        self._reranker.score_prompts(prompts)


class _Probe:
    """A prober, and the next one where it died."""

    def __init__(
        self,
        spec: JobSpec,
        unit: Unit,
        poison: tuple[int, ...],
        shape: Shape,
        timeout_seconds: float,
    ) -> None:
        self._spec, self._unit, self._poison = spec, unit, poison
        self._timeout_seconds = timeout_seconds
        self._remote = ray.remote(
            num_cpus=shape.num_cpus,
            num_gpus=shape.num_gpus,
            resources=dict(shape.resources),
            max_restarts=0,
            max_task_retries=0,
        )(Prober)
        self._actor: Any = None
        self._num_deaths = 0

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._actor is not None:
            ray.kill(self._actor)

    def kills(self, start: int, stop: int) -> bool:
        """Whether a worker dies of these rows. Raises TooManyDeathsError."""
        if self._actor is None:
            self._actor = self._start()
        try:
            ray.get(
                self._actor.score.remote(self._unit, self._poison, start, stop),
                timeout=self._timeout_seconds,
            )
        except RayTaskError:
            return False  # it raised, and is alive: the unit's own attempts deal with that
        except (RayActorError, OutOfMemoryError, GetTimeoutError):
            ray.kill(self._actor)
            self._actor = None
            self._num_deaths += 1
            if self._num_deaths > MAX_DEATHS:
                raise TooManyDeathsError from None
            return True
        return False

    def _start(self) -> Any:
        actor = self._remote.remote(self._spec)
        try:
            ray.get(actor.is_ready.remote(), timeout=self._timeout_seconds)
        except (RayActorError, GetTimeoutError) as error:
            raise ShardrankError(
                "a worker that is to find the rows that kill workers does not start: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from error
        return actor
