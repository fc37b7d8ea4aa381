"""The mission's own path, whole, in every test run: shards in, left-padded batches, shards out.

A w8a8 model of layout `padded`, documents of many lengths, bad rows among them, a resume, and an
independent check; and the same pairs through the layout `prefix`, which must not change a bit.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from oracles.checkpoints import make_random_checkpoint
from shardrank import Reranker
from shardrank.engine.ranking import sigmoid
from shardrank.engine.windows import Windows
from shardrank.errors import OutputMismatchError
from shardrank.graph.prepare import prepare
from tables import read_output, row, write_nested, write_pairs

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random checkpoint, prepared in both layouts."""
    folder = tmp_path_factory.mktemp("models")
    source = make_random_checkpoint(folder / "checkpoint")
    for layout in ("padded", "prefix"):
        prepare(source, folder / layout, layout=layout)
    return {layout: folder / layout for layout in ("padded", "prefix")}


def test_a_job_of_nested_rows(folders, models: dict[str, Path]) -> None:
    rows = [row(number, 5) for number in range(12)]
    rows[1]["query"] = None
    rows[3]["candidates"][2]["text"] = None
    rows[4]["candidates"] = []
    rows[5]["query"] = "-- begins with dashes"
    rows[6]["candidates"][1]["doc_id"] = rows[6]["candidates"][0]["doc_id"]
    write_nested(folders.input / "lang=de" / "a.parquet", rows[:7], row_group_size=3)
    write_nested(folders.input / "lang=en" / "a.parquet", rows[7:])
    model = f"model.path={models['padded']}"
    result = folders.run(model)
    found = read_output(folders.output)
    assert [r["query_id"] for r in found] == [f"q{n}" for n in range(12) if n != 1]
    assert (result.counts.pairs_in, result.counts.pairs_out, result.counts.rows_rejected) == (
        55,
        49,
        1,
    )
    assert folders.problems() == ()

    alone = Reranker(models["padded"])
    lengths = set()
    for given in found:
        log_odds = np.array([c["log_odds"] for c in given["candidates"]], np.float32)
        assert (np.diff(log_odds) <= 0).all()
        assert [c["score"] for c in given["candidates"]] == sigmoid(log_odds).tolist()
        assert [c["rank"] for c in given["candidates"]] == list(range(1, len(log_odds) + 1))
        for candidate in given["candidates"]:
            assert candidate["log_odds"] == alone.score([(given["query"], candidate["text"])])[0]
            lengths.add(candidate["num_tokens"])
    assert len(lengths) > 5, "a batch of one length would prove nothing about padding"

    sorted(folders.output.glob("*.parquet"))[1].unlink()
    (folders.output / "_SUCCESS").unlink()
    assert folders.run(model).num_units_done == 1
    assert read_output(folders.output) == found
    report = json.loads((folders.output / "_shardrank" / "report.json").read_text())
    assert (report["finished"], report["units_by_this_run"], report["failures"]) == (True, 1, [])
    with pytest.raises(OutputMismatchError, match="prompt.instruction"):
        folders.run(model, "prompt.instruction=other")


def test_shared_prefixes_change_no_bit(folders, models: dict[str, Path]) -> None:
    write_nested(folders.input / "a.parquet", [row(number, 5) for number in range(6)])
    found = {}
    for layout, model in models.items():
        output = folders.root / layout
        folders.run(f"model.path={model}", f"output.path={output}")
        found[layout] = read_output(output)
    assert found["prefix"] == found["padded"]


def test_a_job_of_pairs(folders) -> None:
    write_pairs(folders.input / "a.parquet", [row(number) for number in range(6)], row_group_size=5)
    folders.run("input.layout=pairs")
    rows = read_output(folders.output)
    assert [r["doc_id"] for r in rows] == [f"d{q}-{d}" for q in range(6) for d in range(4)]
    assert sorted(r["rank"] for r in rows if r["query_id"] == "q2") == [1, 2, 3, 4]
    assert folders.problems() == ()


def test_a_job_with_windows_scores_long_documents_by_their_best_part(folders) -> None:
    write_nested(folders.input / "a.parquet", [row(number, 4) for number in range(3)])
    windows = (
        "prompt.long_documents=windows",
        "prompt.window_tokens=20",
        "prompt.window_stride=10",
    )
    folders.run(*windows)
    reranker = Reranker("demo", windows=Windows(20, 10))
    for found in read_output(folders.output):
        pairs = [(found["query"], candidate["text"]) for candidate in found["candidates"]]
        scores = reranker.score(pairs).tolist()
        assert [candidate["log_odds"] for candidate in found["candidates"]] == scores
        assert not any(candidate["truncated"] for candidate in found["candidates"])
    assert folders.problems() == ()
