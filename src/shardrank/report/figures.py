"""Pictures of a report, as SVG text, by matplotlib without a screen."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from shardrank.report.histogram import Histogram

_SIZE = (5.2, 2.4)
"""Inches; small, so that its letters are still read on a phone."""
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
_NUM_TICKS = 6
_BLUE, _ORANGE, _GREY = "#2b6cb0", "#c05621", "#718096"
_STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, and readable at any size
    "svg.hashsalt": "shardrank",  # the same figure is the same text
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
}


def histogram_figure(
    histogram: Histogram,
    label: str,
    counted: str = "pairs",
    *,
    second: Histogram | None = None,
    log_axis: bool = False,
) -> str:
    """Bars of a histogram; a second one of the same edges as a line over it."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(label, counted)
        shown = histogram.trimmed()
        axes.stairs(shown.counts, shown.edges, fill=True, color=_BLUE)
        if second is not None and second.num:
            top = second.trimmed()
            scaled = top.counts * (shown.counts.max() / max(top.counts.max(), 1))
            axes.stairs(scaled, top.edges, color=_ORANGE, linewidth=1.5)
        if log_axis:
            axes.set_xscale("log", base=2)
            ticks = shown.edges[:: max(1, len(shown.edges) // _NUM_TICKS)]
            axes.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks])
        return _svg(figure)


def values_figure(
    values: Sequence[float], label: str, counted: str, low: float, high: float
) -> str:
    """A histogram of values that are all at hand."""
    return histogram_figure(Histogram.even(low, high, 40).add(values), label, counted)


def throughput_figure(seconds: Sequence[float], pairs: Sequence[int]) -> str:
    """Pairs done over time.

    seconds: when each unit was committed, from the first one on, ascending; pairs: of each.
    """
    with mpl.rc_context(_STYLE):
        unit, size = next(
            ((unit, size) for unit, size in _UNITS if seconds[-1] >= 2 * size), _UNITS[-1]
        )
        figure, axes = _figure(unit, "pairs done")
        axes.plot(np.asarray(seconds) / size, np.cumsum(pairs), color=_BLUE, drawstyle="steps-post")
        axes.set_ylim(bottom=0)
        return _svg(figure)


def _figure(x_label: str, y_label: str) -> tuple[Figure, mpl.axes.Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.yaxis.set_major_formatter(mpl.ticker.EngFormatter())
    return figure, axes


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None})
    return sink.getvalue()
