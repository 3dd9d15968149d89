"""How images are prepared for a model: values that travel inside its checkpoint."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from kdignite.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INTERPOLATION = "bilinear, antialiased"  # the one way in which images are resized here


class Preprocessing(NamedTuple):
    """What a model's input is: side in pixels, and statistics of pixels in 0..1 by channel (red, green, blue)."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = INTERPOLATION


def preprocessing_from(values: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that ``Preprocessing._asdict()`` wrote.

    Args:
        values: the dict read from a checkpoint.

    Returns:
        An equal `Preprocessing` (lists become tuples again).

    Raises:
        UserError: if images were resized in a way that is unknown here.
    """
    if values["interpolation"] != INTERPOLATION:
        raise UserError(f"images are resized {INTERPOLATION} here, the checkpoint asks for {values['interpolation']!r}")
    return Preprocessing(
        size=int(values["size"]),
        mean=tuple(map(float, values["mean"])),
        std=tuple(map(float, values["std"])),
    )
