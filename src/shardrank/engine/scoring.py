"""Prompts in, logits out: the plan, the callers, and one session."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shardrank.engine.batching import left_pad, pad_rows
from shardrank.engine.paged_session import PagedSession
from shardrank.engine.prefixes import (
    Plan,
    distinct,
    plan_prefixes,
    plan_without_prefixes,
)
from shardrank.engine.schedule import Schedule, Work
from shardrank.engine.session import Device, Past, Session
from shardrank.types import Float32Array, Int32Array, Prompts

DEFAULT_MAX_BATCH_TOKENS: dict[Device, int] = {"cpu": 4096, "cuda": 32768}
MAX_TOKENS_IN_HAND, MAX_TOKENS_IN_HAND_PER_CALLER = 16384, 1024
CHUNK_TOKENS = 320
"""Longer prompts go through the session in pieces: its memory grows with the piece, and so does the
half of the attention that lies in a token's future (docs/decisions/017-packed.md)."""
FUSED_CHUNK_TOKENS = 640
"""The same where the attention computes no future: a run reads all weights once."""


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """How prompts are scored; none of these changes a score, unless the model is batch-dependent.

    max_batch_tokens: tokens of one batch, padding included, where fronts are not shared.
    num_callers: threads that use the session at once.
    reuse_prefix: compute what prompts share once, where the session can.
    max_tokens_in_hand: of all callers together; a longer prompt is scored alone.
    """

    max_batch_tokens: int = DEFAULT_MAX_BATCH_TOKENS["cpu"]
    num_callers: int = 1
    reuse_prefix: bool = True
    max_tokens_in_hand: int = MAX_TOKENS_IN_HAND


def score_prompts(
    session: Session, prompts: Prompts, pad_id: int, options: ScoringOptions = ScoringOptions()
) -> Float32Array:
    """Logits (yes, no), float32 [num_prompts, 2], in the order of the prompts.

    Prompts with the same ids are scored once. What the model gives is handed on, NaN too; a prompt
    without tokens has a row of NaN.
    """
    firsts, places = distinct(prompts)
    # A last row that no prompt is: place -1.
    logits = np.full((len(firsts) + 1, 2), np.nan, np.float32)
    if len(firsts) and isinstance(session, PagedSession):
        # It plans for itself: what runs together there is bounded by the device.
        logits[:-1] = session.score(
            prompts,
            firsts,
            max_tokens=options.max_batch_tokens,
            reuse_prefix=options.reuse_prefix,
        )
    elif len(firsts):
        row_of = np.zeros(len(prompts), np.int64)
        row_of[firsts] = np.arange(len(firsts))
        if session.takes_past and options.reuse_prefix:
            plan = plan_prefixes(
                prompts,
                firsts,
                options.max_batch_tokens,
                batches_past=session.batches_past,
                shares_past=session.shares_past,
            )
        else:
            plan = plan_without_prefixes(prompts, firsts, options.max_batch_tokens)
        callers = _Callers(session, prompts, pad_id, plan)
        # Fronts are short, and a run reads all weights: each caller computes its share at once.
        num_sharing = options.num_callers if session.shares_past else 0
        schedule = Schedule(plan.groups, prompts.lengths, options.max_tokens_in_hand, num_sharing)

        def work_on(work: Work) -> Sequence[Past | None]:
            if work.batch is None:
                return callers.fronts(work)
            logits[row_of[work.batch]] = callers.score(work)
            return ()

        _run(schedule, work_on, options.num_callers)
    return logits[places]


class _Callers:
    """What callers do with the session."""

    def __init__(self, session: Session, prompts: Prompts, pad_id: int, plan: Plan) -> None:
        self._session = session
        self._prompts = prompts
        self._pad_id = pad_id
        self._chunk_tokens = FUSED_CHUNK_TOKENS if session.shares_past else CHUNK_TOKENS
        self._trunk: Past | None = None
        if plan.trunk:
            ids = prompts[int(plan.groups[0].batches[0][0])]
            self._trunk = self._extend(ids[: plan.trunk], None)

    def fronts(self, work: Work) -> Sequence[Past | None]:
        """Keys and values of the fronts of groups."""
        start = 0 if self._trunk is None else self._trunk.num_tokens
        fronts = [
            self._prompts[int(group.batches[0][0])][: group.num_shared] for group in work.groups
        ]
        short = [i for i, ids in enumerate(fronts) if 0 < len(ids) - start <= self._chunk_tokens]
        if not self._session.shares_past or len(short) < 2:
            return [self._extend(ids, self._trunk) for ids in fronts]
        padded = pad_rows([fronts[i][start:] for i in short], self._pad_id)
        together = dict(zip(short, self._session.extend_each(*padded, self._trunk), strict=True))
        return [together.get(i) or self._extend(ids, self._trunk) for i, ids in enumerate(fronts)]

    def score(self, work: Work) -> Float32Array:
        """Logits of a batch."""
        assert work.batch is not None
        start = 0 if work.past is None else work.past.num_tokens
        if len(work.batch) > 1 or not self._session.takes_past:
            padded = left_pad(self._prompts, work.batch, self._pad_id, start)
            return self._session.run(*padded, work.past)
        ids = self._prompts[int(work.batch[0])]
        # What is left for the last piece is one token or more.
        start += (len(ids) - 1 - start) // self._chunk_tokens * self._chunk_tokens
        past = self._extend(ids[:start], work.past)
        row = ids[start:][None].astype(np.int64)
        return self._session.run(row, np.ones_like(row), past)

    def _extend(self, ids: Int32Array, past: Past | None) -> Past | None:
        """The past after these ids, of which it holds the first already."""
        start = 0 if past is None else past.num_tokens
        for first in range(start, len(ids), self._chunk_tokens):
            piece = ids[first : first + self._chunk_tokens][None].astype(np.int64)
            past = self._session.extend(piece, past)
        return past


def _run(
    schedule: Schedule, work_on: Callable[[Work], Sequence[Past | None]], num_callers: int
) -> None:
    """Work until nothing is left, this thread being one of the callers."""
    errors: list[BaseException] = []

    def call() -> None:
        try:
            while (work := schedule.take()) is not None:
                schedule.finish(work, work_on(work))
        except BaseException as error:  # handed on by the thread that waits
            errors.append(error)
            schedule.stop()

    threads = [threading.Thread(target=call, daemon=True) for _ in range(num_callers - 1)]
    for thread in threads:
        thread.start()
    call()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
