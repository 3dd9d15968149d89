"""A comparison as CSV and JSON: every number, unrounded."""

from collections.abc import Mapping
from typing import Any

from kdignite.comparison.costs import COSTS, CostSummary
from kdignite.comparison.scores import (
    DIVIDED,
    FIDELITY,
    ROLES,
    Accuracy,
    ClassNoise,
    ClassRow,
    Difference,
    ModelScores,
    Scores,
)
from kdignite.comparison.summary import RunSummary, Summary
from kdignite.errors import reason
from kdignite.metrics.statistics import McNemar, Spread
from kdignite.reports.comparison.sentences import published_rows, verdict_text
from kdignite.reports.published import SOURCE
from kdignite.reports.text import csv_text, plain

SHARES = (*ROLES, "difference")
SPREADS = ("student_std", "baseline_std", "difference_std")


def class_csv(summary: Summary) -> str:
    """A row for each class and one for all images, with unrounded shares in [0, 1]."""
    rows = [
        [row.name, row.support, *(getattr(row, column) for column in (*SHARES, *SPREADS))]
        for row in (*summary.scores.per_class, summary.scores.overall)
    ]
    header = ["class", "support", *SHARES, *SPREADS]
    if summary.reference:
        header += [f"published_{name}" for name in SHARES]
        for row, figures in zip(rows, published_rows(summary), strict=True):
            row += [round(share, 3) for share in (*figures, figures.difference)]
    return csv_text([header, *rows])


def summary_csv(summary: Summary) -> str:
    """A row for each measure, with unrounded values."""
    models = [summary.scores.models.get(role) for role in ROLES]

    def column(score: str, part: str) -> list[float | None]:
        return [getattr(getattr(model, score, None), part, None) for model in models]

    rows: list[list[Any]] = [
        ["measure", *ROLES, "student_std", "baseline_std"],
        *([f"accuracy_{end}", *column("accuracy", end), None, None] for end in ("low", "high")),
        *(
            [score, *column(score, "mean"), *column(score, "std")[1:]]
            for score in ("accuracy", "loss", "ece", *FIDELITY, *DIVIDED)
        ),
        *([key, *(summary.costs.models[role][key] for role in ROLES), None, None] for key in COSTS),
        ["num_images", *(summary.scores.num_images if model else None for model in models), None, None],
    ]
    return csv_text(rows)


def comparison_json(summary: Summary) -> dict[str, Any]:
    """Every value as plain JSON, in the form of ``compare.json``."""
    scores = {"num_images": summary.scores.num_images, "teacher": None, **plain(summary.scores.models)}
    if scores["teacher"]:
        scores["teacher"] = {name: value for name, value in scores["teacher"].items() if name not in FIDELITY}
    return {
        **scores,
        **{name: plain(getattr(summary.scores, name)) for name in ("difference", "mcnemar", "class_noise")},
        "per_class": [_class_json(row) for row in summary.scores.per_class],
        **{name: plain(getattr(summary, name)) for name in ("dataset", "settings", "seeds", "runs")},
        "taught_by": summary.teacher_name,
        "cost": {**summary.costs.models, "saved": summary.costs.saved},
        "published": _published_json(summary) if summary.reference else None,
        **{name: getattr(summary, name) for name in ("partial", "short", "notes")},
        "verdict": {"kind": summary.scores.difference.verdict, "text": verdict_text(summary)},
    }


def summary_from_json(values: Mapping[str, Any]) -> Summary:
    """A summary from what ``compare.json`` holds.

    Raises:
        ValueError: if it is not what `comparison_json` writes.
    """
    try:
        scores = Scores(
            values["num_images"],
            {role: _model(values[role]) for role in ROLES if values[role]},
            Difference(**values["difference"]),
            values["mcnemar"] and McNemar(**values["mcnemar"]),
            values["class_noise"] and ClassNoise(**values["class_noise"]),
            [ClassRow(row["class"], **{key: row[key] for key in ClassRow._fields[1:]}) for row in values["per_class"]],
        )
        cost = values["cost"]
        return Summary(
            scores=scores,
            costs=CostSummary({role: cost[role] for role in ROLES}, cost["saved"]),
            **{name: values[name] for name in ("dataset", "settings", "seeds", "short", "notes")},
            runs=[RunSummary(**run) for run in values["runs"]],
            teacher_name=values["taught_by"],
            reference="original" if values["published"] else None,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no comparison: {reason(error)}") from error


def _model(values: Mapping[str, Any]) -> ModelScores:
    others = (None if values.get(name) is None else Spread(**values[name]) for name in (*FIDELITY, *DIVIDED))
    loss, ece = Spread(**values["loss"]), Spread(**values["ece"])
    return ModelScores(values["num_correct"], Accuracy(**values["accuracy"]), loss, ece, *others)


def _class_json(row: ClassRow) -> dict[str, Any]:
    return {"class" if name == "name" else name: value for name, value in row._asdict().items()}


def _published_json(summary: Summary) -> dict[str, Any]:
    *classes, overall = published_rows(summary)
    rows = zip(summary.scores.per_class, classes, strict=True)
    per_class = [{"class": row.name, **figures._asdict()} for row, figures in rows]
    return {"source": SOURCE, **overall._asdict(), "per_class": per_class}
