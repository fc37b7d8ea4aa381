"""Scores that are no reranker's are recognised, and named where their cause is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shardrank.check.diagnosis import diagnose
from shardrank.check.golden import GOLDEN_PAIRS
from shardrank.check.scores import check_golden, check_scores, judge_golden, why_not_real
from shardrank.engine.model import PreparedModel
from shardrank.engine.ranking import sigmoid
from shardrank.engine.tokenizer import Tokenizer
from shardrank.testing import FakeSession, fake_tokenizer

PUBLISHED = np.array([pair.log_odds for pair in GOLDEN_PAIRS if pair.log_odds is not None])
REAL = {"num_layers": 28, "hidden_size": 1024, "vocabulary_size": 151_669}


def logit(score: float) -> float:
    return float(np.log(score / (1 - score)))


@pytest.mark.parametrize(
    ("scores", "sign"),
    [
        ([0.5, 0.5, 0.5], "same column of the head"),
        ([0.55859, 0.98828, 0.88672, 0.91016], "without a template"),
        ([0.56, 0.99, 0.89, 0.91], "without a template"),
        ([0.7306, 0.501, 0.5, 0.5], "the sigmoid was applied twice"),
        (sigmoid(sigmoid(PUBLISHED)), "the sigmoid was applied twice"),
        (sigmoid(2 * sigmoid(PUBLISHED) - 1), "the graph gives probabilities"),
        (1 - sigmoid(PUBLISHED), "yes and no are swapped"),
    ],
)
def test_each_known_sign_is_named(scores: list[float], sign: str) -> None:
    found = diagnose(scores)
    assert found is not None
    assert sign in found


@pytest.mark.parametrize("scores", [sigmoid(PUBLISHED), [], [0.5, np.nan], [0.1, 0.9], [0.5, 0.9]])
def test_right_scores_are_no_sign(scores: list[float]) -> None:
    assert diagnose(scores) is None


def test_scores_that_tell_pairs_apart_pass() -> None:
    result = check_scores(np.array([-3.0, 2.0, 5.0]))
    assert (result.verdict, result.detail) == (
        "pass",
        "3 pairs of real text, log-odds -3.00 to 5.00",
    )


@pytest.mark.parametrize(
    ("values", "verdict", "message"),
    [
        ([0.0, 0.0], "fail", "every score is .5"),
        ([2.0, 2.0], "fail", "every pair has the same"),
        ([1.0, np.nan], "fail", "1 of 2 pairs have no number"),
        ([0.1, 0.9], "warn", "applied twice"),
    ],
)
def test_scores_that_do_not_are_found(values: list[float], verdict: str, message: str) -> None:
    result = check_scores(np.array(values))
    assert result.verdict == verdict
    assert message in result.detail


@pytest.mark.parametrize(
    ("precision", "error", "verdict"),
    [
        ("fp32", 1e-4, "pass"),
        ("fp32", 5e-3, "warn"),
        ("fp32", 5e-2, "fail"),
        ("w8a8", 0.3, "pass"),
        ("w8a8", 1.0, "warn"),
        ("w8a8", 2.0, "fail"),
        ("q4", 1.0, "pass"),
    ],
)
def test_the_published_log_odds_are_held_to_what_the_precision_can_do(
    precision: str, error: float, verdict: str
) -> None:
    assert judge_golden(PUBLISHED + error, precision).verdict == verdict


def test_another_order_is_a_warning_at_least() -> None:
    result = judge_golden(np.array([-1.4, 5.5, -1.5, 3.5]), "q4")
    assert (result.verdict, "in another order" in result.detail) == ("warn", True)


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        (-PUBLISHED, "yes and no are swapped"),
        ([logit(s) for s in (0.55859, 0.98828, 0.88672, 0.91016)], "without a template"),
        (sigmoid(PUBLISHED), "the sigmoid was applied twice"),
        ([0.0] * 4, "every score is .5"),
        ([np.nan] * 4, "nan"),
    ],
)
def test_a_failure_names_its_cause(values: list[float], sign: str) -> None:
    result = judge_golden(np.array(values), "fp32")
    assert result.verdict == "fail"
    assert sign in result.detail


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen3-Reranker-0.6B",
        "Qwen3-Reranker-0.6B",
        "onnx-community/Qwen3-Reranker-0.6B-ONNX/onnx/model_q4.onnx",
    ],
)
def test_the_real_model_is_known_by_its_name_and_sizes(model: PreparedModel, name: str) -> None:
    real = replace(model, source={"name": name, "files": {}}, architecture=REAL)
    assert why_not_real(real) is None
    other = replace(real, architecture={**REAL, "num_layers": 36})
    assert why_not_real(other) == "num_layers is 36, and of Qwen3-Reranker-0.6B 28"


@pytest.mark.parametrize("name", ["my-Qwen3-Reranker-0.6B-tuned", "checkpoint"])
def test_a_model_of_another_name_is_not_held_to_published_scores(
    model: PreparedModel, name: str
) -> None:
    tuned = replace(model, source={"name": name, "files": {}}, architecture=REAL)
    result = check_golden(FakeSession(), tuned, Tokenizer(fake_tokenizer()))
    assert (result.verdict, f"'{name}' is not called" in result.detail) == ("skip", True)


def test_a_model_that_says_it_is_the_real_one_is_held_to_its_scores(model: PreparedModel) -> None:
    source = {"name": "Qwen/Qwen3-Reranker-0.6B", "files": {}}
    real = replace(model, source=source, architecture=REAL)
    result = check_golden(FakeSession(), real, Tokenizer(fake_tokenizer()))
    assert result.verdict == "fail"
    assert "sentence-transformers" in result.detail
