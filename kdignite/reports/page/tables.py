"""The tables that pages share: classes, confusions, costs, epochs, settings."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdignite.comparison.costs import COSTS
from kdignite.config import setting_text
from kdignite.data.registry import PATHS
from kdignite.metrics import Confused, top_confusions
from kdignite.reports.page.blocks import Block, Cell, Matrix, Shade, Table, Text
from kdignite.reports.page.sources import Exported
from kdignite.reports.text import NO_SCORE, amount, per_cent, points

MAX_CLASSES = 20  # of a matrix that can be read
NUM_CONFUSIONS = 20
CORNER = "true \\ predicted"
LONGEST = 300  # characters of a setting


def share_cell(share: float | None, *, digits: int = 1) -> Cell:
    return Cell(per_cent(share, digits=digits), share)


def points_cell(difference: float | None, *, digits: int = 1) -> Cell:
    return Cell(points(difference, digits=digits), difference)


def number_cell(value: float | None, *, digits: int = 0) -> Cell:
    known = value is not None and math.isfinite(value)
    return Cell(f"{value:,.{digits}f}", value) if known else Cell(NO_SCORE)


def setting_cell(value: float) -> Cell:
    """A number or a flag, as it is typed."""
    return Cell(setting_text(value), float(value))


def class_table(rows: Sequence[Mapping[str, Any]], teacher: Mapping[str, float]) -> Table:
    """Scores of each class, and the recall of the teacher where it is known."""
    columns = ("class", "recall %", *(["teacher's recall %"] if teacher else []), "precision %", "F1 %", "images")
    cells = [
        [
            Cell(row["class"]),
            *(share_cell(one if row["support"] else None) for one in _scores(row, teacher)),
            number_cell(row["support"]),
        ]
        for row in rows
    ]
    return Table("Scores by class, test images", columns, cells)


def _scores(row: Mapping[str, Any], teacher: Mapping[str, float]) -> list[float]:
    return [row["recall"], *([teacher[row["class"]]] if teacher else []), row["precision"], row["f1"]]


def confusions(counts: npt.NDArray[np.int64], classes: Sequence[str]) -> list[Block]:
    """The confusion matrix; of many classes the most frequent confusions."""
    if len(classes) > MAX_CLASSES:
        pairs = top_confusions(counts, limit=NUM_CONFUSIONS)
        return [_confusion_table(pairs, classes)] if pairs else [Text("No test image was misclassified.")]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = [
        [Shade(f"{n}", float(share)) for n, share in zip(row, parts, strict=True)]
        for row, parts in zip(counts.tolist(), shares, strict=True)
    ]
    caption = "Confusion matrix: test images of each true class by predicted class"
    return [Matrix(caption, CORNER, list(classes), list(classes), cells)]


def _confusion_table(pairs: Sequence[Confused], classes: Sequence[str]) -> Table:
    caption = f"The {len(pairs)} most frequent confusions of {len(classes)} classes"
    rows = [
        [Cell(classes[p.true]), Cell(classes[p.predicted]), number_cell(p.num_images), share_cell(p.share)]
        for p in pairs
    ]
    return Table(caption, ("true class", "predicted as", "images", "% of the true class"), rows, num_names=2)


def changes(difference: npt.NDArray[np.float64], classes: Sequence[str], *, seeds: int) -> list[Block]:
    """Student - baseline in each cell of the confusion matrix; of many classes the largest changes."""
    mean = f", mean over {seeds} seeds" if seeds > 1 else ""
    digits = 1 if seeds > 1 else 0
    if len(classes) > MAX_CLASSES and not difference.any():
        return [Text(f"No cell of the confusion matrix differs{mean}.")]
    if len(classes) > MAX_CLASSES:
        return [_change_table(difference, classes, mean=mean, digits=digits)]
    most = float(np.abs(difference).max()) or 1.0
    cells = [[Shade(_signed(n, digits), abs(n) / most, n < 0) for n in row] for row in difference.tolist()]
    caption = f"Student - baseline, test images{mean}"
    return [Matrix(caption, CORNER, list(classes), list(classes), cells, signed=True)]


def _change_table(difference: npt.NDArray[np.float64], classes: Sequence[str], *, mean: str, digits: int) -> Table:
    order = np.argsort(-np.abs(difference), axis=None, kind="stable")[:NUM_CONFUSIONS]
    places = [divmod(int(one), len(classes)) for one in order]
    rows = [
        [Cell(classes[true]), Cell(classes[predicted]), Cell(_signed(n, digits), n)]
        for true, predicted in places
        if (n := float(difference[true, predicted]))
    ]
    caption = f"The {len(rows)} largest changes in the confusion matrix, student - baseline{mean}"
    return Table(caption, ("true class", "predicted as", "images"), rows, num_names=2)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}" if round(value, digits) else "0"


def cost_table(models: Mapping[str, Mapping[str, Any]], saved: Mapping[str, str]) -> list[Block]:
    """A row for each cost, a column for each model, and in words how much cheaper the student is."""
    rows = [
        [
            Cell(f"{measure.label} ({measure.unit})" if measure.unit else measure.label),
            *(Cell(amount(costs.get(key), measure.divisor)) for costs in models.values()),
            *([Cell(saved[key])] if saved else []),
        ]
        for key, measure in COSTS.items()
        if any(costs.get(key) is not None for costs in models.values())
    ]
    columns = ("cost", *models, *(["student against teacher"] if saved else []))
    caption = "What a model costs: one image on one thread of the CPU"
    return [Table(caption, columns, rows, sortable=False)] if rows else []


def export_table(exports: Sequence[Exported]) -> list[Block]:
    """A row for each exported or quantised file."""
    rows = [
        [
            Cell(one.name),
            share_cell(one.accuracy, digits=2),
            number_cell(one.num_bytes / 2**20, digits=2),
            number_cell(one.latency_ms, digits=2),
        ]
        for one in exports
    ]
    columns = ("exported file", "test accuracy %", "MiB", "ms an image")
    return [Table("Exported and quantised files of this model", columns, rows)] if rows else []


def epoch_table(rows: Sequence[Mapping[str, float | None]]) -> list[Block]:
    """Every number of ``metrics.csv``."""
    columns = [name for name in (rows[0] if rows else ()) if any(row.get(name) is not None for row in rows)]
    cells = [[_epoch_cell(name, row.get(name)) for name in columns] for row in rows]
    return [Table("The numbers of metrics.csv", tuple(columns), cells, num_names=0)] if rows else []


def _epoch_cell(name: str, value: float | None) -> Cell:
    if value is None:
        return Cell(NO_SCORE)
    return Cell(
        f"{value:.2%}" if name.startswith("accuracy") else f"{value:.5g}", value if math.isfinite(value) else None
    )


def settings_table(caption: str, values: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> Table:
    """A row for each setting, and what its preset has."""
    shown = {name: value for name, value in values.items() if value is not None}
    rows = [
        [Cell(name), Cell(_text(value)), *([] if usual is None else [Cell(_text(usual.get(name, "")))])]
        for name, value in shown.items()
    ]
    columns = ("setting", "value", *([] if usual is None else ["in the preset"]))
    return Table(caption, columns, rows, num_names=len(columns))


def _text(value: Any) -> str:
    return setting_text(without_place(value), longest=LONGEST)


def without_place(value: Any) -> Any:
    """A setting with absolute paths, which tell of a machine, cut to their last part."""
    if not isinstance(value, str):
        return value
    prefix = next((one for one in PATHS if value.startswith(one)), "")
    paths = value.removeprefix(prefix).split(",")
    return prefix + ",".join(f"PATH/{Path(one).name}" if one.startswith(("/", "~")) else one for one in paths)
