"""What a job would take, before it does it: units, pairs, tokens, hours, memory and money."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shardrank.config import Config
from shardrank.errors import EXIT_DONE, EXIT_REJECTED
from shardrank.job.forecast import Speed, forecast
from shardrank.job.memory import actor_bytes
from shardrank.job.sample import Sample
from shardrank.job.survey import Survey, survey
from shardrank.job.suspicions import suspicions

MEASURE_SECONDS = 10.0
LONG_TOKENS = 4096
SHORT_UNIT_SECONDS, LONG_UNIT_SECONDS = 5.0, 1800.0
BUSY_SHARE = 0.7
MANY_UNITS = 16
"""Fewer of them are worth no warning, however short they are."""
_UNIT_HOST_SECONDS = 0.03
"""What Ray Data takes for a unit in three stages, of one core."""
_START_SECONDS = {True: 12.0, False: 6.0}
"""Until units move, the model's loading left out: with a cluster of our own to start, without."""


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What `plan` is told beside the job.

    num_actors: None for as many as the job would have now.
    pairs_per_second, tokens_per_second: of one actor; with either nothing is measured.
    price_per_hour: of what one actor runs on. measure_seconds: of scoring the sample.
    """

    num_actors: int | None = None
    pairs_per_second: float | None = None
    tokens_per_second: float | None = None
    price_per_hour: float | None = None
    measure_seconds: float = MEASURE_SECONDS

    @property
    def is_stated(self) -> bool:
        """Whether the speed is given."""
        return self.pairs_per_second is not None or self.tokens_per_second is not None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A plan in figures. What cannot be known is None.

    pairs: an upper bound from the footers.
    tokens: pairs x chosen_share x (1 - reused_share) x tokens_per_pair.
    chosen_share: of the sampled pairs, those that are scored; 1.0 where there is no cascade.
    reused_from: the output whose scores are taken where pairs are the same. reused_share: of the
        sampled pairs that would be scored, those that it has; None where it cannot be told.
    tokens_error: one standard error of tokens, as a share, from how the sampled places differ.
    truncated_share, rejected_share: of the sampled pairs; cut_tokens_share: of all their tokens.
    output_bytes: of the output's data files.
    pairs_per_second, tokens_per_second: of one actor that does nothing but score.
    speed_from: where the speed was measured, or "stated".
    seconds: from the command to its end, start_seconds of them before units move.
    busy_share: of what the measured threads could have had of the processors, on CPUs; a low one
        means that something else had them, and that the job is faster when it has not.
    seconds_per_unit: of the largest. cost: with price_per_hour for each of the actors.
    memory_bytes: an actor's at its peak, from the model's sizes (on CUDA of the GPU);
        measured_bytes: of the process that measured.
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
    cut_tokens_share: float | None
    rejected_share: float | None
    chosen_share: float | None
    tokens: int | None
    reused_from: str | None
    reused_share: float | None
    tokens_error: float | None
    output_bytes: int | None
    actors: int
    pairs_per_second: float | None
    tokens_per_second: float | None
    speed_from: str | None
    busy_share: float | None
    start_seconds: float
    seconds: float | None
    seconds_per_unit: float | None
    cost: float | None
    memory_bytes: int | None
    measured_bytes: int | None
    exclusive: bool
    warnings: tuple[str, ...]
    exit_code: int

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def estimate(config: Config, options: PlanOptions = PlanOptions()) -> Estimate:
    """Plan a job without writing anything. Raises what the job itself would raise."""
    seen = survey(config, None if options.is_stated else options.measure_seconds)
    return judge(config, options, seen)


def judge(config: Config, options: PlanOptions, seen: Survey) -> Estimate:
    """The figures that follow from what was seen. Pure."""
    sample, lengths = seen.sample, seen.sample.lengths
    mean = float(lengths.mean()) if len(lengths) else None
    longest = int(lengths.max()) if len(lengths) else None
    known = [unit.num_pairs for unit in seen.units if unit.num_pairs is not None]
    pairs = sum(known) if len(known) == len(seen.units) else None
    chosen = _share(sample.num_chosen, sample.num_pairs)
    reused = _share(sample.num_known, sample.num_chosen) if seen.is_known else None
    scored_share = (1.0 if chosen is None else chosen) * (1.0 - (reused or 0.0))
    scored = np.array(known, np.float64) * scored_share
    speed = _speed(seen, options, mean)
    num_actors = options.num_actors or seen.shape.max_actors
    start = _START_SECONDS[seen.is_own] + (seen.measured.load_seconds if seen.measured else 0.0)
    seconds = None
    if speed is not None and pairs is not None:
        seconds = start + forecast(
            scored,
            speed,
            num_actors=num_actors,
            threads=seen.shape.threads,
            shares_cores=config.device == "cpu",
        )
    price = options.price_per_hour
    seconds_per_unit = float(scored.max()) / speed.pairs_per_second if speed and known else None
    num_tokens = int(lengths.sum())
    busy_share = _busy_share(config, seen)
    return Estimate(
        shards=len(seen.footers),
        unreadable_shards=tuple(str(footer.fault) for footer in seen.footers if footer.fault),
        bytes=sum(footer.shard.size for footer in seen.footers),
        rows=sum(footer.shard.num_rows or 0 for footer in seen.footers),
        units=len(seen.units),
        pairs=pairs,
        sampled_pairs=sample.num_pairs,
        tokens_per_pair=mean,
        longest_tokens=longest,
        truncated_share=_share(sample.num_truncated, len(lengths)),
        cut_tokens_share=_share(sample.num_uncut_tokens - num_tokens, sample.num_uncut_tokens),
        rejected_share=_share(sample.num_rejected, sample.num_pairs),
        chosen_share=chosen,
        tokens=_scaled(pairs, None if mean is None else mean * scored_share),
        reused_from=seen.reused_from,
        reused_share=reused,
        tokens_error=_standard_error(sample),
        output_bytes=_scaled(pairs, _share(sample.num_bytes_out, sample.num_pairs)),
        actors=num_actors,
        pairs_per_second=speed.pairs_per_second if speed else None,
        tokens_per_second=speed.tokens_per_second if speed else None,
        speed_from=seen.measured.where if seen.measured else "stated" if speed else None,
        busy_share=busy_share,
        start_seconds=start,
        seconds=seconds,
        seconds_per_unit=seconds_per_unit,
        cost=None if seconds is None or price is None else price * num_actors * seconds / 3600,
        memory_bytes=actor_bytes(
            seen.model.architecture,
            seen.model_bytes,
            layout=seen.model.layout,
            device=config.device,
            threads=seen.shape.threads,
            max_batch_tokens=config.scoring.max_batch_tokens,
            longest_tokens=longest or 0,
        ),
        measured_bytes=seen.measured.peak_bytes if seen.measured else None,
        exclusive=seen.exclusive,
        warnings=tuple(
            _warnings(config, seen, num_actors, longest or 0, seconds_per_unit, busy_share)
        ),
        exit_code=_exit_code(config, seen),
    )


def _speed(seen: Survey, options: PlanOptions, tokens_per_pair: float | None) -> Speed | None:
    if tokens_per_pair is None:
        return None
    if options.pairs_per_second is not None:
        pairs = options.pairs_per_second
        return Speed(pairs, pairs * tokens_per_pair)
    if options.tokens_per_second is not None:
        tokens = options.tokens_per_second
        return Speed(tokens / tokens_per_pair, tokens)
    if seen.measured is None:
        return None
    # Of tokens, since what was scored is a part of the sample, and long documents take longer.
    tokens = seen.measured.tokens / seen.measured.seconds
    host = seen.sample.host_seconds / seen.sample.num_pairs
    return Speed(tokens / tokens_per_pair, tokens, host, _UNIT_HOST_SECONDS)


def _warnings(
    config: Config,
    seen: Survey,
    num_actors: int,
    longest_tokens: int,
    seconds_per_unit: float | None,
    busy_share: float | None,
) -> list[str]:
    sample = seen.sample
    found = suspicions(sample.queries, sample.documents, sample.query_of)
    if config.device == "cpu" and longest_tokens > LONG_TOKENS:
        found.append(
            f"the longest sampled prompt has {longest_tokens:,} tokens; beyond some 2,000 the time "
            "on a CPU grows with the square: consider prompt.max_tokens"
        )
    if busy_share is not None and busy_share < BUSY_SHARE:
        found.append(
            f"something else kept this machine busy: scoring had {busy_share:.0%} of its "
            "processors; measure again when it is idle: the hours are only as good as that"
        )
    if not seen.exclusive:
        found.append(
            "the output cannot create files exclusively: do not run two jobs on it at once"
        )
    if seconds_per_unit is not None and seconds_per_unit > LONG_UNIT_SECONDS:
        found.append(
            f"a unit takes {seconds_per_unit / 60:,.0f} minutes, which a lost node would cost: "
            "lower units.pairs"
        )
    is_short = seconds_per_unit is not None and seconds_per_unit < SHORT_UNIT_SECONDS
    # With reuse they are short today, and as long as ever with the next model.
    if is_short and len(seen.units) > MANY_UNITS and seen.reused_from is None:
        found.append(
            f"a unit takes {seconds_per_unit:.1f} s, little beside what it costs to send it "
            "around: raise units.pairs"
        )
    if len(seen.units) < num_actors:
        found.append(
            f"there are {len(seen.units)} units for {num_actors} actors: lower units.pairs"
        )
    return found


def _busy_share(config: Config, seen: Survey) -> float | None:
    measured = seen.measured
    if measured is None or config.device != "cpu":
        return None
    return min(1.0, measured.cpu_seconds / (measured.seconds * seen.shape.threads))


def _exit_code(config: Config, seen: Survey) -> int:
    limits, sample = config.errors, seen.sample
    num_broken = sum(footer.fault is not None for footer in seen.footers)
    too_many = sample.num_rejected > limits.max_rejected_fraction * sample.num_pairs
    return EXIT_REJECTED if too_many or num_broken > limits.max_failed_shards else EXIT_DONE


def _standard_error(sample: Sample) -> float | None:
    """Of the mean number of tokens, as a share of it, taking each place for one draw."""
    means = np.array([part.lengths.mean() for part in sample.parts if len(part)], np.float64)
    if len(means) < 2 or not means.mean():
        return None
    return float(means.std(ddof=1) / np.sqrt(len(means)) / means.mean())


def _scaled(pairs: int | None, per_pair: float | None) -> int | None:
    return None if pairs is None or per_pair is None else round(pairs * per_pair)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
