"""A diagnosis as a table, a picture, and what to do about it."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdignite.reports.style import BLUE, FONT_SIZE, GREEN, ORANGE, SMALL, STYLE, VERMILION, text_width
from kdignite.reports.text import markdown_table, per_cent

Summary = Mapping[str, Any]
ROW, ABOVE, BELOW, RIGHT, MARGIN = 0.215, 0.6, 0.5, 4.6, 0.95  # inches


def doctor_text(summary: Summary) -> str:
    """The settings as a table, what was left out, and the advice."""
    seen = any(summary[key] for key in ("observed", "per_class", "predictions"))
    header = ("setting", "what was done", "what to do", "accuracy %", *(["fits"] if seen else []))
    rows = [
        (one["name"], one["wrong"], one["fix"], _accuracy(one), *([_mark(one["name"], summary)] if seen else []))
        for one in summary["settings"]
    ]
    part = "validation" if summary["split"] == "val" else summary["split"]
    size, mean, std = (summary["preprocessing"][key] for key in ("size", "mean", "std"))
    title = f"{summary['run']} on {summary['num_images']:,} {part} images of {summary['dataset']}"
    recorded = f"as recorded: eval mode, {size} x {size} pixels, mean {_numbers(mean)}, std {_numbers(std)} for 0..1"
    notes = [f"left out: {line}" for line in summary["skipped"]]
    blocks = [
        f"{title}\n{recorded}",
        markdown_table([header, *rows], num_names=3),
        "\n".join(notes),
        "\n".join(advice(summary)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def advice(summary: Summary) -> list[str]:
    """What the diagnosis says, in sentences."""
    lines = [
        *(_of_observed(summary) if summary["observed"] else []),
        *(_of_classes(summary) if summary["per_class"] else []),
        *(_of_predictions(summary) if summary["predictions"] else []),
    ]
    return lines or [
        "Which of these is yours? --observed=ACC lists those that score what you got, --predictions=FILE names the one."
    ]


def doctor_figure(summary: Summary) -> Figure:
    """A bar for each setting, the recorded one and those that fit in colours of their own; a line for what was seen."""
    with mpl.style.context(STYLE):
        rows = summary["settings"]
        names = [one["name"] for one in rows]
        left = text_width(names, size=FONT_SIZE) + 0.35
        figure = Figure(figsize=(left + RIGHT, ROW * len(rows) + ABOVE + BELOW))
        FigureCanvasAgg(figure)
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, BELOW / height, (RIGHT - MARGIN) / width, ROW * len(rows) / height))
        _bars(axes, rows, colours=[_colour(one["name"], summary) for one in rows])
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlabel(f"accuracy (%) on {summary['num_images']:,} images")
        if summary["observed"]:
            observed = 100 * summary["observed"]["accuracy"]
            axes.axvline(observed, color="0.25", linewidth=0.9, linestyle=(0, (4, 3)), zorder=3)
            axes.annotate(
                f"observed {observed:.4g} %",
                (observed, 1),
                xytext=(0, 3),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center" if 20 < observed < 80 else "left" if observed <= 20 else "right",
                fontsize=SMALL,
            )
        _legend(axes, summary)
        figure.text(0.12 / width, 1 - 0.12 / height, _headline(summary), va="top", fontsize=FONT_SIZE + 1)
        return figure


def _bars(axes: Axes, rows: Sequence[Summary], *, colours: list[str]) -> None:
    """Bars from zero; of random settings the range over the draws as a line, with its ends as text."""
    axes.barh(range(len(rows)), [100 * one["accuracy"] for one in rows], height=0.68, color=colours)
    for place, one in enumerate(rows):
        low, high = 100 * one["low"], 100 * one["high"]
        if one["random"]:
            axes.plot([low, high], [place, place], color="0.25", linewidth=1.2, solid_capstyle="butt")
        axes.annotate(
            _accuracy(one), (high, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=SMALL
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("0.4")
    axes.tick_params(length=0)


def _legend(axes: Axes, summary: Summary) -> None:
    """What the colours say, in the corner where the bars are short."""
    shown = {GREEN: "as recorded", ORANGE: "fits what was seen", VERMILION: "named by the predictions"}
    used = {_colour(one["name"], summary) for one in summary["settings"]}
    patches = [Patch(color=colour, label=label) for colour, label in shown.items() if colour in used]
    axes.legend(handles=patches, loc="lower right", frameon=False, fontsize=SMALL)


def _headline(summary: Summary) -> str:
    for name in _named(summary):
        verb = "look like" if _row(name, summary)["random"] else "are"  # as the words below the table say it
        return f"{summary['run']}: the predictions {verb} those of '{name}'"
    return f"{summary['run']}: what each mistake costs"


def _colour(name: str, summary: Summary) -> str:
    if name in _named(summary):
        return VERMILION
    if name in _fitting(summary):
        return ORANGE
    return GREEN if name == summary["recorded"] else BLUE


def _mark(name: str, summary: Summary) -> str:
    return "NAMED" if name in _named(summary) else "yes" if name in _fitting(summary) else ""


def _named(summary: Summary) -> set[str]:
    seen = summary["predictions"]
    return {seen["name"]} if seen and seen["found"] else set()


def _fitting(summary: Summary) -> set[str]:
    """The settings that nothing that was seen speaks against."""
    lists = [summary[key]["candidates"] for key in ("observed", "per_class") if summary[key]]
    seen = summary["predictions"]
    if seen:
        lists.append([seen["name"], *seen["tied"]] if seen["found"] else [])
    return set.intersection(*map(set, lists)) if lists else set()


def _accuracy(one: Summary) -> str:
    if not one["random"]:
        return per_cent(one["accuracy"])
    return f"{per_cent(one['low'])} to {per_cent(one['high'])}"


def _of_observed(summary: Summary) -> list[str]:
    seen, candidates = summary["observed"], summary["observed"]["candidates"]
    what = f"{100 * seen['accuracy']:.4g} % of {seen['num_images']:,} images"
    others = [name for name in candidates if name != summary["recorded"]]
    if not candidates:
        return [
            f"{what} fits no setting of the table: the mistake is another one, or the images or the model are others."
        ]
    if len(others) < len(candidates):
        also = f" It would fit as well: {_listed(others)}." if others else ""
        return [f"{what} is what the model scores as recorded: nothing need be wrong with the evaluation.{also}"]
    more = "" if summary["predictions"] or len(others) == 1 else " Your answers tell which: --predictions=FILE."
    return [f"{what} fits {len(others)} of {len(summary['settings'])} settings: {_listed(others)}.{more}"]


def _of_classes(summary: Summary) -> list[str]:
    seen = summary["per_class"]
    if not seen["candidates"]:
        return ["The accuracies by class fit no setting of the table."]
    best, *others = seen["candidates"]
    also = f" Not ruled out: {_listed(others)}." if others else " Every other setting is ruled out."
    return [f"The accuracies by class fit best: {best}. What to do: {_row(best, summary)['fix']}.{also}"]


def _of_predictions(summary: Summary) -> list[str]:
    seen, name = summary["predictions"], summary["predictions"]["name"]
    agreed = f"{per_cent(seen['agreement'])} % of {summary['num_images']:,} agree"
    if seen["second"]:
        agreed += f"; next: {seen['second']}, {per_cent(seen['second_agreement'])} %"
    if not seen["found"]:
        return [f"The predictions are those of no setting in the table. The nearest is: {name} ({agreed})."]
    tied = [f"They do not tell it from: {_listed(seen['tied'])}."] if seen["tied"] else []
    if seen["permutation"]:
        tied.append(f"The best assignment of classes: {seen['permutation']}.")
    if name == summary["recorded"]:
        return [
            f"The predictions are those of the recorded setting ({agreed}): the model is loaded and fed right. If they "
            "score less, what they were compared with is wrong: the labels, or the order of the images.",
            *tied,
        ]
    if _row(name, summary)["random"]:
        kind = "never twice the same, so told by how they agree with the other settings and spread over the classes"
        return [f"The predictions look like: {name} ({kind}). What to do: {_row(name, summary)['fix']}.", *tied]
    return [f"The predictions are those of: {name} ({agreed}). What to do: {_row(name, summary)['fix']}.", *tied]


def _row(name: str, summary: Summary) -> Summary:
    found: Summary = next(one for one in summary["settings"] if one["name"] == name)
    return found


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
