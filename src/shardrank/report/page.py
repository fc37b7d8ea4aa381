"""report.html: one file, no network, no script; every text of the data is escaped."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2

from shardrank.report.agreement import TOP, Agreement
from shardrank.report.figures import histogram_figure, throughput_figure, values_figure
from shardrank.report.scores import SATURATED, ScoreFacts
from shardrank.types import Counts

_MAX_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class RejectedReason:
    """A code, how often it was met, the pairs it cost, and the first messages with their places.

    count: rows and candidates, each one rejection.
    """

    code: str
    count: int
    num_pairs: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageFacts:
    """All that a page shows.

    settings: what was asked, by the name of its setting. execution: report.json of the last
    execution; empty where there is none. commits: seconds from the first commit, and pairs, of each
    unit in the order of time. engines: what the units were scored with, and how many.
    """

    output: str
    finished: bool
    num_units: int
    num_pending: int
    num_failed: int
    counts: Counts
    settings: Mapping[str, Any]
    execution: Mapping[str, Any]
    commits: Sequence[tuple[float, int]]
    engines: Mapping[str, int]
    scores: ScoreFacts
    rejected: Sequence[RejectedReason]
    compared_with: str | None = None
    agreement: Agreement | None = None
    num_sampled: int = 0


def render_page(facts: PageFacts) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["short"] = _short
    template = resources.files("shardrank.report").joinpath("page.html").read_text("utf-8")
    return environment.from_string(template).render(
        facts=facts,
        scores=facts.scores,
        counts=facts.counts,
        settings={name: _value(value) for name, value in facts.settings.items()},
        figures=_figures(facts),
        saturated=SATURATED,
        top=TOP,
    )


def _figures(facts: PageFacts) -> dict[str, str]:
    """Pictures as data URLs: an image runs no script, and its ids meet no others."""
    scores = facts.scores
    found = {}
    if len(facts.commits) > 1:
        seconds, pairs = zip(*facts.commits, strict=True)
        found["throughput"] = throughput_figure(seconds, pairs)
    if scores.num_pairs:
        found["log_odds"] = histogram_figure(scores.log_odds, "log-odds", second=scores.top)
        found["tokens"] = histogram_figure(scores.tokens, "tokens of the prompt", log_axis=True)
    if scores.num_judged:
        found["margins"] = histogram_figure(
            scores.margins, "log-odds of a positive less the best other document", "positives"
        )
    if facts.agreement is not None and facts.agreement.taus:
        found["taus"] = values_figure(
            facts.agreement.taus, "Kendall tau of a query", "queries", -1.0, 1.0
        )
    return {
        name: f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
        for name, svg in found.items()
    }


def _short(text: Any) -> str:
    """A text for a page: at most some hundred characters, on one line."""
    words = " ".join(str(text).split())
    return words if len(words) <= _MAX_CHARACTERS else f"{words[:_MAX_CHARACTERS]}…"


def _value(value: Any) -> str:
    return "not set" if value is None else str(value)
