"""gather, rerank, evaluate, labels: four commands from a first stage to a verdict and labels.

On XQuAD-R with the built-in model; the measures are computed again here, from nothing but the
shards. The same commands in object storage are the tutorial's (tests/test_tutorial.py).
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from commands import shardrank
from shardrank.measures.ndcg import ndcg

pytestmark = pytest.mark.ray

XQUAD = Path(__file__).parents[3] / "shared" / "data" / "xquad-r"
NUM_QUERIES, NUM_CANDIDATES = 40, 15


@pytest.fixture
def collection(tmp_path: Path) -> dict[str, dict[str, int]]:
    """Files as a first stage leaves them, in tmp_path; the qrels."""
    if not XQUAD.exists():
        pytest.skip("needs XQuAD-R of the shared files")
    rows = pq.read_table(XQUAD / "en-0.parquet").slice(0, NUM_QUERIES).to_pylist()
    corpus: dict[str, str] = {}
    lines: dict[str, list[str]] = {"run.trec": [], "queries.jsonl": [], "qrels.txt": []}
    qrels: dict[str, dict[str, int]] = {}
    for row in rows:
        name = row["query_id"]
        lines["queries.jsonl"].append(json.dumps({"_id": name, "text": row["query"]}))
        for place, candidate in enumerate(row["candidates"][:NUM_CANDIDATES]):
            corpus[candidate["id"]] = candidate["text"]
            lines["run.trec"].append(f"{name} Q0 {candidate['id']} {place + 1} {-place} order")
        qrels[name] = dict.fromkeys(row["relevant"], 1)
        lines["qrels.txt"] += [f"{name} 0 {doc_id} 1" for doc_id in row["relevant"]]
    lines["corpus.jsonl"] = [
        json.dumps({"_id": doc_id, "title": "", "text": text}) for doc_id, text in corpus.items()
    ]
    for name, content in lines.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in content))
    return qrels


def test_four_commands_lead_from_a_run_to_a_verdict_and_labels(
    collection: dict[str, dict[str, int]], tmp_path: Path
) -> None:
    gathered, out, labels = (str(tmp_path / name) for name in ("candidates", "out", "labels"))
    gathering = ["--run", f"{tmp_path}/run.trec", "--queries", f"{tmp_path}/queries.jsonl"]
    gathering += ["--corpus", f"{tmp_path}/corpus.jsonl", "--output", gathered]
    judged = ["--qrels", f"{tmp_path}/qrels.txt"]
    commands = [
        ["gather", *gathering],
        ["rerank", "--input", gathered, "--output", out, "--model", "demo"],
        ["evaluate", out, *judged, "--measures", "nDCG@10,RR@10", "--json"],
        ["labels", out, "--format", "margin-mse", "--output", labels, *judged],
    ]
    done = [shardrank(*command) for command in commands]
    assert [command.returncode for command in done] == [0] * 4, [d.stderr for d in done]

    rows = [r for f in (tmp_path / "out").glob("*.parquet") for r in pq.read_table(f).to_pylist()]
    found = {q["query_id"]: q for q in json.loads(done[2].stdout)["per_query"]}
    assert len(found) == len(rows) == NUM_QUERIES
    for row in rows:
        judged_docs = collection[row["query_id"]]
        for side, key in (("before", "position"), ("after", "rank")):
            ordered = sorted(row["candidates"], key=lambda c: c[key])
            grades = [judged_docs.get(c["doc_id"], 0) for c in ordered]
            first = next((i for i, grade in enumerate(grades[:10], 1) if grade), math.inf)
            values = found[row["query_id"]][side]
            expected = ndcg(grades, 10, list(judged_docs.values()))
            assert values["nDCG@10"] == pytest.approx(expected, abs=1e-9)
            assert values["RR@10"] == pytest.approx(1 / first, abs=1e-9)
    assert (tmp_path / "labels" / "_SUCCESS").exists()
    assert list((tmp_path / "labels").glob("*.parquet"))
