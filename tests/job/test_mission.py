"""The mission's own path, whole, in every test run: shards in, left-padded batches, shards out.

The built-in model is fp32 in layout `padded`; one job in each layout of the input, with documents
of many lengths, bad rows among them, a resume, and an independent check.
"""

import json

import numpy as np
import pytest

from shardrank import Reranker
from shardrank.engine.ranking import sigmoid
from shardrank.errors import OutputMismatchError
from tables import read_output, row, write_nested, write_pairs

pytestmark = pytest.mark.usefixtures("cluster")


def test_a_job_of_nested_rows(folders) -> None:
    rows = [row(number, 5) for number in range(12)]
    rows[1]["query"] = None
    rows[3]["candidates"][2]["text"] = None
    rows[4]["candidates"] = []
    rows[5]["query"] = "-- begins with dashes"
    rows[6]["candidates"][1]["doc_id"] = rows[6]["candidates"][0]["doc_id"]
    write_nested(folders.input / "lang=de" / "a.parquet", rows[:7], row_group_size=3)
    write_nested(folders.input / "lang=en" / "a.parquet", rows[7:])
    result = folders.run()
    found = read_output(folders.output)
    assert [r["query_id"] for r in found] == [f"q{n}" for n in range(12) if n != 1]
    assert (result.counts.pairs_in, result.counts.pairs_out, result.counts.rows_rejected) == (
        55,
        49,
        1,
    )
    assert folders.problems() == ()

    alone = Reranker("demo")
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
    assert folders.run().num_units_done == 1
    assert read_output(folders.output) == found
    report = json.loads((folders.output / "_shardrank" / "report.json").read_text())
    assert (report["finished"], report["units_by_this_run"], report["failures"]) == (True, 1, [])
    with pytest.raises(OutputMismatchError, match="prompt.instruction"):
        folders.run("prompt.instruction=other")


def test_a_job_of_pairs(folders) -> None:
    write_pairs(folders.input / "a.parquet", [row(number) for number in range(6)], row_group_size=5)
    folders.run("input.layout=pairs")
    rows = read_output(folders.output)
    assert [r["doc_id"] for r in rows] == [f"d{q}-{d}" for q in range(6) for d in range(4)]
    assert sorted(r["rank"] for r in rows if r["query_id"] == "q2") == [1, 2, 3, 4]
    assert folders.problems() == ()
