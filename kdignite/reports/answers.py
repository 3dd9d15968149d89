"""The answers of a model as figures for TensorBoard: calibration, and the most confident mistakes as pictures."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from kdignite.metrics import Labels, Logits, calibration_bins
from kdignite.reports.page.charts import calibration_text
from kdignite.reports.page.mistakes import Mistake, Pixels, worst_mistakes
from kdignite.reports.style import BLUE, ORANGE, SMALL, new_figure, short, styled

NUM_COLUMNS = 6
SIDE = 96  # pixels of a picture
GAP = (34, 48)  # pixels right of a picture, and below it for three lines of text
MAX_NAME = 17  # characters that fit below a picture
DPI = 100


@styled
def reliability_figure(logits: Logits, labels: Labels) -> Figure:
    """Accuracy and mean confidence at each confidence, and the diagonal of a perfectly calibrated model."""
    bins = calibration_bins(logits, labels)
    edges = np.arange(len(bins.num_images)) / len(bins.num_images)
    filled = np.array(bins.num_images) > 0
    figure = new_figure(4.6, 4.2, layout="compressed", dpi=DPI)
    axes = figure.add_subplot()
    width = 1 / len(edges)
    axes.bar(edges[filled], np.array(bins.accuracy)[filled], width=width, align="edge", color=BLUE, label="accuracy")
    ends = (edges[filled], edges[filled] + width)
    axes.hlines(np.array(bins.confidence)[filled], *ends, color=ORANGE, linewidth=2, label="mean confidence")
    axes.plot([0, 1], [0, 1], color="0.3", linewidth=1, linestyle="--", label="perfect")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes.set_title(calibration_text(bins), fontsize=SMALL)
    axes.legend(loc="upper left", frameon=False, fontsize=SMALL)
    return figure


def mistakes_figure(logits: Logits, labels: Labels, *, classes: Sequence[str], pixels: Sequence[Pixels]) -> Figure:
    """The pictures of `worst_mistakes`, each with its class, the answer and the probability of that."""
    found = worst_mistakes(logits, labels, limit=len(pixels))
    return _sheet(found, classes, [_square(one) for one in pixels])


@styled
def _sheet(found: Sequence[Mistake], classes: Sequence[str], squares: Sequence[Pixels]) -> Figure:
    cell = (SIDE + GAP[1], SIDE + GAP[0])  # height and width
    num_rows = -(-len(squares) // NUM_COLUMNS)
    sheet = np.full((num_rows * cell[0], NUM_COLUMNS * cell[1], 3), 255, np.uint8)
    figure = new_figure(sheet.shape[1] / DPI, sheet.shape[0] / DPI, dpi=DPI)
    for i, (one, square) in enumerate(zip(found, squares, strict=True)):
        top, left = (i // NUM_COLUMNS) * cell[0], (i % NUM_COLUMNS) * cell[1]
        sheet[top : top + SIDE, left : left + SIDE] = square
        label, predicted = (short(classes[c], longest=MAX_NAME) for c in (one.label, one.predicted))
        text = f"{label}\n\N{RIGHTWARDS ARROW} {predicted}\n{one.confidence:.0%}"
        place = (left / sheet.shape[1], 1 - (top + SIDE + 3) / sheet.shape[0])
        figure.text(*place, text, fontsize=SMALL, va="top", linespacing=1.1)
    figure.figimage(sheet, zorder=-1)
    return figure


def _square(pixels: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(pixels.transpose(1, 2, 0)).resize((SIDE, SIDE), Image.Resampling.NEAREST))


@styled
def figure_pixels(figure: Figure) -> npt.NDArray[np.uint8]:
    """The figure as drawn, (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
