"""A grid over the parameters of a method as a heat map and tables."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdignite.methods.registry import DEFAULT
from kdignite.reports.style import FONT_SIZE, SHADES, SMALL, STYLE, VERMILION, ink
from kdignite.reports.text import csv_text, markdown_table, per_cent

Summary = Mapping[str, Any]
Cell = Mapping[str, Any]
CELL = (0.85, 0.5)  # inches, wide and high
MARGINS = (1.1, 1.35)  # inches, for the names of the axes, the colours, and the title


class Axis(NamedTuple):
    """A parameter and its values, ascending; one without a name has one place for all."""

    name: str
    values: list[float]

    def place(self, cell: Cell) -> int:
        """Where a point of the grid is."""
        return self.values.index(cell[self.name]) if self.name else 0


def sweep_text(summary: Summary) -> str:
    """What was chosen, the means as a map, and a row for each point."""
    parts = [
        chosen_text(summary),
        "Mean validation accuracy in %:",
        markdown_table(_map(summary), num_names=1),
        markdown_table(_rows(summary), num_names=0),
        *summary["notes"],
    ]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: Summary) -> str:
    """Which parameters, and how good they were on validation."""
    chosen, points = summary["chosen"], summary["chosen_from"]
    seeds = len(chosen["seeds"])
    of = "one seed" if seeds == 1 else f"the mean of {seeds} seeds"
    among = f"{points} points" if points == len(summary["cells"]) else f"the {points} with these seeds"
    method = "" if summary["method"] == DEFAULT else f"--method={summary['method']} "
    flags = " ".join(f"--{name}={chosen[name]:g}" for name in summary["parameters"])
    return f"Chosen on validation: {method}{flags}, {per_cent(chosen['mean'], digits=2)} % ({of}; the best of {among})"


def sweep_csv(summary: Summary) -> str:
    """A row for each run, with unrounded accuracies in [0, 1]."""
    names = summary["parameters"]
    rows = [
        (*(cell[name] for name in names), seed, accuracy)
        for cell in summary["cells"]
        for seed, accuracy in zip(cell["seeds"], cell["accuracies"], strict=True)
    ]
    return csv_text([(*names, "seed", "accuracy_val"), *rows])


def sweep_figure(summary: Summary) -> Figure:
    """A heat map of the mean validation accuracy over two parameters, at the best value of any other."""
    y, x = _axes(summary)
    with mpl.style.context(STYLE):
        size = (max(4.6, MARGINS[0] + 0.9 + CELL[0] * len(x.values)), MARGINS[1] + CELL[1] * len(y.values))
        figure = Figure(figsize=size, layout="compressed")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        means = np.full((len(y.values), len(x.values)), np.nan)
        for place, cell in _placed(summary).items():
            means[place] = 100 * cell["mean"]
        mesh = axes.pcolormesh(means, cmap=SHADES, edgecolors="white", linewidth=1.5)
        figure.colorbar(mesh, ax=axes, label="validation accuracy (%)").outline.set_visible(False)
        _label_cells(axes, summary, shades=mesh.to_rgba(means))
        axes.set_xticks(np.arange(len(x.values)) + 0.5, [f"{value:g}" for value in x.values])
        axes.set_yticks(np.arange(len(y.values)) + 0.5, [f"{value:g}" if y.name else "" for value in y.values])
        axes.set_xlabel(x.name)
        axes.set_ylabel(y.name)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.suptitle(chosen_text(summary).replace("validation: ", "validation:\n"), fontsize=FONT_SIZE + 1)
        return figure


def _label_cells(axes: Axes, summary: Summary, *, shades: Any) -> None:
    for (y, x), cell in _placed(summary).items():
        text = per_cent(cell["mean"], digits=2)
        if cell["std"] is not None:
            text += f"\n\N{PLUS-MINUS SIGN} {per_cent(cell['std'], digits=2)} ({len(cell['seeds'])})"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink(shades[y, x]))
        if cell == summary["chosen"]:
            frame = Rectangle((x, y), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5, clip_on=False, zorder=3)
            axes.add_patch(frame)


def _axes(summary: Summary) -> tuple[Axis, Axis]:
    """Rows and columns of the map: two parameters, first of all those that have several values."""
    found = [Axis(name, sorted({cell[name] for cell in summary["cells"]})) for name in summary["parameters"]]
    found = sorted(found, key=lambda axis: len(axis.values) == 1)[:2]  # stable: those that vary come first
    first, *others = sorted(found, key=lambda axis: summary["parameters"].index(axis.name))
    return (first, others[0]) if others else (Axis("", [0.0]), first)


def _placed(summary: Summary) -> dict[tuple[int, int], Cell]:
    """The cell of each place of the map: the best one, where other parameters have several values."""
    y, x = _axes(summary)
    ranked = sorted(summary["cells"], key=lambda cell: (len(cell["seeds"]), cell["mean"]))
    return {(y.place(cell), x.place(cell)): cell for cell in ranked}


def _map(summary: Summary) -> list[list[str]]:
    y, x = _axes(summary)
    means = {place: cell["mean"] for place, cell in _placed(summary).items()}
    rows = [
        [
            f"{y.name} {value:g}" if y.name else "",
            *(per_cent(means.get((row, column)), digits=2) for column in range(len(x.values))),
        ]
        for row, value in enumerate(y.values)
    ]
    return [["", *(f"{x.name} {value:g}" for value in x.values)], *reversed(rows)]


def _rows(summary: Summary) -> list[list[str]]:
    ranked = sorted(summary["cells"], key=lambda cell: (-len(cell["seeds"]), -cell["mean"]))
    names = summary["parameters"]
    return [
        [*names, "seeds", "mean %", "std", "lowest", "highest"],
        *(
            [
                *(f"{cell[name]:g}" for name in names),
                ",".join(map(str, cell["seeds"])),
                *(
                    per_cent(share, digits=2)
                    for share in (cell["mean"], cell["std"], min(cell["accuracies"]), max(cell["accuracies"]))
                ),
            ]
            for cell in ranked
        ),
    ]
