"""The settings that shape the rows that go out: their columns, their cuts, and the cascade."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from shardrank.config_values import Location, Name, Section
from shardrank.types import Layout

_Score = Annotated[float, Field(ge=0.0, le=1.0)]


class OutputColumns(Section):
    """Names of the columns that shardrank adds."""

    log_odds: Name = "log_odds"
    score: Name = "score"
    rank: Name = "rank"
    position: Name = "position"
    num_tokens: Name = "num_tokens"
    truncated: Name = "truncated"
    pair_hash: Name = "pair_hash"
    num_cut: Name = "num_cut"
    num_rejected: Name = "num_rejected"

    @model_validator(mode="after")
    def _names_differ(self) -> OutputColumns:
        names = list(self.model_dump().values())
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two columns are called {name!r}; give each a name of its own")
        return self

    def under(self, prefix: str) -> OutputColumns:
        """The same with a prefix, but for names that were given one by one."""
        names = self.model_dump()
        given = self.model_fields_set
        return OutputColumns(
            **{key: name if key in given else f"{prefix}{name}" for key, name in names.items()}
        )


class OutputConfig(Section):
    """The output folder and the shape of its rows.

    pair_hash: whether each pair carries the hash by which a later job may reuse its score.
    """

    path: Location
    layout: Layout | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    min_score: _Score | None = None
    pair_hash: bool = False
    columns: OutputColumns = OutputColumns()


class CascadeConfig(Section):
    """Which candidates of an earlier output are scored again: those that meet every condition.

    top_k: by the earlier rank; the bounds, which are inclusive, of the earlier score or log-odds.
    prefix: of the names of the new columns.
    rank, score, log_odds: what the input calls those of the earlier job.
    """

    top_k: Annotated[int, Field(ge=1)] | None = None
    min_score: _Score | None = None
    max_score: _Score | None = None
    min_log_odds: float | None = None
    max_log_odds: float | None = None
    prefix: Name = "second_"
    rank: Name = "rank"
    score: Name = "score"
    log_odds: Name = "log_odds"

    @model_validator(mode="after")
    def _has_a_condition(self) -> CascadeConfig:
        if self.model_fields_set and not self.is_set:
            raise ValueError(
                "no condition says what to score again; give top_k, or a bound such as min_score"
            )
        for low, high in ((self.min_score, self.max_score), (self.min_log_odds, self.max_log_odds)):
            if low is not None and high is not None and low > high:
                raise ValueError(f"no candidate can be at least {low} and at most {high}")
        return self

    @property
    def is_set(self) -> bool:
        """Whether the job is a cascade at all."""
        return self.top_k is not None or bool(self.bounds)

    @property
    def bounds(self) -> tuple[tuple[str, float | None, float | None], ...]:
        """(column, least, most) of each bounded column."""
        given = (
            (self.score, self.min_score, self.max_score),
            (self.log_odds, self.min_log_odds, self.max_log_odds),
        )
        return tuple(bound for bound in given if bound[1:] != (None, None))

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(setting, column) of each column that must be there."""
        needed = [("rank", self.rank)] if self.top_k is not None else []
        bounded = {column for column, _, _ in self.bounds}
        others = (("score", self.score), ("log_odds", self.log_odds))
        return (*needed, *((name, column) for name, column in others if column in bounded))
