"""Every setting either belongs to the job's identity or is known to change no byte of a row."""

import pytest

from shardrank.config import known_keys, load_config
from shardrank.engine.model import PreparedModel
from shardrank.job.fingerprints import output_fields, score_fields

REQUIRED = ["input.path=in", "output.path=out", "model.path=demo"]
MODEL = PreparedModel(
    source={},
    files={"model.onnx": "a" * 64, "tokenizer.json": "b" * 64},
    architecture={},
    precision="fp32",
    layout="padded",
    yes_id=1,
    no_id=2,
    pad_id=0,
    prompt_style="transformers",
    instruction="find",
    max_tokens=512,
)
CHANGED = {
    "input.layout": "pairs",
    "output.top_k": "3",
    "output.min_score": "0.5",
    "output.pair_hash": "true",
    "prompt.style": "vllm",
    "prompt.instruction": "other",
    "prompt.max_tokens": "256",
    "prompt.long_documents": "windows",
    "errors.on_bad_row": "fail",
    "errors.max_bytes": "7",
} | {key: "renamed" for key in known_keys() if ".columns." in key}
CASCADE = {
    "cascade.top_k": "5",
    "cascade.min_score": "0.1",
    "cascade.max_score": "0.9",
    "cascade.min_log_odds": "-1",
    "cascade.max_log_odds": "1",
    "cascade.prefix": "third_",
    "cascade.rank": "place",
    "cascade.score": "chance",
    "cascade.log_odds": "logit",
}
NEUTRAL = {
    "input.path": "elsewhere",
    "output.path": "elsewhere",
    "output.layout": "nested",
    "model.path": "elsewhere",
    "model.cache_folder": "elsewhere",
    "prompt.window_tokens": "2000",
    "prompt.window_stride": "100",
    "scoring.device": "cpu",
    "scoring.max_batch_tokens": "99",
    "scoring.reuse_prefix": "false",
    "scoring.threads": "3",
    "scoring.reuse": "elsewhere",
    "errors.max_rejected_fraction": "0.5",
    "errors.max_failed_shards": "5",
    "errors.max_attempts": "5",
    "units.pairs": "5",
    "cluster.address": "auto",
    "cluster.min_actors": "1",
    "cluster.max_actors": "5",
    "cluster.cpus_per_actor": "2",
    "cluster.gpus_per_actor": "1",
    "cluster.actor_resources": "{scorer = 1.0}",
    "cluster.task_resources": "{reader = 1.0}",
    "cluster.no_progress_seconds": "5",
    "cluster.drain_seconds": "5",
    "lease.seconds": "5",
    "logging.format": "json",
}


def fields(*settings: str) -> dict[str, object]:
    config = load_config(None, [*REQUIRED, *settings])
    return {**score_fields(config, MODEL), **output_fields(config)}


def test_every_setting_is_in_one_of_the_two_tables() -> None:
    assert sorted([*CHANGED, *CASCADE, *NEUTRAL]) == sorted(known_keys())


@pytest.mark.parametrize("key", CHANGED)
def test_a_setting_that_shapes_rows_or_scores_is_part_of_the_job(key: str) -> None:
    before, after = fields(), fields(f"{key}={CHANGED[key]}")
    assert [name for name in before if before[name] != after[name]] == [key]


@pytest.mark.parametrize("key", CASCADE)
def test_every_setting_of_a_cascade_is_part_of_the_job(key: str) -> None:
    before, after = fields("cascade.top_k=9"), fields("cascade.top_k=9", f"{key}={CASCADE[key]}")
    assert key in [name for name in before if before[name] != after[name]]
    assert fields() != before


@pytest.mark.parametrize("key", NEUTRAL)
def test_a_setting_that_changes_nothing_may_change_in_a_resume(key: str) -> None:
    assert fields(f"{key}={NEUTRAL[key]}") == fields()


@pytest.mark.parametrize("key", ["prompt.window_tokens", "prompt.window_stride"])
def test_windows_are_part_of_the_job_where_there_are_any(key: str) -> None:
    windows = "prompt.long_documents=windows"
    assert fields(windows) != fields(windows, f"{key}={NEUTRAL[key]}")


def test_a_setting_that_says_what_the_model_says_is_no_change() -> None:
    settings = ("prompt.style=transformers", "prompt.instruction=find", "prompt.max_tokens=512")
    assert fields(*settings) == fields()
