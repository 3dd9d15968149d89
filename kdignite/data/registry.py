"""Data sets by name: a row of `DATASETS` and a file is one. Nothing here imports torch, so that help can list them."""

import difflib
import os
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kdignite.errors import UserError
from kdignite.plugins import USER_FUNCTION, is_library

if TYPE_CHECKING:
    from kdignite.data.source import Source

FOLDER = "folder:"  # and then a path
CSV = "csv:"  # and then a path
PATHS = {FOLDER: f"{FOLDER}PATH", CSV: f"{CSV}FILE"}  # beginning of a name -> kind


class Dataset(NamedTuple):
    """A kind of data set.

    Attributes:
        loader: ``module:function``, imported late; called with the name, and with ``data_root``, ``image_size``,
            ``progress`` ``skip_broken`` and ``fetch`` as keywords, of which it takes what it needs; returns a `Source`.
        about: one line for ``--help``.
    """

    loader: str
    about: str


DATASETS = {
    "cifar10": Dataset("kdignite.data.cifar:load_cifar", "60,000 photographs of 32x32 pixels in 10 classes"),
    "cifar100": Dataset("kdignite.data.cifar:load_cifar", "60,000 photographs of 32x32 pixels in 100 classes"),
    "digits": Dataset("kdignite.data.digits:load_digits", "1,797 handwritten digits of scikit-learn, no download"),
    PATHS[FOLDER]: Dataset(
        "kdignite.data.folders:load_folder", "images in PATH/train/CLASS/, optional val and test, or in PATH/CLASS/"
    ),
    PATHS[CSV]: Dataset("kdignite.data.csv_file:load_csv", "images in a table: path, label, optional split"),
    USER_FUNCTION: Dataset("kdignite.data.custom:load_custom", "your function, which returns arrays or Datasets"),
}
CHOICES = ", ".join(DATASETS)  # for messages and help


def is_code(name: object) -> bool:
    """Whether the name of a data set, model or method is that of a function of the user's own."""
    return isinstance(name, str) and ":" in name and not name.startswith(tuple(PATHS)) and not is_library(name)


def load_source(
    name: str,
    *,
    data_root: Path,
    image_size: int,
    progress: bool = True,
    skip_broken: bool = False,
    fetch: bool = True,
) -> "Source":
    """Load a data set by its name, and by default download it first where it is missing and can be downloaded.

    Args:
        name: one of `DATASETS`.
        data_root: folder of CIFAR, also for its download.
        image_size: side in pixels of images of varying size; CIFAR and the digits are always 32 x 32.
        progress: show a bar where it takes long (never without a terminal).
        skip_broken: leave picture files out that cannot be read, instead of refusing them.
        fetch: download what is missing, instead of refusing it.

    Raises:
        UserError: if the name is unknown, or the data are missing, damaged or not of the expected form.
    """
    kind = kind_of(name)
    _check_encodable(name)
    load = pkgutil.resolve_name(DATASETS[kind].loader)
    options = {"image_size": image_size, "progress": progress, "skip_broken": skip_broken, "fetch": fetch}
    source: Source = load(name, data_root=data_root, **options)
    return source


def kind_of(name: str) -> str:
    """The row of `DATASETS` that a name belongs to; a `UserError` if there is none."""
    kind = USER_FUNCTION if is_code(name) else next((kind for key, kind in PATHS.items() if name.startswith(key)), name)
    if kind not in DATASETS:
        raise UserError(f"--dataset must be one of {CHOICES}, not {name!r}{_suggestion(name)}")
    return kind


def _check_encodable(name: str) -> None:
    try:
        name.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise UserError(f"--dataset={name} is no UTF-8, in which runs are recorded: rename the folder") from None


def _suggestion(name: str) -> str:
    if os.path.isdir(name):  # noqa: PTH112 - no OSError
        return f"; did you mean {FOLDER}{name}?"
    if Path(name).suffix == ".csv":
        return f"; did you mean {CSV}{name}?"
    close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    return f"; did you mean {close[0]}?" if close else ""
