"""A table of methods as CSV and JSON: every number, unrounded."""

from collections.abc import Mapping
from typing import Any

from kdignite.comparison.methods import Budget, Contrast, MethodRow, MethodsSummary
from kdignite.comparison.recipes import Recipe, RecipeRun
from kdignite.comparison.scores import Difference
from kdignite.config import setting_text
from kdignite.errors import reason
from kdignite.metrics.statistics import Spread
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


def methods_from_json(values: Mapping[str, Any]) -> MethodsSummary:
    """A summary from what ``methods.json`` holds.

    Raises:
        ValueError: if it is not what `methods_json` writes.
    """
    try:
        budget, (fewest, most) = values["budget"], values["epochs"]
        tuned, seeds = tuple(budget["tuned"]), tuple(budget["seeds"])
        known = {name: values[name] for name in MethodsSummary._fields}
        return MethodsSummary(
            **known
            | {
                "epochs": (fewest, most),
                "rows": [_row_of(row) for row in values["rows"]],
                "budget": Budget(tuned, budget["trials"], budget["epochs"], seeds),
            }
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no table of methods: {reason(error)}") from error


def _row_of(values: Mapping[str, Any]) -> MethodRow:
    recipe = {name: values[name] for name in Recipe._fields} | {
        "runs": [RecipeRun(**run) for run in values["runs"]],
        "accuracy": Spread(**values["accuracy"]),
        "scores": {name: one and Spread(**one) for name, one in values["scores"].items()},
    }
    return MethodRow(Recipe(**recipe), _contrast_of(values["to_baseline"]), _contrast_of(values["to_against"]))


def _contrast_of(values: Mapping[str, Any] | None) -> Contrast | None:
    if values is None:
        return None
    known = {name: values[name] for name in Contrast._fields}
    return Contrast(**known | {"difference": Difference(**values["difference"])})


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
