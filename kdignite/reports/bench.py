"""Measurements of speed: ratios, tables and a figure."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdignite.errors import counted
from kdignite.reports.style import BLUE, FONT_SIZE, GREEN, SMALL, new_figure, styled, text_width
from kdignite.reports.text import markdown_table
from kdignite.timing import median_range, paired_ratio

Summary = Mapping[str, Any]
BARE, WARM, COLD, LIVE, DATA = "bare loop", "warm cache", "cold cache", "live teacher", "data alone"
ABOUT = {
    BARE: "PyTorch alone, on batches and logits in memory",
    WARM: "distill with cached teacher logits",
    COLD: "distill that fills this cache",
    LIVE: "distill with --cache=off",
    DATA: "views and preprocessing, without training",
}
GRAPH = "Steps run as a CUDA graph; the parts of one are measured without it, between events in the queue of the GPU."
WIDTH, ROW, ABOVE, BELOW, MARGIN = 7.2, 0.26, 0.55, 0.5, 0.35  # inches


def bench_summary(
    job: Summary,
    machine: Summary,
    *,
    num_images: Mapping[str, int],
    num_steps: int,
    seconds: Mapping[str, list[float]],
    laps: Mapping[str, list[float]],
) -> dict[str, Any]:
    """Rates, ratios and parts of a step, from the seconds of each trial and the laps of each part."""
    rates = {name: [num_images[name] / one for one in values] for name, values in seconds.items()}
    parts = {name: median_range(values).median for name, values in laps.items()}
    trained = sum(value for name, value in parts.items() if name != "teacher, live")
    if not job["graph"]:  # the rest of a step; of a captured one it is unknown, since parts are measured without
        parts["handlers"] = max(0.0, median_range(seconds[WARM]).median / num_steps - trained)
    per_image = {"teacher": parts["teacher, live"] / job["batch_size"], "student": 1 / median_range(rates[BARE]).median}
    return {
        "job": job,
        "machine": machine,
        "about": ABOUT,
        "num_images": num_images,
        "seconds": seconds,
        "images_per_s": {name: median_range(values)._asdict() for name, values in rates.items()},
        "of_bare": {
            name: paired_ratio(values, rates[BARE])._asdict() for name, values in rates.items() if name != DATA
        },
        "seconds_per_image": per_image,
        "speedup": {
            "ceiling": 1 + per_image["teacher"] / per_image["student"],
            "warm_over_live": paired_ratio(rates[WARM], rates[LIVE])._asdict(),
        },
        "step_seconds": parts,
    }


def bench_text(summary: Summary) -> str:
    """The machine, the rates beside the bare loop, and the parts of a step."""
    speedup, repeats = summary["speedup"], summary["job"]["repeats"]
    warm = speedup["warm_over_live"]["median"]
    return "\n\n".join(
        [
            _machine(summary),
            markdown_table(_rates(summary), num_names=2),
            f"Medians of {repeats} measurements in turn, with the lowest and the highest; a ratio is of two neighbours "
            "in time.",
            *([GRAPH] if summary["job"]["graph"] else []),
            markdown_table(_steps(summary), num_names=1),
            f"Cached teacher logits make training {warm:.1f} times as fast as running the teacher for every batch; "
            f"(t + s) / s is {speedup['ceiling']:.1f}, with t and s the seconds of teacher and student an image.\n",
        ]
    )


@styled
def bench_figure(summary: Summary) -> Figure:
    """Bars of images per second and of the parts of a step."""
    rates = {name: rate for name, rate in summary["images_per_s"].items() if name in summary["of_bare"]}
    parts = summary["step_seconds"]
    names = [*rates, *parts]
    heights = [ROW * len(one) for one in (rates, parts)]
    height = sum(heights) + 2 * (ABOVE + BELOW)
    figure = new_figure(WIDTH, height)
    left = text_width(names, size=FONT_SIZE) + MARGIN
    job = summary["job"]
    figure.text(
        0.1 / WIDTH,
        1 - 0.2 / height,
        f"{job['student']} distilled from {job['teacher']}, batch {job['batch_size']}, --amp={job['amp']}",
        size=FONT_SIZE + 1,
        va="center",
    )
    bottom = height
    for title, rows, colour, length in (
        ("images/s", {name: tuple(rate.values()) for name, rate in rates.items()}, BLUE, heights[0]),
        ("ms of a step", {name: (1e3 * part,) * 3 for name, part in parts.items()}, GREEN, heights[1]),
    ):
        bottom -= ABOVE + length
        axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + 3 * MARGIN) / WIDTH, length / height))
        _bars(axes, rows, title=title, colour=colour)
        bottom -= BELOW
    return figure


def _bars(axes: Axes, rows: Mapping[str, tuple[float, ...]], *, title: str, colour: str) -> None:
    """One bar a row: median, lowest, highest."""
    places = range(len(rows))
    medians = [row[0] for row in rows.values()]
    errors = [[row[0] - row[1] for row in rows.values()], [row[2] - row[0] for row in rows.values()]]
    axes.barh(places, medians, height=0.7, color=colour, xerr=errors, ecolor="0.25")
    axes.set_yticks(places, list(rows))
    axes.invert_yaxis()
    axes.set_xlabel(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for place, (median, _, highest) in zip(places, rows.values(), strict=True):
        axes.annotate(_number(median), (highest, place), (4, 0), textcoords="offset points", va="center", size=SMALL)


def _rates(summary: Summary) -> list[list[str]]:
    header = ["what", "", "images", "images/s", "lowest", "highest", "of the bare loop"]
    ratios = summary["of_bare"]
    rows = [
        [
            name,
            summary["about"][name],
            f"{summary['num_images'][name]:,}",
            *(_number(rate[key]) for key in ("median", "lowest", "highest")),
            f"{ratios[name]['median']:.1%}" if name in ratios else "-",
        ]
        for name, rate in summary["images_per_s"].items()
    ]
    return [header, *rows]


def _steps(summary: Summary) -> list[list[str]]:
    parts = summary["step_seconds"]
    return [["part of a step", "ms"], *([name, f"{1e3 * value:.3f}"] for name, value in parts.items())]


def _machine(summary: Summary) -> str:
    machine, job = summary["machine"], summary["job"]
    return (
        f"{job['student']} distilled from {job['teacher']}: images of {job['dataset']} in batches of "
        f"{job['batch_size']}, --amp={job['amp']}; {machine['device']}, {counted(machine['threads'], 'thread')} of "
        f"{machine['cores']} cores ({machine['processor']}, {machine['cpu']}), Python {machine['python']}, "
        f"torch {machine['packages']['torch']}"
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
