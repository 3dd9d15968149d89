"""The trials of a search as tables and a figure."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdignite.comparison.search import SearchSummary
from kdignite.config import setting_text
from kdignite.reports.style import BLUE, FONT_SIZE, VERMILION, new_figure, styled
from kdignite.reports.text import csv_text, markdown_table, per_cent
from kdignite.trials import TrialRow

PANEL = (2.6, 2.7)  # inches, wide and high
FADED = "0.6"  # of what was stopped early
ROWS = 20  # of the table of the best


def search_text(summary: SearchSummary) -> str:
    """What was chosen, how to use it, and the best trials."""
    counts = {state: sum(one.state == state for one in summary.trials) for state in ("complete", "pruned", "fail")}
    counted = f"{len(summary.trials)} trials: {counts['complete']} complete, {counts['pruned']} stopped early"
    counted += f", {counts['fail']} whose loss was no number" if counts["fail"] else ""
    parts = [chosen_text(summary), f"Use it: {summary.line}", counted, _table(summary), *summary.notes]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: SearchSummary) -> str:
    """Which settings, and how good they were on validation beside the first trial, which has the defaults."""
    chosen, first = summary.chosen, summary.trials[0]
    text = f"Chosen on validation: {values_text(chosen.values)}, {per_cent(chosen.accuracy, digits=2)} %"
    if first.number == chosen.number:
        return f"{text} (the defaults; the best of {len(summary.trials)} trials)"
    beside = f"; the first trial, of the defaults, {per_cent(first.accuracy, digits=2)} %" if first.accuracy else ""
    return f"{text} (trial {chosen.number}, the best of {len(summary.trials)}{beside})"


def values_text(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {setting_text(value)}" for name, value in values.items())


def search_csv(summary: SearchSummary) -> str:
    """A row for each trial, with unrounded accuracies in [0, 1]."""
    names = list(summary.ranges)
    rows = [
        (one.number, one.state, *(one.values[name] for name in names), one.epochs, one.accuracy)
        for one in summary.trials
    ]
    return csv_text([("trial", "state", *names, "epochs", "accuracy_val"), *rows])


def search_json(summary: SearchSummary) -> dict[str, Any]:
    """Every value as plain JSON, in the form of ``search.json``."""
    return {
        "method": summary.method,
        "ranges": {name: list(one[:2]) for name, one in summary.ranges.items()},
        "chosen": summary.chosen._asdict(),
        "trials": [one._asdict() for one in summary.trials],
        "notes": summary.notes,
    }


@styled
def search_figure(summary: SearchSummary) -> Figure:
    """The accuracy of every trial over each setting: complete ones, those stopped early, and the chosen one."""
    names = list(summary.ranges)
    figure = new_figure(0.6 + PANEL[0] * max(2, len(names)), PANEL[1], layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, summary, name)
    panels[0].set_ylabel("validation accuracy (%)")
    figure.suptitle(chosen_text(summary).replace(" (", "\n("), fontsize=FONT_SIZE)
    return figure


def _panel(axes: Axes, summary: SearchSummary, name: str) -> None:
    """One setting; the axis shows the upper part of the accuracies, where the choice is made."""
    looks: dict[str, dict[str, Any]] = {
        "complete": {"color": BLUE},
        "pruned": {"facecolors": "none", "edgecolors": FADED},
    }
    for state, look in looks.items():
        shown = [one for one in summary.trials if one.state == state and one.accuracy is not None]
        if shown:
            axes.scatter(*_points(shown, name), s=22, label="stopped early" if state == "pruned" else state, **look)
    axes.scatter(
        *_points([summary.chosen], name), s=70, marker="o", facecolors="none", edgecolors=VERMILION, linewidth=2
    )
    if summary.ranges[name].log:
        axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.spines[["top", "right"]].set_visible(False)


def _points(trials: list[TrialRow], name: str) -> tuple[list[float], list[float]]:
    return [float(one.values[name]) for one in trials], [100 * (one.accuracy or 0.0) for one in trials]


def _table(summary: SearchSummary) -> str:
    names = list(summary.ranges)
    ranked = sorted(summary.trials, key=lambda one: (one.state == "complete", one.accuracy or 0.0), reverse=True)
    rows = [["trial", "state", *names, "epochs", "validation %"]]
    for one in ranked[:ROWS]:
        values = [setting_text(one.values[name]) for name in names]
        rows.append([str(one.number), one.state, *values, str(one.epochs), per_cent(one.accuracy, digits=2)])
    return markdown_table(rows, num_names=2)
