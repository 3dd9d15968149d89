"""What all figures share: sizes, colours, and how texts are measured and shortened."""

from collections.abc import Sequence
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

FONT_SIZE = 9.0  # points, as are all sizes
SMALL = 8.0
# a class may be called "$5$"
STYLE: list[str | dict[str, Any]] = ["default", {"font.size": FONT_SIZE, "text.parse_math": False}]
styled = matplotlib.style.context(STYLE)  # decorates what draws or saves a figure
# Okabe & Ito 2008: distinguishable with every kind of colour vision
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SHADES = "Blues"  # one hue, darker = more: reads the same for every kind of colour vision, and in grey
MAX_NAME = 28  # characters; longer names are cut in the middle


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """A figure without ``pyplot``; sizes in inches."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def short(name: str) -> str:
    """A name of at most 28 characters: a long one keeps its beginning and its end, where similar names differ."""
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 10].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-9:].lstrip()}"


def text_width(texts: Sequence[str], *, size: float) -> float:
    """How much room some texts need."""
    return max((TextPath((0, 0), text, size=size).get_extents().width / 72 for text in texts if text), default=0.0)


def ink(background: npt.ArrayLike) -> str:
    """Black or white, whichever has the higher contrast (relative luminance of WCAG 2; both are equal at 0.179)."""
    rgb = np.asarray(background)[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"
