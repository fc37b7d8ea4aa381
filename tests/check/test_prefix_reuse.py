from __future__ import annotations

from dataclasses import replace

from check.sessions import ForgetfulSession
from shardrank.check.prefix import check_prefix
from shardrank.engine.model import PreparedModel
from shardrank.testing import FakeSession


def test_a_past_that_changes_no_score_passes(model: PreparedModel) -> None:
    (result,) = check_prefix(FakeSession(takes_past=True), model)
    assert (result.name, result.verdict) == ("prefix reuse", "pass")


def test_a_past_that_changes_scores_fails(model: PreparedModel) -> None:
    (result,) = check_prefix(ForgetfulSession(), model)
    assert result.verdict == "fail"


def test_a_session_without_a_past_has_nothing_to_check(model: PreparedModel) -> None:
    assert check_prefix(FakeSession(), model) == []


def test_no_prompt_is_longer_than_the_model_takes(model: PreparedModel) -> None:
    session = FakeSession(takes_past=True)
    check_prefix(session, replace(model, max_tokens=40))
    assert max(longest for _, longest in session.batch_shapes) <= 40
