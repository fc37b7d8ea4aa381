"""Whether a prompt's score is its own: not its padding's, not its neighbours', not its length's."""

from __future__ import annotations

import time

import numpy as np

from shardrank.check.batches import (
    batch_effect,
    equal_prompts,
    largest_difference,
    log_odds,
    logits_alone,
    logits_together,
    random_prompts,
    right_pad,
)
from shardrank.check.report import BATCHES
from shardrank.check.result import CheckResult, judge_difference
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import Session
from shardrank.types import Float32Array

# Of log-odds, whose usual size is 1 to 10. The card's published values hold to 1e-4.
_TOLERANCE = 1e-4

_LONG_LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
_LONG_SECONDS = 30.0
# Of the time where the length doubles: 2 for the weights' part, 4 for the attention's.
_GROWTH = 3.0


def check_padding(session: Session, model: PreparedModel) -> list[CheckResult]:
    """Prompts of many lengths: finite, and the same alone and in batches of every kind."""
    prompts = random_prompts(model)
    alone = logits_alone(session, prompts, model.pad_id)
    left = largest_difference(alone, logits_together(session, prompts, model.pad_id))
    right = largest_difference(alone, logits_together(session, prompts, model.pad_id, right_pad))
    unpadded = batch_effect(session, equal_prompts(model), model.pad_id)
    spread = float(log_odds(alone).std())
    # Arithmetic that moves with the batch moves with its padding too, but not by everything.
    moves = model.batch_dependent or unpadded > 0
    limit = max(spread, _TOLERANCE) if moves else _TOLERANCE
    return [
        check_finite(alone),
        _padding_result("left padding", left, limit),
        _padding_result("right padding", right, limit),
        _batch_result([unpadded, left, right], limit, spread, declared=model.batch_dependent),
    ]


def check_finite(logits: Float32Array) -> CheckResult:
    """No logit is NaN or infinite."""
    num_bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if num_bad:
        return CheckResult("finite", "fail", f"{num_bad} of {len(logits)} prompts have no number")
    detail = f"{len(logits)} random prompts, logits {logits.min():.3f} to {logits.max():.3f}"
    return CheckResult("finite", "pass", detail)


def _padding_result(name: str, difference: float, limit: float) -> CheckResult:
    return CheckResult(
        name,
        judge_difference(difference, 0.0, limit),
        f"largest difference of log-odds, alone and in a mixed batch: {difference:.3g}",
    )


def _batch_result(
    differences: list[float], limit: float, spread: float, *, declared: bool
) -> CheckResult:
    """A model may depend on its batch, if that is known.

    differences: without padding first. A broken padding has its own line, and says nothing here.
    """
    if not differences[0] <= limit:
        detail = f"neighbours of the same length move log-odds by {differences[0]:.3g}"
        return CheckResult(BATCHES, "fail", f"{detail} (spread {spread:.3g})")
    largest = max(difference for difference in differences if difference <= limit)
    figures = {"largest difference": largest, "spread": spread}
    if largest == 0.0 and not declared:
        detail = "a score is the same bit for bit alone and in every batch"
        return CheckResult(BATCHES, "pass", detail, figures)
    detail = f"a score depends on its batch: up to {largest:.3g} (spread of log-odds {spread:.3g})"
    return CheckResult(BATCHES, "warn", detail, figures)


def check_lengths(session: Session, model: PreparedModel) -> CheckResult:
    """Prompts of growing length up to max_tokens give numbers, as far as the time allows."""
    lengths = sorted({*(n for n in _LONG_LENGTHS if n < model.max_tokens), model.max_tokens})
    tried, started, expected = 0, time.monotonic(), 0.0
    for length in lengths:
        if tried and time.monotonic() - started + expected > _LONG_SECONDS:
            break
        begin = time.monotonic()
        logits = logits_alone(session, random_prompts(model, [length]), model.pad_id)
        if not np.isfinite(logits).all():
            return CheckResult("lengths", "fail", f"a prompt of {length} tokens has no number")
        expected = (time.monotonic() - begin) * _GROWTH
        tried = length
    if tried == model.max_tokens:
        detail = f"prompts of up to max_tokens = {tried} tokens"
    else:
        detail = f"prompts of up to {tried} tokens; longer ones (max_tokens is {model.max_tokens})"
        detail += f" take more than the {_LONG_SECONDS:.0f} s given to this check"
    return CheckResult("lengths", "pass", detail, {"longest": tried})
