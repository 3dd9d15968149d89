"""Pictures that a table lists: ``path,label`` and optionally ``split``, a picture in each line."""

import csv
import io
import os
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from kdignite.data.folders import SETS, Pictures, load_pictures, path_of
from kdignite.data.layout import class_name, part_of
from kdignite.data.registry import CSV
from kdignite.data.scan import Listing
from kdignite.data.source import Source
from kdignite.errors import UserError, brief, listed

# column -> its names in the first line, in any case
COLUMNS = {
    "path": ("path", "file", "filename", "filepath", "file_name", "file_path", "image", "image_path"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "part", "set", "subset", "partition"),
}
DELIMITERS = ",;\t"


class Row(NamedTuple):
    """A picture as the table has it."""

    line: int  # from 1
    path: Path
    label: str
    part: str


def load_csv(name: str, *, image_size: int, progress: bool, skip_broken: bool, **_: object) -> Source:
    """Load the images that a table lists.

    The first line names the columns (`COLUMNS`, separated by comma, semicolon or tab); without names they are path,
    label and split in this order. Paths are relative to the folder of the table. Classes are the labels of the training
    images, sorted: as numbers if all of them are whole numbers, else as text. Without a split all images are training
    images, of which validation and test are held out.

    Args:
        name: ``csv:FILE``.
        image_size: side in pixels at which images are kept.
        progress: show a bar while decoding.
        skip_broken: leave files out that are missing or cannot be read, instead of refusing them.

    Returns:
        The sets that are there, kept and decoded as those of `load_folder`.

    Raises:
        UserError: if the table cannot be read, has an empty cell, names a picture twice or a split that is no part, has
            fewer than two classes, or a class that train has not, or if files are not readable images.
    """
    file = path_of(name)
    rows, notes = _read(file)
    parts = {part: [row for row in rows if row.part == part] for part in SETS}
    classes = _sorted_labels({row.label for row in parts["train"]})
    _check(file, parts, classes)
    index = {label: number for number, label in enumerate(classes)}
    listings = {part: _listing(found, index) for part, found in parts.items() if found}
    origins = dict.fromkeys(listings, f"rows of {file.name}")
    pictures = Pictures(file.parent, tuple(classes), listings, origins, tuple(notes))
    return load_pictures(name, pictures, image_size=image_size, progress=progress, skip_broken=skip_broken)


def _read(file: Path) -> tuple[list[Row], list[str]]:
    """The rows, and what was converted."""
    cells = _cells(file)
    names = {one.strip().casefold(): column for column, one in enumerate(cells[0][1])} if cells else {}
    columns = {key: names[one] for key, known in COLUMNS.items() for one in reversed(known) if one in names}
    if {"path", "label"} <= set(columns):
        del cells[0]
    elif cells and len(cells[0][1]) > 1 and os.path.isfile(file.parent / cells[0][1][0].strip()):  # noqa: PTH113
        columns = {key: column for column, key in enumerate(COLUMNS) if column < len(cells[0][1])}
    else:
        raise UserError(f"{file} needs a first line that names its columns: path,label or path,label,split")
    notes = []
    rows = [_row(file, line, one, columns) for line, one in cells]
    if rows and not os.path.exists(rows[0].path) and "\\" in str(rows[0].path):  # noqa: PTH110
        rows = [row._replace(path=Path(str(row.path).replace("\\", "/"))) for row in rows]
        notes.append(f"paths in {file.name} are Windows': each \\ is taken as /")
    seen: dict[Path, int] = {}
    for row in rows:
        if seen.setdefault(row.path, row.line) != row.line:
            raise UserError(f"{file}, line {row.line}: {row.path} is in line {seen[row.path]} too: remove one")
    return rows, notes


def _cells(file: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not empty, each with its number from 1."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(DELIMITERS, key=first.count), strict=True)
        return [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except OSError as error:
        raise UserError(f"--dataset={CSV}FILE needs a table of images, but {file}: {error.strerror}") from error
    except csv.Error as error:
        raise UserError(
            f"{file} is no table of paths and labels ({brief(error)}): check its quotes, and leave out columns of data"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no table in UTF-8 ({brief(error)}): save it as CSV in UTF-8") from error


def _row(file: Path, line: int, cells: Sequence[str], columns: Mapping[str, int]) -> Row:
    values = {key: cells[column].strip() if column < len(cells) else "" for key, column in columns.items()}
    if empty := [key for key, value in values.items() if not value]:
        raise UserError(f"{file}, line {line}: the {empty[0]} is missing")
    part = part_of(values.get("split", "train"))
    if part is None:
        raise UserError(f"{file}, line {line}: a split must be train, val or test, not {brief(values['split'])!r}")
    return Row(line, Path(os.path.normpath(file.parent / values["path"])), class_name(values["label"]), part)


def _sorted_labels(labels: Set[str]) -> list[str]:
    """As numbers if all of them are whole numbers, else as text."""
    numeric = all(label.removeprefix("-").isdecimal() for label in labels)
    return sorted(sorted(labels), key=int) if numeric else sorted(labels)


def _check(file: Path, parts: Mapping[str, Sequence[Row]], classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise UserError(f"{file} needs training images of two or more classes, but has {len(classes)}")
    for row in (*parts["val"], *parts["test"]):
        if row.label not in classes:
            raise UserError(
                f"{file}, line {row.line}: {row.part} has a class {row.label!r} that train has not: its classes are "
                f"{listed(classes)}"
            )


def _listing(rows: Sequence[Row], index: Mapping[str, int]) -> Listing:
    """Sorted by class, then by path, so that the order of the lines does not matter."""
    ordered = sorted(rows, key=lambda row: (index[row.label], os.fsencode(row.path)))
    return Listing(tuple(row.path for row in ordered), tuple(index[row.label] for row in ordered))
