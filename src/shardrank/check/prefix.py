"""Whether a prompt scores the same after a past as from its first token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shardrank.check.batches import largest_difference, logits_alone, random_prompts
from shardrank.check.result import CheckResult
from shardrank.engine.batching import left_pad
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import Session
from shardrank.types import Float32Array, Int32Array, Prompts

# Tokens of the past, and of the prompt after it: odd ones, and around the sizes in which kernels
# cut their work.
_CASES = ((2, 1), (30, 2), (64, 33), (70, 45), (128, 129), (256, 18))
# Of prompts that go on together after one front.
_FRONT, _CONTINUATIONS = 70, (1, 45, 18, 33, 2)
# Of log-odds, where a model's scores depend on their batch anyway.
_TOLERANCE = 1e-4


def check_prefix(session: Session, model: PreparedModel) -> list[CheckResult]:
    """One line for a session that takes a past, none for another."""
    if not session.takes_past:
        return []
    cases = [(past, new) for past, new in _CASES if past + new <= model.max_tokens]
    prompts = random_prompts(model, [past + new for past, new in cases])
    whole = logits_alone(session, prompts, model.pad_id)
    reused = np.concatenate(
        [_after_past(session, prompts[row], past) for row, (past, _) in enumerate(cases)]
    )
    if session.batches_past and model.max_tokens >= _FRONT + max(_CONTINUATIONS):
        forked = _forked(model)
        whole = np.concatenate([whole, logits_alone(session, forked, model.pad_id)])
        reused = np.concatenate([reused, _together_after_past(session, forked, model.pad_id)])
    difference = largest_difference(whole, reused)
    if difference == 0.0:
        detail = "a score is the same bit for bit with and without a shared prefix"
        return [CheckResult("prefix reuse", "pass", detail)]
    allowed = _TOLERANCE if model.batch_dependent else 0.0
    detail = f"a shared prefix moves log-odds by {difference:.3g}"
    return [CheckResult("prefix reuse", "warn" if difference <= allowed else "fail", detail)]


def _after_past(session: Session, prompt: Int32Array, num_past: int) -> Float32Array:
    ids = prompt[None].astype(np.int64)
    past = session.extend(ids[:, :num_past])
    rest = ids[:, num_past:]
    return session.run(rest, np.ones_like(rest), past)


def _forked(model: PreparedModel) -> Prompts:
    prompts = random_prompts(model, [_FRONT + new for new in _CONTINUATIONS])
    token_ids = prompts.token_ids.copy()
    for start in prompts.offsets[:-1]:
        token_ids[start : start + _FRONT] = token_ids[:_FRONT]
    return replace(prompts, token_ids=token_ids)


def _together_after_past(session: Session, prompts: Prompts, pad_id: int) -> Float32Array:
    past = session.extend(prompts[0][None, :_FRONT].astype(np.int64))
    return session.run(*left_pad(prompts, np.arange(len(prompts)), pad_id, _FRONT), past)
