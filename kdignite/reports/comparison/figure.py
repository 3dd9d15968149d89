"""A comparison as one picture: accuracy, what it costs, and every class."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdignite.reports.comparison.panels import (
    COLOURS,
    MARKERS,
    MINUS,
    Rows,
    accuracies,
    accuracy_and_cost,
    axis_of_cost,
    differences,
    recalls,
)
from kdignite.reports.comparison.words import MODELS, Summary, class_choice, kept_line, subject
from kdignite.reports.style import FONT_SIZE, SMALL, STYLE, short, text_width

MAX_CLASSES = 20
NUM_ENDS = 10
HEADLINE = 11.0
BOLD = 1.15  # bold letters are wider
# inches
WIDTH, GAP, RIGHT, NARROW = 7.8, 0.62, 0.5, 2.2
UPPER, ROW, BELOW, ABOVE, LINE = 1.15, 0.235, 0.46, 0.34, 0.18


class Frame(NamedTuple):
    """Where the panels are, in inches from the left and from the bottom."""

    left: float
    wide: float
    lower: float
    height: float


def comparison_figure(summary: Summary) -> Figure:
    """Accuracy with intervals, accuracy against cost, recall and difference by class; the verdict is the headline.

    Up to 20 classes all of them, in class order; above that the 10 with the largest and the 10 with the smallest
    difference. Without a teacher or its cost the panel of costs is left out.
    """
    with mpl.style.context(STYLE):
        placed = _rows(summary)
        head = _head(summary, placed.note)
        left = max(0.75, text_width(placed.names, size=FONT_SIZE) + 0.2)
        lower = ROW * (placed.heights[-1] + 1.2)
        height = BELOW + lower + ABOVE + BELOW + UPPER + ABOVE + LINE * len(head) + 0.15
        frame = Frame(left, max(2.4, WIDTH - left - GAP - NARROW - RIGHT), lower, height)
        figure = Figure(figsize=(frame.left + frame.wide + GAP + NARROW + RIGHT, height))
        FigureCanvasAgg(figure)
        _upper_panels(figure, summary, frame)
        _lower_panels(figure, summary, placed, frame)
        _headline(figure, head, frame)
        return figure


def _head(summary: Summary, note: str) -> list[tuple[str, dict[str, Any]]]:
    """Lines and their style: the verdict and, below it, what was compared."""
    large, grey = {"fontsize": HEADLINE, "weight": "bold"}, {"fontsize": SMALL, "color": "0.3"}
    said = [subject(summary), kept_line(summary), note]
    return [
        *((line, large) for line in _broken(summary["verdict"]["text"], size=HEADLINE * BOLD)),
        *((line, grey) for text in said for line in _broken(text, size=SMALL)),
    ]


def _broken(text: str, *, size: float) -> list[str]:
    """A text in as few lines as fit, all of about the same length."""
    lines = math.ceil(text_width([text], size=size) / (WIDTH - 0.3))
    return textwrap.wrap(text, len(text) // lines + 6 if lines > 1 else len(text)) if text else []


def _headline(figure: Figure, head: Sequence[tuple[str, dict[str, Any]]], frame: Frame) -> None:
    for i, (line, style) in enumerate(head):
        top = frame.height - 0.03 - LINE * i - (0.05 if style["fontsize"] == SMALL else 0)
        figure.text(0.06 / figure.get_figwidth(), top / frame.height, line, va="top", **style)


def _axes(figure: Figure, *, left: float, bottom: float, width: float, height: float, title: str) -> Axes:
    """Axes at a place in inches, with a base line at the left and no box."""
    wide, high = figure.get_size_inches()
    axes = figure.add_axes((left / wide, bottom / high, width / wide, height / high))
    axes.set_title(title, loc="left", fontsize=FONT_SIZE, pad=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.tick_params(length=0, labelsize=SMALL)
    axes.grid(color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _upper_panels(figure: Figure, summary: Summary, frame: Frame) -> None:
    size = {"bottom": BELOW + frame.lower + ABOVE + BELOW, "height": UPPER}
    cost = axis_of_cost(summary)
    width = frame.wide if cost else frame.wide + GAP + NARROW
    axes = _axes(figure, left=frame.left, width=width, title="accuracy (%), 95 % intervals", **size)
    accuracies(axes, summary)
    if cost:
        left = frame.left + frame.wide + GAP
        axes = _axes(figure, left=left, width=NARROW, title="accuracy (%) against cost", **size)
        accuracy_and_cost(axes, summary, cost)


def _rows(summary: Summary) -> Rows:
    choice = class_choice(summary, most=MAX_CLASSES, each=NUM_ENDS)
    shown = [*choice.best, *choice.worst]
    rows = [summary["per_class"][c] for c in shown]
    names = [short(row["class"]) + ("" if row["support"] else " (no images)") for row in rows]
    overall = {role: (summary[role] or {}).get("accuracy", {}).get("mean") for role in MODELS}
    heights = [i + 0.6 * (i >= len(choice.best)) for i in range(len(shown))]
    note = ""
    if len(shown) < len(summary["per_class"]):
        ends = f"the {NUM_ENDS} with the largest and the {NUM_ENDS} with the smallest difference"
        which = ends if choice.worst else f"the {len(shown)} with images"
        note = f"Shown: {which}, of {len(summary['per_class'])} classes."
    found = summary["difference"]
    last = {**overall, "difference": found["mean"], "low": found["low"], "high": found["high"]}
    return Rows([*names, "all images"], [*rows, last], [*heights, heights[-1] + 1.4], note)


def _lower_panels(figure: Figure, summary: Summary, placed: Rows, frame: Frame) -> None:
    size = {"bottom": BELOW, "height": frame.lower}
    axes = _axes(figure, left=frame.left, width=frame.wide, title="recall by class (%)", **size)
    recalls(axes, placed)
    axes.set_yticks(placed.heights, placed.names, fontsize=FONT_SIZE)
    beside = frame.left + frame.wide + GAP
    right = _axes(figure, left=beside, width=NARROW, title=f"student {MINUS} baseline (points)", **size)
    differences(right, placed)
    right.set_yticks(placed.heights, [])
    for one in (axes, right):
        one.set_ylim(placed.heights[-1] + 0.6, -0.6)
        one.axhline(placed.heights[-1] - 0.7, color="0.6", linewidth=0.8)
    roles = [role for role in MODELS if summary[role] is not None]
    handles = [Line2D([], [], color=COLOURS[role], linestyle="none", label=role, **MARKERS[role]) for role in roles]
    place = (frame.left / figure.get_figwidth(), 0.0)
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, frameon=False, fontsize=SMALL)
