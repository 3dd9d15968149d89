"""Data sets of the user's own: a function that returns arrays or map-style Datasets."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from kdignite.data.decode import resize_and_crop
from kdignite.data.folders import IN_MEMORY_BYTES, SETS, source_with_defaults
from kdignite.data.source import ImageSet, Indexable, Source, StreamedImages, content_digest
from kdignite.errors import UserError
from kdignite.plugins import import_function


class LoadedSet(NamedTuple):
    """A set of images, and the hash of its content."""

    image_set: ImageSet
    digest: str


def load_custom(name: str, *, image_size: int, progress: bool, **_: object) -> Source:
    """Load what a function of the user's own returns.

    The function takes no arguments and returns ``{"train": set}``, with ``"val"``, ``"test"`` and ``"classes"`` (names)
    where it has them. A set is either of

    * ``(images, labels)``, NumPy or torch: images uint8 (N, H, W, 3), (N, 3, H, W) or grey (N, H, W), square; labels
      whole numbers (N,). Images count as (N, 3, H, W) whenever the second length is 3.
    * a map-style Dataset of ``(image, label)``: image a PIL image, or uint8 (H, W, 3), (3, H, W) or grey (H, W);
      resized and cropped as images in folders are. It is read once at the start.

    Args:
        name: ``package.module:function``.
        image_size: side in pixels at which the images of a Dataset are kept; arrays keep their own.
        progress: show a bar while a Dataset is read.

    Returns:
        The data set. Images of Datasets are kept in memory if all of them fit in `IN_MEMORY_BYTES`, else decoded at
        every use. Without class names, classes are ``0`` to the largest label of the training set.

    Raises:
        UserError: if the function cannot be found, or what it returns is not of this form.
    """
    returned = import_function(name, flag="dataset")()
    given = _check_sets(name, returned)
    num_bytes = sum(len(one) for one in given.values() if _is_dataset(one)) * 3 * image_size**2
    read = partial(_read, size=image_size, keep=num_bytes <= IN_MEMORY_BYTES, progress=progress)
    loaded = {key: read(one, f"{name}, {key}") for key, one in given.items()}
    sets = {key: one.image_set for key, one in loaded.items()}
    _check_sizes(name, sets)
    classes = _class_names(name, returned.get("classes"), sets["train"].labels)
    _check_labels(name, sets, classes)
    digests = {key: one.digest for key, one in loaded.items()}
    return source_with_defaults(name, classes=classes, sets=sets, digests=digests)


def _check_sets(name: str, returned: Any) -> dict[str, Any]:
    if not isinstance(returned, Mapping):
        raise UserError(
            f'{name} must return a dict with "train": (images, labels) or a Dataset, not {_type_of(returned)}'
        )
    if unknown := sorted(str(key) for key in set(returned) - {*SETS, "classes"}):
        raise UserError(f"{name} must return a dict with the keys train, val, test and classes, not {unknown[0]!r}")
    given = {key: returned[key] for key in SETS if returned.get(key) is not None}
    if "train" not in given:
        raise UserError(f'{name} must return a dict with "train", but its keys are: {", ".join(returned) or "none"}')
    return given


def _is_dataset(given: Any) -> bool:
    return hasattr(given, "__len__") and hasattr(given, "__getitem__") and not isinstance(given, tuple | str | Mapping)


def _read(given: Any, where: str, *, size: int, keep: bool, progress: bool) -> LoadedSet:
    if isinstance(given, tuple):
        if len(given) != 2:
            raise UserError(f"{where} must be (images, labels), not a tuple of {len(given)}")
        images, labels = _array_images(given[0], where), _array_labels(given[1], where)
        if len(images) != len(labels):
            raise UserError(
                f"{where} must have a label for each image, not {len(labels)} labels for {len(images)} images"
            )
        loaded = LoadedSet(ImageSet(images, labels), content_digest(images, labels))
    elif _is_dataset(given):
        loaded = _read_dataset(given, where, size=size, keep=keep, progress=progress)
    else:
        raise UserError(
            f"{where} must be (images, labels) or a Dataset with a length and an index, not {_type_of(given)}"
        )
    if not len(loaded.image_set.labels):
        raise UserError(f"{where} must have one image or more, not none")
    return loaded


def _array_images(given: Any, where: str) -> Tensor:
    """Images as uint8 (N, 3, S, S)."""
    images = _array(given)
    shape = tuple(images.shape)
    grey, first, last = images.ndim == 3, images.ndim == 4 and shape[1] == 3, images.ndim == 4 and shape[3] == 3
    sides = shape[1:] if grey else shape[2:] if first else shape[1:3]
    if images.dtype != np.uint8 or not (grey or first or last) or sides[0] != sides[1] or not sides[0]:
        raise UserError(
            f"{where}: images must be uint8 (N, H, W, 3), (N, 3, H, W) or (N, H, W) with H = W, "
            f"not {images.dtype} {shape}"
        )
    if grey:
        images = np.broadcast_to(images[:, None], (len(images), 3, *sides))
    elif last and not first:
        images = images.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.array(images, order="C"))  # a copy: the array may be read-only, or change later


def _array_labels(given: Any, where: str) -> Tensor:
    labels = _array(given)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{where}: labels must be whole numbers (N,), not {labels.dtype} {tuple(labels.shape)}")
    return torch.from_numpy(labels.astype(np.int64))


def _read_dataset(dataset: Indexable, where: str, *, size: int, keep: bool, progress: bool) -> LoadedSet:
    """Read a Dataset once: its labels, its hash, and its images if they are kept in memory."""
    count = len(dataset)
    shape = (count, 3, size, size)
    kept = torch.empty(shape, dtype=torch.uint8) if keep else None
    labels = torch.empty(count, dtype=torch.int64)
    digest = hashlib.sha256(repr(shape).encode())  # equal to content_digest, whether the images fit in memory or not
    bar = tqdm(range(count), desc="reading", unit="image", leave=False, disable=None if progress else True)
    for index in bar:
        image, label = _pair(dataset[index], f"{where}[{index}]")
        decoded = _image(image, f"{where}[{index}]", size=size)
        number = _array(label)
        if number.ndim != 0 or number.dtype.kind not in "iu":
            raise UserError(f"{where}[{index}]: a label must be a whole number, not {_type_of(label)}")
        labels[index] = int(number)
        digest.update(decoded.numpy().data)
        if kept is not None:
            kept[index] = decoded
    digest.update(labels.numpy().data)
    images = StreamedImages(dataset, partial(_decode, where=where, size=size)) if kept is None else kept
    return LoadedSet(ImageSet(images, labels), digest.hexdigest())


def _pair(item: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise UserError(f"{where} must be (image, label), not {_type_of(item)}")
    return item[0], item[1]


def _decode(item: Any, *, where: str, size: int) -> Tensor:
    return _image(_pair(item, where)[0], where, size=size)


def _image(given: Any, where: str, *, size: int) -> Tensor:
    """One image of a Dataset as uint8 (3, size, size)."""
    if not isinstance(given, Image.Image):
        pixels = _array(given)
        if pixels.ndim == 3 and pixels.shape[0] == 3:
            pixels = pixels.transpose(1, 2, 0)
        if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
            raise UserError(
                f"{where}: an image must be a PIL image or uint8 (H, W, 3), (3, H, W) or (H, W), "
                f"not {pixels.dtype} {tuple(pixels.shape)}"
            )
        given = Image.fromarray(np.ascontiguousarray(pixels))
    try:
        return resize_and_crop(given, size=size)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _array(given: Any) -> np.ndarray[Any, np.dtype[Any]]:
    if isinstance(given, Tensor):
        return given.detach().cpu().numpy()
    try:
        return np.asarray(given)
    except ValueError:  # items of different shapes: an array of objects, which every check refuses
        return np.array([*given, None], dtype=object)[:-1]


def _check_sizes(name: str, sets: Mapping[str, ImageSet]) -> None:
    sides = {key: one.images[0].shape[-1] for key, one in sets.items()}
    if len(set(sides.values())) > 1:
        found = ", ".join(f"{key} {side}" for key, side in sides.items())
        raise UserError(f"{name}: the images of all sets must have the same side in pixels, not {found}")


def _class_names(name: str, given: Any, train_labels: Tensor) -> tuple[str, ...]:
    if given is None:
        classes = tuple(str(label) for label in range(int(train_labels.max()) + 1))
    elif not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise UserError(f'{name}: "classes" must be a list of names, not {given!r}')
    else:
        classes = tuple(given)
    if len(set(classes)) != len(classes):
        raise UserError(f"{name}: class names must differ from one another, but some are equal: {', '.join(classes)}")
    if len(classes) < 2:
        raise UserError(f"{name} needs two or more classes, not {len(classes)}")
    return classes


def _check_labels(name: str, sets: Mapping[str, ImageSet], classes: tuple[str, ...]) -> None:
    for key, one in sets.items():
        low, high = int(one.labels.min()), int(one.labels.max())
        if low < 0 or high >= len(classes):
            raise UserError(
                f"{name}, {key}: labels must be 0 to {len(classes) - 1} for {len(classes)} classes, not {low} to {high}"
            )


def _type_of(value: Any) -> str:
    return f"a {type(value).__name__}"
