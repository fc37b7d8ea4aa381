"""Pairs drawn across the shards, read and tokenized as the job would do it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shardrank.config import Config
from shardrank.engine.prompt import PromptBuilder
from shardrank.errors import ShardError
from shardrank.job.known_pairs import KnownPairs
from shardrank.job.pairs import tokenize
from shardrank.store import cascade
from shardrank.store.filesystem import Storage
from shardrank.store.output import Output, build_output
from shardrank.store.reader import read_unit
from shardrank.store.unit_table import UnitTable
from shardrank.types import Int64Array, Prompts, Unit

NUM_PLACES = 24
"""Where the sample is drawn from, at equal distances in pairs."""
PAIRS_A_PLACE = {"cpu": 48, "cuda": 512}
"""A GPU needs more to show what it can do."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was drawn.

    parts: the prompts of each place. num_uncut_tokens: of all prompts, had no document been cut.
    queries, documents, query_of: the texts as they are, for whoever judges them.
    num_chosen: pairs that are scored, all of them where there is no cascade.
    num_known: of these, pairs that have an earlier score.
    num_bytes_out: of the output that these rows become. host_seconds: of one core.
    """

    parts: tuple[Prompts, ...] = ()
    num_pairs: int = 0
    num_chosen: int = 0
    num_known: int = 0
    num_rejected: int = 0
    num_cut: int = 0
    num_uncut_tokens: int = 0
    num_bytes_out: int = 0
    host_seconds: float = 0.0
    queries: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    query_of: tuple[int, ...] = ()

    @property
    def lengths(self) -> Int64Array:
        """Tokens of each prompt, those that were rejected left out; int64 [num_prompts]."""
        lengths = [part.lengths for part in self.parts]
        return np.concatenate([np.zeros(0, np.int64), *lengths])

    @property
    def num_truncated(self) -> int:
        """Prompts whose document was cut."""
        return sum(int(part.truncated.sum()) for part in self.parts)


def choose(units: Sequence[Unit], num_places: int, num_pairs: int) -> list[Unit]:
    """Rows of about `num_pairs` pairs each, at places that lie evenly in the pairs of all units.

    So a pair of a large shard is as likely to be drawn as one of a small shard. No row is in two.
    """
    known = [unit for unit in units if unit.num_pairs and unit.row_stop is not None]
    if not known:
        return []
    stops = np.cumsum([unit.num_pairs for unit in known])
    places = (np.arange(num_places) + 0.5) * (int(stops[-1]) / num_places)
    holders = np.searchsorted(stops, places, side="right")
    parts: list[Unit] = []
    for place, holder in zip(places.tolist(), holders.tolist(), strict=True):
        unit = known[holder]
        part = _rows_at(unit, (place - stops[holder]) / (unit.num_pairs or 1) + 1, num_pairs)
        if parts and parts[-1].number == part.number:
            # No row is drawn twice, or it would look like a duplicate.
            last = parts[-1].row_stop or 0
            part = replace(part, row_start=max(part.row_start, last))
        if part.row_start < (part.row_stop or 0):
            parts.append(part)
    return parts


def draw(
    config: Config,
    source: Storage,
    units: Sequence[Unit],
    builder: PromptBuilder,
    uncut: PromptBuilder,
    known: KnownPairs | None = None,
) -> Sample:
    """Read and tokenize rows across all units; a shard that cannot be read is left out.

    uncut: builds the same prompts, whatever their length. known: the pairs with an earlier score.
    """
    limit = config.errors.max_bytes
    columns = config.input.columns
    total = Sample()
    for unit in choose(units, NUM_PLACES, PAIRS_A_PLACE[config.device]):
        try:
            rows = read_unit(source, unit, config.input.layout, columns, limit)
        except ShardError:
            continue
        total = _with(total, rows, builder, uncut, config, known)
    return total


def _rows_at(unit: Unit, share: float, num_pairs: int) -> Unit:
    """The rows of a unit that begin at a share of it; fewer where it ends."""
    assert unit.row_stop is not None
    num_rows = unit.row_stop - unit.row_start
    wanted = min(num_rows, max(1, round(num_pairs * num_rows / (unit.num_pairs or 1))))
    start = unit.row_start + min(int(share * num_rows), num_rows - wanted)
    pairs = round((unit.num_pairs or 0) * wanted / max(1, num_rows))
    return replace(unit, row_start=start, row_stop=start + wanted, num_pairs=pairs)


def _with(
    total: Sample,
    rows: UnitTable,
    builder: PromptBuilder,
    uncut: PromptBuilder,
    config: Config,
    known: KnownPairs | None,
) -> Sample:
    """The sample and these rows, worked on as the stages of a job do it."""
    started = time.process_time()
    choice = cascade.choose(rows, config.cascade) if config.cascade.is_set else None
    chosen = np.ones(rows.num_pairs, np.bool_) if choice is None else choice.is_chosen
    wanted = replace(rows, pair_ok=rows.pair_ok & chosen)
    prompts, pairs, rejections = tokenize(wanted, builder)
    arrived = UnitTable.from_ipc(rows.to_ipc())
    log_odds = np.full(rows.num_pairs, np.nan, np.float32)
    log_odds[pairs] = 0.0
    num_tokens = np.zeros(rows.num_pairs, np.int32)
    num_tokens[pairs] = prompts.lengths
    truncated = np.zeros(rows.num_pairs, np.bool_)
    truncated[pairs] = prompts.truncated
    output = build_output(
        arrived,
        # Unlike each other, as scores are, since equal ones would take no room in a file.
        log_odds + np.random.default_rng(0).standard_normal(len(log_odds), np.float32),
        num_tokens,
        truncated,
        rejections,
        columns=config.output_columns,
        top_k=config.output.top_k,
        min_score=None,
        choice=choice,
    )
    num_bytes = _encoded_bytes(output)
    seconds = time.process_time() - started
    scored = prompts.lengths > 0
    num_uncut = int(prompts.lengths.sum())
    if prompts.truncated.any():
        num_uncut = int(tokenize(wanted, uncut)[0].lengths[scored].sum())
    first = len(total.queries)
    return Sample(
        parts=(*total.parts, prompts),
        num_pairs=total.num_pairs + rows.num_pairs,
        num_chosen=total.num_chosen + int(chosen.sum()),
        num_known=total.num_known + (0 if known is None else known.num_among(rows, wanted.pair_ok)),
        num_rejected=total.num_rejected
        + int(np.count_nonzero(~rows.pair_ok | chosen) - scored.sum()),
        num_cut=total.num_cut + output.counts.pairs_cut,
        num_uncut_tokens=total.num_uncut_tokens + num_uncut,
        num_bytes_out=total.num_bytes_out + num_bytes,
        host_seconds=total.host_seconds + seconds,
        queries=(*total.queries, *(query or "" for query in rows.queries)),
        documents=(*total.documents, *(rows.texts[pair] or "" for pair in pairs.tolist())),
        query_of=(*total.query_of, *(first + rows.query_index[pairs]).tolist()),
    )


def _encoded_bytes(output: Output) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(output.table, sink, compression="zstd")
    return int(sink.tell())
