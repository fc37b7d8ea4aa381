"""Which pairs of a unit are scored, and their prompts and hashes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shardrank.engine.prompt import PromptBuilder, QueryTooLongError
from shardrank.job.spec import JobSpec
from shardrank.store.cascade import choose
from shardrank.store.pair_hash import HashArray, pair_hashes
from shardrank.store.unit_table import UnitTable
from shardrank.types import BoolArray, Int64Array, Prompts, Rejection


def pairs_to_score(rows: UnitTable, spec: JobSpec, poison: Sequence[int]) -> BoolArray:
    """The pairs that need log-odds, bool [P]: neither rejected, nor poison, nor passed over."""
    places = [row - rows.unit.row_start for row in poison]
    wanted = rows.pair_ok & ~np.isin(rows.row_of_pair, places)
    return wanted if spec.cascade is None else wanted & choose(rows, spec.cascade).is_chosen


def hashes_of(rows: UnitTable, spec: JobSpec) -> HashArray:
    """Hashes of a unit's accepted pairs, uint8 [P, 16]."""
    return pair_hashes(
        spec.fingerprints.score,
        rows.queries,
        rows.instructions,
        spec.prompting.instruction,
        rows.texts,
        rows.query_index,
        rows.pair_ok,
    )


def tokenize(
    rows: UnitTable, builder: PromptBuilder
) -> tuple[Prompts, Int64Array, list[Rejection]]:
    """Prompts of the pairs that can be scored, the places of those pairs, and new rejections.

    Returns prompts, one for each place; int64 [num_prompts], places among the unit's pairs; and
    a rejection of each row whose query leaves no room for a document, since a query is never cut.
    """
    used = np.zeros(len(rows.queries), np.bool_)
    used[rows.query_index[rows.pair_ok]] = True
    sound = np.flatnonzero(rows.pair_ok)
    built = builder.build_many(
        [
            query if wanted and query else ""
            for query, wanted in zip(rows.queries, used, strict=True)
        ],
        [rows.texts[pair] or "" for pair in sound],
        rows.query_index[sound],
        rows.instructions,
    )
    too_long = built.too_long[rows.query_index[sound]]
    rejections = [
        rows.reject_row(
            row,
            "query_too_long",
            str(QueryTooLongError(int(built.num_fixed[query]), builder.max_tokens)),
        )
        for row, query in dict.fromkeys(
            zip(
                rows.row_of_pair[sound[too_long]].tolist(),
                rows.query_index[sound[too_long]].tolist(),
                strict=True,
            )
        )
    ]
    return built.prompts, sound, rejections
