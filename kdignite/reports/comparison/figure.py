"""A comparison as one picture: accuracy, what it costs, and every class."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdignite.comparison.summary import Summary
from kdignite.reports.comparison.panels import (
    COLOURS,
    MARKERS,
    MINUS,
    ClassPanel,
    accuracies,
    accuracy_and_cost,
    cost_axis,
    differences,
    recalls,
)
from kdignite.reports.comparison.sentences import compression_text, shown_classes, subject, verdict_text
from kdignite.reports.style import (
    FONT_SIZE,
    LINE,
    SMALL,
    draw_header,
    header_lines,
    new_figure,
    short,
    styled,
    text_width,
)

MAX_CLASSES = 20
NUM_ENDS = 10
# inches
WIDTH, GAP, RIGHT, NARROW = 7.8, 0.62, 0.5, 2.2
UPPER, ROW, BELOW, ABOVE = 1.15, 0.235, 0.46, 0.34


class Layout(NamedTuple):
    """Sizes in inches: what is left of the panels, the wide panels, the lower ones, the whole figure."""

    left: float
    wide: float
    lower: float
    height: float


@styled
def comparison_figure(summary: Summary) -> Figure:
    """Accuracy with intervals and against cost, recall and difference by class (20 at most), under the verdict."""
    panel = _class_panel(summary)
    under = (subject(summary), compression_text(summary), panel.note)
    header = header_lines(verdict_text(summary), *under, width=WIDTH - 0.3)
    left = max(0.75, text_width(panel.names, size=FONT_SIZE) + 0.2)
    lower = ROW * (panel.positions[-1] + 1.2)
    height = BELOW + lower + ABOVE + BELOW + UPPER + ABOVE + LINE * len(header) + 0.15
    layout = Layout(left, max(2.4, WIDTH - left - GAP - NARROW - RIGHT), lower, height)
    figure = new_figure(layout.left + layout.wide + GAP + NARROW + RIGHT, height)
    _upper_panels(figure, summary, layout)
    _lower_panels(figure, summary, panel, layout)
    draw_header(figure, header)
    return figure


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


def _upper_panels(figure: Figure, summary: Summary, layout: Layout) -> None:
    size = {"bottom": BELOW + layout.lower + ABOVE + BELOW, "height": UPPER}
    cost = cost_axis(summary)
    width = layout.wide if cost else layout.wide + GAP + NARROW
    axes = _axes(figure, left=layout.left, width=width, title="accuracy (%), 95 % intervals", **size)
    accuracies(axes, summary)
    if cost:
        left = layout.left + layout.wide + GAP
        axes = _axes(figure, left=left, width=NARROW, title="accuracy (%) against cost", **size)
        accuracy_and_cost(axes, summary, cost)


def _class_panel(summary: Summary) -> ClassPanel:
    choice = shown_classes(summary, most=MAX_CLASSES, each=NUM_ENDS)
    shown, classes = [*choice.best, *choice.worst], summary.scores.per_class
    rows = [classes[c] for c in shown]
    names = [short(row.name) + ("" if row.support else " (no images)") for row in rows]
    positions = [i + 0.6 * (i >= len(choice.best)) for i in range(len(shown))]
    note = ""
    if len(shown) < len(classes):
        ends = f"the {NUM_ENDS} with the largest and the {NUM_ENDS} with the smallest difference"
        note = f"Shown: {ends if choice.worst else f'the {len(shown)} with images'}, of {len(classes)} classes."
    last = summary.scores.overall
    return ClassPanel([*names, "all images"], [*rows, last], [*positions, positions[-1] + 1.4], note)


def _lower_panels(figure: Figure, summary: Summary, panel: ClassPanel, layout: Layout) -> None:
    size = {"bottom": BELOW, "height": layout.lower}
    axes = _axes(figure, left=layout.left, width=layout.wide, title="recall by class (%)", **size)
    recalls(axes, panel)
    axes.set_yticks(panel.positions, panel.names, fontsize=FONT_SIZE)
    left = layout.left + layout.wide + GAP
    right = _axes(figure, left=left, width=NARROW, title=f"student {MINUS} baseline (points)", **size)
    difference = summary.scores.difference
    differences(right, panel, [end for end in (difference.low, difference.high) if end is not None])
    right.set_yticks(panel.positions, [])
    for one in (axes, right):
        one.set_ylim(panel.positions[-1] + 0.6, -0.6)
        one.axhline(panel.positions[-1] - 0.7, color="0.6", linewidth=0.8)
    roles = list(summary.scores.models)
    handles = [Line2D([], [], color=COLOURS[role], linestyle="none", label=role, **MARKERS[role]) for role in roles]
    place = (layout.left / figure.get_figwidth(), 0.0)
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=3, frameon=False, fontsize=SMALL)
