"""Images of the user's own as uint8: converted where they have one meaning, else refused with what mends it."""

import math
import os
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdignite.errors import UserError

Array = np.ndarray[Any, np.dtype[Any]]
BLOCK = 1024  # images that are converted at once
EDGE = 1e-3  # by which floats of 0 to 1 may lie outside, as resizing leaves them
DARK = 2.0  # floats of up to this, but above 1, may be of 0 to 1 or of 0 to 255
PIXELS, TRUTHS, SHARES, LEVELS = "uint8", "False and True", "0 to 1", "0 to 255"  # what values may mean
AS_PAIRS = "list(zip(images, labels)) is a Dataset, whose images are resized and cropped"
AS_TABLE = "--dataset=csv:FILE reads a table of paths and labels"  # pictures that are opened all at once are too many


def as_array(given: Any) -> Array:
    """What was given as an array; items of different shapes become an array of objects, which every check refuses."""
    if isinstance(given, Tensor):
        given = given.detach().to("cpu", torch.float32 if given.dtype is torch.bfloat16 else None)
        return np.asarray(given.numpy())
    try:
        return np.asarray(given)
    except ValueError:
        return np.array([*given, None], dtype=object)[:-1]


def channels_first(images: Array) -> Array | None:
    """Images (N, C, H, W) with C of 1 or 3, from any order of axes that is one; None: there is none."""
    shape = images.shape
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and shape[1] != 3 and (shape[3] == 3 or (shape[3] == 1 and shape[1] != 1)):
        return images.transpose(0, 3, 1, 2)
    return images if images.ndim == 4 and shape[1] in (1, 3) else None


def meaning(images: Array, where: str) -> str:
    """What the values of images mean: one of `PIXELS`, `TRUTHS`, `SHARES` and `LEVELS`.

    Raises:
        UserError: if it is none of these, with an expression that makes it one.
    """
    if images.dtype == np.uint8 or not images.size:
        return PIXELS
    if images.dtype == bool:
        return TRUTHS
    low, high = float(images.min()), float(images.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        mend = "leave images out that hold NaN or infinity"
    elif images.dtype.kind == "f" and low >= -EDGE and high <= 1 + EDGE:
        return SHARES
    elif images.dtype.kind == "f" and low >= -EDGE and high <= DARK:
        mend = "images.clip(0, 1) if they are 0 to 1, images.round().astype('uint8') if they are 0 to 255"
    elif low < 0:
        back = "(images + 1) * 127.5" if low >= -1 and high <= 1 else "(images * std + mean) * 255"
        mend = f"if they are normalised, leave that out (it is done here), or undo it: ({back}).round().astype('uint8')"
    elif high > 255:
        mend = f"(images / {'257' if high > 4095 else '16'}).round().astype('uint8') if they have more than 8 bits"
    else:
        return LEVELS
    raise UserError(
        f"{where}: images must be whole numbers of 0 to 255 or float of 0 to 1, not {images.dtype} of {low:g} to "
        f"{high:g}: {mend}"
    )


def to_uint8(values: Array, what: str) -> Array:
    """Values of a meaning as 0 to 255, rounded to the nearest."""
    if what == PIXELS:
        return values
    if what == TRUTHS:
        return values * np.uint8(255)
    levels: Array = values.astype(np.float64)
    levels = levels if what == LEVELS else levels.clip(0, 1) * 255
    return np.rint(levels).astype(np.uint8)


def image_array(images: Array, where: str, *, train: str = "") -> tuple[Tensor, str, list[str]]:
    """Arrays of images as uint8 (N, 3, S, S), what their values meant, and a line for each conversion.

    Args:
        images: (N, H, W, 3), (N, 3, H, W) or grey (N, H, W), (N, 1, H, W) or (N, H, W, 1), with H = W.
        where: how messages call them.
        train: what the values of the training images meant; a set that is dark by chance means the same.

    Raises:
        UserError: if they have another shape or other values.
    """
    given, first = f"{images.dtype} {tuple(images.shape)}", channels_first(images)
    if images.dtype.kind not in "uifb" or first is None or first.shape[2] != first.shape[3] or not first.shape[2]:
        raise UserError(
            f"{where}: images must be uint8 (N, H, W, 3), (N, 3, H, W) or (N, H, W) with H = W, not {given}"
            f"{_mended_shape(images, first)}"
        )
    what = meaning(images, where)
    what = LEVELS if (what, train) == (SHARES, LEVELS) else what
    if (what, train) == (LEVELS, SHARES):
        raise UserError(f"{where}: images of {LEVELS}, and those of the training set are {SHARES}: give both alike")
    pixels = np.empty((len(first), 3, *first.shape[2:]), dtype=np.uint8)  # a copy: the array may change later
    for start in range(0, len(first), BLOCK):
        pixels[start : start + BLOCK] = to_uint8(first[start : start + BLOCK], what)
    notes = [] if what == PIXELS else [f"{where}: images {given} of {what} become uint8 of 0 to 255"]
    if first.shape[1] == 1:
        notes.append(f"{where}: grey images {tuple(images.shape)} become three equal channels")
    if pixels.size and what in (PIXELS, LEVELS) and pixels.max() <= 1:
        notes.append(f"{where}: no pixel is above 1 of 255, nearly black: if they are 0 to 1, return images * 255")
    return torch.from_numpy(pixels), what, notes


def item_pixels(image: Array, where: str) -> tuple[Array, str]:
    """An image of a Dataset as uint8 (H, W, 3) or (H, W), and what was converted.

    Raises:
        UserError: if it has another shape or other values.
    """
    given, first = f"{image.dtype} {tuple(image.shape)}", channels_first(image[None])
    if image.dtype.kind not in "uifb" or first is None or not first.size:
        raise UserError(
            f"{where}: an image must be a PIL image or uint8 (H, W, 3), (3, H, W) or (H, W), not {given}"
            f"{_mended_item(image)}"
        )
    what = meaning(image, where)
    if what == LEVELS and image.dtype.kind == "f":  # of which a dark one could not be told from 0 to 1
        raise UserError(f"{where}: float images must be 0 to 1: return image.round().astype('uint8')")
    pixels = to_uint8(np.ascontiguousarray(first[0].transpose(1, 2, 0)), what)
    note = "" if what == PIXELS else f"images {image.dtype} of {what} become uint8 of 0 to 255"
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels, note


def _mended_shape(images: Array, first: Array | None) -> str:
    """The expression that brings images into a form that is read here, after a colon; empty: there is none."""
    shape = images.shape
    if _are_paths(images):
        return f": {AS_TABLE}"
    if images.dtype == object or first is not None:
        return f": {AS_PAIRS}"
    if images.ndim == 2 and (square := _square(shape[1])):
        return f": images.reshape(-1, {square})"
    if images.ndim == 4 and 4 in (shape[1], shape[3]):
        return f": {'images[..., :3]' if shape[3] == 4 else 'images[:, :3]'} leaves the transparency out"
    return ": np.moveaxis(images, -1, 0)" if images.ndim == 4 and shape[2] == 3 else ""


def _mended_item(image: Array) -> str:
    """As `_mended_shape`, of an item of a Dataset."""
    shape = image.shape
    if _are_paths(image):
        return f": {AS_TABLE}"
    if image.dtype.kind == "S":
        return ": Image.open(io.BytesIO(image)) is one"
    if image.ndim == 1 and (square := _square(shape[0])):
        return f": image.reshape({square})"
    if image.ndim == 3 and 4 in (shape[0], shape[2]):
        return f": {'image[..., :3]' if shape[2] == 4 else 'image[:3]'} leaves the transparency out"
    return ": image[0]" if image.ndim == 4 and shape[0] == 1 else ""


def _are_paths(images: Array) -> bool:
    return bool(images.size) and isinstance(images.flat[0], str | os.PathLike)


def _square(length: int) -> str:
    """The lengths of the axes of a square picture that was flattened; empty: it was none."""
    for channels, axes in ((3, "3, {0}, {0}"), (1, "{0}, {0}")):
        side = math.isqrt(length // channels)
        if side and channels * side**2 == length:
            return axes.format(side)
    return ""
