"""How images are prepared for a model: values that travel inside its checkpoint."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdignite import schema
from kdignite.errors import UserError, brief

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SIZES = (8, 1024)  # sides of a model's input, in pixels
INTERPOLATION = "bilinear, antialiased"  # how images are resized, unless a model of a library says otherwise
INTERPOLATIONS = (INTERPOLATION, "bicubic, antialiased")


class Preprocessing(NamedTuple):
    """What a model's input is: side in pixels, and statistics of pixels in 0..1 by channel (red, green, blue)."""

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = INTERPOLATION


def preprocessing_from(values: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that ``Preprocessing._asdict()`` wrote."""
    how = schema.text(values, "interpolation")
    if how not in INTERPOLATIONS:
        raise UserError(f"images are resized {' or '.join(INTERPOLATIONS)} here, the checkpoint needs {brief(how)!r}")
    low, high = SIZES
    mean, std = (schema.sequence(values, key) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"mean and std must have a number for each of three channels, not {len(mean)} and {len(std)}")
    return Preprocessing(
        size=schema.count(values, "size", low=low, high=high),
        mean=tuple(float(schema.number({"mean": value}, "mean")) for value in mean),
        std=tuple(float(schema.number({"std": value}, "std", above=0)) for value in std),
        interpolation=how,
    )


def check_class_names(classes: Sequence[object]) -> None:
    """Refuse class names that are equal, or would garble a table."""
    wrong = [name for name in classes if not schema.is_name(name)]
    if wrong:
        raise UserError(
            f"a class name must be text of 1 to {schema.LONGEST_NAME} characters without control characters, "
            f"not {brief(repr(wrong[0]))}"
        )
    if not classes or len(set(classes)) != len(classes):
        raise UserError("class names must differ from one another, and there must be some")
