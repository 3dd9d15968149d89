"""The most confident mistakes of a model, with what every model says of the image."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from kdignite.metrics import Labels, Logits, softmax
from kdignite.reports.page.blocks import Answer, Block, Gallery, Picture, Text
from kdignite.reports.text import per_cent

NUM_MISTAKES = 24
LARGEST_SIDE = 192  # pixels: twice the size at which pictures are shown
SMALL_SIDE = 64  # up to here pictures are kept exactly, and their pixels shown as squares
JPEG_QUALITY = 82

Pixels = npt.NDArray[np.uint8]
# from positions in the test set to uint8 (3, S, S) each; or a sentence that says why there are none
Pictures = Callable[[Sequence[int]], list[Pixels]] | str


class Mistake(NamedTuple):
    """An image that a model misclassifies."""

    row: int  # of the logits
    label: int
    predicted: int
    confidence: float


def worst_mistakes(logits: Logits, labels: Labels, *, limit: int = NUM_MISTAKES) -> list[Mistake]:
    """The mistakes with the highest probability of the wrong class, the most confident first, equals in order."""
    probabilities, predicted = softmax(logits), logits.argmax(axis=1)
    wrong = np.nonzero(predicted != labels)[0]
    confidence = probabilities[wrong, predicted[wrong]]
    chosen = np.argsort(-confidence, kind="stable")[:limit]
    rows = wrong[chosen]
    columns = (rows, labels[rows], predicted[rows], confidence[chosen])
    return [Mistake(*values) for values in zip(*(column.tolist() for column in columns), strict=True)]


def gallery(
    logits: Mapping[str, Logits],
    labels: Labels,
    indices: Labels,
    *,
    whose: str,
    classes: Sequence[str],
    pictures: Pictures,
) -> list[Block]:
    """The worst mistakes of one model with the answers of all, which come by name."""
    found = worst_mistakes(logits[whose], labels)
    if not found:
        return [Text("No test image was misclassified.")]
    if isinstance(pictures, str):
        return [Text(pictures)]
    pixels = pictures([int(indices[one.row]) for one in found])
    shown = [
        Picture(
            data_uri(image),
            f"test image {int(indices[one.row]):,}, {classes[one.label]}",
            max(image.shape[1:]) <= SMALL_SIDE,
            [
                Answer("true", classes[one.label]),
                *(_answer(who, all_[one.row], one, classes) for who, all_ in logits.items()),
            ],
        )
        for one, image in zip(found, pixels, strict=True)
    ]
    return [Gallery(shown)]


def data_uri(image: Pixels) -> str:
    """A picture inside the page: a small one exactly, a large one reduced and as JPEG."""
    picture, file = Image.fromarray(image.transpose(1, 2, 0)), io.BytesIO()
    if max(picture.size) <= SMALL_SIDE:
        picture.save(file, "PNG")
        kind = "png"
    else:
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        picture.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _answer(who: str, logits: npt.NDArray[Any], mistake: Mistake, classes: Sequence[str]) -> Answer:
    predicted = int(logits.argmax())
    share = float(softmax(logits[None])[0, predicted])
    return Answer(who, f"{classes[predicted]} ({per_cent(share, digits=0)} %)", predicted == mistake.label)
