"""How fast a model is on this machine."""

from __future__ import annotations

import time

import numpy as np

from shardrank.check.result import CheckResult
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import Session

_SHAPE = (4, 128)
_TRIES = 3


def measure_speed(session: Session, model: PreparedModel) -> CheckResult:
    """Tokens a second, the best of a few batches without padding."""
    num_prompts, length = _SHAPE
    shape = (num_prompts, min(length, model.max_tokens))
    ids = np.random.default_rng(0).integers(0, model.pad_id, shape, dtype=np.int64)
    mask = np.ones_like(ids)
    seconds = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        session.run(ids, mask)
        seconds.append(time.perf_counter() - start)
    rate = ids.size / min(seconds)
    detail = f"{rate:,.0f} tokens/s in batches of {shape[0]} x {shape[1]}"
    return CheckResult("speed", "pass", detail, {"tokens a second": rate})
