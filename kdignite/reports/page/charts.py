"""Curves and reliability diagrams as places in a chart; the template draws them as SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

from kdignite.metrics import CalibrationBins, Labels, Logits, calibration_bins
from kdignite.reports.page.blocks import Bar, Line, Lines, Reliability, Tick
from kdignite.reports.text import per_cent


class Frame(NamedTuple):
    """The inner edges of a chart, in units that are pixels on a phone."""

    width: float = 340.0
    left: float = 42.0
    right: float = 324.0
    top: float = 8.0
    below: float = 34.0  # from the last line to the lower edge
    base: float = 200.0  # of the bars of a reliability diagram


FRAME = Frame()
LINES_HEIGHT, RELIABILITY_HEIGHT = 210.0, 288.0
IMAGES_HEIGHT = 30.0  # of the bars that count images
MAX_TICKS = 5


class Curve(NamedTuple):
    """Values over epochs; those that are missing or no number are left out."""

    name: str
    tone: str
    points: list[tuple[float, float]]


def curve(rows: Sequence[Mapping[str, float | None]], column: str, *, name: str, tone: str, scale: float = 1) -> Curve:
    """A column of a history over its epochs."""
    pairs = ((row.get("epoch"), row.get(column)) for row in rows)
    known = [(epoch, scale * value) for epoch, value in pairs if epoch and value is not None and math.isfinite(value)]
    return Curve(name, tone, known)


def lines(title: str, curves: Sequence[Curve], *, unit: str = "") -> list[Lines]:
    """A chart of some curves; none where there is nothing to draw."""
    shown = [one for one in curves if one.points]
    if not shown:
        return []
    xs, ys = ([point[axis] for one in shown for point in one.points] for axis in (0, 1))
    across = scale(min(xs), max(xs), FRAME.left + 6, FRAME.right - 6)
    low, high = limits(min(ys), max(ys))
    up = scale(low, high, LINES_HEIGHT - FRAME.below, FRAME.top)
    drawn = [Line(one.name, one.tone, [(across(x), up(y)) for x, y in one.points]) for one in shown]
    x_ticks = [Tick(across(x), f"{x:g}") for x in ticks(min(xs), max(xs), whole=True)]
    y_ticks = [Tick(up(y), f"{y:g}") for y in ticks(low, high)]
    alt = f"{title} over the epochs. {' '.join(_told(one, unit) for one in shown if one.name)}"
    return [Lines(title, alt, drawn, x_ticks, y_ticks, LINES_HEIGHT)]


def reliability(title: str, logits: Logits, labels: Labels, *, tone: str) -> Reliability:
    """How often a model is right at each confidence, and what that says of it."""
    bins = calibration_bins(logits, labels)
    across = scale(0, 1, FRAME.left, FRAME.right)
    up = scale(0, 1, FRAME.base, FRAME.top)
    edges, most = len(bins.num_images), max(bins.num_images)
    bars = [
        Bar(across(b / edges), round(across(1 / edges) - across(0), 1), up(accuracy), up(confidence), height)
        for b, (number, confidence, accuracy) in enumerate(zip(*bins, strict=True))
        if (height := round(IMAGES_HEIGHT * number / most, 1)) or number
    ]
    x_ticks = [Tick(across(share), per_cent(share, digits=0)) for share in (0, 0.25, 0.5, 0.75, 1)]
    y_ticks = [Tick(up(share), per_cent(share, digits=0)) for share in (0, 0.25, 0.5, 0.75, 1)]
    alt = f"Reliability diagram. {calibration_text(bins)}"
    return Reliability(title, alt, tone, bars, x_ticks, y_ticks, RELIABILITY_HEIGHT)


def calibration_text(bins: CalibrationBins) -> str:
    """Whether a model is too sure, in a sentence."""
    total = sum(bins.num_images)
    sure, right = (sum(n * share for n, share in zip(bins.num_images, one, strict=True)) / total for one in bins[1:])
    gap = 100 * (sure - right)
    verdict = "as sure as it should be" if abs(gap) < 1 else f"{'over' if gap > 0 else 'under'}confident"
    return f"On average it is {per_cent(sure)} % sure and {per_cent(right)} % right: {verdict}."


def _told(one: Curve, unit: str) -> str:
    """A curve in words."""
    (first, start), (last, end) = one.points[0], one.points[-1]
    if start == end:
        return f"{one.name}: {end:.3g}{unit}."
    return f"{one.name}: {start:.3g}{unit} in epoch {first:g}, {end:.3g}{unit} in epoch {last:g}."


def scale(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    """From values to places; where there is one value, it is in the middle."""
    if high == low:
        return lambda _: round((start + stop) / 2, 1)
    return lambda value: round(start + (stop - start) * (value - low) / (high - low), 1)


def limits(low: float, high: float) -> tuple[float, float]:
    spare = 0.06 * (high - low) or 0.5
    return low - spare, high + spare


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    return [float(f"{x:.6g}") for x in MaxNLocator(MAX_TICKS, integer=whole).tick_values(low, high) if low <= x <= high]
