"""Whether a prompt scores the same after a past as from its first token."""

from __future__ import annotations

import numpy as np

from shardrank.check.batches import largest_difference, logits_alone, random_prompts
from shardrank.check.result import CheckResult
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import Session
from shardrank.types import Float32Array, Int32Array

# Tokens of the past, and of the prompt after it: odd ones, and around the sizes in which kernels
# cut their work.
_CASES = ((2, 1), (30, 2), (64, 33), (70, 45), (128, 129), (256, 18))
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
