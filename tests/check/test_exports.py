"""What a check says of somebody else's exports, as they come from the model card's tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from exports import EXPORTS, copy_export
from shardrank.check.checks import check
from shardrank.check.report import CheckReport
from shardrank.check.result import CheckResult
from shardrank.graph.prepare import prepare


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An fp32 build of the checkpoint that all exports were made from."""
    folder = tmp_path_factory.mktemp("reference") / "fp32"
    prepare(EXPORTS / "checkpoint", folder, precision="fp32")
    return folder


def checked(name: str, folder: Path, reference: Path) -> CheckReport:
    prepare(copy_export(name, folder / "source"), folder / "model", max_tokens=256)
    return check(folder / "model", reference)


def line(report: CheckReport, name: str) -> CheckResult:
    return next(result for result in report.results if result.name == name)


def test_dynamic_int8_is_a_warning_with_its_size(tmp_path: Path, reference: Path) -> None:
    report = checked("genai_quantized", tmp_path, reference)
    assert report.verdict == "warn"
    assert line(report, "batches").verdict == "warn"
    assert report.batch_difference is not None
    assert 0.05 < report.batch_difference < line(report, "batches").figures["spread"]
    assert line(report, "reference").figures["relative error"] < 0.3


def test_q4_is_steady_and_its_error_is_told(tmp_path: Path, reference: Path) -> None:
    report = checked("genai_q4", tmp_path, reference)
    assert line(report, "batches").verdict == "pass"
    assert 0.1 < line(report, "reference").figures["relative error"] < 0.8


def test_an_fp32_export_agrees_with_our_own_build(tmp_path: Path, reference: Path) -> None:
    report = checked("optimum", tmp_path, reference)
    assert line(report, "reference").figures["max error"] < 1e-4
    assert report.verdict == "pass"
