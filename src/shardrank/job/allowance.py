"""How often a unit may be tried. No I/O."""

from __future__ import annotations

from collections import Counter

from shardrank.store.attempts import History


class Allowance:
    """What this execution knows of its units, and what that allows each of them.

    max_attempts: tries in this execution of a unit that fails and says why; tries over all
    executions of one that takes its worker along, before its rows are tried apart (a search).
    """

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._failures: Counter[int] = Counter()
        self._searched: set[int] = set()

    def note_failure(self, unit: int) -> None:
        """Count a try that ended with a message, and with its worker alive."""
        self._failures[unit] += 1

    def note_search(self, unit: int) -> None:
        """Note that the rows of a unit were tried apart."""
        self._searched.add(unit)

    def left(self, unit: int, history: History) -> int:
        """How often the unit may be tried before its rows are tried apart."""
        return history.attempts_left(self._max_attempts, self._failures[unit])

    def is_suspect(self, unit: int, history: History) -> bool:
        """Whether its rows are to be tried apart now."""
        return unit not in self._searched and self.left(unit, history) < 1

    def is_used_up(self, unit: int) -> bool:
        """Whether it failed, and said why, as often as it may in this execution."""
        return self._failures[unit] >= self._max_attempts
