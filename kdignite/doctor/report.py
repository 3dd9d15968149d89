"""A diagnosis as a table, a figure, and advice."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdignite.reports.style import BLUE, FONT_SIZE, GREEN, ORANGE, SMALL, VERMILION, styled, text_width
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
    """The findings and what to do, in sentences."""
    lines = [_observed_line(summary)] if summary["observed"] else []
    lines += [_per_class_line(summary)] if summary["per_class"] else []
    lines += _prediction_lines(summary) if summary["predictions"] else []
    return lines or ["--observed=ACC lists the settings that score what you got, --predictions=FILE identifies yours."]


@styled
def doctor_figure(summary: Summary) -> Figure:
    """A bar for each setting, coloured by whether it fits; a line at the observed accuracy."""
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
            _accuracy(one),
            (high, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            zorder=4,  # above the line of what was observed, which would run through the digits
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axes.set_xlim(0, 100)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", color="0.88", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("0.4")
    axes.tick_params(length=0)


def _legend(axes: Axes, summary: Summary) -> None:
    """The colours, in the corner where the bars are short."""
    shown = {
        GREEN: "as recorded",
        ORANGE: "fits what was seen",
        VERMILION: "named by the predictions",
        BLUE: "other mistakes",
    }
    used = {_colour(one["name"], summary) for one in summary["settings"]}
    patches = [Patch(color=colour, label=label) for colour, label in shown.items() if colour in used]
    axes.legend(handles=patches, loc="lower right", frameon=False, fontsize=SMALL)


def _headline(summary: Summary) -> str:
    for name in _matched(summary):
        verb = "look like" if _row(name, summary)["random"] else "are"
        return f"{summary['run']}: the predictions {verb} those of '{name}'"
    return f"{summary['run']}: what each mistake costs"


def _colour(name: str, summary: Summary) -> str:
    if name in _matched(summary):
        return VERMILION
    if name in _fitting(summary):
        return ORANGE
    return GREEN if name == summary["recorded"] else BLUE


def _mark(name: str, summary: Summary) -> str:
    return "NAMED" if name in _matched(summary) else "yes" if name in _fitting(summary) else ""


def _matched(summary: Summary) -> set[str]:
    seen = summary["predictions"]
    return {seen["name"]} if seen and seen["found"] else set()


def _fitting(summary: Summary) -> set[str]:
    """The settings that fit everything that was given."""
    lists = [summary[key]["candidates"] for key in ("observed", "per_class") if summary[key]]
    seen = summary["predictions"]
    if seen:
        lists.append([seen["name"], *seen["tied"]] if seen["found"] else [])
    return set.intersection(*map(set, lists)) if lists else set()


def _accuracy(one: Summary) -> str:
    if not one["random"]:
        return per_cent(one["accuracy"])
    return f"{per_cent(one['low'])} to {per_cent(one['high'])}"


def _observed_line(summary: Summary) -> str:
    seen, candidates = summary["observed"], summary["observed"]["candidates"]
    what = f"{100 * seen['accuracy']:.4g} % of {seen['num_images']:,} images"
    others = [name for name in candidates if name != summary["recorded"]]
    if not candidates:
        return f"{what} fits no setting of the table: another mistake, other images or another model."
    if len(others) < len(candidates):
        also = f" Other settings that fit: {'; '.join(others)}." if others else ""
        return f"{what} is the accuracy as recorded: there may be no mistake in the evaluation.{also}"
    more = "" if summary["predictions"] or len(others) == 1 else " --predictions=FILE shows which."
    return f"{what} fits {len(others)} of {len(summary['settings'])} settings: {'; '.join(others)}.{more}"


def _per_class_line(summary: Summary) -> str:
    seen = summary["per_class"]
    if not seen["candidates"]:
        return "The accuracies by class fit no setting of the table."
    best, *others = seen["candidates"]
    also = f" Not ruled out: {'; '.join(others)}." if others else " Every other setting is ruled out."
    mend = "" if best == summary["recorded"] else f" What to do: {_row(best, summary)['fix']}."
    return f"The accuracies by class fit best: {best}.{mend}{also}"


def _prediction_lines(summary: Summary) -> list[str]:
    seen, name = summary["predictions"], summary["predictions"]["name"]
    agreed = f"{per_cent(seen['agreement'])} % of {summary['num_images']:,} agree"
    if seen["second"]:
        agreed += f"; next: {seen['second']}, {per_cent(seen['second_agreement'])} %"
    if not seen["found"]:
        return [f"The predictions are those of no setting in the table. The nearest is: {name} ({agreed})."]
    row = _row(name, summary)
    if name == summary["recorded"]:
        first = (
            f"The predictions are those of the recorded setting ({agreed}): weights and preprocessing are right. If "
            "they score less, the labels or the order of the images are wrong."
        )
    elif row["random"]:
        kind = "random, so identified by its agreement with the other settings and its share of each class"
        first = f"The predictions look like: {name} ({kind}). What to do: {row['fix']}."
    else:
        first = f"The predictions are those of: {name} ({agreed}). What to do: {row['fix']}."
    tied = f"Equally possible: {'; '.join(seen['tied'])}." if seen["tied"] else ""
    permutation = f"The best assignment of classes: {seen['permutation']}." if seen["permutation"] else ""
    return [line for line in (first, tied, permutation) if line]


def _row(name: str, summary: Summary) -> Summary:
    found: Summary = next(one for one in summary["settings"] if one["name"] == name)
    return found


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
