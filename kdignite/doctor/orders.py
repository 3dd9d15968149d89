"""Orders of the classes in which the outputs of a model may have been meant."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment


class ClassOrder(NamedTuple):
    """Another order of the outputs: its logits are ``logits[:, columns]``."""

    name: str
    wrong: str  # what was done
    fix: str  # what to do
    columns: list[int]  # for each class of the data the output that stands for it


def class_orders(classes: Sequence[str]) -> list[ClassOrder]:
    """The orders that come about by the classic mistakes, for the classes of the data in their order."""
    count, both = len(classes), "count predictions and labels from 0"
    as_is = "the order " + ", ".join(classes[:4]) + (", ..." if count > 4 else "")
    by_name, by_number = sorted(classes), sorted(classes, key=_natural)
    numeric = ClassOrder(
        "numeric classes", "classes sorted by number", as_is, [by_number.index(name) for name in classes]
    )
    return [
        ClassOrder(
            "answers one too high", "counted from 1, labels from 0", both, [(i - 1) % count for i in range(count)]
        ),
        ClassOrder(
            "answers one too low", "counted from 0, labels from 1", both, [(i + 1) % count for i in range(count)]
        ),
        ClassOrder("alphabetical classes", "classes sorted by name", as_is, [by_name.index(name) for name in classes]),
        *([numeric] if by_number not in (by_name, list(classes)) else []),
    ]


def outputs_named(columns: Sequence[int], classes: Sequence[str], own: Sequence[str]) -> list[str]:
    """The class names in the order of a model's outputs, where another order than its recorded one is right.

    Args:
        columns: of a `ClassOrder`.
        classes: of the data, in their order.
        own: that were recorded for the outputs.
    """
    names = dict(zip((own.index(classes[column]) for column in columns), classes, strict=True))
    return [names[place] for place in range(len(own))]


def assigned_order(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], num_classes: int) -> ClassOrder:
    """The order in which predictions are right most often."""
    counts = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
    columns = linear_sum_assignment(counts + 0.5 * np.eye(num_classes), maximize=True)[1]  # of equals that as recorded
    return ClassOrder("another order", "outputs in another order of the classes", "", [int(one) for one in columns])


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts digits within a name as the numbers that they are."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
