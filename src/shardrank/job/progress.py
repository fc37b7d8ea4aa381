"""The line that a person watches while a job runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from shardrank.types import Counts, Receipt

WINDOW_SECONDS = 60.0
"""Rates are means over this long, so that the line follows a change of pace."""
SECONDS_BETWEEN_LINES = 10.0
"""In a log file; on a terminal the line is rewritten with every receipt."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a job is.

    done_pairs: by this execution, unlike units. total_pairs: an upper bound, from the footers; None
    where a footer could not be read. rejected, reused: pairs. is_resumed: whether an earlier
    execution did some of the units.
    """

    done_units: int
    total_units: int
    done_pairs: int
    total_pairs: int | None
    rejected: int
    pairs_per_second: float
    tokens_per_second: float
    reused: int = 0
    rejected_rows: int = 0
    is_resumed: bool = False

    @property
    def seconds_left(self) -> float | None:
        """From the pairs that are left and the present rate; None while either is unknown."""
        if self.total_pairs is None or self.pairs_per_second <= 0.0:
            return None
        return max(self.total_pairs - self.done_pairs, 0) / self.pairs_per_second


def render(standing: Standing) -> str:
    """One line for people."""
    # Rounded down: 100% is said of nothing that is not at its end.
    percent = standing.done_units * 100 // standing.total_units if standing.total_units else 100
    parts = [
        f"{percent:3}%",
        f"{standing.done_units:,}/{standing.total_units:,} units",
        f"{standing.done_pairs:,} pairs{' by this run' if standing.is_resumed else ''}",
        f"{_rate(standing.pairs_per_second)} pairs/s",
        f"{_rate(standing.tokens_per_second)} tokens/s",
    ]
    if standing.reused:
        parts.append(f"{standing.reused / max(1, standing.done_pairs):.0%} reused")
    if standing.rejected:
        parts.append(f"{standing.rejected:,} pairs rejected")
    if standing.rejected_rows:
        parts.append(f"{standing.rejected_rows:,} rows rejected")
    if standing.seconds_left is not None and standing.done_units < standing.total_units:
        parts.append(f"{duration(standing.seconds_left)} left")
    return " | ".join(parts)


def duration(seconds: float) -> str:
    """`42s`, `3m 05s`, `2h 07m`, `3d 04h`: two units are enough for a person."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86_400}d {whole % 86_400 // 3600:02d}h"


class Progress:
    """Receipts in, lines out.

    stream: a terminal gets one line that is rewritten, anything else a line now and then; None for
        none. tell: is given the standing whenever a line would be written.
    """

    def __init__(
        self,
        stream: TextIO | None,
        *,
        total_units: int,
        done_units: int,
        total_pairs: int | None,
        tell: Callable[[Standing], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._tell = tell
        self._clock = clock
        self._total_units = total_units
        self._done_units = done_units
        self._is_resumed = done_units > 0
        self._total_pairs = total_pairs
        self._counts = Counts()
        self._recent: deque[tuple[float, int, int]] = deque()
        self._last_line_at = float("-inf")
        self._last_line = ""
        self._rewrites = stream is not None and stream.isatty()

    def add(self, receipt: Receipt) -> None:
        """Take a receipt in and show where the job stands, if it is time to."""
        if receipt.outcome != "failed":
            self._done_units += 1
        self._counts = Counts.total([self._counts, receipt.counts])
        now = self._clock()
        if not self._recent:
            # Rates begin with the first unit's own work: the cluster's start-up is not scoring.
            self._recent.append((now - receipt.seconds, 0, 0))
        self._recent.append((now, self._counts.pairs_in, self._counts.tokens))
        while len(self._recent) > 2 and now - self._recent[0][0] > WINDOW_SECONDS:
            self._recent.popleft()
        if self._rewrites or now - self._last_line_at >= SECONDS_BETWEEN_LINES:
            self._show(now)

    @property
    def standing(self) -> Standing:
        """Where the job stands now."""
        first, first_pairs, first_tokens = self._recent[0] if self._recent else (0.0, 0, 0)
        last, pairs, tokens = self._recent[-1] if self._recent else (0.0, 0, 0)
        seconds = max(last - first, 1e-3)
        return Standing(
            done_units=self._done_units,
            total_units=self._total_units,
            done_pairs=self._counts.pairs_in,
            total_pairs=self._total_pairs,
            reused=self._counts.pairs_reused,
            rejected=self._counts.pairs_rejected,
            rejected_rows=self._counts.rows_rejected,
            is_resumed=self._is_resumed,
            pairs_per_second=(pairs - first_pairs) / seconds,
            tokens_per_second=(tokens - first_tokens) / seconds,
        )

    def close(self) -> None:
        """Leave the last line standing."""
        if render(self.standing) != self._last_line:
            self._show(self._clock())
        if self._rewrites:
            self._write("\n")

    def _show(self, now: float) -> None:
        self._last_line_at = now
        self._last_line = line = render(self.standing)
        self._write(f"\r\x1b[2K{line}" if self._rewrites else f"{line}\n")
        if self._tell is not None:
            self._tell(self.standing)

    def _write(self, text: str) -> None:
        if self._stream is not None:
            self._stream.write(text)
            self._stream.flush()


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"
