"""A grid over alpha and T as a heat map and tables."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdignite.reports.style import FONT_SIZE, SHADES, SMALL, STYLE, VERMILION, ink
from kdignite.reports.text import csv_text, markdown_table, per_cent

Summary = Mapping[str, Any]
Cell = Mapping[str, Any]
CELL = (0.85, 0.5)  # inches, wide and high
MARGINS = (1.1, 1.35)  # inches, for the names of the axes, the colours, and the title


def sweep_text(summary: Summary) -> str:
    """What was chosen, the means as a map, and a row for each alpha and T."""
    parts = [
        chosen_text(summary),
        "Mean validation accuracy in %:",
        markdown_table(_map(summary), num_names=1),
        markdown_table(_rows(summary), num_names=0),
        *summary["notes"],
    ]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: Summary) -> str:
    """Which alpha and T, and how good they were on validation."""
    chosen, pairs = summary["chosen"], summary["chosen_from"]
    seeds = len(chosen["seeds"])
    of = "one seed" if seeds == 1 else f"the mean of {seeds} seeds"
    among = f"{pairs} pairs" if pairs == len(summary["cells"]) else f"the {pairs} with these seeds"
    return (
        f"Chosen on validation: --alpha={chosen['alpha']:g} --T={chosen['T']:g}, "
        f"{per_cent(chosen['mean'], digits=2)} % ({of}; the best of {among})"
    )


def sweep_csv(summary: Summary) -> str:
    """A row for each run, with unrounded accuracies in [0, 1]."""
    rows = [
        (cell["alpha"], cell["T"], seed, accuracy)
        for cell in summary["cells"]
        for seed, accuracy in zip(cell["seeds"], cell["accuracies"], strict=True)
    ]
    return csv_text([("alpha", "T", "seed", "accuracy_val"), *rows])


def sweep_figure(summary: Summary) -> Figure:
    """A heat map of the mean validation accuracy, a row for each alpha and a column for each T."""
    alphas, Ts = _axes(summary)
    with mpl.style.context(STYLE):
        size = (max(4.6, MARGINS[0] + 0.9 + CELL[0] * len(Ts)), MARGINS[1] + CELL[1] * len(alphas))
        figure = Figure(figsize=size, layout="compressed")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        means = np.full((len(alphas), len(Ts)), np.nan)
        for cell in summary["cells"]:
            means[alphas.index(cell["alpha"]), Ts.index(cell["T"])] = 100 * cell["mean"]
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


def _label_cells(axes: Axes, summary: Summary, *, shades: Any) -> None:
    alphas, Ts = _axes(summary)
    for cell in summary["cells"]:
        y, x = alphas.index(cell["alpha"]), Ts.index(cell["T"])
        text = per_cent(cell["mean"], digits=2)
        if cell["std"] is not None:
            text += f"\n\N{PLUS-MINUS SIGN} {per_cent(cell['std'], digits=2)} ({len(cell['seeds'])})"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink(shades[y, x]))
        if cell == summary["chosen"]:
            frame = Rectangle((x, y), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5, clip_on=False, zorder=3)
            axes.add_patch(frame)


def _axes(summary: Summary) -> tuple[list[float], list[float]]:
    """The values of alpha and of T, ascending."""
    return sorted({cell["alpha"] for cell in summary["cells"]}), sorted({cell["T"] for cell in summary["cells"]})


def _map(summary: Summary) -> list[list[str]]:
    alphas, Ts = _axes(summary)
    means = {(cell["alpha"], cell["T"]): cell["mean"] for cell in summary["cells"]}
    rows = [
        [f"alpha {alpha:g}", *(per_cent(means.get((alpha, T)), digits=2) for T in Ts)] for alpha in reversed(alphas)
    ]
    return [["", *(f"T {T:g}" for T in Ts)], *rows]


def _rows(summary: Summary) -> list[list[str]]:
    ranked = sorted(summary["cells"], key=lambda cell: (-len(cell["seeds"]), -cell["mean"]))
    return [
        ["alpha", "T", "seeds", "mean %", "std", "lowest", "highest"],
        *(
            [
                f"{cell['alpha']:g}",
                f"{cell['T']:g}",
                ",".join(map(str, cell["seeds"])),
                *(
                    per_cent(share, digits=2)
                    for share in (cell["mean"], cell["std"], min(cell["accuracies"]), max(cell["accuracies"]))
                ),
            ]
            for cell in ranked
        ),
    ]
