"""Labels of the user's own as class indices: converted where they have one meaning, else refused with what mends it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdignite.data.arrays import Array, as_array
from kdignite.errors import UserError, brief, listed

MANY_CLASSES = 1000  # above this, classes with fewer than two images on average are taken for a mistake


class RawLabels(NamedTuple):
    """Labels of a set as they were given, but one for each image."""

    values: Array  # (N,), whole numbers or text
    num_columns: int = 0  # of one-hot labels; 0: they were not one-hot
    note: str = ""  # what was converted


class Classes(NamedTuple):
    """Class indices of every set, and what they mean."""

    names: tuple[str, ...]
    labels: dict[str, Tensor]  # (N,) int64 in [0, C), by set
    note: str = ""  # what was converted


def raw_labels(labels: Array, where: str) -> RawLabels:
    """Labels (N,) of whole numbers or text, from (N, 1), one-hot (N, C), bool, float that are whole, and objects.

    Raises:
        UserError: if they have no such meaning, with an expression that makes some.
    """
    if labels.dtype == object and len({isinstance(one, str) for one in labels.flat}) == 1:  # a column of pandas, say
        labels = as_array(labels.tolist())
    given = f"{labels.dtype} {tuple(labels.shape)}"
    if labels.ndim == 2 and labels.shape[1] == 1:
        return raw_labels(labels[:, 0], where)._replace(note=f"labels {given} are taken as (N,)")
    if labels.ndim == 2 and labels.shape[1] > 1:
        return _one_hot(labels, where)
    kind = labels.dtype.kind
    if labels.ndim != 1 or kind not in "iufbU":
        flat = labels.ndim > 1 and labels.size == len(labels)
        mend = ": labels.astype(str)" if kind == "S" else ": labels.reshape(-1)" if flat else ""
        raise UserError(f"{where}: labels must be whole numbers (N,), one for each image, not {given}{mend}")
    if kind == "b":
        return RawLabels(labels.astype(np.int64), note="labels False and True are taken as 0 and 1")
    if kind != "f":
        return RawLabels(labels)
    labels = labels.astype(np.float64)
    whole = np.isfinite(labels) & (labels == np.floor(labels)) & (abs(labels) < 2**53)
    if not whole.all():
        wrong = labels[~whole][0]
        mend = (
            "keep the images that have one, images[np.isfinite(labels)]"
            if np.isnan(wrong)
            else "np.digitize(labels, bins) makes classes of measurements"
        )
        raise UserError(f"{where}: labels must be whole numbers (N,), not {given} with {wrong:g}: {mend}")
    return RawLabels(labels.astype(np.int64), note=f"labels {given} are whole numbers, taken as such")


def _one_hot(labels: Array, where: str) -> RawLabels:
    given = f"{labels.dtype} {tuple(labels.shape)}"
    if labels.dtype.kind not in "iufb" or not np.isin(labels, (0, 1)).all() or not (labels.sum(1) == 1).all():
        raise UserError(
            f"{where}: labels must be whole numbers (N,), or one-hot (N, C) with a single 1 in each row, not {given}: "
            "labels.argmax(1) takes the largest of each row"
        )
    note = f"labels {given} are one-hot: the class is the column of the 1"
    return RawLabels(labels.argmax(1), labels.shape[1], note)


def class_indices(name: str, given: Mapping[str, RawLabels], names: Sequence[str] | None) -> Classes:
    """Class indices from the labels of all sets.

    Whole numbers 0 to C-1 stay as they are. Other whole numbers, and text, are classes in ascending order, named after
    themselves; with names of C classes, whole numbers 1 to C count from 1, and text has to be among the names.

    Raises:
        UserError: if a label is negative or is in no training image, does not fit the names, or there are almost as
            many classes as images.
    """
    uniques = {key: np.unique(one.values, return_inverse=True) for key, one in given.items()}
    found = {key: values.tolist() for key, (values, _) in uniques.items()}
    if len({isinstance(one, str) for values in found.values() for one in values}) > 1:
        raise UserError(f"{name}: labels of all sets must be whole numbers, or text in all of them")
    columns = max(one.num_columns for one in given.values())
    order, shown, note = _order(name, found, names, columns=columns)
    _check_number(name, len(shown), len(given["train"].values))
    position = {value: index for index, value in enumerate(order)}
    labels = {
        key: torch.tensor([position[one] for one in found[key]])[torch.from_numpy(inverse).flatten()]
        for key, (_, inverse) in uniques.items()
    }
    return Classes(shown, labels, note)


def _order(
    name: str, found: Mapping[str, list[Any]], names: Sequence[str] | None, *, columns: int
) -> tuple[list[Any], tuple[str, ...], str]:
    """The values of labels in the order of their classes, the names of the classes, and what was converted."""
    used = sorted({one for values in found.values() for one in values})
    if isinstance(used[0], str):
        order = list(names or found["train"])
        _check_known(name, found, order)
        return order, tuple(order), "" if names else f"labels are text: {len(order)} classes, sorted by name"
    if used[0] < 0:
        raise UserError(
            f"{name}: labels must not be negative, but they are {used[0]} to {used[-1]}; where -1 means no label, "
            "keep the others, images[labels >= 0] and labels[labels >= 0]; else np.unique(labels, "
            "return_inverse=True)[1] counts from 0"
        )
    if names is not None:
        return _named(name, found, used, names)
    own = found["train"]
    if columns:
        own = used = list(range(columns))
    for key, values in found.items():
        if values[-1] > own[-1] or values[0] < own[0]:
            which = f"{own[0]} to {own[-1]}"
            raise UserError(
                f"{name}, {key}: labels must be {which} for {len(own)} classes, not {values[0]} to {values[-1]}"
            )
    texts = tuple(map(str, used))
    note = f"labels are {listed(texts)}: {len(used)} classes, named after them"
    return used, texts, "" if used == list(range(len(used))) else note


def _named(
    name: str, found: Mapping[str, list[Any]], used: list[int], names: Sequence[str]
) -> tuple[list[int], tuple[str, ...], str]:
    """Whole numbers as indices of names that were given; those from 1 to their number count from 1."""
    if used[0] == 1 and used[-1] == len(names):
        note = f"labels count from 1: 1 is {brief(names[0])}, {len(names)} is {brief(names[-1])}"
        return list(range(1, len(names) + 1)), tuple(names), note
    for key, values in found.items():
        if values[-1] >= len(names):
            raise UserError(
                f"{name}, {key}: labels must be 0 to {len(names) - 1} for {len(names)} classes, "
                f"not {values[0]} to {values[-1]}"
            )
    return list(range(len(names))), tuple(names), ""


def _check_known(name: str, found: Mapping[str, list[Any]], known: Sequence[str]) -> None:
    for key, values in found.items():
        if unknown := [one for one in values if one not in known]:
            raise UserError(f"{name}, {key}: labels must be among {listed(known)}, not {brief(unknown[0])!r}")


def _check_number(name: str, num_classes: int, num_images: int) -> None:
    if num_classes > max(MANY_CLASSES, num_images / 2):
        raise UserError(
            f"{name}: its labels are {num_classes:,} classes for {num_images:,} training images, as if each image had "
            "its own: labels must be classes, not the numbers of images or measurements"
        )
