"""The four panels of the picture of a comparison."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kdignite.comparison.costs import COSTS
from kdignite.comparison.scores import ROLES, ClassRow
from kdignite.comparison.summary import Summary
from kdignite.reports.style import BLUE, FONT_SIZE, SMALL, VERMILION
from kdignite.reports.text import points

COLOURS = {"teacher": BLUE, "student": VERMILION, "baseline": "#4d4d4d"}
# the student is drawn last, and what lies under it can be seen around it
MARKERS: dict[str, dict[str, Any]] = {
    "teacher": {"marker": "s", "markersize": 5.5, "markerfacecolor": "white", "zorder": 3},
    "baseline": {"marker": "D", "markersize": 6.5, "markerfacecolor": "white", "zorder": 4},
    "student": {"marker": "o", "markersize": 4.5, "zorder": 5},
}
COST_AXES = ("multiply_adds", "latency_median_ms", "num_parameters")
FAR = 12  # times the cost: between markers so far apart there is room for two names
MINUS = "\N{MINUS SIGN}"


class ClassPanel(NamedTuple):
    """Classes to draw and, last, all images; the position of each (in units of a row, downwards)."""

    names: list[str]
    rows: list[ClassRow]
    positions: list[float]
    note: str  # which classes these are, if not all


def accuracies(axes: Axes, summary: Summary) -> None:
    """Accuracy of each model as a point with its interval."""
    found = {role: model.accuracy for role, model in summary.scores.models.items()}
    # as far as an accuracy can go; that an interval goes further is one of the notes
    known = {role: [one.mean if end is None else end for end in (one.low, one.high)] for role, one in found.items()}
    ends = {role: [min(max(100 * end, 0.0), 100.0) for end in pair] for role, pair in known.items()}
    for height, (role, accuracy) in enumerate(found.items()):
        mean = 100 * accuracy.mean
        axes.plot(ends[role], [height] * 2, color=COLOURS[role], linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.plot([mean], [height], color=COLOURS[role], **MARKERS[role])
        axes.annotate(f"{mean:.1f}", (ends[role][1], height), (7, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(found)), list(found), fontsize=FONT_SIZE)
    for label, role in zip(axes.get_yticklabels(), found, strict=True):
        label.set_color(COLOURS[role])
    axes.set_ylim(len(found) - 0.4, -0.6)
    low, high = _limits([end for pair in ends.values() for end in pair], margin=0.06, least=1)
    axes.set_xlim(low, high + 0.1 * (high - low))  # room for the last value
    axes.set_xticks(_ticks(low, high, most=6))
    axes.grid(visible=False, axis="y")
    roles_over = {accuracy.over: [r for r in found if found[r].over == accuracy.over] for accuracy in found.values()}
    each = "; ".join(f"{', '.join(roles)}: over {over}" for over, roles in roles_over.items())
    over_all = f"intervals over {found['student'].over}"
    axes.set_xlabel(each if len(roles_over) > 1 else over_all, fontsize=SMALL, color="0.3")


def cost_axis(summary: Summary) -> str:
    """The cost that accuracy is drawn against."""
    if "teacher" not in summary.scores.models:
        return ""
    costs = summary.costs
    known = (key for key in COST_AXES if costs.saved[key] and all(costs.models[role][key] for role in ROLES))
    return next(known, "")


def accuracy_and_cost(axes: Axes, summary: Summary, cost: str) -> None:
    """Each model at its cost and its accuracy."""
    right = {role: 100 * model.accuracy.mean for role, model in summary.scores.models.items()}
    amounts = {role: (summary.costs.models[role][cost] or 0) / COSTS[cost].divisor for role in ROLES}
    for role in ROLES:
        axes.plot([amounts[role]], [right[role]], color=COLOURS[role], linestyle="none", **MARKERS[role])
    axes.set_xscale("log")
    low, high = min(amounts.values()), max(amounts.values())
    axes.set_xlim(low / 3.5, high * 3.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < FAR else (1,)))
    axes.xaxis.set_major_formatter(lambda amount, _: f"{amount:,g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(_limits(right.values(), margin=0.28, least=1))
    axes.set_yticks(_ticks(*axes.get_ylim(), most=4))
    unit = f" ({COSTS[cost].unit})" if COSTS[cost].unit else ""
    axes.set_xlabel(f"{COSTS[cost].label}{unit}", fontsize=SMALL)
    _marker_names(axes, amounts, right)


def recalls(axes: Axes, panel: ClassPanel) -> None:
    """Recall of each class by each model, baseline and student joined by a line."""
    for height, row in zip(panel.positions, panel.rows, strict=True):
        shares = {role: 100 * share for role, share in row.recalls.items()}
        if shares:
            axes.plot([shares["baseline"], shares["student"]], [height] * 2, color="0.65", linewidth=1.2, zorder=2)
        for role, share in shares.items():
            axes.plot([share], [height], color=COLOURS[role], linestyle="none", **MARKERS[role])
    values = [100 * share for row in panel.rows for share in row.recalls.values()]
    axes.set_xlim(_limits(values, margin=0.05, least=5))
    axes.set_xticks(_ticks(*axes.get_xlim(), most=6))


def differences(axes: Axes, panel: ClassPanel, interval: Sequence[float]) -> None:
    """Student - baseline as bars from zero, the values in a column beside them, the interval of all images."""
    rows = zip(panel.positions, panel.rows, strict=True)
    known = {height: row.difference for height, row in rows if row.difference is not None}
    values = [100 * share for share in known.values()]
    colours = [COLOURS["student"] if value >= 0 else COLOURS["baseline"] for value in values]
    axes.barh(list(known), values, height=0.62, color=colours, alpha=0.85, zorder=2)
    axes.axvline(0, color="0.3", linewidth=0.9, zorder=3)
    ends = [100 * end for end in interval]
    if ends:
        axes.plot(ends, [panel.positions[-1]] * 2, color="black", linewidth=1.4, marker="|", markersize=7, zorder=4)
    axes.set_xlim(_limits([0.0, *values, *ends], margin=0.08, least=1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    where = axes.get_yaxis_transform()  # x: share of the axes, y: data
    near: dict[str, Any] = {"xycoords": where, "textcoords": "offset points", "ha": "right", "va": "center_baseline"}
    for height, share in known.items():
        axes.annotate(points(share).replace("-", MINUS), (1, height), (32, 0), fontsize=SMALL, **near)


def _marker_names(axes: Axes, amounts: Mapping[str, float], right: Mapping[str, float]) -> None:
    """Beside the markers: student and baseline cost the same, so the better one is named above, the other below."""
    inwards = max(amounts.values()) / min(amounts.values()) >= FAR
    right_of_teacher = (amounts["teacher"] < amounts["student"]) == inwards
    upper = "student" if right["student"] >= right["baseline"] else "baseline"
    for role in ROLES:
        side = 1 if (role == "teacher") == right_of_teacher else -1
        up = 0 if role == "teacher" else 6 if role == upper else -6
        near: dict[str, Any] = {"textcoords": "offset points", "ha": "right" if side < 0 else "left", "va": "center"}
        place = (amounts[role], right[role])
        axes.annotate(role, place, (7 * side, up), fontsize=SMALL, color=COLOURS[role], **near)


def _limits(values: Collection[float], *, margin: float, least: float) -> tuple[float, float]:
    """Ends of an axis: the values and a margin, and at least as many points as are worth showing."""
    low, high = min(values), max(values)
    spare = max(least - (high - low), 0) / 2 + margin * max(high - low, least)
    return low - spare, high + spare


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Ticks of an axis of shares in per cent: none where no share can be."""
    return [tick for tick in MaxNLocator(most).tick_values(low, high) if max(low, 0) <= tick <= min(high, 100)]
