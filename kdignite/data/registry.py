"""Data sets by name: a row says which function loads one. Nothing here imports torch."""

import difflib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from kdignite.errors import UserError

if TYPE_CHECKING:
    from kdignite.data.source import Source

FOLDER = "folder:"  # and then a path
USER_FUNCTION = "package.module:function"
# name, or what a name begins with -> its loader ``(name, *, data_root, image_size, progress) -> Source``
LOADERS = {
    "cifar10": "kdignite.data.cifar:load_cifar",
    "cifar100": "kdignite.data.cifar:load_cifar",
    "digits": "kdignite.data.digits:load_digits",
    FOLDER: "kdignite.data.folders:load_folder",
}
CHOICES = (*(f"{name}PATH" if name == FOLDER else name for name in LOADERS), USER_FUNCTION)


def is_code(name: str) -> bool:
    """Whether the name of a data set, model or method is that of a function of the user's own."""
    return ":" in name and not name.startswith(FOLDER)


def load_source(name: str, *, data_root: Path, image_size: int, progress: bool = True) -> "Source":
    """Load a data set by its name, and get it first if it is one that can be fetched.

    Args:
        name: ``cifar10``, ``cifar100``, ``digits``, ``folder:PATH`` or ``package.module:function``.
        data_root: folder where CIFAR is looked for, and put if it has to be fetched.
        image_size: side in pixels at which images of varying size are kept (``folder:`` and Datasets of the user's own;
            CIFAR and the digits are 32 x 32 whatever is asked for).
        progress: show a bar where it takes long (never without a terminal).

    Returns:
        The data set.

    Raises:
        UserError: if the name is unknown, or the data are missing, damaged or not what they should be.
    """
    loader = "kdignite.data.custom:load_custom" if is_code(name) else LOADERS.get(_kind_of(name), "")
    if not loader:
        raise UserError(f"--dataset must be one of {', '.join(CHOICES)}, not {name!r}{_suggestion(name)}")
    load = pkgutil.resolve_name(loader)
    source: Source = load(name, data_root=data_root, image_size=image_size, progress=progress)
    return source


def _kind_of(name: str) -> str:
    return FOLDER if name.startswith(FOLDER) else name


def _suggestion(name: str) -> str:
    if Path(name).is_dir():
        return f"; did you mean folder:{name}?"
    close = difflib.get_close_matches(name.lower(), CHOICES, n=1)
    return f"; did you mean {close[0]}?" if close else ""
