"""A second job takes the scores of a first one's pairs, scores the others, and nothing else."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shardrank.config import load_config
from shardrank.errors import ConfigError, InputError, ModelError, OutputError
from shardrank.job.estimate import PlanOptions, estimate
from shardrank.job.estimate_text import render_estimate
from shardrank.job.holding import holding
from shardrank.job.known_pairs import KnownPairs
from shardrank.job.known_units import do_known_units, needs_no_cluster
from shardrank.job.opening import Job
from shardrank.job.reuse import ensure_index
from shardrank.job.watch import Watch
from shardrank.schema import PAIR_HASH
from shardrank.store.commits import committed
from shardrank.store.filesystem import Storage
from shardrank.store.pair_hash import from_arrow
from shardrank.store.pair_index import INDEX_FOLDER, PairIndex
from shardrank.store.results import Results
from shardrank.store.verify import verify
from shardrank.testing import fake_model
from tables import NESTED, read_output, row, text, write_nested, write_pairs

pytestmark = pytest.mark.usefixtures("cluster")

HASHED = "output.pair_hash=true"
NUM_ROWS, NUM_CANDIDATES = 10, 6
NUM_PAIRS = NUM_ROWS * NUM_CANDIDATES


def rows_of(*numbers: int, **columns: Any) -> list[dict[str, Any]]:
    """Rows without a pair that stands in two of them."""
    rows = [row(number, NUM_CANDIDATES, **columns) for number in numbers]
    for number, found in zip(numbers, rows, strict=True):
        for place, candidate in enumerate(found["candidates"]):
            candidate["text"] = f"{candidate['text']} {number} {place}"
    return rows


def without_ids(rows: list[dict[str, Any]]) -> list[Any]:
    """What a job says of its pairs, in an order that follows from their texts."""
    return sorted(
        (
            row["query"],
            *(candidate[name] for name in ("text", "log_odds", "num_tokens", "truncated")),
        )
        for row in rows
        for candidate in row["candidates"]
    )


class Days:
    """A job that runs every day, into a folder of its own, and reuses the first one's scores."""

    def __init__(self, folders: Any) -> None:
        self.folders = folders

    def settings(self, day: int, rows: list[dict[str, Any]]) -> list[str]:
        schema = NESTED
        if "instruction" in rows[0]:
            schema = schema.append(pa.field("instruction", pa.string()))
        shard = self.folders.root / f"in{day}" / "a.parquet"
        if not shard.exists():
            write_nested(shard, rows, schema, row_group_size=3)
        reuse = [f"scoring.reuse={self.output(1)}"] if day > 1 else []
        paths = f"input.path={self.folders.root}/in{day}", f"output.path={self.output(day)}"
        return [*paths, HASHED, *reuse]

    def open(self, day: int, rows: list[dict[str, Any]]) -> Job:
        return self.folders.open(*self.settings(day, rows))

    def run(self, day: int, rows: list[dict[str, Any]], *settings: str, **options: Any) -> Any:
        result = self.folders.run(*self.settings(day, rows), *settings, **options)
        found = verify(f"{self.folders.root}/in{day}", Storage(str(self.output(day))))
        assert found.problems == ()
        return result

    def output(self, day: int) -> Path:
        return self.folders.root / f"out{day}"

    def rows(self, day: int) -> list[dict[str, Any]]:
        return read_output(self.output(day))


@pytest.fixture
def days(folders) -> Days:
    return Days(folders)


def test_a_second_run_scores_nothing_though_ids_and_order_are_others(days: Days) -> None:
    days.run(1, rows_of(*range(NUM_ROWS)))
    rows = rows_of(*reversed(range(NUM_ROWS)))
    for number, found in enumerate(rows):
        found["query_id"] = f"other {number}"
        found["candidates"].reverse()
        for candidate in found["candidates"]:
            candidate["doc_id"] = "the same"
    progress, said = io.StringIO(), []
    result = days.run(2, rows, progress=progress, echo=said.append)
    assert result.counts.pairs_reused == NUM_PAIRS
    assert without_ids(days.rows(2)) == without_ids(days.rows(1))
    # Who scores claims an attempt before: nobody did.
    assert list((days.output(1) / "_shardrank/attempts").iterdir())
    assert not (days.output(2) / "_shardrank/attempts").exists()
    assert "100% reused" in progress.getvalue()
    assert any("60 pairs (100.0%) reused" in line for line in said)
    report = json.loads((days.output(2) / "_shardrank/report.json").read_text())
    assert (report["reused_from"], report["reused_share"]) == (str(days.output(1)), 1.0)
    success = json.loads((days.output(2) / "_SUCCESS").read_text())
    assert success["counts"]["pairs_reused"] == NUM_PAIRS
    footers = Results.open(str(days.output(2))).footers
    assert {footer["reused_from"] for footer in footers} == {str(days.output(1))}
    assert sum(footer["counts"]["pairs_reused"] for footer in footers) == NUM_PAIRS


def test_of_changed_documents_exactly_these_are_scored(days: Days) -> None:
    days.run(1, rows_of(*range(NUM_ROWS)))
    rows = rows_of(*range(NUM_ROWS))
    for number in (2, 5, 7):
        rows[number]["candidates"][number % NUM_CANDIDATES]["text"] += " changed"
    result = days.run(2, rows)
    assert result.counts.pairs_reused == NUM_PAIRS - 3
    days.run(1000, rows, "scoring.reuse=none")
    assert days.rows(2) == days.rows(1000)


def test_units_without_a_new_pair_are_done_before_the_others(days: Days) -> None:
    days.run(1, rows_of(*range(NUM_ROWS)))
    rows = rows_of(*range(NUM_ROWS))
    rows[-1]["candidates"][0]["text"] += " changed"
    job = days.open(2, rows)
    assert needs_no_cluster(job)
    known = replace(job, index=ensure_index(Storage(str(days.output(1)))))
    with holding(job.output, 60) as hold:
        do_known_units(known, Watch(job.plan, (), None), hold)
    done = committed(job.output, job.plan).done
    assert 0 in done
    assert len(job.plan.units) - 1 not in done
    # It is not new any more: what is left is for the cluster.
    assert not needs_no_cluster(days.open(2, rows))
    assert days.run(2, rows).num_units_done == len(job.plan.units) - len(done)


def test_a_model_is_opened_for_the_first_pair_without_a_score(days: Days, tmp_path: Path) -> None:
    fake_model(tmp_path / "model")
    model = f"model.path={tmp_path}/model"
    days.run(1, rows_of(*range(3)), model)
    (tmp_path / "model" / "model.onnx").write_bytes(b"damaged")
    assert days.run(2, rows_of(*range(3)), model).counts.pairs_reused == 3 * NUM_CANDIDATES
    rows = rows_of(*range(3))
    rows[2]["candidates"][1]["text"] += " changed"
    with pytest.raises(ModelError, match=r"model\.onnx changed after reranker\.json"):
        days.run(3, rows, model)


def test_another_instruction_reuses_nothing_and_it_is_said(days: Days) -> None:
    days.run(1, rows_of(*range(3)))
    said: list[str] = []
    result = days.run(2, rows_of(*range(3)), "prompt.instruction=other", echo=said.append)
    assert result.counts.pairs_reused == 0
    assert any("reused: its scores are others (prompt.instruction differs)" in s for s in said)
    assert not (days.output(1) / INDEX_FOLDER).exists()


@pytest.mark.ray
def test_a_row_with_another_instruction_of_its_own_is_scored(days: Days) -> None:
    days.run(1, rows_of(*range(4), instruction="find it"))
    rows = rows_of(*range(4), instruction="find it")
    rows[1]["instruction"] = None
    rows[2]["instruction"] = "find something else"
    assert days.run(2, rows).counts.pairs_reused == 2 * NUM_CANDIDATES


@pytest.mark.ray
def test_what_was_cut_or_rejected_is_not_there_to_be_reused(days: Days) -> None:
    days.run(1, rows_of(*range(3)), "output.top_k=2")
    rows = rows_of(*range(3))
    rows[0]["candidates"][0]["text"] = None
    kept = {c["doc_id"] for found in days.rows(1) for c in found["candidates"]} - {"d0-0"}
    assert days.run(2, rows).counts.pairs_reused == len(kept) < NUM_PAIRS


@pytest.mark.ray
def test_truncation_and_windows_come_along(days: Days) -> None:
    rows = rows_of(*range(3))
    rows[1]["candidates"][2]["text"] = text(1, 300)
    for number, settings in enumerate(
        (("prompt.max_tokens=200",), ("prompt.long_documents=windows", "prompt.window_tokens=60",
                                      "prompt.window_stride=30"))
    ):  # fmt: skip
        days.folders.root = days.folders.root / str(number)
        days.run(1, rows, *settings)
        result = days.run(2, rows, *settings)
        assert result.counts.pairs_reused == 3 * NUM_CANDIDATES
        assert result.counts.pairs_truncated == (1 if number == 0 else 0)
        assert days.rows(2) == days.rows(1)


@pytest.mark.ray
def test_pairs_are_reused_across_layouts(days: Days, tmp_path: Path) -> None:
    rows = rows_of(*range(4))
    days.run(1, rows)
    rows.append(rows.pop(1))
    split = [*rows, {**rows[0], "candidates": rows[0]["candidates"][:2]}]
    write_pairs(tmp_path / "pairs" / "a.parquet", split)
    out = tmp_path / "from-pairs"
    result = days.folders.run(
        f"input.path={tmp_path}/pairs", f"output.path={out}", "input.layout=pairs", HASHED,
        f"scoring.reuse={days.output(1)}",
    )  # fmt: skip
    assert result.counts.pairs_reused == result.counts.pairs_in == 26
    assert verify(f"{tmp_path}/pairs", Storage(str(out))).problems == ()
    assert days.run(3, rows, f"scoring.reuse={out}").counts.pairs_reused == 24


@pytest.mark.ray
@pytest.mark.parametrize("max_pairs_in_hand", [0, 1000])
def test_an_index_of_many_buckets_has_every_pair(days: Days, max_pairs_in_hand: int) -> None:
    days.run(1, rows_of(*range(NUM_ROWS)))
    storage = Storage(str(days.output(1)))
    index = ensure_index(storage, 4, max_pairs_in_hand)
    files = list((days.output(1) / INDEX_FOLDER).glob("*.parquet"))
    assert len(files) > 5
    assert max(pq.read_metadata(file).num_rows for file in files) <= 8
    assert ensure_index(storage) == index
    results = Results.open(storage.url)
    for number in results.numbers:
        pairs = results.scored_pairs(number, [PAIR_HASH, "log_odds"])
        found = index.find(from_arrow(pairs[PAIR_HASH]), np.arange(len(pairs)))
        assert found.log_odds.tolist() == pairs["log_odds"].to_pylist()


@pytest.mark.ray
def test_an_index_whose_builder_died_is_made_anew(days: Days) -> None:
    days.run(1, rows_of(*range(NUM_ROWS)))
    storage, folder = Storage(str(days.output(1))), days.output(1) / INDEX_FOLDER
    ensure_index(storage, 4, max_pairs_in_hand=0)
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    for path in sorted(folder.iterdir())[::2]:
        path.unlink()
    (folder / "index.json").unlink(missing_ok=True)
    assert PairIndex.load(storage) is None
    ensure_index(storage, 4)
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.mark.ray
def test_a_pair_without_a_hash_ends_the_making_of_an_index_by_name(days: Days) -> None:
    days.run(1, rows_of(*range(3)))
    file = sorted(days.output(1).glob("*.parquet"))[0]
    footer, table = pq.read_metadata(file).metadata[b"shardrank"], pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["candidates"][0]["pair_hash"] = None
    changed = pa.Table.from_pylist(rows, table.schema)
    pq.write_table(changed.replace_schema_metadata({b"shardrank": footer}), file)
    for max_pairs_in_hand in (0, 1000):
        with pytest.raises(OutputError, match=rf"{file.name} holds a pair without a hash"):
            ensure_index(Storage(str(days.output(1))), 4, max_pairs_in_hand)


@pytest.mark.ray
def test_an_output_that_cannot_be_reused_is_refused_with_what_to_do(days: Days) -> None:
    days.run(1, rows_of(*range(2)), "output.pair_hash=false")
    with pytest.raises(ConfigError, match=r"without pair hashes; set output\.pair_hash = true"):
        days.run(2, rows_of(*range(2)))
    with pytest.raises(ConfigError, match="not the output of a job"):
        days.run(2, rows_of(*range(2)), f"scoring.reuse={days.folders.root}/in1")
    with pytest.raises(ConfigError, match="cannot reuse what it writes"):
        days.run(2, rows_of(*range(2)), f"scoring.reuse={days.output(2)}")
    assert not days.output(2).exists()


@pytest.mark.ray
def test_an_output_that_is_not_finished_is_refused(days: Days) -> None:
    days.run(1, rows_of(*range(2)))
    (days.output(1) / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="is not finished"):
        days.run(2, rows_of(*range(2)))


@pytest.mark.ray
def test_a_plan_counts_only_the_pairs_that_have_no_score(days: Days) -> None:
    days.run(1, rows_of(*range(2)))
    rows = rows_of(*range(2))
    for candidate in rows[1]["candidates"][:3]:
        candidate["text"] += " changed"
    config = load_config(None, days.folders.settings(*days.settings(2, rows)))
    found = estimate(config, PlanOptions(pairs_per_second=1.0))
    assert (found.reused_from, found.reused_share) == (str(days.output(1)), 0.75)
    assert found.tokens == pytest.approx(3 * (found.tokens_per_pair or 0), abs=1)
    assert (found.seconds or 0) - found.start_seconds == pytest.approx(3, abs=0.1)
    assert "75.0% of the sampled pairs, which are not counted" in render_estimate(found)
    assert not (days.output(1) / INDEX_FOLDER).exists()
    ensure_index(Storage(str(days.output(1))))
    assert estimate(config, PlanOptions(pairs_per_second=1.0)) == found
    (days.output(1) / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="is not finished"):
        estimate(config, PlanOptions(pairs_per_second=1.0))


@pytest.mark.ray
def test_a_large_output_without_an_index_is_not_looked_into_for_a_plan(days: Days) -> None:
    days.run(1, rows_of(*range(2)))
    storage = Storage(str(days.output(1)))
    assert KnownPairs.of(storage, "", max_pairs_in_hand=2 * NUM_CANDIDATES - 1) is None
    assert KnownPairs.of(storage, "", max_pairs_in_hand=2 * NUM_CANDIDATES) is not None


@pytest.mark.ray
def test_a_finished_job_needs_what_it_reused_no_longer(days: Days) -> None:
    days.run(1, rows_of(*range(2)))
    days.run(2, rows_of(*range(2)))
    days.output(1).rename(days.folders.root / "expired")
    assert days.run(2, rows_of(*range(2))).num_units_done == 0
