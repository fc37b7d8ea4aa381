"""An estimate in a few lines for people."""

from __future__ import annotations

from shardrank.job.estimate import Estimate
from shardrank.job.progress import duration

_MOST_BROKEN = 5


def render_estimate(found: Estimate) -> str:
    """What the job is, what it takes, and what to look at before it is begun."""
    lines = [
        f"input     {found.shards:,} shards, {_size(found.bytes)}, {found.rows:,} rows",
        f"pairs     {_at_most(found.pairs)}, in {found.units:,} units",
    ]
    if found.tokens_per_pair is not None:
        error = "" if found.tokens_error is None else f" ± {found.tokens_error:.1%}"
        lines.append(
            f"tokens    {_at_most(found.tokens)} (mean {found.tokens_per_pair:,.1f}{error} a pair, "
            f"longest {found.longest_tokens:,}, from {found.sampled_pairs:,} sampled pairs)"
        )
    if found.chosen_share is not None and found.chosen_share < 1.0:
        lines.append(f"cascade   scores {found.chosen_share:.1%} of the sampled pairs again")
    if found.reused_from is not None:
        lines.append(f"reuse     {_reused(found.reused_share)} {found.reused_from}")
    if found.truncated_share:
        lines.append(
            f"cut       {found.truncated_share:.1%} of the documents are too long; "
            f"{found.cut_tokens_share:.1%} of all tokens are cut off"
        )
    if found.rejected_share:
        lines.append(f"rejected  {found.rejected_share:.1%} of the sampled pairs would be rejected")
    if found.pairs_per_second is not None:
        lines.append(
            f"speed     {found.pairs_per_second:,.1f} pairs/s, {found.tokens_per_second:,.0f} "
            f"tokens/s for one actor ({found.speed_from})"
        )
    if found.seconds is not None:
        plural = "s" if found.actors > 1 else ""
        cost = "" if found.cost is None else f", {found.cost:,.2f} at the given price"
        lines.append(
            f"time      {duration(found.seconds)} with {found.actors:,} actor{plural}, "
            f"{found.actors * found.seconds / 3600:,.2f} actor hours{cost}"
        )
    memory = [
        None if found.memory_bytes is None else f"about {_size(found.memory_bytes)} an actor",
        None if found.measured_bytes is None else f"{_size(found.measured_bytes)} while measuring",
    ]
    if any(memory):
        lines.append(f"memory    {', '.join(part for part in memory if part)}")
    if found.output_bytes is not None:
        lines.append(f"output    about {_size(found.output_bytes)}")
    lines += [f"broken    {message}" for message in found.unreadable_shards[:_MOST_BROKEN]]
    lines += [f"warning   {warning}" for warning in found.warnings]
    if found.exit_code:
        lines.append(f"as set, this job would end with exit code {found.exit_code}")
    return "\n".join(lines)


def _reused(share: float | None) -> str:
    if share is None:
        # The first job makes the index that `plan` could look into.
        return "counted in nothing here, since there is no index yet: of scores in"
    return f"{share:.1%} of the sampled pairs, which are not counted in tokens and time, from"


def _at_most(value: int | None) -> str:
    return "unknown, since a footer cannot be read" if value is None else f"at most {value:,}"


def _size(num_bytes: int) -> str:
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes / 1e3:,.1f} kB"
