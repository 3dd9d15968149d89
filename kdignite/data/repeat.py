"""Whether data of the user's own are the same when they are read again, as cached teacher logits need them to be."""

import hashlib
from typing import Any

import numpy as np

from kdignite.data.arrays import as_array
from kdignite.data.items import are_arrays, is_dataset, length_of, read_item
from kdignite.errors import UserError

SAMPLE = 32  # images of each set that are read again, from its first to its last


def check_same(where: str, first: Any, again: Any, hashes: tuple[str, ...], *, size: int) -> None:
    """Refuse a set whose images or labels are others when the function is called, or an item is read, again.

    Args:
        where: how messages call the set.
        first: the set that is used.
        again: what the function returned when it was called again, or the same set.
        hashes: SHA-256 of the pixels of each image of a Dataset, as they were read.
        size: side in pixels at which images of a Dataset are kept.

    Raises:
        UserError: naming the first image of a sample that differs.
    """
    if are_arrays(first):
        changed = "" if again is first else _changed_row(first, again)
    else:
        changed = _changed_item(first, again, hashes, where, size=size)
    if changed:
        raise UserError(
            f"{where}: {changed} is another when it is read again: take shuffling and random transforms out of the "
            "function (--augment makes views of images), or seed them, by the index in a Dataset"
        )


def _sample(count: int) -> list[int]:
    return sorted({int(index) for index in np.linspace(0, count - 1, min(count, SAMPLE))})


def _changed_row(first: Any, again: Any) -> str:
    """What of arrays is another now; empty: nothing of the sample."""
    if not are_arrays(again) or list(map(len, first)) != list(map(len, again)):
        return "its length"
    pairs = [(as_array(one), as_array(other)) for one, other in zip(first, again, strict=True)]
    changed = (i for i in _sample(len(first[0])) if not all(np.array_equal(one[i], other[i]) for one, other in pairs))
    return next((f"image or label {index}" for index in changed), "")


def _changed_item(first: Any, again: Any, hashes: tuple[str, ...], where: str, *, size: int) -> str:
    """What of a Dataset is another now; empty: nothing of the sample."""
    if not is_dataset(again) or length_of(again, where) != len(hashes):
        return "its length"
    for index in _sample(len(hashes)):
        image, label, _ = read_item(again, index, where, size=size)
        same = hashlib.sha256(image.numpy().data).hexdigest() == hashes[index]
        if not same or (again is not first and label != read_item(first, index, where, size=size)[1]):
            return f"image or label {index}"
    return ""
