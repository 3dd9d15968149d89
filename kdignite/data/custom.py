"""Data sets of the user's own: a function that returns arrays or map-style Datasets."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from kdignite.data.arrays import as_array, image_array
from kdignite.data.folders import IN_MEMORY_BYTES, SETS, source_with_defaults
from kdignite.data.items import are_arrays, is_dataset, length_of, read_items
from kdignite.data.labels import RawLabels, class_indices, raw_labels
from kdignite.data.layout import part_of
from kdignite.data.repeat import check_same
from kdignite.data.source import ImageSet, Source, StreamedImages, pixels_digest
from kdignite.errors import UserError
from kdignite.plugins import import_function, own_errors

# a function that took longer, or whose arrays are larger, is not called again; items of Datasets are read again always
LONGEST_S, LARGEST_BYTES = 10.0, 2**30


class LoadedSet(NamedTuple):
    """A set of images as it was read."""

    images: Tensor | StreamedImages
    labels: RawLabels
    hashes: tuple[str, ...]  # of each image of a Dataset
    digest: Any  # a hash object: of shape and pixels
    notes: list[str]
    scale: str = ""  # what the values of an array meant


def load_custom(name: str, *, image_size: int, progress: bool, **_: object) -> Source:
    """Load what a function of the user's own returns.

    The function takes no arguments and returns ``{"train": set}``, with ``"val"``, ``"test"`` and ``"classes"`` (names)
    where it has them. A set is either of

    * ``(images, labels)``, NumPy or torch: images (N, H, W, 3), (N, 3, H, W) or grey (N, H, W), square, uint8; labels
      whole numbers (N,). Images count as (N, 3, H, W) whenever the second length is 3.
    * a map-style Dataset of ``(image, label)``: image a PIL image, or uint8 (H, W, 3), (3, H, W) or grey (H, W);
      resized and cropped as images in folders are. It is read once at the start.

    Other types, shapes and labels are converted where they have one meaning, with a note that says so: see
    `kdignite.data.arrays`, `kdignite.data.labels` and `kdignite.data.items`.

    Args:
        name: ``package.module:function``.
        image_size: side in pixels at which the images of a Dataset are kept; arrays keep their own.
        progress: show a bar while a Dataset is read.

    Returns:
        The data set. Images of Datasets are kept in memory if all of them fit in `IN_MEMORY_BYTES`, else decoded at
        every use. Without class names, classes are named after the labels.

    Raises:
        UserError: if the function cannot be found, what it returns is not of this form, or it returns something else
            when it is called again: training would see other images than the teacher's cached logits are of.
    """
    function, started = _function(name), time.perf_counter()
    with own_errors("dataset", name):
        returned = function()
    seconds = time.perf_counter() - started
    given = _check_sets(name, returned)
    loaded = _read_sets(name, given, size=image_size, progress=progress)
    again = given
    if seconds <= LONGEST_S and _num_bytes(given) <= LARGEST_BYTES:
        with own_errors("dataset", name):
            again = _check_sets(name, function())
    for key, one in given.items():
        check_same(f"{name}, {key}", one, again.get(key), loaded[key].hashes, size=image_size)
    names = _class_names(name, returned.get("classes"))
    classes = class_indices(name, {key: one.labels for key, one in loaded.items()}, names)
    sets = {key: ImageSet(one.images, classes.labels[key], one.hashes) for key, one in loaded.items()}
    _check_sizes(name, sets)
    _check_classes(name, classes.names)
    for key, one in loaded.items():
        one.digest.update(classes.labels[key].numpy().data)
    digests = {key: one.digest.hexdigest() for key, one in loaded.items()}
    notes = [note for one in loaded.values() for note in one.notes] + [f"{name}: {classes.note}"] * bool(classes.note)
    source = source_with_defaults(name, classes=classes.names, sets=sets, digests=digests)
    return source._replace(notes=tuple(f"data      {note}" for note in notes))


def _function(name: str) -> Callable[[], Any]:
    """The function; one that needs arguments is refused."""
    function = import_function(name, flag="dataset")
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UserError(
            f"--dataset={name} must be a function without arguments ({error}): give each a default, or name another "
            "function that calls it"
        ) from error
    except ValueError:  # of some built-in functions nothing is known
        pass
    return function


def _check_sets(name: str, returned: Any) -> dict[str, Any]:
    if not isinstance(returned, Mapping):
        raise UserError(
            f'{name} must return a dict with "train": (images, labels) or a Dataset, not {_type_of(returned)}: '
            'return {"train": train, "test": test}'
        )
    if unknown := sorted(str(key) for key in set(returned) - {*SETS, "classes"}):
        hint = f"; did you mean {part}?" if (part := part_of(unknown[0])) else ""
        raise UserError(
            f"{name} must return a dict with the keys train, val, test and classes, not {unknown[0]!r}{hint}"
        )
    given = {key: returned[key] for key in SETS if returned.get(key) is not None}
    if "train" not in given:
        have = ", ".join(f"{key} (None)" if returned[key] is None else key for key in returned) or "none"
        raise UserError(f'{name} must return a dict with "train", but its keys are: {have}')
    return given


def _read_sets(name: str, given: Mapping[str, Any], *, size: int, progress: bool) -> dict[str, LoadedSet]:
    """Every set, the training images first: they decide what the values of float images mean."""
    lengths = [length_of(one, f"{name}, {key}") for key, one in given.items() if is_dataset(one)]
    keep = sum(lengths) * 3 * size**2 <= IN_MEMORY_BYTES
    loaded = dict[str, LoadedSet]()
    for key, one in given.items():
        where = f"{name}, {key}"
        if are_arrays(one):
            loaded[key] = _read_arrays(one, where, train=loaded["train"].scale if loaded else "")
        elif is_dataset(one):
            images, labels, hashes, digest, notes = read_items(one, where, size=size, keep=keep, progress=progress)
            loaded[key] = _with_labels(LoadedSet(images, RawLabels(labels), hashes, digest, notes), where)
        else:
            raise UserError(
                f"{where} must be (images, labels) or a Dataset with a length and an index, not {_type_of(one)}"
                f"{_instead(one)}"
            )
    return loaded


def _read_arrays(given: Sequence[Any], where: str, *, train: str) -> LoadedSet:
    if len(given) != 2:
        raise UserError(f"{where} must be (images, labels), not a tuple of {len(given)}")
    images, labels = map(as_array, given)
    pixels, scale, notes = image_array(images, where, train=train)
    if labels.ndim and len(labels) != len(pixels):
        raise UserError(f"{where} must have a label for each image, not {len(labels)} labels for {len(pixels)} images")
    return _with_labels(LoadedSet(pixels, RawLabels(labels), (), pixels_digest(pixels), notes, scale), where)


def _with_labels(loaded: LoadedSet, where: str) -> LoadedSet:
    """A set whose labels are one for each image."""
    if not len(loaded.images):
        raise UserError(f"{where} must have one image or more, not none")
    labels = raw_labels(loaded.labels.values, where)
    return loaded._replace(labels=labels, notes=loaded.notes + [f"{where}: {labels.note}"] * bool(labels.note))


def _num_bytes(given: Mapping[str, Any]) -> int:
    return sum(getattr(array, "nbytes", 0) for one in given.values() if are_arrays(one) for array in one)


def _instead(given: Any) -> str:
    """What to return instead of something that is no set, after a colon; empty: not known."""
    if isinstance(given, DataLoader):
        return ": return the Dataset that it loads, loader.dataset"
    if isinstance(given, Mapping):
        keys = [repr(key) for key in given]
        return f": return (images, labels), such as (data[{keys[0]}], data[{keys[1]}])" if len(keys) > 1 else ""
    if isinstance(given, IterableDataset) or (hasattr(given, "__iter__") and not hasattr(given, "__len__")):
        return ": list(dataset) makes one of what it yields, if that ends and fits in memory"
    return ""


def _check_sizes(name: str, sets: Mapping[str, ImageSet]) -> None:
    sides = {key: one.images[0].shape[-1] for key, one in sets.items()}
    if len(set(sides.values())) > 1:
        found = ", ".join(f"{key} {side}" for key, side in sides.items())
        raise UserError(f"{name}: the images of all sets must have the same side in pixels, not {found}")


def _class_names(name: str, given: Any) -> tuple[str, ...] | None:
    if isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    if given is None:
        return None
    if not given or not isinstance(given, list | tuple) or not all(isinstance(one, str) for one in given):
        raise UserError(f'{name}: "classes" must be a list of names, not {given!r}')
    return tuple(given)


def _check_classes(name: str, classes: tuple[str, ...]) -> None:
    if len(set(classes)) != len(classes):
        raise UserError(f"{name}: class names must differ from one another, but some are equal: {', '.join(classes)}")
    if len(classes) < 2:
        raise UserError(f"{name} needs two or more classes, not {len(classes)}")


def _type_of(value: Any) -> str:
    return f"a {type(value).__name__}"
