"""The answers of a model on picture files: as a table, CSV or JSON lines, and as a contact sheet."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from kdignite.errors import spelled
from kdignite.reports.style import fitted, new_figure, styled
from kdignite.reports.text import csv_text, display_width, per_cent, table_cell, table_line, table_rule

THUMBNAIL = 160  # side in pixels
CELL = (176, 236)  # width and height of a picture with its captions, in pixels
CAPTION_SIZE = 6.5  # points
MOST_COLUMNS = 12
DOTS = 200  # an inch
Picture = npt.NDArray[np.uint8]  # (THUMBNAIL, THUMBNAIL, 3)


class Answer(NamedTuple):
    """A class and its probability, in [0, 1]."""

    name: str
    probability: float


class Prediction(NamedTuple):
    """What a model answers on a picture file: the most probable classes, the first of which is the prediction."""

    path: Path
    top: tuple[Answer, ...]


class RowFormat(NamedTuple):
    """How predictions are written: what comes before them, and each as a line."""

    header: str
    row: Callable[[Prediction], str]


def row_format(name: str, *, files: Sequence[Path], classes: Sequence[str], top: int) -> RowFormat:
    """A format by name: ``table``, ``csv`` or ``json``; rows are written one by one, so a table's widths come first."""
    if name == "json":
        return RowFormat("", _json_row)
    numbers = [f"_{number}" if number > 1 else "" for number in range(1, top + 1)]
    names = ["file", *(f"{word}{number}" for number in numbers for word in ("class", "probability"))]
    if name == "csv":
        return RowFormat(csv_text([names]), lambda one: csv_text([[one.path, *(x for a in one.top for x in a)]]))
    names = [one.replace("_", " ").replace("probability", "%") for one in names]
    longest = [max(display_width(table_cell(one)) for one in given) for given in (map(str, files), classes)]
    widths = [max(len(n), w) for n, w in zip(names, [longest[0], *[longest[1], 5] * top], strict=True)]
    right = [False, *[False, True] * top]
    header = f"{table_line(names, widths, right)}\n{table_rule(widths, right)}\n"
    return RowFormat(header, lambda one: f"{table_line(_cells(one), widths, right)}\n")


def _cells(one: Prediction) -> list[str]:
    answers = (x for answer in one.top for x in (table_cell(answer.name), per_cent(answer.probability)))
    return [table_cell(str(one.path)), *answers]


def _json_row(one: Prediction) -> str:
    best = one.top[0]
    values: dict[str, Any] = {"file": str(one.path), "class": best.name, "probability": best.probability}
    values["top"] = [{"class": name, "probability": probability} for name, probability in one.top]
    return json.dumps(values, ensure_ascii=False) + "\n"


@styled
def contact_sheet(predictions: Sequence[Prediction], pictures: Sequence[Picture], *, title: str) -> Figure:
    """Pictures, each with its class, the probability and the name of its file."""
    columns = min(MOST_COLUMNS, math.ceil(math.sqrt(len(pictures))))
    (width, height), top = CELL, 40
    size = columns * width, top + math.ceil(len(pictures) / columns) * height
    sheet = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
    figure = new_figure(size[0] / DOTS, size[1] / DOTS)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.text(8, top - 14, title, size=CAPTION_SIZE)
    for number, (one, picture) in enumerate(zip(predictions, pictures, strict=True)):
        x, y = number % columns * width + 8, top + number // columns * height
        sheet[y : y + THUMBNAIL, x : x + THUMBNAIL] = picture
        best = one.top[0]
        lines = (best.name, f"{per_cent(best.probability)} %", spelled(one.path.name))
        for row, line in enumerate(lines, start=1):
            text = fitted(line, size=CAPTION_SIZE, width=THUMBNAIL / DOTS)
            axes.text(x, y + THUMBNAIL + 20 * row, text, size=CAPTION_SIZE, color="0.4" if row == 3 else "black")
    axes.imshow(sheet, aspect="auto", interpolation="nearest")
    return figure
