"""A model beside a reference: how far it is off, and that it is never its own reference."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graph_models import SHAPES
from oracles.checkpoints import make_random_checkpoint
from shardrank.check.agreement import compare, judge
from shardrank.check.checks import check
from shardrank.check.pairs import JudgedPairs, judged_pairs
from shardrank.check.report import CheckReport
from shardrank.check.result import CheckResult
from shardrank.engine.model import PreparedModel
from shardrank.errors import ModelError
from shardrank.graph.prepare import prepare
from shardrank.testing import fake_model


def line(report: CheckReport, name: str) -> CheckResult:
    return next(result for result in report.results if result.name == name)


@pytest.fixture
def pairs() -> JudgedPairs:
    relevance = np.array([2.0, 0.0, 0.0, 1.0, 0.0])
    return JudgedPairs(("a", "b"), ("v", "w", "x", "y", "z"), np.array([0, 0, 0, 1, 1]), relevance)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("untied") / "source", SHAPES["untied"])


@pytest.fixture(scope="module")
def built(checkpoint: Path) -> Path:
    folder = checkpoint.parent / "built"
    prepare(checkpoint, folder, precision="fp32", max_tokens=1024)
    return folder


def test_equal_scores_agree_in_every_figure(pairs: JudgedPairs) -> None:
    values = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    found = compare(pairs, values, values)
    assert (found.error.max, found.kendall_tau, found.top_1) == (0.0, 1.0, 1.0)
    assert found.ndcg == found.reference_ndcg
    assert judge(found, "fp32") == "pass"


def test_figures_are_means_over_queries(pairs: JudgedPairs) -> None:
    reference = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
    found = compare(pairs, np.array([3.0, 2.0, 1.0, 2.0, 1.0]), reference)
    assert (found.kendall_tau, found.top_1) == (0.0, 0.5)
    assert (found.ndcg, found.reference_ndcg) == (1.0, pytest.approx((1 + 1 / np.log2(3)) / 2))


@pytest.mark.parametrize(
    ("precision", "scale", "verdict"),
    [
        ("fp32", 1e-5, "pass"),
        ("fp32", 1e-3, "warn"),
        ("fp32", 1e-1, "fail"),
        ("w8a8", 0.05, "pass"),
        ("w8a8", 0.1, "warn"),
        ("w8a8", 0.9, "fail"),
        ("int4", 0.3, "pass"),
        ("dynamic-int8", 0.1, "pass"),
    ],
)
def test_what_is_tolerable_depends_on_the_precision(
    pairs: JudgedPairs, precision: str, scale: float, verdict: str
) -> None:
    reference = np.array([3.0, -2.0, 1.0, -1.0, 2.0])
    errors = np.array([1, -1, 1, -1, 1]) * reference.std() * scale
    assert judge(compare(pairs, reference + errors, reference), precision) == verdict


def test_scores_without_a_number_never_agree(pairs: JudgedPairs) -> None:
    values = np.array([np.nan, 2.0, 1.0, 1.0, 2.0])
    found = compare(pairs, values, np.array([3.0, 2.0, 1.0, 1.0, 2.0]))
    assert judge(found, "int4") == "fail"
    assert all(np.isfinite(value) for value in found.figures().values())


def test_the_pairs_are_real_text_in_several_languages() -> None:
    pairs = judged_pairs(3)
    assert (len(pairs.queries), len(pairs)) == (6, 60)
    assert all(len(values) == 10 for values in pairs.by_query(pairs.relevance))
    assert sum(values.any() for values in pairs.by_query(pairs.relevance)) >= 4
    assert not all(text.isascii() for text in pairs.documents)


def test_another_build_of_the_same_checkpoint_agrees(built: Path, tmp_path: Path) -> None:
    # The same weights, and other bytes of the graph: an fp32 build of another version.
    other = tmp_path / "other"
    prepare(built.parent / "source", other, precision="fp32", max_tokens=2048)
    result = line(check(built, other), "reference")
    assert (result.verdict, result.figures["max error"]) == ("pass", 0.0)
    assert result.detail.startswith("60 pairs against the prepared reference: log-odds max error 0")


def test_swapped_rows_of_the_head_are_found(built: Path, tmp_path: Path) -> None:
    model = PreparedModel.load(built)
    source = shutil.copytree(built.parent / "source", tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    head = tensors["lm_head.weight"]
    head[[model.yes_id, model.no_id]] = head[[model.no_id, model.yes_id]]
    save_file(tensors, source / "model.safetensors")
    prepare(source, tmp_path / "swapped", precision="fp32", max_tokens=1024)
    report = check(tmp_path / "swapped", built)
    result = line(report, "reference")
    assert (result.verdict, report.verdict) == ("fail", "fail")
    assert result.detail.endswith("the order is the opposite one: yes and no are swapped")


def test_a_graph_is_never_its_own_reference(built: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(built, tmp_path / "copy")
    for reference in (built, copy):
        with pytest.raises(ModelError, match="the very graph that is checked"):
            check(built, reference)


def test_a_reference_of_another_tokenizer_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has another tokenizer\.json than the model"):
        check(built, fake_model(tmp_path / "fake"))


def test_a_folder_that_is_no_reference_is_refused(built: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds neither reranker\.json nor config\.json"):
        check(built, tmp_path)


def test_prompts_are_cut_to_what_both_take(built: Path, tmp_path: Path) -> None:
    prepare(built.parent / "source", tmp_path / "short", precision="fp32", max_tokens=400)
    result = line(check(built, tmp_path / "short"), "reference")
    assert (result.verdict, result.figures["max error"]) == ("pass", 0.0)


@pytest.mark.slow
def test_a_checkpoint_is_compared_with(built: Path, checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert line(check(built, checkpoint), "reference").verdict == "pass"
    other = make_random_checkpoint(tmp_path / "other", SHAPES["untied"], seed=1)
    result = line(check(built, other), "reference")
    assert result.verdict == "fail"
    assert "prepared from another model.safetensors" in result.detail
