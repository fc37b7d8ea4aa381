"""The whole of a check: its table, its verdict, and what it leaves in the model."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from check.sessions import ConstantSession, ShortSession, SquashedSession
from graph_models import SHAPES, build
from shardrank.check.checks import check, check_graph, check_pairs, record
from shardrank.check.report import CheckReport
from shardrank.check.result import CheckResult, judge_difference, render, worst_verdict
from shardrank.cli import main
from shardrank.engine.model import PreparedModel
from shardrank.engine.session import SessionDescription
from shardrank.engine.tokenizer import Tokenizer
from shardrank.errors import ModelError
from shardrank.testing import FakeSession, fake_model

MACHINE = SessionDescription("1.32.0", "CPUExecutionProvider", "avx2")


def verdicts(report: CheckReport) -> dict[str, str]:
    return {result.name: result.verdict for result in report.results}


def detail(report: CheckReport, name: str) -> str:
    return next(result.detail for result in report.results if result.name == name)


def test_a_good_model_passes(folder: Path) -> None:
    report = check(folder)
    assert verdicts(report) == {
        "files": "pass",
        "tokens": "pass",
        "prompt ids": "skip",
        "finite": "pass",
        "left padding": "pass",
        "right padding": "pass",
        "batches": "pass",
        "lengths": "pass",
        "speed": "pass",
        "scores": "pass",
        "reference": "skip",
        "golden": "skip",
    }
    assert report.verdict == "pass"


def test_a_model_that_was_built_passes(tmp_path: Path) -> None:
    assert check(build(tmp_path, SHAPES["grouped"]).folder).verdict == "pass"


def test_a_changed_file_is_found(folder: Path) -> None:
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    report = check(folder)
    assert (verdicts(report)["files"], report.verdict) == ("fail", "fail")
    assert "tokenizer.json changed" in detail(report, "files")


def test_a_tokenizer_that_is_none_costs_its_line_and_not_the_others(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    found = verdicts(check(folder))
    assert (found["tokens"], found["left padding"]) == ("fail", "pass")
    assert "scores" not in found


def test_another_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no reranker\.json"):
        check(tmp_path)


def test_a_graph_that_fails_while_it_runs_fails_its_line(model: PreparedModel) -> None:
    results = {r.name: r for r in check_graph(ShortSession(2048, raises=True), model)}
    assert results["lengths"].verdict == "fail"
    assert "cannot be run: indices element out of data bounds" in results["lengths"].detail
    assert results["speed"].verdict == "pass"


@pytest.mark.parametrize(
    ("session", "verdict", "message"),
    [
        (ConstantSession(1.0, 1.0), "fail", "every score is .5"),
        (ConstantSession(2.0, 1.0), "fail", "every pair has the same"),
        (FakeSession(nan_on=range(300)), "fail", "20 of 20 pairs have no number"),
        (SquashedSession(), "warn", "the sigmoid was applied twice"),
    ],
)
def test_scores_with_a_known_bad_sign_are_named(
    folder: Path, session: FakeSession, verdict: str, message: str
) -> None:
    results = check_pairs(session, PreparedModel.load(folder), Tokenizer.load(folder))
    scores = next(result for result in results if result.name == "scores")
    assert scores.verdict == verdict
    assert message in scores.detail


def test_a_model_that_has_no_room_for_its_template_is_found(tmp_path: Path) -> None:
    report = check(fake_model(tmp_path / "model", max_tokens=60))
    assert verdicts(report)["scores"] == "fail"
    assert "leaves no room for a document" in detail(report, "scores")


def test_results_are_written_into_the_model(folder: Path) -> None:
    results = [CheckResult("files", "pass", "as prepared"), CheckResult("speed", "warn", "slow")]
    before = PreparedModel.load(folder)
    record(folder, CheckReport(results, MACHINE))
    after = PreparedModel.load(folder)
    assert after.check == {
        "verdict": "warn",
        "machine": MACHINE.as_dict(),
        "batch_difference": None,
        "results": [result.as_dict() for result in results],
    }
    assert replace(after, check=None) == before


def test_a_model_that_moves_with_its_batch_is_marked_for_good(folder: Path) -> None:
    moved = CheckResult("batches", "warn", "", {"largest difference": 0.25})
    steady = CheckResult("batches", "pass", "", {"largest difference": 0.0})
    record(folder, CheckReport([steady], MACHINE))
    assert not PreparedModel.load(folder).batch_dependent
    record(folder, CheckReport([moved], MACHINE))
    model = PreparedModel.load(folder)
    assert model.batch_dependent
    assert model.check is not None
    assert model.check["batch_difference"] == 0.25
    record(folder, CheckReport([steady], MACHINE))
    assert PreparedModel.load(folder).batch_dependent


def test_the_table_has_a_line_for_each_check() -> None:
    results = [CheckResult("files", "pass", "as prepared"), CheckResult("a", "fail", "why")]
    assert render(results).splitlines() == ["pass  files  as prepared", "fail  a      why"]
    assert CheckReport(results, MACHINE).render().splitlines()[-1] == (
        "fail  on onnxruntime 1.32.0, CPUExecutionProvider, avx2"
    )


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.0, "pass"), (0.1, "warn"), (1.1, "fail"), (np.nan, "fail")]
)
def test_a_difference_is_judged_by_its_size(difference: float, verdict: str) -> None:
    assert judge_difference(difference, exact=0.0, tolerable=1.0) == verdict


def test_what_was_skipped_says_nothing_of_the_whole() -> None:
    assert worst_verdict([CheckResult("a", "skip", "")]) == "skip"
    assert worst_verdict([CheckResult("a", "skip", ""), CheckResult("b", "pass", "")]) == "pass"


def test_the_command_prints_the_table_and_exits_by_the_verdict(folder: Path) -> None:
    good = CliRunner().invoke(main, ["check", str(folder)])
    assert (good.exit_code, good.stderr) == (0, "")
    assert "pass  left padding" in good.stdout
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")
    bad = CliRunner().invoke(main, ["check", "--json", str(folder)])
    assert bad.exit_code == 1
    assert json.loads(bad.stdout)["verdict"] == "fail"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_model_that_cannot_be_written_is_checked_all_the_same(folder: Path) -> None:
    folder.chmod(0o500)
    done = CliRunner().invoke(main, ["check", str(folder)])
    folder.chmod(0o700)
    assert done.exit_code == 0
    assert "pass  left padding" in done.stdout
    assert "the results cannot be written (Permission denied)" in done.stderr


def test_a_device_that_is_not_there_is_said_so(folder: Path) -> None:
    done = CliRunner().invoke(main, ["check", "--device", "cuda", str(folder)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "device cuda" in done.stderr
