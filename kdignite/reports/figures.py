"""An evaluation as figures for a paper: confusion matrix and classification report.

The figures are built without ``pyplot`` and with matplotlib's own defaults, so that neither a notebook's backend nor a
user's style is touched or followed: the same summary gives the same picture everywhere.
"""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdignite.files import write_atomically
from kdignite.metrics import Confused, Ranking, best_and_worst
from kdignite.reports.style import (
    BLUE,
    FONT_SIZE,
    GREEN,
    ORANGE,
    SHADES,
    SMALL,
    ink,
    new_figure,
    short,
    styled,
    text_width,
)

SAVED: dict[str, Any] = {"dpi": 200, "bbox_inches": "tight", "pad_inches": 0.08, "metadata": {"Software": None}}
MAX_CLASSES = 20  # more cells cannot be read in a printed figure
NUM_ENDS = 10
NUM_CONFUSIONS = 20
EMPTY_ROW = "0.93"
ZERO_TEXT = "#6b6b6b"  # 5:1 on white: readable, and the mistakes stand out
COLOURS = {"precision": BLUE, "recall": ORANGE, "f1": GREEN}
LABELS = {"precision": "precision", "recall": "recall", "f1": "F1"}
BAR = 0.26  # of the height of a class
COLUMNS = {"precision": 44, "recall": 84, "f1": 118, "support": 160}  # right edges, points right of the axes


class ScoreRows(NamedTuple):
    """Rows of the classification figure, and the position of each (in units of a class, downwards)."""

    rows: list[dict[str, Any]]
    positions: list[float]
    note: str  # which classes these are, if not all


@styled
def confusion_figure(summary: Mapping[str, Any], *, title: str) -> Figure:
    """The confusion matrix, shaded by the share of the true class; above 20 classes the 20 most frequent confusions."""
    if len(summary["per_class"]) > MAX_CLASSES:
        return _confused_pairs(summary, title=title)
    return _matrix(summary, title=title)


@styled
def classification_figure(summary: Mapping[str, Any], *, title: str) -> Figure:
    """Precision, recall and F1 as bars, in class order; above 20 classes the 10 best and the 10 worst by F1."""
    shown = _score_rows(summary)
    names = [short(row["class"]) for row in shown.rows]
    width = text_width(names, size=FONT_SIZE) + 3.4 + COLUMNS["support"] / 72 + 0.3
    figure, axes = _figure(width=width, height=0.42 * (shown.positions[-1] + 1) + 1.5)
    _score_bars(axes, shown, names=names)
    _score_columns(axes, shown)
    axes.axvline(100 * summary["macro"]["f1"], color="0.25", linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
    _score_legend(figure)
    _title(figure, title, summary, note=shown.note)
    return _arranged(figure)


@styled
def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG with 200 dots an inch, with neither date nor versions: the same figure, the same bytes."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", **SAVED))


def _matrix(summary: Mapping[str, Any], *, title: str) -> Figure:
    counts = summary["confusion"]
    names = [short(row["class"]) for row in summary["per_class"]]
    rows = [n if r["support"] else f"{n} (no images)" for n, r in zip(names, summary["per_class"], strict=True)]
    cell = max(0.44, 2.6 / len(names), text_width([f"{counts.max()}"], size=SMALL) + 0.14)
    slanted = text_width(names, size=FONT_SIZE) > cell - 0.06
    below = 0.75 * text_width(names, size=FONT_SIZE) if slanted else 0.15
    side = cell * len(names)
    figure, axes = _figure(width=side + text_width(rows, size=FONT_SIZE) + 1.4, height=side + below + 1.1)
    mesh = _cells(axes, counts)
    axes.set_yticks(np.arange(len(names)) + 0.5, rows)
    turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(np.arange(len(names)) + 0.5, names, **turned)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    scale = axes.inset_axes((1 + 0.15 / side, 0, 0.16 / side, 1))  # inches, as share of the side
    figure.colorbar(mesh, cax=scale, label="share of the true class (%)").outline.set_visible(False)
    _title(figure, title, summary)
    return _arranged(figure)


def _cells(axes: Axes, counts: np.ndarray[Any, Any]) -> QuadMesh:
    """Shaded cells with their counts, first class on top."""
    support = counts.sum(axis=1, keepdims=True)
    shares = np.ma.masked_where((support == 0).repeat(len(counts), axis=1), 100 * counts / np.maximum(support, 1))
    shades = mpl.colormaps[SHADES].with_extremes(bad=EMPTY_ROW)
    mesh = axes.pcolormesh(shares, cmap=shades, vmin=0, vmax=100, edgecolors="white", linewidth=0.8)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (true, predicted), count in np.ndenumerate(counts):
        colour = ink(mesh.to_rgba(shares[true, predicted])) if count else ZERO_TEXT
        axes.text(predicted + 0.5, true + 0.5, f"{count}", ha="center", va="center", fontsize=SMALL, color=colour)
    return mesh


def _confused_pairs(summary: Mapping[str, Any], *, title: str) -> Figure:
    names = [short(row["class"]) for row in summary["per_class"]]
    pairs = [Confused(**pair) for pair in summary["confusions"][:NUM_CONFUSIONS]]
    labels = [f"{names[pair.true]} \N{RIGHTWARDS ARROW} {names[pair.predicted]}" for pair in pairs]
    figure, axes = _figure(width=text_width(labels, size=FONT_SIZE) + 4.6, height=0.27 * len(pairs) + 1.3)
    if pairs:
        _pair_bars(axes, pairs, labels=labels)
        which = f"the {NUM_CONFUSIONS} most frequent" if len(pairs) == NUM_CONFUSIONS else "all"
        note = f"{which} confusions of {len(names)} classes (true \N{RIGHTWARDS ARROW} predicted)"
    else:
        axes.set_axis_off()
        note = "no image was misclassified"
    _title(figure, title, summary, note=note)
    return _arranged(figure)


def _pair_bars(axes: Axes, pairs: Sequence[Confused], *, labels: Sequence[str]) -> None:
    counts = [pair.num_images for pair in pairs]
    bars = axes.barh(range(len(pairs)), counts, height=0.72, color=COLOURS["precision"])
    axes.bar_label(bars, [f"{p.num_images:,} ({100 * p.share:.1f} %)" for p in pairs], padding=3, fontsize=SMALL)
    axes.set_yticks(range(len(pairs)), labels)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * max(counts))  # room for the numbers
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images (in brackets: share of the true class)")
    _remove_box(axes)


def _score_rows(summary: Mapping[str, Any]) -> ScoreRows:
    """The classes to draw, a gap between best and worst, and below another gap the macro average."""
    rows = summary["per_class"]
    ranking, note = Ranking(best=list(range(len(rows))), worst=[]), ""
    if len(rows) > MAX_CLASSES:
        ranking = best_and_worst([r["f1"] for r in rows], [r["support"] for r in rows], each=NUM_ENDS)
        ends, present = f"the {NUM_ENDS} best and the {NUM_ENDS} worst", f"the {len(ranking.best)} with images"
        note = f"{ends if ranking.worst else present} of {len(rows)} classes by F1"
    shown = ranking.best + ranking.worst
    macro = {"class": "macro average", "support": summary["num_images"], **summary["macro"]}
    heights = [i + 0.5 * (i >= len(ranking.best)) for i in range(len(shown))]
    return ScoreRows([*(rows[c] for c in shown), macro], [*heights, heights[-1] + 1.5], note)


def _score_bars(axes: Axes, shown: ScoreRows, *, names: list[str]) -> None:
    heights = np.asarray(shown.positions)
    for i, score in enumerate(COLOURS):
        axes.barh(heights + (i - 1) * BAR, [100 * r[score] for r in shown.rows], height=BAR, color=COLOURS[score])
    axes.set_yticks(heights, names)
    axes.set_ylim(heights[-1] + 0.6, -0.6)
    axes.set_xlim(0, 100)
    axes.set_xlabel("score (%)")
    axes.grid(axis="x", color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.axhline(heights[-1] - 0.75, color="0.6", linewidth=0.8)
    _remove_box(axes)


def _score_columns(axes: Axes, shown: ScoreRows) -> None:
    """The values, as columns right of the bars."""
    near: dict[str, Any] = {"textcoords": "offset points", "ha": "right", "fontsize": SMALL}
    for column, right in COLUMNS.items():
        axes.annotate(LABELS.get(column, "images"), (1, 1), xytext=(right, 3), xycoords="axes fraction", **near)
        for row, height in zip(shown.rows, shown.positions, strict=True):
            value = f"{row['support']:,}" if column == "support" else _per_cent(row[column], support=row["support"])
            where = axes.get_yaxis_transform()  # x: share of the axes, y: data
            axes.annotate(value, (1, height), xytext=(right, 0), xycoords=where, va="center_baseline", **near)


def _score_legend(figure: Figure) -> None:
    patches = [Patch(color=colour, label=LABELS[score]) for score, colour in COLOURS.items()]
    line = Line2D([], [], color="0.25", linewidth=0.9, linestyle=(0, (4, 3)), label="macro average of F1")
    figure.legend(handles=[*patches, line], loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL)


def _per_cent(share: float, *, support: int) -> str:
    return f"{100 * share:.1f}" if support else "\N{EN DASH}"


def _remove_box(axes: Axes) -> None:
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("0.4")
    axes.tick_params(length=0)


def _figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure, in inches, that arranges itself so that nothing is cut or overlaps."""
    figure = new_figure(max(width, 4.2), height, layout="compressed")
    return figure, figure.add_subplot()


def _arranged(figure: Figure) -> Figure:
    """Arrange once and for all: every later drawing would otherwise move things by a few pixels."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _title(figure: Figure, title: str, summary: Mapping[str, Any], *, note: str = "") -> None:
    correct, total = summary["num_correct"], summary["num_images"]
    said = f"accuracy {100 * summary['accuracy']:.1f} % ({correct:,} of {total:,} images)"
    letters = int(figure.get_figwidth() * 72 / (0.6 * FONT_SIZE))  # a letter is about 0.6 of the font size wide
    lines = [textwrap.fill(line, letters) for line in (title, said, note) if line]
    figure.suptitle("\n".join(lines), fontsize=FONT_SIZE + 1)
