"""The built-in model and candidates: what ships with the package really ranks."""

import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from shardrank import Reranker
from shardrank.engine.model import PreparedModel, builtin_folder
from shardrank.measures.ndcg import ndcg

CANDIDATES = builtin_folder().parent / "candidates"
XQUAD = Path(__file__).parent.parent.parent / "shared" / "data" / "xquad-r"


def mean_ndcg(rows: list[dict]) -> float:
    """nDCG@10 of the built-in model over XQuAD-R's rows, which name their relevant candidates."""
    reranker = Reranker("demo")
    values = []
    for row in rows:
        log_odds = reranker.score([(row["query"], c["text"]) for c in row["candidates"]])
        grades = np.array([c["id"] in row["relevant"] for c in row["candidates"]], np.float64)
        values.append(ndcg(grades[np.argsort(-log_odds, kind="stable")].tolist(), cutoff=10))
    return float(np.mean([value for value in values if not math.isnan(value)]))


def test_the_candidates_are_sixty_queries_of_twenty_passages() -> None:
    rows = [row for path in CANDIDATES.glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len({row["query_id"] for row in rows}) == 60
    assert {len(row["candidates"]) for row in rows} == {20}
    assert len({row["language"] for row in rows}) == 6


def test_the_files_are_those_that_were_prepared_and_small() -> None:
    folder = builtin_folder()
    PreparedModel.load(folder).verify(folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10_000_000


def test_a_document_with_the_words_of_the_query_is_best() -> None:
    documents = ["Rooks move in straight lines.", "Bees eat nectar and pollen.", "Tea is a leaf."]
    best = Reranker("demo").rank("What do bees eat?", documents)[0]
    assert best.index == 1


@pytest.mark.slow
@pytest.mark.skipif(not XQUAD.is_dir(), reason="XQuAD-R is not here")
@pytest.mark.parametrize(("language", "least"), [("en", 0.80), ("zh", 0.78)])
def test_it_ranks_text_that_it_never_saw(language: str, least: float) -> None:
    rows = pq.read_table(sorted(XQUAD.glob(f"{language}-*.parquet"))[0]).to_pylist()[:120]
    assert mean_ndcg(rows) >= least
