"""How fast one session scores, by token budget of a batch: `python bench/engine.py [--model M]`.

The budgets are measured in turn, several rounds, so that a machine whose speed drifts does not
favour one of them. Prints a row of a Markdown table for each; bench/RESULTS.md keeps them.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
from results import make_parser

from shardrank import Reranker
from shardrank.engine.model import builtin_folder
from shardrank.types import Prompts

BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
ROUNDS = 3


def built_in_prompts(reranker: Reranker, num_pairs: int) -> Prompts:
    """Prompts of the built-in candidates, in six languages, about 160 tokens each."""
    folder = builtin_folder().parent / "candidates"
    rows = [
        row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    pairs = [(row["query"], c["text"]) for row in rows for c in row["candidates"]][:num_pairs]
    queries = list(dict.fromkeys(query for query, _ in pairs))
    query_index = np.array([queries.index(query) for query, _ in pairs], np.int64)
    return reranker.prompts.build_many(queries, [text for _, text in pairs], query_index).prompts


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--pairs", type=int, default=1200)
    arguments = parser.parse_args()
    reranker = Reranker(arguments.model)
    prompts = built_in_prompts(reranker, arguments.pairs)
    seconds: dict[int, list[float]] = {budget: [] for budget in BUDGETS}
    base = reranker.options
    for _ in range(ROUNDS):
        for budget in BUDGETS:
            reranker.options = replace(base, max_batch_tokens=budget, reuse_prefix=False)
            started = time.perf_counter()
            reranker.score_prompts(prompts)
            seconds[budget].append(time.perf_counter() - started)
    print(f"{reranker.description}, {len(prompts)} pairs, {int(prompts.lengths.sum()):,} tokens")
    print("| max_batch_tokens | pairs/s | tokens/s |\n|---|---|---|")
    for budget in BUDGETS:
        median = statistics.median(seconds[budget])
        tokens = prompts.lengths.sum() / median
        print(f"| {budget} | {len(prompts) / median:,.0f} | {tokens:,.0f} |")


if __name__ == "__main__":
    main()
