"""The four panels of the picture of a comparison."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kdignite.comparison.numbers import COSTS
from kdignite.reports.comparison.words import MODELS, Summary
from kdignite.reports.style import BLUE, FONT_SIZE, SMALL, VERMILION
from kdignite.reports.text import points

COLOURS = {"teacher": BLUE, "student": VERMILION, "baseline": "#4d4d4d"}
# the student is drawn last, and what lies under it can be seen around it
MARKERS: dict[str, dict[str, Any]] = {
    "teacher": {"marker": "s", "markersize": 5.5, "markerfacecolor": "white", "zorder": 3},
    "baseline": {"marker": "D", "markersize": 6.5, "markerfacecolor": "white", "zorder": 4},
    "student": {"marker": "o", "markersize": 4.5, "zorder": 5},
}
AXES_OF_COST = ("multiply_adds", "latency_median_ms", "num_parameters")
FAR = 12  # times the cost: between markers so far apart there is room for two names
MINUS = "\N{MINUS SIGN}"


class Limits(NamedTuple):
    """Ends of an axis."""

    low: float
    high: float


class Rows(NamedTuple):
    """Classes to draw and, last, all images; where each is drawn (in units of a row, downwards)."""

    names: list[str]
    rows: list[Mapping[str, Any]]
    heights: list[float]
    note: str  # which classes these are, if not all


def accuracies(axes: Axes, summary: Summary) -> None:
    """Accuracy of each model with its interval."""
    roles = [role for role in MODELS if summary[role] is not None]
    ends = {role: _shown_interval(summary[role]["accuracy"]) for role in roles}
    for height, role in enumerate(roles):
        mean = 100 * summary[role]["accuracy"]["mean"]
        axes.plot(ends[role], [height] * 2, color=COLOURS[role], linewidth=1.6, solid_capstyle="butt", zorder=2)
        axes.plot([mean], [height], color=COLOURS[role], **MARKERS[role])
        beside = (ends[role][1], height)
        axes.annotate(f"{mean:.1f}", beside, xytext=(7, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(roles)), roles, fontsize=FONT_SIZE)
    for label, role in zip(axes.get_yticklabels(), roles, strict=True):
        label.set_color(COLOURS[role])
    axes.set_ylim(len(roles) - 0.4, -0.6)
    low, high = _limits([end for pair in ends.values() for end in pair], margin=0.06, least=1)
    axes.set_xlim(low, high + 0.1 * (high - low))  # room for the last value
    axes.set_xticks(_ticks(low, high, most=6))
    axes.grid(visible=False, axis="y")
    over = {role: summary[role]["accuracy"]["over"] for role in roles}
    kinds = {kind: [role for role in roles if over[role] == kind] for kind in over.values()}
    each = "; ".join(f"{', '.join(who)}: over {kind}" for kind, who in kinds.items())
    axes.set_xlabel(each if len(kinds) > 1 else f"intervals over {over['student']}", fontsize=SMALL, color="0.3")


def axis_of_cost(summary: Summary) -> str:
    """The cost that accuracy is drawn against."""
    if summary["teacher"] is None:
        return ""
    cost = summary["cost"]
    known = (key for key in AXES_OF_COST if cost["saved"][key] and all(cost[role][key] for role in MODELS))
    return next(known, "")


def accuracy_and_cost(axes: Axes, summary: Summary, cost: str) -> None:
    """Each model at its cost and its accuracy."""
    right = {role: 100 * summary[role]["accuracy"]["mean"] for role in MODELS}
    amounts = {role: summary["cost"][role][cost] / COSTS[cost].divisor for role in MODELS}
    for role in MODELS:
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
    axes.set_xlabel(f"{COSTS[cost].name}{unit}", fontsize=SMALL)
    _marker_names(axes, amounts, right)


def recalls(axes: Axes, placed: Rows) -> None:
    """Recall of each class by each model, baseline and student joined by a line."""
    for height, row in zip(placed.heights, placed.rows, strict=True):
        if row["student"] is None:
            continue
        ends = [100 * row["baseline"], 100 * row["student"]]
        axes.plot(ends, [height, height], color="0.65", linewidth=1.2, zorder=2)
        for role in MODELS:
            if row[role] is not None:
                axes.plot([100 * row[role]], [height], color=COLOURS[role], linestyle="none", **MARKERS[role])
    values = [100 * row[role] for row in placed.rows for role in MODELS if row[role] is not None]
    axes.set_xlim(_limits(values, margin=0.05, least=5))
    axes.set_xticks(_ticks(*axes.get_xlim(), most=6))


def differences(axes: Axes, placed: Rows) -> None:
    """Student - baseline as bars from zero, the values in a column beside them, the interval of the overall one."""
    known = [(h, row) for h, row in zip(placed.heights, placed.rows, strict=True) if row["difference"] is not None]
    values = [100 * row["difference"] for _, row in known]
    colours = [COLOURS["student"] if value >= 0 else COLOURS["baseline"] for value in values]
    axes.barh([h for h, _ in known], values, height=0.62, color=colours, alpha=0.85, zorder=2)
    axes.axvline(0, color="0.3", linewidth=0.9, zorder=3)
    last, interval = placed.rows[-1], list[float]()
    if last["low"] is not None:
        interval = [100 * last["low"], 100 * last["high"]]
        axes.plot(interval, [placed.heights[-1]] * 2, color="black", linewidth=1.4, marker="|", markersize=7, zorder=4)
    axes.set_xlim(_limits([0.0, *values, *interval], margin=0.08, least=1))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines["left"].set_visible(False)
    where = axes.get_yaxis_transform()  # x: share of the axes, y: data
    near: dict[str, Any] = {"xycoords": where, "textcoords": "offset points", "ha": "right", "va": "center_baseline"}
    for height, row in known:
        axes.annotate(points(row["difference"]).replace("-", MINUS), (1, height), (32, 0), fontsize=SMALL, **near)


def _marker_names(axes: Axes, amounts: Mapping[str, float], right: Mapping[str, float]) -> None:
    """Beside the markers: student and baseline cost the same, so the better one is named above, the other below."""
    inwards = max(amounts.values()) / min(amounts.values()) >= FAR
    right_of_teacher = (amounts["teacher"] < amounts["student"]) == inwards
    upper = "student" if right["student"] >= right["baseline"] else "baseline"
    for role in MODELS:
        side = 1 if (role == "teacher") == right_of_teacher else -1
        up = 0 if role == "teacher" else 6 if role == upper else -6
        near: dict[str, Any] = {"textcoords": "offset points", "ha": "right" if side < 0 else "left", "va": "center"}
        place = (amounts[role], right[role])
        axes.annotate(role, place, (7 * side, up), fontsize=SMALL, color=COLOURS[role], **near)


def _shown_interval(accuracy: Mapping[str, float]) -> list[float]:
    """An interval in per cent as far as an accuracy can go; that it goes further is one of the notes."""
    return [min(max(100 * accuracy[end], 0.0), 100.0) for end in ("low", "high")]


def _limits(values: Collection[float], *, margin: float, least: float) -> Limits:
    """Ends of an axis: the values and a margin, and at least as many points as are worth showing."""
    low, high = min(values), max(values)
    spare = max(least - (high - low), 0) / 2 + margin * max(high - low, least)
    return Limits(low - spare, high + spare)


def _ticks(low: float, high: float, *, most: int) -> list[float]:
    """Ticks of an axis of shares in per cent: none where no share can be."""
    return [tick for tick in MaxNLocator(most).tick_values(low, high) if max(low, 0) <= tick <= min(high, 100)]
