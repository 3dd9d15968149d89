"""A table of methods as a forest plot: the difference of each to the baseline, with its interval and its seeds."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdignite.comparison.methods import BETTER, NOT_SHOWN, NOT_TESTED, WORSE, Contrast, MethodRow, MethodsSummary
from kdignite.reports.methods.tables import methods_headline, subject
from kdignite.reports.style import (
    BLUE,
    FONT_SIZE,
    LINE,
    ORANGE,
    SMALL,
    VERMILION,
    draw_header,
    header_lines,
    new_figure,
    short,
    styled,
    text_width,
)
from kdignite.reports.text import NO_SCORE, per_cent, points

GREY = "#4d4d4d"
COLOURS = {BETTER: BLUE, WORSE: VERMILION, NOT_SHOWN: GREY, NOT_TESTED: "0.65"}
AGAINST: dict[str, Any] = {"color": ORANGE, "linewidth": 1.2, "linestyle": (0, (4, 2))}
MINUS = "\N{MINUS SIGN}"
# inches
PANEL, ROW, BELOW, ABOVE, LEGEND, RIGHT = 3.7, 0.3, 0.42, 0.28, 0.24, 0.1
HANDLE = 0.62  # of a mark in the legend and the blanks around it
COLUMNS = {"points": 0.62, "accuracy %": 1.02, "s an epoch": 0.86, "seeds": 0.48}  # and the room of each


class Ends(NamedTuple):
    """Of the axis, in points."""

    low: float
    high: float


@styled
def methods_figure(summary: MethodsSummary) -> Figure:
    """The difference of each row to the baseline, best first; beside it accuracy, seconds of an epoch, seeds."""
    names = [short(row.recipe.name) for row in summary.rows]
    left = text_width(names, size=FONT_SIZE) + 0.25
    width = left + PANEL + sum(COLUMNS.values()) + RIGHT
    header = header_lines(methods_headline(summary), subject(summary), width=width - 0.3)
    rows = ROW * len(names)
    handles = _handles(summary)
    room = sum(HANDLE + text_width([handle.get_label()], size=SMALL) for handle in handles)
    lines = max(math.ceil(room / width), 1)  # of the legend
    below = LEGEND * lines + BELOW
    height = below + rows + ABOVE + LINE * len(header) + 0.1
    figure = new_figure(width, height)
    axes = figure.add_axes((left / width, below / height, PANEL / width, rows / height))
    _draw_rows(axes, summary)
    _arrange(axes, names)
    _draw_columns(axes, summary.rows)
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.0), "columnspacing": 1.2}
    figure.legend(
        handles=handles, ncols=max(math.ceil(len(handles) / lines), 1), frameon=False, fontsize=SMALL, **place
    )
    draw_header(figure, header)
    return figure


def _draw_rows(axes: Axes, summary: MethodsSummary) -> None:
    ends = ends_of(summary.rows)
    axes.axvline(0, color=GREY, linewidth=1, zorder=2)
    other = of_against(summary)
    if other:
        found = other.difference
        axes.axvline(100 * found.mean, zorder=2, **AGAINST)
        if found.low is not None and found.high is not None:
            axes.axvspan(100 * found.low, 100 * found.high, color=ORANGE, alpha=0.13, linewidth=0, zorder=0)
    for height, row in enumerate(summary.rows):
        if row.to_baseline:
            _draw_contrast(axes, row.to_baseline, height, ends)
        elif row.recipe.name == summary.baseline:
            axes.plot([0], [height], color=GREY, marker="D", markersize=6, markerfacecolor="white", zorder=4)
    axes.set_xlim(ends)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(lambda tick, _: f"{tick:+g}".replace("-", MINUS) if tick else "0")
    axes.set_xlabel(f"test accuracy {MINUS} that of the {summary.baseline} (points)", fontsize=SMALL)


def _draw_contrast(axes: Axes, one: Contrast, height: float, ends: Ends) -> None:
    """A point, its interval, which ends in an arrow where the axis does, and below it a faint dot for each seed."""
    colour, mean = COLOURS[one.verdict], 100 * one.difference.mean
    if one.difference.low is not None and one.difference.high is not None:
        low, high = 100 * one.difference.low, 100 * one.difference.high
        axes.plot([max(low, ends.low), min(high, ends.high)], [height] * 2, color=colour, linewidth=1.6, zorder=3)
        for marker, end, is_cut in (("<", ends.low, low < ends.low), (">", ends.high, high > ends.high)):
            if is_cut:
                axes.plot([end], [height], color=colour, marker=marker, markersize=5, clip_on=False, zorder=3)
    axes.plot([mean], [height], zorder=4, **_mark(one.verdict))
    seeds = [100 * value for value in one.values]
    if len(seeds) > 1:
        axes.plot(seeds, [height + 0.3] * len(seeds), color=colour, marker=".", linestyle="none", alpha=0.45, zorder=3)


def ends_of(rows: Sequence[MethodRow]) -> Ends:
    """All points and seeds; of the intervals, which are very wide with two seeds, as much as that again."""
    found = [row.to_baseline for row in rows if row.to_baseline]
    values = [0.0, *(100 * value for one in found for value in (*one.values, one.difference.mean))]
    low, high = min(values), max(values)
    room = max(high - low, 0.5)
    reached = [100 * end for one in found for end in (one.difference.low, one.difference.high) if end is not None]
    low, high = max(min([low, *reached]), low - room), min(max([high, *reached]), high + room)
    margin = 0.05 * max(high - low, 0.5)
    return Ends(low - margin, high + margin)


def of_against(summary: MethodsSummary) -> Contrast | None:
    """The difference of the row that the others are compared with to the baseline."""
    return next((row.to_baseline for row in summary.rows if row.recipe.name == summary.against), None)


def _arrange(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=FONT_SIZE)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(length=0, labelsize=SMALL, axis="x")
    axes.tick_params(length=0, axis="y")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("0.6")
    axes.grid(axis="x", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)


def _draw_columns(axes: Axes, rows: Sequence[MethodRow]) -> None:
    """Numbers to the right of the panel, below the name of each column."""
    near: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": SMALL, "annotation_clip": False}
    right = 0.0
    for column, width in COLUMNS.items():
        right += 72 * width
        axes.annotate(column, (1, 1), xytext=(right, 5), xycoords="axes fraction", color="0.3", **near)
        for height, row in enumerate(rows):
            where = axes.get_yaxis_transform()  # x: share of the axes, y: data
            text = _cells(row)[column].replace("-", MINUS)
            axes.annotate(text, (1, height), xytext=(right, 0), xycoords=where, va="center_baseline", **near)


def _cells(row: MethodRow) -> dict[str, str]:
    mean, std = row.recipe.accuracy
    spread = "" if std is None else f" \N{PLUS-MINUS SIGN} {per_cent(std, digits=2)}"
    seconds = row.recipe.epoch_seconds
    return {
        "points": points(row.to_baseline.difference.mean if row.to_baseline else None, digits=2),
        "accuracy %": per_cent(mean, digits=2) + spread,
        "s an epoch": NO_SCORE if seconds is None else f"{seconds:.1f}",
        "seeds": str(len(row.recipe.seeds)),
    }


def _handles(summary: MethodsSummary) -> list[Any]:
    """The marks that are there, and what they mean."""
    found = [row.to_baseline for row in summary.rows if row.to_baseline]
    verdicts = [verdict for verdict in COLOURS if any(one.verdict == verdict for one in found)]
    handles: list[Any] = [Line2D([], [], label=verdict, linewidth=1.6, **_mark(verdict)) for verdict in verdicts]
    if any(len(one.seeds) > 1 for one in found):
        handles.append(Line2D([], [], marker=".", color=GREY, alpha=0.5, linestyle="none", label="a seed"))
    if (other := of_against(summary)) and summary.against:
        handles.append(Line2D([], [], label=short(summary.against), **AGAINST))
        if other.difference.low is not None:
            handles.append(Patch(facecolor=ORANGE, alpha=0.4, label="its interval"))
    return handles


def _mark(verdict: str) -> dict[str, Any]:
    face = COLOURS[verdict] if verdict in (BETTER, WORSE) else "white"
    return {"color": COLOURS[verdict], "marker": "o", "markersize": 6, "markerfacecolor": face}
