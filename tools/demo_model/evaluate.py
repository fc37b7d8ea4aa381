"""nDCG@10 of a checkpoint on nested Parquet, with the model card's prompt, in torch alone.

Each row has query_id, query, candidates (a list of structs with id or doc_id, and text) and either
a list of the relevant ids in `relevant` or a number `relevance` in each candidate.
"""

from __future__ import annotations

import argparse
import math
import random
from pathlib import Path

import pyarrow.parquet as pq
import torch
from model import Reranker
from prompt import Prompt
from text import Group
from tokenizers import Tokenizer
from train import batch


def ndcg(gains: list[float], depth: int = 10) -> float:
    """Normalised discounted cumulative gain of gains in ranked order."""

    def total(values: list[float]) -> float:
        return sum(value / math.log2(place + 2) for place, value in enumerate(values[:depth]))

    best = total(sorted(gains, reverse=True))
    return total(gains) / best if best else 0.0


def gains(row: dict) -> list[float]:
    """The relevance of each candidate of a row."""
    if "relevant" in row:
        relevant = set(row["relevant"])
        return [float((c.get("doc_id") or c.get("id")) in relevant) for c in row["candidates"]]
    return [float(candidate["relevance"]) for candidate in row["candidates"]]


def evaluate(folder: Path, paths: list[Path], queries: int, seed: int, limit: int) -> float:
    """The mean nDCG@10 of a sample of rows, whose documents are cut to `limit` tokens a prompt."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prompt = Prompt.build(tokenizer)
    model = Reranker.load(folder).eval()
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    rows = [row for path in sorted(paths) for row in pq.read_table(path).to_pylist()]
    rows = random.Random(seed).sample(rows, min(queries, len(rows)))
    found = []
    for row in rows:
        query = tokenizer.encode(" " + row["query"], add_special_tokens=False).ids
        room = limit - len(prompt.head) - len(query) - len(prompt.middle) - len(prompt.tail)
        texts = [" " + candidate["text"] for candidate in row["candidates"]]
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        documents = [encoding.ids[:room] for encoding in encodings]
        empty = [[] for _ in documents]
        segments, last, _ = batch([Group(query, documents, empty, [0.0] * len(documents))], prompt)
        with torch.inference_mode():
            final = model.hidden(segments)[-1][torch.arange(len(last)), last]
            scores = model.log_odds(final, yes, no).tolist()
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        worth = gains(row)
        found.append(ndcg([worth[place] for place in order]))
    return sum(found) / len(found)


def main() -> None:
    """Prints one line per group of files: those with the same name up to the first hyphen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    groups: dict[str, list[Path]] = {}
    for path in sorted(options.data.glob("*.parquet")):
        groups.setdefault(path.stem.split("-")[0], []).append(path)
    for name, paths in groups.items():
        score = evaluate(options.checkpoint, paths, options.queries, options.seed, options.limit)
        print(f"{name} nDCG@10 {score:.4f} ({options.queries} queries at most)", flush=True)


if __name__ == "__main__":
    main()
