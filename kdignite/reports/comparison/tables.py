"""A comparison as text: aligned tables that read well in a terminal and are valid Markdown."""

from collections.abc import Callable
from typing import NamedTuple

from kdignite.comparison.costs import COSTS, LATENCIES, THREADS
from kdignite.comparison.scores import ROLES, Accuracy, ClassRow, Difference
from kdignite.comparison.summary import Summary
from kdignite.errors import counted
from kdignite.metrics.statistics import Spread
from kdignite.reports.comparison.sentences import (
    FIDELITY_SHARES,
    SCALING,
    compression_text,
    distance_text,
    mcnemar_text,
    published_rows,
    shown_classes,
    subject,
    times,
    verdict_text,
)
from kdignite.reports.published import SOURCE
from kdignite.reports.text import NO_SCORE, amount, markdown_table, per_cent, points

MAX_CLASSES = 20  # longer tables are not read
NUM_ENDS = 5
FIDELITY_LABELS = {**FIDELITY_SHARES, "kl": "KL from the teacher at T=1 (nats)"}


def _nats(value: float) -> str:
    return f"{value:.3f}"


class Measure(NamedTuple):
    """A row: a score of `ModelScores`, what it is called, and how it is written."""

    score: str
    label: str
    show: Callable[[float], str]


CALIBRATION = (
    Measure("ece", "expected calibration error (%)", per_cent),
    Measure("loss", "cross-entropy (nats)", _nats),
    Measure("divisor", "T, chosen on validation images", "{:.2f}".format),
    Measure("divided_ece", "expected calibration error at T (%)", per_cent),
    Measure("divided_loss", "cross-entropy at T (nats)", _nats),
)


def comparison_text(summary: Summary) -> str:
    """The whole report but its picture; above 20 classes the 5 with the largest and the smallest difference."""
    parts = [
        verdict_text(summary),
        subject(summary),
        "\n".join(f"- note: {note}" for note in summary.notes),
        *_accuracy(summary),
        *_classes(summary),
        *_fidelity(summary),
        *_calibration(summary),
        *_costs(summary),
        *_runs(summary),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _accuracy(summary: Summary) -> list[str]:
    found, seeds = summary.scores.difference, len(summary.seeds)
    rows = [("model", "accuracy %", "95 % interval", "std", "interval over")]
    for role, model in summary.scores.models.items():
        over = "test images (Wilson)" if model.accuracy.over == "images" else f"{seeds} seeds (t)"
        rows.append((role, *_mean_and_interval(model.accuracy, per_cent, over)))
    rows.append(("student - baseline", *_mean_and_interval(found, points, f"{seeds} seeds (paired t)")))
    return ["## Accuracy on the test images", markdown_table(rows, num_names=1), _test(summary), distance_text(summary)]


def _mean_and_interval(found: Accuracy | Difference, show: Callable[..., str], over: str) -> tuple[str, str, str, str]:
    """Mean, interval, standard deviation, and what the interval is over, where there is one."""
    mean, low, high = (show(share, digits=2) for share in (found.mean, found.low, found.high))
    interval, over = (NO_SCORE, NO_SCORE) if found.low is None else (f"{low} to {high}", over)
    return mean, interval, per_cent(found.std, digits=2), over


def _test(summary: Summary) -> str:
    """The test behind the difference."""
    if summary.scores.difference.low is None:
        return mcnemar_text(summary)
    return (
        "The paired t interval is of the mean of the differences seed by seed: over seeds of the student, with this "
        "one teacher, on these test images."
    )


def _classes(summary: Summary) -> list[str]:
    classes, seeds = summary.scores.per_class, len(summary.seeds)
    choice = shown_classes(summary, most=MAX_CLASSES, each=NUM_ENDS)
    shown = [*choice.best, *choice.worst]
    header = ["class", *ROLES, "student - baseline", *(["std"] if seeds > 1 else [])]
    rows = [_class_cells(row)[: len(header)] for row in (*(classes[c] for c in shown), summary.scores.overall)]
    if summary.reference:
        header += [f"publ. {name}" for name in (*ROLES, "difference")]
        figures = published_rows(summary)
        for row, found in zip(rows, [*(figures[c] for c in shown), figures[-1]], strict=True):
            row += [*map(per_cent, found), points(found.difference)]
    table = [header, *rows]
    if "teacher" not in summary.scores.models:
        table = [[row[0], *row[2:]] for row in table]
    text = "Recall in per cent: the share of the images of a class that are classified correctly"
    text += f"; means over {seeds} seeds, std: of the difference over the seeds." if seeds > 1 else "."
    text += _noise(summary)
    if choice.worst:
        ends = f"The {NUM_ENDS} classes with the largest and the {NUM_ENDS} with the smallest difference"
        text += f" {ends} of {len(classes)}; all: classes.csv."
    elif len(shown) < len(classes):
        text += f" The {len(shown)} of {len(classes)} classes that have images; all: classes.csv."
    return ["## By class", text, markdown_table(table, num_names=1), f"{SOURCE}." if summary.reference else ""]


def _noise(summary: Summary) -> str:
    """How large a difference of a class one seed shows by chance."""
    found = summary.scores.class_noise
    if not found or not found.two_errors:
        return ""
    which = "a class" if found.equal_classes else "in the median class"
    return (
        f" With {counted(found.num_images, 'image')} {which}, about "
        f"+-{per_cent(found.two_errors)} points (two standard errors of a difference of two proportions) are noise."
    )


def _class_cells(row: ClassRow) -> list[str]:
    recalls = (per_cent(row.recalls.get(role)) for role in ROLES)
    return [row.name, *recalls, points(row.difference), per_cent(row.difference_std)]


def _fidelity(summary: Summary) -> list[str]:
    if "teacher" not in summary.scores.models:
        return []
    roles = ROLES[1:]
    rows: list[tuple[str, ...]] = [("", *roles)]
    for score, label in FIDELITY_LABELS.items():
        spreads = (getattr(summary.scores.models[role], score) for role in roles)
        rows.append((label, *(_with_std(spread, _nats if score == "kl" else per_cent) for spread in spreads)))
    text = (
        "How close the predictions are to the teacher's (Stanton et al. 2021, arXiv:2106.05945); the baseline, trained "
        "without the teacher, shows how much agreement there is without distillation."
    )
    return ["## Fidelity to the teacher", text, markdown_table(rows, num_names=1)]


def _calibration(summary: Summary) -> list[str]:
    models = summary.scores.models
    shown = [one for one in CALIBRATION if any(getattr(model, one.score) for model in models.values())]
    rows = [
        ("", *models),
        *((one.label, *(_with_std(getattr(m, one.score), one.show) for m in models.values())) for one in shown),
    ]
    scaling = f"{SCALING} (Guo et al. 2017, arXiv:1706.04599)." if len(shown) > 2 else ""
    return ["## Calibration", markdown_table(rows, num_names=1), scaling]


def _costs(summary: Summary) -> list[str]:
    roles, costs = list(summary.scores.models), summary.costs
    threads = {costs.models[role][THREADS] for role in roles}
    number = threads.pop() if len(threads) == 1 else None
    measured_with = f"{number} thread{'s' * (number != 1)}" if number else ""
    rows = [("", *roles, *(["student against teacher"] if "teacher" in roles else []))]
    for key, (label, unit, divisor, _) in COSTS.items():
        values = [costs.models[role][key] for role in roles]
        if any(value is not None for value in values):
            saved = [times(costs.saved[key], key)] if "teacher" in roles else []
            shown = ", ".join(filter(None, (unit, measured_with if key in LATENCIES else "")))
            rows.append((f"{label} ({shown})" if shown else label, *(amount(v, divisor) for v in values), *saved))
    return ["## Cost", markdown_table(rows, num_names=1), compression_text(summary)] if len(rows) > 1 else []


def _runs(summary: Summary) -> list[str]:
    header = ("run", "role", "model", "seed", "best epoch", "correct", "accuracy %")
    rows = [
        (
            *(run.run, run.role, run.arch, NO_SCORE if run.seed is None else str(run.seed)),
            NO_SCORE if run.best_epoch is None else f"{run.best_epoch} of {run.epochs}",
            *(f"{run.num_correct:,}", per_cent(run.accuracy, digits=2)),
        )
        for run in summary.runs
    ]
    return ["## Runs", markdown_table([header, *rows], num_names=3)]


def _with_std(spread: Spread | None, show: Callable[[float], str]) -> str:
    """A mean, with the standard deviation over the seeds where there is one."""
    if spread is None:
        return NO_SCORE
    return show(spread.mean) + (f" (std {show(spread.std)})" if spread.std is not None else "")
