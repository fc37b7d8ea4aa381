"""A second job scores some of a first one's candidates again, as it would score them alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from shardrank.cli import main
from shardrank.config import load_config
from shardrank.errors import ConfigError, InputError, OutputMismatchError
from shardrank.job.estimate import PlanOptions, estimate
from shardrank.job.evaluate import evaluate
from shardrank.job.labels import make_label_set
from shardrank.labels.formats import LabelFormat
from shardrank.labels.rules import LabelRules
from shardrank.store.filesystem import Storage
from shardrank.store.verify import verify
from tables import read_output, row, write_nested, write_pairs

pytestmark = pytest.mark.usefixtures("cluster")

SECOND = "prompt.instruction=Does the document name a stone?"
"""Another prompt stands for another model: other scores of the same pairs."""
NUM_ROWS, NUM_CANDIDATES, TOP_K = 6, 6, 3


class Stages:
    """A first job's output, a second one's over it, and the second model on a subset by hand."""

    def __init__(self, folders: Any) -> None:
        self.folders, self.root = folders, folders.root
        self.first, self.second = self.root / "first", self.root / "second"

    def run_first(self, layout: str = "nested", *settings: str) -> None:
        rows = [row(number, NUM_CANDIDATES) for number in range(NUM_ROWS)]
        shard = self.folders.input / "a.parquet"
        write = write_nested if layout == "nested" else write_pairs
        write(shard, rows, row_group_size=4)
        self.folders.run(f"output.path={self.first}", f"input.layout={layout}", *settings)

    def run_second(self, *settings: str, output: Path | None = None, **options: Any) -> Any:
        paths = (f"input.path={self.first}", f"output.path={output or self.second}")
        result = self.folders.run(*paths, SECOND, *settings, **options)
        assert self.problems(output) == ()
        return result

    def problems(self, output: Path | None = None) -> tuple[str, ...]:
        return verify(str(self.first), Storage(str(output or self.second))).problems

    def by_hand(self, wanted: Any) -> dict[tuple[str, str], float]:
        """Log-odds of the second model on a subset, by query and document."""
        rows = [
            {
                "query_id": found["query_id"],
                "query": found["query"],
                "candidates": [
                    {"doc_id": c["doc_id"], "text": c["text"]}
                    for c in found["candidates"]
                    if wanted(c)
                ],
            }
            for found in read_output(self.first)
        ]
        write_nested(self.root / "subset" / "a.parquet", rows)
        paths = f"input.path={self.root}/subset", f"output.path={self.root}/by-hand"
        self.folders.run(*paths, SECOND)
        return {
            (found["query_id"], c["doc_id"]): c["log_odds"]
            for found in read_output(self.root / "by-hand")
            for c in found["candidates"]
        }


@pytest.fixture
def stages(folders) -> Stages:
    return Stages(folders)


def check_list(first: list[Any], second: list[Any], expected: dict[str, float]) -> None:
    """One query: what was scored again first, best first, the rest as it was."""
    again = sorted(
        (c["doc_id"] for c in first if c["doc_id"] in expected), key=lambda d: -expected[d]
    )
    rest = [c["doc_id"] for c in first if c["doc_id"] not in expected]
    assert [c["doc_id"] for c in second] == again + rest
    assert [c["second_log_odds"] for c in second] == [expected.get(c["doc_id"]) for c in second]
    assert [c["second_rank"] for c in second] == list(range(1, len(second) + 1))
    kept = {c["doc_id"]: c for c in first}
    for found in second:
        old = kept[found["doc_id"]]
        assert {name: found[name] for name in old} == old


def test_the_best_are_scored_as_the_second_model_scores_them_alone(stages: Stages) -> None:
    stages.run_first()
    result = stages.run_second(f"cascade.top_k={TOP_K}")
    assert result.counts.pairs_passed_over == NUM_ROWS * (NUM_CANDIDATES - TOP_K)
    expected = stages.by_hand(lambda c: c["rank"] <= TOP_K)
    assert len(expected) == NUM_ROWS * TOP_K
    for first, second in zip(read_output(stages.first), read_output(stages.second), strict=True):
        own = {d: v for (query, d), v in expected.items() if query == first["query_id"]}
        check_list(first["candidates"], second["candidates"], own)
        assert second["second_num_cut"] == second["second_num_rejected"] == 0


@pytest.mark.ray
def test_an_uncertain_band_is_scored_likewise_and_cut_afterwards(stages: Stages) -> None:
    stages.run_first()
    found = [c["log_odds"] for r in read_output(stages.first) for c in r["candidates"]]
    low, high = sorted(found)[len(found) // 3], sorted(found)[-3]
    band = (f"cascade.min_log_odds={low}", f"cascade.max_log_odds={high}")
    stages.run_second(*band)
    expected = stages.by_hand(lambda c: low <= c["log_odds"] <= high)
    assert 0 < len(expected) < len(found)
    for first, second in zip(read_output(stages.first), read_output(stages.second), strict=True):
        own = {d: v for (query, d), v in expected.items() if query == first["query_id"]}
        check_list(first["candidates"], second["candidates"], own)
    cut = stages.root / "cut"
    stages.run_second(*band, "output.top_k=2", output=cut)
    whole = [r["candidates"][:2] for r in read_output(stages.second)]
    assert [r["candidates"] for r in read_output(cut)] == whole


@pytest.mark.ray
def test_a_cascade_of_pairs_ranks_as_one_of_lists(stages: Stages) -> None:
    stages.run_first("pairs")
    stages.run_second("input.layout=pairs", f"cascade.top_k={TOP_K}")
    first, second = read_output(stages.first), read_output(stages.second)
    assert [r["doc_id"] for r in second] == [r["doc_id"] for r in first]
    chosen = [r["rank"] <= TOP_K for r in first]
    assert [r["second_log_odds"] is not None for r in second] == chosen
    for query in {r["query_id"] for r in second}:
        own = [r for r in second if r["query_id"] == query]
        ranked = sorted(own, key=lambda r: r["second_rank"])
        best, rest = ranked[:TOP_K], ranked[TOP_K:]
        assert [r["rank"] for r in rest] == list(range(TOP_K + 1, NUM_CANDIDATES + 1))
        odds = [r["second_log_odds"] for r in best]
        assert odds == sorted(odds, reverse=True)


def test_what_people_do_with_scores_works_on_a_cascade(stages: Stages, tmp_path: Path) -> None:
    stages.run_first()
    stages.run_second(f"cascade.top_k={TOP_K}")
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("".join(f"q{n} 0 d{n}-2 1\n" for n in range(NUM_ROWS)))
    second = read_output(stages.second)
    found = evaluate(str(stages.second), str(qrels), measures="RR", trec_run=f"{tmp_path}/run")
    rank = {r["query_id"]: {c["doc_id"]: c for c in r["candidates"]} for r in second}
    for query in found.queries:
        about = rank[query.query_id][f"d{query.query_id[1:]}-2"]
        assert query.before["RR"] == pytest.approx(1 / about["rank"])
        assert query.after["RR"] == pytest.approx(1 / about["second_rank"])
    lines = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    for r in second:
        own = sorted((x for x in lines if x[0] == r["query_id"]), key=lambda x: -float(x[4]))
        assert [x[2] for x in own] == [c["doc_id"] for c in r["candidates"]]
    labels = make_label_set(
        str(stages.second), f"{tmp_path}/labels", LabelFormat("pointwise"), LabelRules()
    )
    assert labels.counts.rows == NUM_ROWS * TOP_K
    for command in (["report", str(stages.second)], ["status", str(stages.second)]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 0, done.output
    assert f"{NUM_ROWS * (NUM_CANDIDATES - TOP_K)} not scored again" in done.output


@pytest.mark.ray
def test_a_plan_counts_only_what_is_scored_again(stages: Stages) -> None:
    stages.run_first()
    paths = f"input.path={stages.first}", f"output.path={stages.second}"
    settings = stages.folders.settings(*paths, f"cascade.top_k={TOP_K}")
    found = estimate(load_config(None, settings), PlanOptions(pairs_per_second=100.0))
    assert (found.chosen_share, found.exit_code) == (TOP_K / NUM_CANDIDATES, 0)
    settings = [*settings[:-1], "cascade.top_k=99"]
    whole = estimate(load_config(None, settings), PlanOptions(pairs_per_second=100.0))
    assert found.tokens < whole.tokens


@pytest.mark.ray
def test_a_cascade_may_reuse_scores_and_be_the_first_stage_of_another(stages: Stages) -> None:
    stages.run_first()
    top = f"cascade.top_k={TOP_K}"
    stages.run_second(top, "output.pair_hash=true")
    again = stages.root / "again"
    result = stages.run_second("cascade.top_k=4", f"scoring.reuse={stages.second}", output=again)
    assert result.counts.pairs_reused == NUM_ROWS * TOP_K
    third = stages.root / "third"
    stages.folders.run(
        f"input.path={stages.second}", f"output.path={third}", "cascade.top_k=2",
        "cascade.rank=second_rank", "cascade.prefix=third_",
    )  # fmt: skip
    assert verify(str(stages.second), Storage(str(third))).problems == ()
    for found in read_output(third):
        scored = [c["third_log_odds"] is not None for c in found["candidates"]]
        assert scored == [True] * 2 + [False] * (NUM_CANDIDATES - 2)


@pytest.mark.ray
def test_an_unfinished_first_job_and_settings_that_do_not_fit_are_refused(stages: Stages) -> None:
    stages.run_first()
    paths = f"input.path={stages.first}", f"output.path={stages.second}"
    run = stages.folders.run
    with pytest.raises(
        ConfigError,
        match=r"output\.columns\.log_odds = 'log_odds', .*the input has a column of that name",
    ):
        run(*paths)
    with pytest.raises(ConfigError, match="no condition says what to score again"):
        run(*paths, "cascade.prefix=b_")
    with pytest.raises(ConfigError, match="leave it out, or cut with"):
        run(*paths, "cascade.top_k=2", "output.min_score=0.5")
    with pytest.raises(ConfigError, match="at least 1.0 and at most 0.0"):
        run(*paths, "cascade.min_log_odds=1", "cascade.max_log_odds=0")
    with pytest.raises(ConfigError, match=r"cascade\.rank = 'place'"):
        run(*paths, "cascade.top_k=2", "cascade.rank=place")
    stages.run_second("cascade.top_k=2")
    with pytest.raises(OutputMismatchError, match=r"cascade\.top_k was 2, now 3"):
        run(*paths, SECOND, "cascade.top_k=3")
    (stages.first / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="is the output of a job that is not finished"):
        run(*paths, SECOND, "cascade.top_k=2")


def tamper(output: Path, change: Any) -> None:
    """Change the candidates of an output's first file, and keep its footer."""
    path = sorted(output.glob("*.parquet"))[0]
    footer = pq.read_metadata(path).metadata[b"shardrank"]
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows[0]["candidates"])
    changed = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(changed.replace_schema_metadata({b"shardrank": footer}), path)


def swap_rest(candidates: list[Any]) -> None:
    candidates[-1], candidates[-2] = candidates[-2], candidates[-1]
    candidates[-1]["second_rank"], candidates[-2]["second_rank"] = 6, 5


def score_one_more(candidates: list[Any]) -> None:
    last = candidates[TOP_K - 1]
    for name in ("log_odds", "score", "num_tokens", "truncated"):
        candidates[TOP_K][f"second_{name}"] = last[f"second_{name}"]


def move_down(candidates: list[Any]) -> None:
    candidates.append(candidates.pop(TOP_K - 1))
    for place, candidate in enumerate(candidates, 1):
        candidate["second_rank"] = place


def exchange_hash(candidates: list[Any]) -> None:
    one, other = candidates[0], candidates[1]
    one["second_pair_hash"] = other["second_pair_hash"]


@pytest.mark.ray
def test_verify_sees_what_a_cascade_must_not_do(stages: Stages) -> None:
    stages.run_first()
    stages.run_second(f"cascade.top_k={TOP_K}", "output.pair_hash=true")
    for number, (change, problem) in enumerate(
        [
            (swap_rest, "not in their old order"),
            (score_one_more, "not there exactly where the cascade"),
            (move_down, "stands before one that was"),
            (exchange_hash, "second_pair_hash is not that of its query and text"),
        ]
    ):
        output = stages.root / f"second{number}"
        shutil.copytree(stages.second, output)
        tamper(output, change)
        assert any(problem in found for found in stages.problems(output)), problem
