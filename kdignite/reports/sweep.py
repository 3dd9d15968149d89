"""A grid over alpha and T as a heat map and tables."""

from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdignite.comparison.sweep import SweepSummary
from kdignite.reports.style import FONT_SIZE, SHADES, SMALL, STYLE, VERMILION, ink
from kdignite.reports.text import csv_text, markdown_table, per_cent

CELL = (0.85, 0.5)  # inches, wide and high
MARGINS = (1.1, 1.35)  # inches, for the names of the axes, the colours, and the title


def sweep_text(summary: SweepSummary) -> str:
    """What was chosen, the means as a map, and a row for each alpha and T."""
    parts = [
        chosen_text(summary),
        "Mean validation accuracy in %:",
        markdown_table(_map(summary), num_names=1),
        markdown_table(_rows(summary), num_names=0),
        *summary.notes,
    ]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: SweepSummary) -> str:
    """Which alpha and T, and how good they were on validation."""
    chosen, pairs = summary.chosen, summary.chosen_from
    seeds = len(chosen.seeds)
    of = "one seed" if seeds == 1 else f"the mean of {seeds} seeds"
    among = f"{pairs} pairs" if pairs == len(summary.points) else f"the {pairs} with these seeds"
    return (
        f"Chosen on validation: --alpha={chosen.alpha:g} --T={chosen.T:g}, "
        f"{per_cent(chosen.mean, digits=2)} % ({of}; the best of {among})"
    )


def sweep_csv(summary: SweepSummary) -> str:
    """A row for each run, with unrounded accuracies in [0, 1]."""
    rows = [
        (point.alpha, point.T, seed, accuracy)
        for point in summary.points
        for seed, accuracy in zip(point.seeds, point.accuracies, strict=True)
    ]
    return csv_text([("alpha", "T", "seed", "accuracy_val"), *rows])


def sweep_json(summary: SweepSummary) -> dict[str, Any]:
    """Every value as plain JSON, in the form of ``sweep.json``."""
    cells = [point._asdict() for point in summary.points]
    rest = {"chosen": summary.chosen._asdict(), "chosen_from": summary.chosen_from, "notes": summary.notes}
    return {"cells": cells, **rest}


def sweep_figure(summary: SweepSummary) -> Figure:
    """A heat map of the mean validation accuracy, a row for each alpha and a column for each T."""
    alphas, Ts = summary.alphas, summary.temperatures
    with mpl.style.context(STYLE):
        size = (max(4.6, MARGINS[0] + 0.9 + CELL[0] * len(Ts)), MARGINS[1] + CELL[1] * len(alphas))
        figure = Figure(figsize=size, layout="compressed")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        means = np.full((len(alphas), len(Ts)), np.nan)
        for point in summary.points:
            means[alphas.index(point.alpha), Ts.index(point.T)] = 100 * point.mean
        mesh = axes.pcolormesh(means, cmap=SHADES, edgecolors="white", linewidth=1.5)
        figure.colorbar(mesh, ax=axes, label="validation accuracy (%)").outline.set_visible(False)
        _label_cells(axes, summary, shades=mesh.to_rgba(means))
        axes.set_xticks(np.arange(len(Ts)) + 0.5, [f"{T:g}" for T in Ts])
        axes.set_yticks(np.arange(len(alphas)) + 0.5, [f"{alpha:g}" for alpha in alphas])
        axes.set_xlabel("T, the temperature")
        axes.set_ylabel("alpha, the teacher's weight")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.suptitle(chosen_text(summary).replace("validation: ", "validation:\n"), fontsize=FONT_SIZE + 1)
        return figure


def _label_cells(axes: Axes, summary: SweepSummary, *, shades: Any) -> None:
    alphas, Ts = summary.alphas, summary.temperatures
    for point in summary.points:
        y, x = alphas.index(point.alpha), Ts.index(point.T)
        text = per_cent(point.mean, digits=2)
        if point.std is not None:
            text += f"\n\N{PLUS-MINUS SIGN} {per_cent(point.std, digits=2)} ({len(point.seeds)})"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink(shades[y, x]))
        if point == summary.chosen:
            frame = Rectangle((x, y), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5, clip_on=False, zorder=3)
            axes.add_patch(frame)


def _map(summary: SweepSummary) -> list[list[str]]:
    alphas, Ts = summary.alphas, summary.temperatures
    means = {(point.alpha, point.T): point.mean for point in summary.points}
    rows = [
        [f"alpha {alpha:g}", *(per_cent(means.get((alpha, T)), digits=2) for T in Ts)] for alpha in reversed(alphas)
    ]
    return [["", *(f"T {T:g}" for T in Ts)], *rows]


def _rows(summary: SweepSummary) -> list[list[str]]:
    rows = [["alpha", "T", "seeds", "mean %", "std", "lowest", "highest"]]
    for point in sorted(summary.points, key=lambda point: (-len(point.seeds), -point.mean)):
        shares = (point.mean, point.std, min(point.accuracies), max(point.accuracies))
        seeds = ",".join(map(str, point.seeds))
        rows.append([f"{point.alpha:g}", f"{point.T:g}", seeds, *(per_cent(share, digits=2) for share in shares)])
    return rows
