"""A comparison as CSV: every number, unrounded."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdignite.comparison.numbers import COSTS
from kdignite.reports.comparison.words import FIDELITY, MODELS, Summary, overall_row, published_rows
from kdignite.reports.text import csv_text

SCORES = (*MODELS, "difference")
SPREADS = ("student_std", "baseline_std", "difference_std")


def class_csv(summary: Summary) -> str:
    """A row for each class and one for all images, with unrounded shares in [0, 1]."""
    names = ("class", "support", *SCORES, *SPREADS)
    rows = [*summary["per_class"], overall_row(summary)]
    cells = [[row[name] for name in names] for row in rows]
    header = [*names]
    if summary["published"]:
        header += [f"published_{name}" for name in SCORES]
        for row, figures in zip(cells, published_rows(summary), strict=True):
            row += [round(getattr(figures, name), 3) for name in SCORES]
    return csv_text([header, *cells])


def summary_csv(summary: Summary) -> str:
    """A row for each measure, with unrounded values."""
    header = ("measure", *MODELS, "student_std", "baseline_std")
    groups = [summary[role] or {} for role in MODELS]
    rows: list[list[Any]] = [["accuracy_low", *_each(groups, "accuracy", "low")]]
    rows += [["accuracy_high", *_each(groups, "accuracy", "high")]]
    for name in ("accuracy", "loss", "ece", *FIDELITY):
        rows.append([name, *_each(groups, name, "mean"), *_each(groups[1:], name, "std")])
    rows += [[name, *(summary["cost"][role][name] for role in MODELS)] for name in COSTS]
    rows.append(["num_images", *(summary["num_images"] if group else None for group in groups)])
    return csv_text([header, *([*row, *[None] * (len(header) - len(row))] for row in rows)])


def _each(groups: Sequence[Mapping[str, Any]], name: str, part: str) -> list[float | None]:
    return [(group.get(name) or {}).get(part) for group in groups]
