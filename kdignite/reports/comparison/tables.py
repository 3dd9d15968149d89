"""A comparison as text: aligned tables that read well in a terminal and are valid Markdown."""

from collections.abc import Callable, Mapping
from typing import Any

from kdignite.comparison.numbers import COSTS, LATENCIES, THREADS
from kdignite.reports.comparison.words import (
    FIDELITY,
    MODELS,
    Summary,
    class_choice,
    kept_line,
    overall_row,
    plain,
    published_rows,
    subject,
    times,
)
from kdignite.reports.text import NO_SCORE, markdown_table, per_cent, points

MAX_CLASSES = 20  # longer tables are not read
NUM_ENDS = 5


def comparison_text(summary: Summary) -> str:
    """The whole report but its picture.

    Up to 20 classes all of them are shown in class order; above that the 5 with the largest and the 5 with the smallest
    difference.
    """
    return (
        "\n\n".join(
            [
                summary["verdict"]["text"],
                subject(summary),
                *(["\n".join(f"- note: {note}" for note in summary["notes"])] if summary["notes"] else []),
                *_accuracy(summary),
                *_classes(summary),
                *_fidelity(summary),
                *_calibration(summary),
                *_costs(summary),
                *_runs(summary),
            ]
        )
        + "\n"
    )


def _accuracy(summary: Summary) -> list[str]:
    rows = [("model", "accuracy %", "95 % interval", "std", "interval over")]
    for role in MODELS:
        if summary[role] is not None:
            found = summary[role]["accuracy"]
            over = "test images (Wilson)" if found["over"] == "images" else f"{len(summary['seeds'])} seeds (t)"
            ends = f"{per_cent(found['low'], digits=2)} to {per_cent(found['high'], digits=2)}"
            spread = per_cent(found["std"], digits=2)
            rows.append((role, per_cent(found["mean"], digits=2), ends, spread, over))
    found, seeds = summary["difference"], len(summary["seeds"])
    ends = f"{points(found['low'], digits=2)} to {points(found['high'], digits=2)}"
    rows.append(
        (
            "student - baseline",
            points(found["mean"], digits=2),
            NO_SCORE if found["low"] is None else ends,
            per_cent(found["std"], digits=2),
            NO_SCORE if found["low"] is None else f"{seeds} seeds (paired t)",
        )
    )
    return ["## Accuracy on the test images", markdown_table(rows, num_names=1), *_test(summary)]


def _test(summary: Summary) -> list[str]:
    """What stands behind the difference."""
    found = summary["mcnemar"]
    if found is None:
        if summary["difference"]["low"] is None:
            return []
        return [
            "The paired t interval is of the mean of the differences seed by seed: over seeds of the student, with "
            "this one teacher, on these test images."
        ]
    return [
        f"Exact McNemar test, p = {_p_value(found['p_value'])}: {found['only_first']:,} test images are right in the "
        f"student alone, {found['only_second']:,} in the baseline alone. It is about this pair of models, not about "
        "distillation: another seed gives another pair."
    ]


def _classes(summary: Summary) -> list[str]:
    rows, choice = summary["per_class"], class_choice(summary, most=MAX_CLASSES, each=NUM_ENDS)
    shown = [*choice.best, *choice.worst]
    seeds = len(summary["seeds"])
    header = ["class", *MODELS, "student - baseline", *(["std"] if seeds > 1 else [])]
    cells = [_class_cells(row)[: len(header)] for row in [*(rows[c] for c in shown), overall_row(summary)]]
    if summary["published"]:
        header += [f"publ. {name}" for name in ("teacher", "student", "baseline", "difference")]
        figures = published_rows(summary)
        for row, found in zip(cells, [*(figures[c] for c in shown), figures[-1]], strict=True):
            row += [*map(per_cent, found), points(found.difference)]
    if summary["teacher"] is None:
        header, cells = _without(header), [_without(row) for row in cells]
    said = "Recall in per cent: the share of the images of a class that are recognised"
    said += f"; means over {seeds} seeds, std: of the difference over the seeds." if seeds > 1 else "."
    said += _noise(summary)
    if choice.worst:
        ends = f"The {NUM_ENDS} classes with the largest and the {NUM_ENDS} with the smallest difference"
        said += f" {ends} of {len(rows)}; all: classes.csv."
    elif len(shown) < len(rows):
        said += f" The {len(shown)} of {len(rows)} classes that have images; all: classes.csv."
    source = [f"{summary['published']['source']}."] if summary["published"] else []
    return ["## By class", said, markdown_table([header, *cells], num_names=1), *source]


def _noise(summary: Summary) -> str:
    """How large a difference one seed shows in a class for no reason."""
    found = summary["class_noise"]
    if not found or not found["two_errors"]:
        return ""
    usual = "a class" if found["equal_classes"] else "in the median class"
    return (
        f" With {found['num_images']:,} image{'s' * (found['num_images'] != 1)} {usual}, about "
        f"+-{per_cent(found['two_errors'])} points (two standard errors of a difference of two proportions) are noise."
    )


def _without(row: list[str]) -> list[str]:
    """A row without the teacher's cell."""
    return [row[0], *row[2:]]


def _class_cells(row: Mapping[str, Any]) -> list[str]:
    scores = (per_cent(row[role]) for role in MODELS)
    return [row["class"], *scores, points(row["difference"]), per_cent(row["difference_std"])]


def _fidelity(summary: Summary) -> list[str]:
    if summary["teacher"] is None:
        return []
    rows: list[tuple[str, ...]] = [("", "student", "baseline")]
    for name, meaning in FIDELITY.items():
        show = _nats if name == "kl" else per_cent
        rows.append((meaning, *(_with_spread(summary[role][name], show) for role in ("student", "baseline"))))
    said = (
        "How far the answers are the teacher's (Stanton et al. 2021, arXiv:2106.05945); the baseline, which never saw "
        "the teacher, shows how much of it comes unasked."
    )
    return ["## Fidelity to the teacher", said, markdown_table(rows, num_names=1)]


def _calibration(summary: Summary) -> list[str]:
    roles = [role for role in MODELS if summary[role] is not None]
    rows = [
        ("", *roles),
        ("expected calibration error (%)", *(_with_spread(summary[role]["ece"], per_cent) for role in roles)),
        ("cross-entropy (nats)", *(_with_spread(summary[role]["loss"], _nats) for role in roles)),
    ]
    return ["## Calibration", markdown_table(rows, num_names=1)]


def _costs(summary: Summary) -> list[str]:
    roles = [role for role in MODELS if summary[role] is not None]
    rows = [("", *roles, *(["student against teacher"] if "teacher" in roles else []))]
    for key, (name, unit, divisor, _) in COSTS.items():
        found = [summary["cost"][role][key] for role in roles]
        if any(value is not None for value in found):
            saved = [times(summary["cost"]["saved"][key], key)] if "teacher" in roles else []
            shown = ", ".join(filter(None, (unit, _threads(summary) if key in LATENCIES else "")))
            rows.append((f"{name} ({shown})" if shown else name, *(_amount(value, divisor) for value in found), *saved))
    if len(rows) == 1:
        return []
    kept = kept_line(summary)
    return ["## Cost", markdown_table(rows, num_names=1), *([kept] if kept else [])]


def _threads(summary: Summary) -> str:
    """With how many threads latencies were measured, if with one number."""
    found = {summary["cost"][role][THREADS] for role in MODELS if summary[role] is not None}
    number = found.pop() if len(found) == 1 else None
    return f"{number} thread{'s' * (number != 1)}" if number else ""


def _runs(summary: Summary) -> list[str]:
    header = ("run", "as", "model", "seed", "best epoch", "right", "accuracy %")
    rows = [
        (
            *(run["run"], run["role"], run["arch"], plain(run["seed"])),
            NO_SCORE if run["best_epoch"] is None else f"{run['best_epoch']} of {run['epochs']}",
            *(f"{run['num_correct']:,}", per_cent(run["accuracy"], digits=2)),
        )
        for run in summary["runs"]
    ]
    return ["## Runs", markdown_table([header, *rows], num_names=3)]


def _with_spread(found: Mapping[str, float | None] | None, show: Callable[[Any], str]) -> str:
    """A mean, with the standard deviation over the seeds where there is one."""
    if found is None:
        return NO_SCORE
    return show(found["mean"]) + (f" (std {show(found['std'])})" if found["std"] is not None else "")


def _nats(value: float) -> str:
    return f"{value:.3f}"


def _amount(value: float | None, divisor: float) -> str:
    if value is None:
        return NO_SCORE
    scaled = value / divisor
    return f"{scaled:,.0f}" if divisor == 1 and isinstance(value, int) else f"{scaled:,.{1 if scaled >= 10 else 2}f}"


def _p_value(value: float) -> str:
    return f"{value:.2g}" if value >= 1e-4 else "below 0.0001"
