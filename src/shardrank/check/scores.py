"""Whether the scores are those of a reranker: of real text, and of pairs with published scores."""

from __future__ import annotations

import re

import numpy as np

from shardrank.check.batches import log_odds
from shardrank.check.diagnosis import diagnose
from shardrank.check.golden import GOLDEN_PAIRS, RED_PLANET_SOURCE
from shardrank.check.result import CheckResult, judge_difference
from shardrank.engine.model import PreparedModel
from shardrank.engine.prompt import PromptBuilder
from shardrank.engine.ranking import sigmoid
from shardrank.engine.scoring import score_prompts
from shardrank.engine.session import Session
from shardrank.engine.tokenizer import Tokenizer
from shardrank.types import Float64Array

_REAL_NAME = re.compile(r"(^|/)Qwen3-Reranker-0\.6B(-ONNX)?(/|$)", re.IGNORECASE)
_REAL_SIZES = {"num_layers": 28, "hidden_size": 1024}

# Of log-odds. Quantized weights move them by the parts of their spread (3.9 on these pairs) that
# `agreement` tolerates; twice that is a warning.
_GOOD = {"fp32": 1e-3, "fp16": 0.1, "bf16": 0.3, "w8a8": 0.6, "int8": 0.6, "q8": 0.6}
_GOOD_OTHERS = 2.0
_TOLERABLE_FP32 = 1e-2


def check_scores(values: Float64Array) -> CheckResult:
    """Log-odds of real pairs are numbers that tell the pairs apart, without a known bad sign."""
    if not np.isfinite(values).all():
        num_bad = int((~np.isfinite(values)).sum())
        return CheckResult("scores", "fail", f"{num_bad} of {len(values)} pairs have no number")
    sign = diagnose(sigmoid(values))
    low, high = float(values.min()), float(values.max())
    detail = f"{len(values)} pairs of real text, log-odds {low:.2f} to {high:.2f}"
    if sign is not None:
        detail += f"; {sign}"
    if low == high:
        return CheckResult("scores", "fail", f"{detail}; every pair has the same")
    # A weak model may keep to such a range by itself.
    return CheckResult("scores", "pass" if sign is None else "warn", detail)


def check_golden(session: Session, model: PreparedModel, tokenizer: Tokenizer) -> CheckResult:
    """The published log-odds of the real 0.6B model; skipped for every other one."""
    if reason := why_not_real(model):
        return CheckResult("golden", "skip", reason)
    pairs = [pair for pair in GOLDEN_PAIRS if pair.log_odds is not None]
    prompts = PromptBuilder(tokenizer, "transformers").build(
        pairs[0].query, [pair.document for pair in pairs], pairs[0].instruction
    )
    logits = score_prompts(session, prompts, model.pad_id)
    return judge_golden(log_odds(logits), model.precision)


def judge_golden(values: Float64Array, precision: str) -> CheckResult:
    """values: log-odds [4] of the pairs about the Red Planet."""
    expected = np.array([pair.log_odds for pair in GOLDEN_PAIRS if pair.log_odds is not None])
    difference = float(np.abs(values - expected).max())
    good = _GOOD.get(precision, _GOOD_OTHERS)
    verdict = judge_difference(
        difference, good, _TOLERABLE_FP32 if precision == "fp32" else 2 * good
    )
    found = ", ".join(f"{value:.4f}" for value in values)
    detail = f"{found}; largest difference to the published log-odds {difference:.3g}"
    if verdict == "pass" and not np.array_equal(values.argsort(), expected.argsort()):
        verdict, detail = "warn", f"{detail}, in another order"
    if verdict == "fail" and (sign := diagnose(sigmoid(values))):
        detail += f"; {sign}"
    figures = {"largest difference": difference} if np.isfinite(difference) else {}
    return CheckResult("golden", verdict, f"{detail} ({RED_PLANET_SOURCE})", figures)


def why_not_real(model: PreparedModel) -> str | None:
    """Why a model cannot be asked for Qwen3-Reranker-0.6B's scores; None if it can."""
    for name, size in _REAL_SIZES.items():
        if model.architecture.get(name, size) != size:
            return f"{name} is {model.architecture[name]}, and of Qwen3-Reranker-0.6B {size}"
    name = str(model.source.get("name", ""))
    if not _REAL_NAME.search(name):
        return f"the source {name!r} is not called Qwen3-Reranker-0.6B"
    return None
