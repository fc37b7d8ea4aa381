"""Which documents of a query become labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from shardrank.errors import ConfigError

Format = Literal["pointwise", "margin-mse", "listwise", "flagembedding", "pylate", "tevatron"]
Sampling = Literal["top", "random", "stratified"]
FORMATS: tuple[Format, ...] = get_args(Format)
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
_ALL_NEGATIVES: tuple[Format, ...] = ("pointwise", "listwise")
_DEFAULT_NEGATIVES = 8


@dataclass(frozen=True, slots=True)
class LabelRules:
    """The choice of positives and negatives.

    min_relevance: the least grade of a positive; one between 0 and it is neither.
    max_positives: the best-scored that are taken of each query; None for all.
    num_negatives: most that are taken of each query; None for all that are eligible. Formats of a
        fixed width leave out a query that has fewer.
    rank_from, rank_to: ranks that a negative may have, both included; None for no end.
    margin: how far, in log-odds, a negative must lie below the worst positive taken.
    relative_margin: a negative's score (not log-odds) is at most (1 - relative_margin) times that
        of the worst positive taken; 0.05 is the rule of NV-Retriever (Moreira and others, 2024).
    max_negative_score: a negative's score is at most this: a document that the teacher is sure of
        is likelier an unjudged positive.
    sampling: `top` takes the best-scored, `random` any, `stratified` as evenly as there are some
        from equal ranges of log-odds.
    seed: of the sampling; each query has its own stream, from this and its id, so that neither
        the order nor the number of other queries changes what is taken.
    """

    min_relevance: int = 1
    max_positives: int | None = None
    num_negatives: int | None = None
    rank_from: int = 1
    rank_to: int | None = None
    margin: float | None = None
    relative_margin: float | None = None
    max_negative_score: float | None = None
    sampling: Sampling = "top"
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError, naming the rule, for a value that no document could fit."""
        for name in ("min_relevance", "max_positives", "num_negatives", "rank_from", "rank_to"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"the label rule {name} is {value}; give at least 1")
        if self.rank_to is not None and self.rank_to < self.rank_from:
            raise ConfigError(
                f"no rank is from {self.rank_from} to {self.rank_to}; give the smaller one first"
            )
        for name in ("relative_margin", "max_negative_score"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ConfigError(f"the label rule {name} is {value}; give 0 to 1")
        if self.margin is not None and not self.margin >= 0.0:
            raise ConfigError(f"the label rule margin is {self.margin}; give 0 or more")
        if self.sampling not in SAMPLINGS:
            raise ConfigError(
                f"unknown sampling {self.sampling!r}; choose one of {', '.join(SAMPLINGS)}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def default_negatives(name: Format) -> int | None:
    """How many negatives a format has where none are asked for."""
    return None if name in _ALL_NEGATIVES else _DEFAULT_NEGATIVES
