"""A table of methods as CSV and JSON: every number, unrounded."""

from typing import Any

from kdignite.comparison.methods import Contrast, MethodRow, MethodsSummary
from kdignite.comparison.recipes import RecipeRun
from kdignite.config import setting_text
from kdignite.reports.methods.tables import methods_headline, num_tested
from kdignite.reports.text import csv_text, plain


def methods_csv(summary: MethodsSummary) -> str:
    """A row for each run, with unrounded shares in [0, 1], nats and seconds."""
    settings = list(dict.fromkeys(name for row in summary.rows for name in row.recipe.settings))
    header = ["method", *RecipeRun._fields, "difference_to_baseline", "difference_to_against", *settings]
    return csv_text([header, *(_cells(row, run, settings) for row in summary.rows for run in row.recipe.runs)])


def methods_json(summary: MethodsSummary) -> dict[str, Any]:
    """Every value as plain JSON."""
    families = ("to_baseline", "to_against")
    return {
        **plain(summary),
        "rows": [_row(row) for row in summary.rows],
        "comparisons": {family: num_tested(summary, family) for family in families},
        "verdict": methods_headline(summary),
    }


def _cells(row: MethodRow, run: RecipeRun, settings: list[str]) -> list[Any]:
    differences = [
        dict(zip(one.seeds, one.values, strict=True)).get(run.seed) if one else None
        for one in (row.to_baseline, row.to_against)
    ]
    own = [row.recipe.settings.get(name) for name in settings]
    values = [setting_text(value) if isinstance(value, bool | list | tuple) else value for value in own]
    return [row.recipe.name, *run, *differences, *values]


def _row(row: MethodRow) -> dict[str, Any]:
    return {**plain(row.recipe), "to_baseline": _contrast(row.to_baseline), "to_against": _contrast(row.to_against)}


def _contrast(one: Contrast | None) -> dict[str, Any] | None:
    return {**plain(one), "verdict": one.verdict} if one else None
