"""A session that counts what goes through it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from shardrank.engine.session import Past, Session, SessionDescription
from shardrank.types import Float32Array, Int64Array


@dataclass(frozen=True, slots=True)
class Batches:
    """Runs of a session, the tokens in them, and what they were padded with."""

    runs: int = 0
    tokens: int = 0
    padding: int = 0


class MeteredSession:
    """Another session's logits, counted; safe to call from several threads, as that one is."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._batches = Batches()

    @property
    def description(self) -> SessionDescription:
        """The other session's."""
        return self._session.description

    @property
    def takes_past(self) -> bool:
        """Whether the other session does."""
        return self._session.takes_past

    @property
    def batches_past(self) -> bool:
        """Whether the other session does."""
        return self._session.batches_past

    @property
    def shares_past(self) -> bool:
        """Whether the other session does."""
        return self._session.shares_past

    def run(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Float32Array:
        """Logits of a batch."""
        self._add(int(attention_mask.sum()), attention_mask.size)
        return self._session.run(input_ids, attention_mask, past)

    def extend(self, input_ids: Int64Array, past: Past | None = None) -> Past:
        """The past after these tokens."""
        self._add(input_ids.size, input_ids.size)
        return self._session.extend(input_ids, past)

    def extend_each(
        self, input_ids: Int64Array, attention_mask: Int64Array, past: Past | None = None
    ) -> Sequence[Past]:
        """The past after each row."""
        self._add(int(attention_mask.sum()), attention_mask.size)
        return self._session.extend_each(input_ids, attention_mask, past)

    def take(self) -> Batches:
        """What went through since this was last asked."""
        with self._lock:
            batches, self._batches = self._batches, Batches()
        return batches

    def _add(self, num_tokens: int, num_places: int) -> None:
        with self._lock:
            now = self._batches
            self._batches = Batches(
                now.runs + 1, now.tokens + num_tokens, now.padding + num_places - num_tokens
            )
