"""A plan in figures, from real shards and a model whose scores cost nothing."""

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from commands import shardrank
from shardrank.config import load_config
from shardrank.job.estimate import Estimate, PlanOptions, estimate, judge
from shardrank.job.estimate_text import render_estimate
from shardrank.job.memory import actor_bytes
from shardrank.job.survey import survey
from shardrank.testing import fake_model
from tables import NESTED, row, text, write_nested

STATED = PlanOptions(num_actors=4, pairs_per_second=10.0, price_per_hour=2.0)
QWEN_SMALL = {
    "num_layers": 28,
    "hidden_size": 1024,
    "num_heads": 16,
    "num_key_value_heads": 8,
    "head_size": 128,
    "intermediate_size": 3072,
}


@pytest.fixture
def planned(folders, tmp_path):
    """Plan the job of this input, of many queries unlike each other."""
    fake_model(tmp_path / "model")

    def plan(*settings: str, options: PlanOptions = STATED, rows: int = 100) -> Estimate:
        write_nested(folders.input / "a.parquet", [row(number) for number in range(rows)])
        settings = (f"model.path={tmp_path}/model", *settings)
        return estimate(load_config(None, folders.settings(*settings)), options)

    return plan


def test_a_stated_speed_gives_hours_and_cost_for_any_number_of_actors(planned) -> None:
    found = planned()
    scoring = found.seconds - found.start_seconds
    assert (found.pairs, found.actors, found.speed_from) == (400, 4, "stated")
    assert scoring == pytest.approx(400 / 10 / 4, rel=0.1)
    assert found.cost == pytest.approx(2.0 * 4 * found.seconds / 3600)
    assert planned(options=PlanOptions(4, 10.0)).cost is None


def test_tokens_a_second_are_pairs_a_second_by_the_length_of_a_pair(planned) -> None:
    mean = planned().tokens_per_pair
    by_tokens = planned(options=PlanOptions(4, tokens_per_second=10.0 * mean))
    assert by_tokens.pairs_per_second == pytest.approx(10.0)


def test_a_session_is_really_tried_where_no_speed_is_stated(planned) -> None:
    found = planned(options=PlanOptions(measure_seconds=0.2))
    assert found.speed_from.startswith("CPUExecutionProvider")
    assert found.tokens_per_second == pytest.approx(found.pairs_per_second * found.tokens_per_pair)
    assert found.measured_bytes > 50e6


def test_nothing_is_written(planned, folders) -> None:
    planned(options=PlanOptions(measure_seconds=0.1))
    assert not folders.output.exists()


def test_what_truncation_cuts_is_a_share_of_all_tokens(folders, tmp_path) -> None:
    fake_model(tmp_path / "model", max_tokens=1000)
    long_row = row(1)
    long_row["candidates"][0]["text"] = text(3, 2000)
    write_nested(folders.input / "a.parquet", [long_row])
    found = estimate(load_config(None, folders.settings(f"model.path={tmp_path}/model")), STATED)
    assert found.truncated_share == 0.25
    assert 0.7 < found.cut_tokens_share < 0.99
    assert "too long" in render_estimate(found)


def test_warnings_say_what_to_look_at(planned) -> None:
    warnings = "\n".join(planned().warnings)
    assert "queries occur before" in warnings  # there are only ten different ones
    assert "raise units.pairs" in warnings
    assert "lower units.pairs" in "\n".join(planned("units.pairs=400").warnings)


def test_a_machine_that_others_used_is_warned_of(folders, tmp_path) -> None:
    fake_model(tmp_path / "model")
    write_nested(folders.input / "a.parquet", [row(number) for number in range(30)])
    config = load_config(None, folders.settings(f"model.path={tmp_path}/model"))
    seen = survey(config, 0.1)
    threads = seen.shape.threads

    def warned(cpu_seconds: float) -> bool:
        measured = replace(seen.measured, seconds=10.0, cpu_seconds=cpu_seconds)
        found = judge(config, PlanOptions(), replace(seen, measured=measured))
        return "kept this machine busy: scoring had 20%" in "\n".join(found.warnings)

    assert warned(2.0 * threads)
    assert not warned(9.5 * threads)


def test_rejected_rows_show_the_exit_code_that_they_would_cost(folders, tmp_path) -> None:
    fake_model(tmp_path / "model")
    rows = [row(number) | ({"query": None} if number % 3 == 0 else {}) for number in range(9)]
    write_nested(folders.input / "a.parquet", rows)
    settings = folders.settings(f"model.path={tmp_path}/model", "errors.max_rejected_fraction=0.1")
    found = estimate(load_config(None, settings), STATED)
    assert (found.rejected_share, found.exit_code) == (pytest.approx(1 / 3), 6)


def test_an_input_without_pairs_has_no_speed_and_no_hours(folders, tmp_path) -> None:
    fake_model(tmp_path / "model")
    write_nested(folders.input / "a.parquet", [], pa.schema(NESTED))
    settings = folders.settings(f"model.path={tmp_path}/model")
    found = estimate(load_config(None, settings), PlanOptions())
    assert (found.seconds, found.tokens_per_pair, found.sampled_pairs) == (None, None, 0)
    assert "0 rows" in render_estimate(found)


def test_the_command_prints_one_json_document(folders) -> None:
    write_nested(folders.input / "a.parquet", [row(number) for number in range(6)])
    paths = ("--input", folders.input, "--output", folders.output, "--model", "demo")
    done = shardrank("plan", *paths, "--tokens-per-second", "1000", "--actors", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["actors"] == 3


def test_the_memory_of_an_actor_is_near_what_was_measured() -> None:
    """0.6B in w8a8 (files of 0.76 GB): 1.1 to 1.4 GB for short texts, 4.1 GB for 8192 tokens."""

    def planned(longest: int, threads: int) -> float:
        found = actor_bytes(
            QWEN_SMALL,
            760_000_000,
            layout="prefix",
            device="cpu",
            threads=threads,
            max_batch_tokens=None,
            longest_tokens=longest,
        )
        assert found is not None
        return found / 1e9

    assert planned(150, 2) == pytest.approx(1.4, rel=0.2)
    assert planned(8192, 1) == pytest.approx(4.1, rel=0.2)
