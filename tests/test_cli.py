"""What a user types wrong, and what they are told: one message, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from shardrank.cli import main
from shardrank.testing import fake_log_odds, fake_model
from tables import row, write_nested


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    fake_model(folder)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_nested(tmp_path / "in" / "a.parquet", [row(number) for number in range(3)])
    return tmp_path / "in"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def rerank(shards: Path, output: Path, model: Path, *settings: str) -> Result:
    sets = [part for setting in settings for part in ("--set", setting)]
    return run("rerank", "--input", shards, "--output", output, "--model", model, *sets)


def test_a_missing_input_folder_is_named(tmp_path: Path, model: Path) -> None:
    result = rerank(tmp_path / "absent", tmp_path / "out", model)
    assert result.exit_code == 1
    assert f"no input at {tmp_path}/absent" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_shards_is_said_so(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("nothing")
    result = rerank(tmp_path / "in", tmp_path / "out", model)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "none of its 1 files is a shard" in result.stderr


def test_a_missing_column_is_named_with_the_setting_that_helps(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"query_id": ["1"], "question": ["?"]}), tmp_path / "in" / "a.parquet")
    result = rerank(tmp_path / "in", tmp_path / "out", model)
    assert result.exit_code == 1
    assert "input.columns.query" in result.stderr
    assert "question" in result.stderr


def test_a_first_stage_score_collides_by_name(tmp_path: Path, model: Path) -> None:
    candidate = pa.struct([("doc_id", pa.string()), ("text", pa.string()), ("score", pa.float32())])
    schema = pa.schema(
        [("query_id", pa.string()), ("query", pa.string()), ("candidates", pa.list_(candidate))]
    )
    rows = [{"query_id": "1", "query": "q", "candidates": []}]
    write_nested(tmp_path / "in" / "a.parquet", rows, schema)
    result = rerank(tmp_path / "in", tmp_path / "out", model)
    assert result.exit_code == 1
    assert "output.columns.score" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_said_so(tmp_path: Path, shards: Path) -> None:
    result = rerank(shards, tmp_path / "out", shards)
    assert result.exit_code == 1
    assert "is not a prepared model; make one with `shardrank prepare" in result.stderr


def test_an_unknown_key_is_named_with_the_nearest(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    result = rerank(shards, tmp_path / "out", model, "output.topk=3")
    assert result.exit_code == 1
    assert "unknown configuration key output.topk; did you mean output.top_k?" in result.stderr


def test_an_output_inside_the_input_is_refused(shards: Path, model: Path) -> None:
    result = rerank(shards, shards / "out", model)
    assert result.exit_code == 1
    assert "output" in result.stderr


def test_an_output_that_holds_other_files_is_refused(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    result = rerank(shards, tmp_path / "out", model)
    assert result.exit_code == 1
    assert "is not empty" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission_is_one_message(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    (tmp_path / "sealed").mkdir(mode=0o500)
    result = rerank(shards, tmp_path / "sealed" / "out", model)
    assert result.exit_code == 1
    assert "permission denied" in result.stderr


def test_an_output_on_a_read_only_file_system_is_one_message(shards: Path, model: Path) -> None:
    result = rerank(shards, Path("/proc/shardrank/out"), model)
    assert result.exit_code == 1
    assert "cannot write /proc/shardrank/out" in result.stderr


def test_a_prompt_with_no_room_for_a_document_is_refused(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    result = rerank(shards, tmp_path / "out", model, "prompt.max_tokens=20")
    assert result.exit_code == 1
    assert "leaves no room for a document" in result.stderr
    assert not (tmp_path / "out").exists()


def test_more_tokens_than_the_model_takes_are_refused(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    result = rerank(shards, tmp_path / "out", model, "prompt.max_tokens=1000000")
    assert result.exit_code == 1
    assert "more than the model takes" in result.stderr


@pytest.mark.parametrize("command", [["rerank", "--no-such-flag"], ["no-such-command"], ["score"]])
def test_a_wrong_usage_has_the_exit_code_of_wrong_usages(command: list[str]) -> None:
    assert run(*command).exit_code == 2


def test_status_of_a_folder_without_a_job_is_said_so(tmp_path: Path) -> None:
    result = run("status", tmp_path)
    assert result.exit_code == 1
    assert "holds no shardrank job" in result.stderr


def test_verify_of_a_folder_without_a_job_is_said_so(tmp_path: Path, shards: Path) -> None:
    result = run("verify", shards, tmp_path)
    assert result.exit_code == 1
    assert "holds no shardrank job" in result.stderr


def test_plan_prints_one_json_document_and_writes_nothing(
    tmp_path: Path, shards: Path, model: Path
) -> None:
    result = run(
        "plan", "--input", shards, "--output", tmp_path / "out", "--model", model, "--json"
    )
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["shards"], found["rows"], found["pairs"]) == (1, 3, 12)
    assert not (tmp_path / "out").exists()


def test_scores_are_best_first_with_the_ids_they_came_from(model: Path) -> None:
    result = run("score", "--json", "--show-ids", "--", model, "a query", "one", "-two", "three")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["prompt"] == "transformers"
    assert [entry["rank"] for entry in found["results"]] == [1, 2, 3]
    for entry in found["results"]:
        assert entry["log_odds"] == fake_log_odds(entry["token_ids"])
        assert len(entry["token_ids"]) == entry["num_tokens"]


def test_after_two_dashes_everything_is_text(model: Path) -> None:
    result = run("score", "--", model, "--help", "--json")
    assert result.exit_code == 0, result.stderr
    assert "--json" in result.stdout


def test_pairs_of_a_file_are_ranked_within_their_query(tmp_path: Path, model: Path) -> None:
    pairs = [("q1", "a"), ("q2", "b"), ("q1", "c")]
    lines = [json.dumps({"query": query, "document": text}) for query, text in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n\n")
    result = run("score", "--json", "--pairs", tmp_path / "pairs.jsonl", "--", model)
    found = {entry["index"]: entry["rank"] for entry in json.loads(result.stdout)["results"]}
    assert sorted([found[0], found[2]]) == [1, 2]
    assert found[1] == 1


@pytest.mark.parametrize("line", ["{", "[]", '{"query": "q"}', '{"query": 1, "document": "d"}'])
def test_a_broken_line_of_pairs_is_named_by_its_number(
    tmp_path: Path, model: Path, line: str
) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "q", "document": "d"}\n' + line)
    result = run("score", "--pairs", tmp_path / "pairs.jsonl", "--", model)
    assert result.exit_code == 1
    assert "pairs.jsonl, line 2" in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        "rerank --input {url} --output out --model demo",
        "plan --input in --output {url} --model demo",
        "rerank --input in --output out --model {url}",
        *("verify in {url}", "status {url}", "report {url}", "check {url}"),
        *("score {url} query document", "prepare {url} --output model"),
        "gather --run {url} --queries q --corpus c --output out",
        "gather --run r --queries q --corpus c --output {url}",
        *("evaluate {url} --qrels q", "labels {url} --format pointwise --output out"),
    ],
)
def test_credentials_in_a_url_are_refused_by_every_command_and_not_repeated(command: str) -> None:
    url = "s3://AKIAPLANTED:planted/secret@bucket/folder"
    done = CliRunner().invoke(main, command.format(url=url).split())
    assert done.exit_code == 1
    assert "holds credentials" in done.output
    assert "planted" not in done.output.lower()


def test_an_interruption_while_the_commands_are_loaded_is_no_traceback() -> None:
    program = """
import sys
class Interruption:
    def find_spec(self, name, *rest):
        if name == "click": raise KeyboardInterrupt
sys.meta_path.insert(0, Interruption())
from shardrank.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "\nshardrank: interrupted\n")


def test_every_command_explains_itself() -> None:
    for name in main.commands:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 4
