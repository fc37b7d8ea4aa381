"""Padding, neighbours and length: each fault is found by the line that is meant for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from check.sessions import ColumnSession, NeighbourSession, ScaleSession, ShortSession
from shardrank.check.padding import check_lengths, check_padding
from shardrank.check.result import CheckResult
from shardrank.engine.model import PreparedModel
from shardrank.testing import FakeSession, fake_model


def found(results: list[CheckResult]) -> dict[str, CheckResult]:
    return {result.name: result for result in results}


def verdicts(results: list[CheckResult]) -> dict[str, str]:
    return {result.name: result.verdict for result in results}


def test_a_sound_graph_passes_every_line(model: PreparedModel) -> None:
    results = check_padding(FakeSession(), model)
    assert set(verdicts(results).values()) == {"pass"}
    assert found(results)["batches"].figures["largest difference"] == 0.0


def test_left_padding_that_changes_scores_is_found(model: PreparedModel) -> None:
    assert verdicts(check_padding(ColumnSession(), model)) == {
        "finite": "pass",
        "left padding": "fail",
        "right padding": "pass",
        "batches": "pass",
    }


def test_broken_padding_is_no_batch_dependence_that_a_model_may_have(model: PreparedModel) -> None:
    results = check_padding(ColumnSession(), replace(model, batch_dependent=True))
    assert verdicts(results)["left padding"] == "fail"


def test_bits_that_move_with_the_batch_are_a_warning_with_their_size(model: PreparedModel) -> None:
    results = found(check_padding(NeighbourSession(), model))
    assert (results["left padding"].verdict, results["batches"].verdict) == ("warn", "warn")
    assert 0 < results["batches"].figures["largest difference"] < 1e-4


def test_scores_that_move_with_their_neighbours_are_told_by_how_much(model: PreparedModel) -> None:
    result = found(check_padding(ScaleSession(0.1), model))["batches"]
    assert result.verdict == "warn"
    assert result.figures["largest difference"] == pytest.approx(0.7, abs=1e-3)
    assert "depends on its batch: up to 0.7 (spread of log-odds" in result.detail


def test_scores_that_are_nothing_but_their_neighbours_fail(model: PreparedModel) -> None:
    assert verdicts(check_padding(ScaleSession(10.0), model))["batches"] == "fail"


def test_a_model_that_says_it_depends_on_the_batch_is_warned_of(model: PreparedModel) -> None:
    results = check_padding(FakeSession(), replace(model, batch_dependent=True))
    assert verdicts(results)["batches"] == "warn"


def test_logits_that_are_no_numbers_are_found(model: PreparedModel) -> None:
    results = verdicts(check_padding(FakeSession(nan_on=range(20)), model))
    assert (results["finite"], results["left padding"]) == ("fail", "fail")
    assert results["batches"] == "fail"


def test_a_model_of_short_prompts_is_checked_with_short_prompts(tmp_path: Path) -> None:
    session = FakeSession()
    model = PreparedModel.load(fake_model(tmp_path / "model", max_tokens=60))
    check_padding(session, model)
    result = check_lengths(session, model)
    assert max(width for _, width in session.batch_shapes) == 60
    assert (result.verdict, result.figures["longest"]) == ("pass", 60)


def test_lengths_go_up_to_max_tokens(model: PreparedModel) -> None:
    session = FakeSession()
    assert check_lengths(session, model).verdict == "pass"
    assert [width for _, width in session.batch_shapes] == [1024, 2048, 4096, 8192]


def test_a_table_that_ends_too_early_is_found(model: PreparedModel) -> None:
    result = check_lengths(ShortSession(2048, raises=False), model)
    assert (result.verdict, result.detail) == ("fail", "a prompt of 4096 tokens has no number")
