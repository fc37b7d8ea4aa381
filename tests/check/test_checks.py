"""A good model passes every check, and each fault is found by the check that is meant for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graph_models import SHAPES, build
from oracles.checkpoints import make_random_checkpoint
from shardrank.check.checks import CheckResult, check, check_session, record, render
from shardrank.check.result import judge_difference, worst_verdict
from shardrank.engine.model import PreparedModel
from shardrank.errors import ModelError
from shardrank.testing import FakeSession, fake_model
from shardrank.types import Float32Array, Int64Array


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_model(tmp_path / "model")


@pytest.fixture
def model(folder: Path) -> PreparedModel:
    return PreparedModel.load(folder)


class ColumnSession(FakeSession):
    """Takes the first columns of a row for its tokens, as an export with such a fault does."""

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        return super().run(input_ids, np.sort(attention_mask, axis=1)[:, ::-1])


class NeighbourSession(FakeSession):
    """Moves every row a little by the width of its batch, as another kernel does."""

    def run(self, input_ids: Int64Array, attention_mask: Int64Array) -> Float32Array:
        logits = super().run(input_ids, attention_mask)
        return logits + np.float32(1e-8) * input_ids.shape[1] * np.array([1, -1], np.float32)


def verdicts(results: list[CheckResult]) -> dict[str, str]:
    return {result.name: result.verdict for result in results}


def detail(results: list[CheckResult], name: str) -> str:
    return next(result.detail for result in results if result.name == name)


def test_a_good_model_passes(folder: Path) -> None:
    assert verdicts(check(folder)) == {
        "files": "pass",
        "tokens": "pass",
        "finite": "pass",
        "left padding": "pass",
        "right padding": "pass",
        "reference": "skip",
        "speed": "pass",
    }


def test_a_model_that_was_built_passes(tmp_path: Path) -> None:
    built = build(tmp_path, SHAPES["grouped"])
    assert set(verdicts(check(built.folder)).values()) == {"pass", "skip"}


def test_a_changed_file_is_found(folder: Path) -> None:
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    results = check(folder)
    assert verdicts(results)["files"] == "fail"
    assert "tokenizer.json changed" in detail(results, "files")


@pytest.mark.parametrize(
    ("field", "message"), [("yes_id", "yes [258] is not 7"), ("pad_id", "7 is no special token")]
)
def test_ids_of_another_tokenizer_are_found(tmp_path: Path, field: str, message: str) -> None:
    folder = fake_model(tmp_path / "model", **{field: 7})
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    results = check(folder)
    assert verdicts(results)["tokens"] == "fail"
    assert message.replace("258", str(vocabulary["yes"])) in detail(results, "tokens")


def test_left_padding_that_changes_scores_is_found(model: PreparedModel) -> None:
    found = verdicts(check_session(ColumnSession(), model))
    assert (found["left padding"], found["right padding"]) == ("fail", "pass")


def test_bits_that_move_with_the_batch_are_a_warning(model: PreparedModel) -> None:
    assert verdicts(check_session(NeighbourSession(), model))["left padding"] == "warn"


def test_a_model_that_says_it_depends_on_the_batch_is_warned_of(model: PreparedModel) -> None:
    results = check_session(FakeSession(), replace(model, batch_dependent=True))
    assert verdicts(results)["left padding"] == "warn"


def test_logits_that_are_no_numbers_are_found(model: PreparedModel) -> None:
    found = verdicts(check_session(FakeSession(nan_on=range(20)), model))
    assert (found["finite"], found["left padding"]) == ("fail", "fail")


def test_a_model_of_short_prompts_is_checked_with_short_prompts(tmp_path: Path) -> None:
    session = FakeSession()
    check_session(session, PreparedModel.load(fake_model(tmp_path / "model", max_tokens=60)))
    assert max(width for _, width in session.batch_shapes) == 60


def test_results_are_written_into_the_model(folder: Path) -> None:
    results = [CheckResult("files", "pass", "as prepared"), CheckResult("speed", "warn", "slow")]
    before = PreparedModel.load(folder)
    record(folder, results)
    after = PreparedModel.load(folder)
    assert after.check == {"verdict": "warn", "results": [r.as_dict() for r in results]}
    assert replace(after, check=None) == before


def test_another_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reranker\.json"):
        check(tmp_path)


def test_the_table_has_a_line_for_each_check() -> None:
    results = [CheckResult("files", "pass", "as prepared"), CheckResult("a", "fail", "why")]
    assert render(results).splitlines() == ["pass  files  as prepared", "fail  a      why"]


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.0, "pass"), (0.1, "warn"), (1.1, "fail"), (np.nan, "fail")]
)
def test_a_difference_is_judged_by_its_size(difference: float, verdict: str) -> None:
    assert judge_difference(difference, exact=0.0, tolerable=1.0) == verdict


def test_what_was_skipped_says_nothing_of_the_whole() -> None:
    assert worst_verdict([CheckResult("a", "skip", "")]) == "skip"
    assert worst_verdict([CheckResult("a", "skip", ""), CheckResult("b", "pass", "")]) == "pass"


@pytest.mark.slow
def test_a_reference_is_compared_with(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    built = build(tmp_path, SHAPES["untied"])
    assert verdicts(check(built.folder, built.source))["reference"] == "pass"
    other = make_random_checkpoint(tmp_path / "other", SHAPES["untied"], seed=1)
    results = check(built.folder, other)
    assert verdicts(results)["reference"] == "fail"
    assert "prepared from another model.safetensors" in detail(results, "reference")
