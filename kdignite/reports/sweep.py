"""A grid over the parameters of a method as a heat map and tables."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kdignite.comparison.sweep import GridPoint, SweepSummary
from kdignite.config import setting_text, typed_flags
from kdignite.errors import reason
from kdignite.methods.registry import DEFAULT
from kdignite.reports.style import FONT_SIZE, SHADES, SMALL, VERMILION, ink, new_figure, styled
from kdignite.reports.text import NO_SCORE, csv_text, markdown_table, per_cent

CELL = (0.85, 0.5)  # inches, wide and high
MIN_ROWS = 3  # of which the colour bar has room for its name
TITLE = 60  # characters of a line
MARGINS = (1.1, 1.35)  # inches, for the names of the axes, the colours, and the title


class Axis(NamedTuple):
    """A parameter and its values, ascending; one without a name has one place for all."""

    name: str
    values: list[float]

    def place(self, point: GridPoint) -> int:
        return self.values.index(point.parameters[self.name]) if self.name else 0


def sweep_text(summary: SweepSummary) -> str:
    """What was chosen, the means as a map, and a row for each point."""
    parts = [
        chosen_text(summary),
        "Mean validation accuracy in %:",
        markdown_table(_map(summary), num_names=1),
        markdown_table(_rows(summary), num_names=0),
        *summary.notes,
    ]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: SweepSummary) -> str:
    """Which parameters, and how good they were on validation."""
    chosen, points = summary.chosen, summary.chosen_from
    seeds = len(chosen.seeds)
    of = "one seed" if seeds == 1 else f"the mean of {seeds} seeds"
    among = f"{points} points" if points == len(summary.points) else f"the {points} with these seeds"
    method = "" if summary.method == DEFAULT else f"--method={summary.method} "
    flags = typed_flags(**{name: chosen.parameters[name] for name in summary.names})
    return f"Chosen on validation: {method}{flags}, {per_cent(chosen.mean, digits=2)} % ({of}; the best of {among})"


def sweep_csv(summary: SweepSummary) -> str:
    """A row for each run, with unrounded accuracies in [0, 1]."""
    names = summary.names
    rows = [
        (*(point.parameters[name] for name in names), seed, accuracy)
        for point in summary.points
        for seed, accuracy in zip(point.seeds, point.accuracies, strict=True)
    ]
    return csv_text([(*names, "seed", "accuracy_val"), *rows])


def sweep_json(summary: SweepSummary) -> dict[str, Any]:
    """Every value as plain JSON, in the form of ``sweep.json``."""
    return {
        "method": summary.method,
        "parameters": summary.names,
        "cells": [_plain(point) for point in summary.points],
        "chosen": _plain(summary.chosen),
        "chosen_from": summary.chosen_from,
        "notes": summary.notes,
    }


def sweep_from_json(values: Mapping[str, Any]) -> SweepSummary:
    """A summary from what ``sweep.json`` holds.

    Raises:
        ValueError: if it is not what `sweep_json` writes.
    """
    try:
        names = values["parameters"]
        points, chosen = [_point(cell, names) for cell in values["cells"]], _point(values["chosen"], names)
        return SweepSummary(values["method"], names, points, chosen, values["chosen_from"], values["notes"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no sweep: {reason(error)}") from error


def _point(cell: Mapping[str, Any], names: Sequence[str]) -> GridPoint:
    parameters = {name: cell[name] for name in names}
    return GridPoint(parameters, **{name: cell[name] for name in GridPoint._fields[1:]})


def _plain(point: GridPoint) -> dict[str, Any]:
    values = point._asdict()
    return {**values.pop("parameters"), **values}


@styled
def sweep_figure(summary: SweepSummary) -> Figure:
    """A heat map of the mean validation accuracy over two parameters, at the best value of any other."""
    y, x = axes_of(summary)
    size = (max(4.6, MARGINS[0] + 0.9 + CELL[0] * len(x.values)), MARGINS[1] + CELL[1] * max(MIN_ROWS, len(y.values)))
    figure = new_figure(*size, layout="compressed")
    axes = figure.add_subplot()
    means = np.full((len(y.values), len(x.values)), np.nan)
    for place, point in placed(summary).items():
        means[place] = 100 * point.mean
    mesh = axes.pcolormesh(means, cmap=SHADES, edgecolors="white", linewidth=1.5)
    figure.colorbar(mesh, ax=axes, label="validation accuracy (%)").outline.set_visible(False)
    _label_cells(axes, summary, shades=mesh.to_rgba(means))
    axes.set_xticks(np.arange(len(x.values)) + 0.5, [setting_text(value) for value in x.values])
    axes.set_yticks(np.arange(len(y.values)) + 0.5, [setting_text(value) if y.name else "" for value in y.values])
    axes.set_xlabel(x.name)
    axes.set_ylabel(y.name)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.suptitle(_title(summary), fontsize=FONT_SIZE + 1)
    return figure


def _title(summary: SweepSummary) -> str:
    first, _, second = chosen_text(summary).partition(": ")
    return f"{first}:\n" + (second if len(second) <= TITLE else second.replace(" % (", " %\n("))


def _label_cells(axes: Axes, summary: SweepSummary, *, shades: Any) -> None:
    for (y, x), point in placed(summary).items():
        text = per_cent(point.mean, digits=2)
        if point.std is not None:
            text += f"\n\N{PLUS-MINUS SIGN} {per_cent(point.std, digits=2)} ({len(point.seeds)})"
        axes.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=SMALL, color=ink(shades[y, x]))
        if point == summary.chosen:
            frame = Rectangle((x, y), 1, 1, fill=False, edgecolor=VERMILION, linewidth=2.5, clip_on=False, zorder=3)
            axes.add_patch(frame)


def axes_of(summary: SweepSummary) -> tuple[Axis, Axis]:
    """Rows and columns of the map: two parameters, first of all those that have several values."""
    found = [Axis(name, sorted({point.parameters[name] for point in summary.points})) for name in summary.names]
    found = sorted(found, key=lambda axis: len(axis.values) == 1)[:2]  # stable: those that vary come first
    first, *others = sorted(found, key=lambda axis: summary.names.index(axis.name))
    return (first, others[0]) if others else (Axis("", [0.0]), first)


def placed(summary: SweepSummary) -> dict[tuple[int, int], GridPoint]:
    """The point of each place of the map: the best one, where other parameters have several values."""
    y, x = axes_of(summary)
    ranked = sorted(summary.points, key=lambda point: (len(point.seeds), point.mean))
    return {(y.place(point), x.place(point)): point for point in ranked}


def _map(summary: SweepSummary) -> list[list[str]]:
    y, x = axes_of(summary)
    means = {place: per_cent(point.mean, digits=2) for place, point in placed(summary).items()}
    rows = [
        [
            f"{y.name} {setting_text(value)}" if y.name else "",
            *(means.get((i, j), NO_SCORE) for j in range(len(x.values))),
        ]
        for i, value in enumerate(y.values)
    ]
    return [["", *(f"{x.name} {setting_text(value)}" for value in x.values)], *reversed(rows)]


def _rows(summary: SweepSummary) -> list[list[str]]:
    rows = [[*summary.names, "seeds", "mean %", "std", "lowest", "highest"]]
    for point in sorted(summary.points, key=lambda point: (-len(point.seeds), -point.mean)):
        values = [setting_text(point.parameters[name]) for name in summary.names]
        shares = (point.mean, point.std, min(point.accuracies), max(point.accuracies))
        rows.append([*values, ",".join(map(str, point.seeds)), *(per_cent(share, digits=2) for share in shares)])
    return rows
