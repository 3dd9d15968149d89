"""What all figures share: sizes, colours, and how texts are measured and shortened."""

import math
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

FONT_SIZE = 9.0  # points, as are all sizes
SMALL, HEADLINE = 8.0, 11.0
BOLD = 1.15  # bold letters are wider
LINE = 0.18  # inches of a line of the header
# a class may be called "$5$"
STYLE: dict[str, Any] = {"font.size": FONT_SIZE, "text.parse_math": False}
FONT = "DejaVu Sans"  # comes with matplotlib
# for letters that it lacks, the first that is installed
OTHER_FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Noto Sans", "Noto Emoji", "Segoe UI Emoji"),
)
# Okabe & Ito 2008: distinguishable with every kind of colour vision
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SHADES = "Blues"  # one hue, darker = more: reads the same for every kind of colour vision, and in grey
MAX_TICKS = 5
MAX_NAME = 28  # characters; longer names are cut in the middle


@cache
def font_names() -> list[str]:
    """The fonts of all figures: a letter is taken from the first that has it."""
    installed = set(font_manager.get_font_names())
    return [FONT, *(name for name in OTHER_FONTS if name in installed)]


@contextmanager
def drawing() -> Iterator[None]:
    """Within the block figures have their style; letters that no font has are boxes (see `letters_note`)."""
    with matplotlib.style.context(["default", {**STYLE, "font.family": font_names()}]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


styled = drawing()  # decorates what draws or saves a figure


def letters_note(texts: Iterable[str]) -> str:
    """What to print of the letters that no font of the figures has; empty where there are none."""
    fonts = [font_manager.get_font(font_manager.findfont(name)) for name in font_names()]
    letters = sorted({letter for text in texts for letter in text if letter.isprintable()})
    missing = "".join(letter for letter in letters if not any(font.get_char_index(ord(letter)) for font in fonts))
    lacks = f"note      no font here has {missing[:MAX_NAME]}: figures show boxes; install one, such as Noto Sans CJK"
    return lacks if missing else ""


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """A figure without ``pyplot``; sizes in inches."""
    figure = Figure(figsize=(width, height), **options)
    FigureCanvasAgg(figure)
    return figure


def short(name: str, *, longest: int = MAX_NAME) -> str:
    """A name of at most 28 characters: a long one keeps its beginning and its end, where similar names differ."""
    if len(name) <= longest:
        return name
    end = min(9, (longest - 1) // 2)
    return f"{name[: longest - 1 - end].rstrip()}\N{HORIZONTAL ELLIPSIS}{name[-end:].lstrip()}"


def fitted(name: str, *, size: float, width: float) -> str:
    """A name shortened as `short` does until it is at most so many inches wide."""
    texts = (short(name, longest=longest) for longest in range(MAX_NAME, 3, -1))
    return next((text for text in texts if text_width([text], size=size) <= width), short(name, longest=3))


def text_width(texts: Sequence[str], *, size: float) -> float:
    """How much room some texts need."""
    return max((TextPath((0, 0), text, size=size).get_extents().width / 72 for text in texts if text), default=0.0)


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis, so few that their labels stand apart: powers of ten and, of few, steps between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    each = ([float(f"{step}e{power}") for power in powers for step in steps] for steps in ((1, 2, 5), (1, 3), (1,)))
    inside = [[x for x in ticks if low <= x <= high] for ticks in each]
    few = next((ticks for ticks in inside if len(ticks) <= MAX_TICKS), inside[-1])
    return few[:: math.ceil(len(few) / MAX_TICKS)]


def header_lines(headline: str, *others: str, width: float) -> list[tuple[str, dict[str, Any]]]:
    """The lines above a figure and their style: what it shows, in bold, and below it what that is of."""
    large, grey = {"fontsize": HEADLINE, "weight": "bold"}, {"fontsize": SMALL, "color": "0.3"}
    first = [(line, large) for line in _wrapped(headline, size=HEADLINE * BOLD, width=width)]
    return first + [(line, grey) for text in others for line in _wrapped(text, size=SMALL, width=width)]


def draw_header(figure: Figure, header: Sequence[tuple[str, dict[str, Any]]]) -> None:
    width, height = figure.get_size_inches()
    for i, (line, style) in enumerate(header):
        top = height - 0.03 - LINE * i - (0.05 if style["fontsize"] == SMALL else 0)
        figure.text(0.06 / width, top / height, line, va="top", **style)


def _wrapped(text: str, *, size: float, width: float) -> list[str]:
    """A text in as few lines as fit, all of about the same length."""
    lines = math.ceil(text_width([text], size=size) / width)
    return textwrap.wrap(text, len(text) // lines + 6 if lines > 1 else len(text)) if text else []


def ink(background: npt.ArrayLike) -> str:
    """Black or white, whichever has the higher contrast (relative luminance of WCAG 2; both are equal at 0.179)."""
    rgb = np.asarray(background)[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"
