"""What all figures share: sizes, colours, and how texts are measured and shortened."""

from collections.abc import Sequence
from typing import Any

from matplotlib.textpath import TextPath

DPI = 200
FONT_SIZE = 9.0  # points, as are all sizes
SMALL = 8.0
STYLE: list[str | dict[str, Any]] = [
    "default",
    {"font.size": FONT_SIZE, "text.parse_math": False},
]  # a class may be called "$5$"
# Okabe & Ito 2008: told apart by every kind of colour vision
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
MAX_NAME = 28  # characters; longer names are cut in the middle


def short(name: str) -> str:
    """A name of at most 28 characters: a long one keeps its beginning and its end, where similar names differ.

    Args:
        name: of a class.

    Returns:
        The name, or both its ends.
    """
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 10].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-9:].lstrip()}"


def text_width(texts: Sequence[str], *, size: float) -> float:
    """How much room some texts need.

    Args:
        texts: one line each.
        size: of the letters, in points.

    Returns:
        Width in inches of the longest; 0 without any.
    """
    return max((TextPath((0, 0), text, size=size).get_extents().width / 72 for text in texts if text), default=0.0)
