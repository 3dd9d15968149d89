"""Datasets of the user's own: their items as images and labels, whatever holds the two."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset
from tqdm import tqdm

from kdignite.data.arrays import Array, as_array, item_pixels
from kdignite.data.decode import resize_and_crop, unreadable, why_broken
from kdignite.data.source import Indexable, StreamedImages
from kdignite.errors import UserError, listed, reason


class ReadItems(NamedTuple):
    """What the items of a Dataset hold."""

    images: Tensor | StreamedImages
    labels: Array  # (N,), (N, C), as given
    hashes: tuple[str, ...]  # of the pixels of each image
    digest: Any  # a hash object: of shape and pixels of all images
    notes: list[str]


class Pair(NamedTuple):
    """The image and the label of an item, as given."""

    image: Any
    label: Any
    note: str = ""  # where they were found


def are_arrays(given: Any) -> bool:
    """Whether something is ``(images, labels)``: a tuple, or a list of two arrays, whose items are no pairs."""
    two = isinstance(given, list) and len(given) == 2
    return isinstance(given, tuple) or (two and all(isinstance(one, np.ndarray | Tensor) for one in given))


def is_dataset(given: Any) -> bool:
    """Whether something has a length and can be indexed."""
    if isinstance(given, tuple | str | bytes | Mapping | IterableDataset):
        return False
    return hasattr(given, "__len__") and hasattr(given, "__getitem__")


def length_of(dataset: Indexable, where: str) -> int:
    """The length of a Dataset; one that is no length is refused."""
    try:
        return len(dataset)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise UserError(f"{where}: its __len__ must return the number of its items: {reason(error)}") from error


def read_items(dataset: Indexable, where: str, *, size: int, keep: bool, progress: bool) -> ReadItems:
    """Read a Dataset once: its labels, its hashes, and its images if they are kept in memory."""
    count = length_of(dataset, where)
    shape = (count, 3, size, size)
    kept = torch.empty(shape, dtype=torch.uint8) if keep else None
    digest = hashlib.sha256(repr(shape).encode())  # equal to that of an array, whether the images fit in memory or not
    labels, hashes, notes = list[Any](), list[str](), dict[str, None]()
    bar = tqdm(range(count), desc="reading", unit="image", leave=False, disable=None if progress else True)
    for index in bar:
        image, label, found = read_item(dataset, index, where, size=size)
        labels.append(label)
        hashes.append(hashlib.sha256(image.numpy().data).hexdigest())
        notes |= dict.fromkeys(found)
        digest.update(image.numpy().data)
        if kept is not None:
            kept[index] = image
    if len({isinstance(one, str) for one in labels}) > 1:
        raise UserError(f"{where}: labels must be whole numbers, or text in all items")
    images = StreamedImages(dataset, partial(_decode, where=where, size=size)) if kept is None else kept
    return ReadItems(images, as_array(labels), tuple(hashes), digest, [f"{where}: {note}" for note in notes])


def read_item(dataset: Indexable, index: int, where: str, *, size: int) -> tuple[Tensor, Any, list[str]]:
    """An image of a Dataset as uint8 (3, size, size), its label, and what was converted.

    Raises:
        UserError: if the Dataset ends before its length, or the item is not an image with a label.
    """
    here = f"{where}[{index}]"
    try:
        item = dataset[index]
    except (LookupError, NotImplementedError) as error:
        if isinstance(error, KeyError) and error.args != (index,):  # of the user's own code
            raise
        raise UserError(
            f"{where} must have items 0 to {length_of(dataset, where) - 1}, as its length says, but has no item "
            f"{index} ({type(error).__name__}: {reason(error)})"
        ) from error
    image, label, note = _pair(item, here)
    pixels, converted = _image(image, here, size=size)
    return pixels, _label(label, here), [one for one in (note, converted) if one]


def _pair(item: Any, where: str) -> Pair:
    """The image and the label of an item: a pair, or anything that holds one image and one whole number."""
    parts = dict(item) if isinstance(item, Mapping) else dict(enumerate(item)) if isinstance(item, tuple | list) else {}
    if list(parts) == [0, 1] and not (_is_label(item[0]) and _is_image(item[1])):
        return Pair(item[0], item[1])
    images, labels = ([key for key in parts if fits(parts[key])] for fits in (_is_image, _is_label))
    if len(images) == len(labels) == 1:
        note = f"items are image [{images[0]!r}] and label [{labels[0]!r}] of {len(parts)} parts"
        return Pair(parts[images[0]], parts[labels[0]], note)
    told = ""
    if len(parts) > 1:
        choice = [*images, *parts][0], [*labels, *list(parts)[1:]][0]
        of = f" of {listed([repr(key) for key in parts])}" if isinstance(item, Mapping) else f" of {len(parts)}"
        told = f"{of}: return [(item[{choice[0]!r}], item[{choice[1]!r}]) for item in dataset], with the parts you mean"
    raise UserError(f"{where} must be (image, label), not a {type(item).__name__}{told}")


def _is_image(part: Any) -> bool:
    return isinstance(part, Image.Image) or (isinstance(part, Tensor | np.ndarray) and part.ndim >= 2)


def _is_label(part: Any) -> bool:
    if isinstance(part, int | np.integer | np.bool_):
        return True
    whole = isinstance(part, Tensor | np.ndarray) and as_array(part).dtype.kind in "iub"
    return whole and as_array(part).size == 1 and part.ndim < 2


def _image(given: Any, where: str, *, size: int) -> tuple[Tensor, str]:
    """An image as uint8 (3, size, size), and what was converted."""
    note = ""
    if not isinstance(given, Image.Image):
        pixels, note = item_pixels(as_array(given), where)
        given = Image.fromarray(pixels)
    try:
        return resize_and_crop(given, size=size), note
    except MemoryError:
        raise
    except Exception as error:  # of a file that Pillow opened, and decodes only now
        file = getattr(given, "filename", None)
        raise unreadable(f"{where} ({file})" if file else where, why_broken(error)) from error


def _label(given: Any, where: str) -> Any:
    """A label as a number, text, or a list of numbers, such as a one-hot row."""
    label = as_array(given)
    if label.dtype.kind not in "iufbU" or label.ndim > 1 or (label.ndim and label.dtype.kind == "U"):
        raise UserError(f"{where}: a label must be a whole number, a name or one-hot, not a {type(given).__name__}")
    return label.item() if label.size == 1 else label.tolist()


def _decode(item: Any, *, where: str, size: int) -> Tensor:
    return _image(_pair(item, where).image, where, size=size)[0]
