"""The trials of a search as tables and a figure."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from kdignite.comparison.search import SearchSummary
from kdignite.config import Range, setting_text
from kdignite.errors import counted, reason
from kdignite.reports.style import BLUE, FONT_SIZE, SMALL, VERMILION, log_ticks, new_figure, styled
from kdignite.reports.text import csv_text, markdown_table, per_cent
from kdignite.trials import TrialRow

PANEL = (2.6, 2.9)  # inches, wide and high
FADED = "0.6"  # of what was stopped early
ROWS = 20  # of the table of the best
ENDED = {"complete": "complete", "pruned": "stopped early", "fail": "whose loss was no number", "running": "not over"}
ALWAYS = ("complete", "pruned")  # are told where there are none, too
COMPLETE, STOPPED, BELOW, CHOSEN = "complete", "stopped early", "stopped early, below", "chosen"


def search_text(summary: SearchSummary) -> str:
    """What was chosen, how to use it, and the best trials."""
    counts = Counter(one.state for one in summary.trials)
    told = [f"{counts[state]} {ended}" for state, ended in ENDED.items() if counts[state] or state in ALWAYS]
    number = f"{counted(len(summary.trials), 'trial')}: {', '.join(told)}"
    parts = [chosen_text(summary), f"Use it: {summary.line}", number, _table(summary), *summary.notes]
    return "\n\n".join(parts) + "\n"


def chosen_text(summary: SearchSummary) -> str:
    """Which settings, and how good they were on validation beside the defaults, which are those of trial 0."""
    chosen, first = summary.chosen, next((one for one in summary.complete if one.number == 0), None)
    text = f"Chosen on validation: {values_text(chosen.values)}, {per_cent(chosen.accuracy, digits=2)} %"
    if first and first.number == chosen.number:
        return f"{text} (the defaults; the best of {len(summary.trials)} trials)"
    beside = f"; the first trial, of the defaults, {per_cent(first.accuracy, digits=2)} %" if first else ""
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
        "line": summary.line,
        "ranges": {name: list(one[:2]) for name, one in summary.ranges.items()},
        "chosen": summary.chosen._asdict(),
        "trials": [one._asdict() for one in summary.trials],
        "notes": summary.notes,
    }


def search_from_json(values: Mapping[str, Any]) -> SearchSummary:
    """A summary from what ``search.json`` holds.

    Raises:
        ValueError: if it is not what `search_json` writes.
    """
    try:
        trials, chosen = [TrialRow(**one) for one in values["trials"]], TrialRow(**values["chosen"])
        ranges = {
            name: Range(low, high, isinstance(chosen.values[name], bool))
            for name, (low, high) in values["ranges"].items()
        }
        return SearchSummary(values["method"], ranges, trials, chosen, values["line"], values["notes"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no search: {reason(error)}") from error


def drawn_trials(summary: SearchSummary) -> dict[str, list[TrialRow]]:
    """The trials of each mark of the figure; those below all complete ones as high as the lowest of these."""
    complete = summary.complete
    edge = min(one.accuracy or 0.0 for one in complete)
    stopped = [one for one in summary.trials if one.state == "pruned"]
    above = [one for one in stopped if (one.accuracy or 0.0) >= edge]
    below = [one._replace(accuracy=edge) for one in stopped if one not in above]
    return {COMPLETE: complete, STOPPED: above, BELOW: below, CHOSEN: [summary.chosen]}


@styled
def search_figure(summary: SearchSummary) -> Figure:
    """The accuracy of each trial over each setting; trials below all complete ones are at the lower edge."""
    names = list(summary.ranges)
    figure = new_figure(0.8 + PANEL[0] * max(2, len(names)), PANEL[1], layout="constrained")
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, summary, name)
    panels[0].set_ylabel("validation accuracy (%)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=SMALL
    )
    figure.suptitle(chosen_text(summary).replace(" (", "\n("), fontsize=FONT_SIZE)
    return figure


def _panel(axes: Axes, summary: SearchSummary, name: str) -> None:
    drawn = drawn_trials(summary)
    faded: dict[str, Any] = {"facecolors": "none", "edgecolors": FADED}
    ring: dict[str, Any] = {"s": 70, "facecolors": "none", "edgecolors": VERMILION, "linewidth": 2}
    marks = {COMPLETE: {"color": BLUE}, STOPPED: faded, BELOW: faded | {"marker": "v"}, CHOSEN: ring}
    for label, mark in marks.items():
        axes.scatter(*_points(drawn[label], name), label=label if drawn[label] else None, **{"s": 22} | mark)
    if summary.ranges[name].log:
        axes.set_xscale("log")
        axes.set_xticks(log_ticks(*summary.ranges[name][:2]))
        axes.xaxis.set_minor_locator(NullLocator())
    if not summary.ranges[name].is_flag:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlim(*_limits(summary.ranges[name]))
    axes.set_xlabel(name)
    axes.spines[["top", "right"]].set_visible(False)


def _limits(one: Range) -> tuple[float, float]:
    """The range and a twentieth of it at each end."""
    if one.log:
        more = (one.high / one.low) ** 0.05
        return one.low / more, one.high * more
    more = 0.05 * (one.high - one.low)
    return one.low - more, one.high + more


def _points(trials: list[TrialRow], name: str) -> tuple[list[float], list[float]]:
    return [float(one.values[name]) for one in trials], [100 * (one.accuracy or 0.0) for one in trials]


def _table(summary: SearchSummary) -> str:
    names = list(summary.ranges)
    rows = [["trial", "state", *names, "epochs", "validation %"]]
    for one in summary.ranked[:ROWS]:
        values = [setting_text(one.values[name]) for name in names]
        rows.append([str(one.number), one.state, *values, str(one.epochs), per_cent(one.accuracy, digits=2)])
    return markdown_table(rows, num_names=2)
