"""The arrays of a finished run, each checked before it is believed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdignite import checkpoints, schema
from kdignite.errors import UserError, brief

ARRAYS = ("test_logits", "test_labels", "test_indices")
VALIDATION = ("val_logits", "val_labels")
AGAIN = "make the run again, or leave it out"


def read_predictions(path: Path, *, num_classes: int) -> list[list[npt.NDArray[Any]]]:
    """Logits, labels and indices of the test images; then logits and labels of the validation images, if it has any."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no predictions.npz: make the run again")
    try:
        with path.open("rb") as file:
            arrays = checkpoints.read_arrays(file, _read_names)
    except checkpoints.UNREADABLE as error:
        raise UserError(f"{path} is damaged ({brief(error)}): {AGAIN}") from error
    parts = [{name: arrays[name] for name in part} for part in (ARRAYS, VALIDATION) if part[0] in arrays]
    with schema.checked(path, advice=AGAIN):
        for part in parts:
            _check_predictions(part, num_classes=num_classes)
    return [list(part.values()) for part in parts]


def _read_names(there: list[str]) -> list[str]:
    return [*ARRAYS, *(VALIDATION if {*there} >= {*VALIDATION} else ())]


def _check_predictions(arrays: Mapping[str, npt.NDArray[Any]], *, num_classes: int) -> None:
    """Refuse logits (N, C), labels (N,) and, if given, indices (N,) that are none."""
    logits, *numbers = arrays.values()
    num_images = len(logits) if logits.ndim else 0
    if logits.shape[1:] != (num_classes,) or any(one.shape != (num_images,) for one in numbers) or not num_images:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ValueError(f"not of one length and {num_classes} classes: {shapes}")
    if any(not np.issubdtype(array.dtype, np.integer) for array in numbers):
        raise ValueError("labels and indices are no whole numbers")
    if logits.dtype != np.float32 or not np.isfinite(logits).all():
        raise ValueError("its scores are not all finite numbers of single precision")
    labels = numbers[0]
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"its labels are not all below {num_classes}")
