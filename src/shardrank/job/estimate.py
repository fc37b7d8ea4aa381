"""What a job would do, before it does it: units, pairs, and tokens from a sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from shardrank.config import Config
from shardrank.engine.model import PreparedModel
from shardrank.errors import EXIT_DONE, EXIT_REJECTED, ShardError
from shardrank.job.fingerprints import score_fields
from shardrank.job.model_folder import local_folder
from shardrank.job.opening import plan_units, prompt_builder, require_finished
from shardrank.job.pairs import tokenize
from shardrank.job.reuse import find_earlier
from shardrank.store.cascade import choose
from shardrank.store.filesystem import Storage
from shardrank.store.reader import read_unit
from shardrank.store.units import list_shards
from shardrank.types import Unit

SAMPLE_UNITS = 8
SAMPLE_ROWS = 64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A plan in figures.

    pairs: an upper bound from the footers; None where one could not be read.
    tokens_per_pair, truncated_share, rejected_share: of the sampled pairs; None without any.
    chosen_share: of the sampled pairs, those that are scored; 1.0 where there is no cascade.
    tokens: pairs x chosen_share x tokens_per_pair.
    reused_from: the output whose scores are taken where pairs are the same; how many those are is
        not foreseen.
    exclusive: False where the output cannot create files exclusively (two jobs at once: unsafe).
    exit_code: what the job would end with if the rest is like the sample: 0 or 6.
    """

    shards: int
    unreadable_shards: tuple[str, ...]
    bytes: int
    rows: int
    units: int
    pairs: int | None
    sampled_pairs: int
    tokens_per_pair: float | None
    longest_tokens: int | None
    truncated_share: float | None
    rejected_share: float | None
    chosen_share: float | None
    tokens: int | None
    reused_from: str | None
    exclusive: bool
    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def estimate(config: Config) -> Estimate:
    """Plan a job without writing anything. Raises what the job itself would raise."""
    folder = local_folder(config.model.path, config.model.cache_folder)
    model = PreparedModel.load(folder)
    builder = prompt_builder(config, model, folder)
    output = Storage(config.output.path, "output")
    source, shards = list_shards(config.input.path, output)
    require_finished(source)
    earlier, _ = find_earlier(config, score_fields(config, model), output)
    layout, columns = config.input.layout, config.input.columns
    footers, units = plan_units(config, source, shards)
    lengths: list[np.ndarray] = []
    num_truncated = num_rejected = num_pairs = num_chosen = 0
    for unit in sample(units):
        try:
            rows = read_unit(source, unit, layout, columns, config.errors.max_bytes)
        except ShardError:
            continue
        chosen = np.ones(rows.num_pairs, np.bool_)
        if config.cascade.is_set:
            chosen = choose(rows, config.cascade).is_chosen
        prompts, _, _ = tokenize(replace(rows, pair_ok=rows.pair_ok & chosen), builder)
        scored = prompts.lengths[prompts.lengths > 0]
        lengths.append(scored)
        num_pairs += rows.num_pairs
        num_rejected += int(np.count_nonzero(~rows.pair_ok | chosen)) - len(scored)
        num_chosen += int(np.count_nonzero(chosen))
        num_truncated += int(prompts.truncated.sum())
    limits = config.errors
    num_broken = sum(footer.fault is not None for footer in footers)
    is_refused = num_broken > limits.max_failed_shards or (
        num_rejected > limits.max_rejected_fraction * num_pairs
    )
    tokens = np.concatenate([np.zeros(0, np.int64), *lengths])
    known = [unit.num_pairs for unit in units if unit.num_pairs is not None]
    pairs = sum(known) if len(known) == len(units) else None
    share = num_chosen / num_pairs if num_pairs else None
    mean = float(tokens.mean()) if len(tokens) else None
    return Estimate(
        shards=len(shards),
        unreadable_shards=tuple(str(footer.fault) for footer in footers if footer.fault),
        bytes=sum(shard.size for shard in shards),
        rows=sum(footer.shard.num_rows or 0 for footer in footers),
        units=len(units),
        pairs=pairs,
        sampled_pairs=num_pairs,
        tokens_per_pair=mean,
        longest_tokens=int(tokens.max()) if len(tokens) else None,
        truncated_share=num_truncated / len(tokens) if len(tokens) else None,
        rejected_share=num_rejected / num_pairs if num_pairs else None,
        chosen_share=share,
        tokens=round(pairs * mean * share) if pairs is not None and mean and share else None,
        reused_from=None if earlier is None else earlier.display(),
        exclusive=output.exclusive,
        exit_code=EXIT_REJECTED if is_refused else EXIT_DONE,
    )


def sample(units: list[Unit]) -> list[Unit]:
    """The first rows of some units, spread evenly over the plan."""
    places = np.unique(np.linspace(0, len(units) - 1, SAMPLE_UNITS).astype(np.int64))
    return [_head(units[place]) for place in places.tolist()] if units else []


def render_estimate(found: Estimate) -> str:
    """A few lines for people."""
    lines = [
        f"input     {found.shards:,} shards, {found.bytes / 1e6:,.1f} MB, {found.rows:,} rows",
        f"pairs     {_at_most(found.pairs)}, in {found.units:,} units",
    ]
    if found.tokens_per_pair is not None:
        lines.append(
            f"tokens    {_at_most(found.tokens)} (mean {found.tokens_per_pair:,.1f} a pair, "
            f"longest {found.longest_tokens:,}, from {found.sampled_pairs:,} sampled pairs)"
        )
    if found.chosen_share is not None and found.chosen_share < 1.0:
        lines.append(f"cascade   scores {found.chosen_share:.1%} of the sampled pairs again")
    if found.truncated_share:
        lines.append(f"cut       {found.truncated_share:.1%} of the documents are too long")
    if found.rejected_share:
        lines.append(f"rejected  {found.rejected_share:.1%} of the sampled pairs would be rejected")
    if found.reused_from is not None:
        lines.append(f"reuse     of scores in {found.reused_from}, not counted in the tokens")
    if not found.exclusive:
        lines.append("output    no exclusive create here: do not run two jobs on it at once")
    lines += [f"broken    {message}" for message in found.unreadable_shards[:5]]
    if found.exit_code:
        lines.append(f"as set, this job would end with exit code {found.exit_code}")
    return "\n".join(lines)


def _head(unit: Unit) -> Unit:
    stop = unit.row_start + SAMPLE_ROWS
    return Unit(
        number=unit.number,
        shard=unit.shard,
        row_start=unit.row_start,
        row_stop=stop if unit.row_stop is None else min(stop, unit.row_stop),
        num_pairs=unit.num_pairs,
    )


def _at_most(value: int | None) -> str:
    return "unknown, since a footer cannot be read" if value is None else f"at most {value:,}"
