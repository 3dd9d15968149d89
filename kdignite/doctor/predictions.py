"""Predictions in a file of the user, read and checked."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite import checkpoints
from kdignite.errors import UserError

PARTS = {"test_logits": "test", "val_logits": "val"}  # in the predictions.npz of a run; the first that is there counts
SUFFIXES = (".npy", ".npz", ".csv", ".txt", ".pt", ".pth")


class Predictions(NamedTuple):
    """Predictions for N images in the order of a data set's part."""

    predicted: npt.NDArray[np.int64]  # (N,) classes
    logits: npt.NDArray[np.float64] | None  # (N, C); None: the file holds classes
    split: str  # test or val


def read_predictions(path: Path, *, num_classes: int, sizes: dict[str, int], split: str | None) -> Predictions:
    """Read labels or logits from a file, or raise a `UserError`."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: --predictions needs one")
    if path.suffix not in SUFFIXES:
        raise UserError(f"--predictions must be one of {', '.join(SUFFIXES)}, not {path.name}")
    array, split = _load_array(path, split)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or not len(array) or array.dtype.kind not in "iufb":
        raise _error(path, f"must be labels (N,) or logits (N, C), not {array.dtype} of shape {array.shape}")
    part = _split_of(path, len(array), sizes, split)
    if array.ndim == 2 and array.shape[1] != num_classes:
        raise _error(path, f"has {array.shape[1]} columns, and the data set {num_classes} classes")
    if not np.isfinite(array).all():
        raise _error(path, "holds values that are not finite")
    if array.ndim == 2:
        return Predictions(array.argmax(axis=1), array.astype(np.float64), part)
    return Predictions(_labels(path, array, num_classes), None, part)


def _load_array(path: Path, split: str | None) -> tuple[npt.NDArray[Any], str | None]:
    """The array in a file; of a run's ``predictions.npz`` the logits, and the part that they are of."""
    try:
        if path.suffix in (".csv", ".txt"):
            return np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=1), split
        if path.suffix in (".pt", ".pth"):
            return _tensor(path), split
        with path.open("rb") as file:
            if path.suffix == ".npy":
                return np.lib.format.read_array(file, allow_pickle=False), split
            [(name, array)] = checkpoints.read_arrays(file, partial(_chosen, path, split)).items()
            return array, split or PARTS.get(name)
    except UserError:
        raise
    except checkpoints.UNREADABLE as error:
        raise _error(path, f"cannot be read ({str(error).partition(chr(10))[0]})") from error


def _tensor(path: Path) -> npt.NDArray[Any]:
    content = checkpoints.read_foreign(path)
    if not checkpoints.is_plain(content):
        raise _error(path, f"must hold one tensor, not a {type(content).__name__}")
    return content.float().numpy() if content.is_floating_point() else content.numpy()


def _chosen(path: Path, split: str | None, names: list[str]) -> list[str]:
    """The logits of a run's part, or the only array."""
    logits = [name for name, part in PARTS.items() if name in names and split in (None, part)]
    if not logits and len(names) != 1:
        raise _error(path, f"must hold one array, or a run's {split or 'test'}_logits; it has {', '.join(names)}")
    return (logits or names)[:1]


def _split_of(path: Path, count: int, sizes: dict[str, int], split: str | None) -> str:
    fitting = [part for part, size in sizes.items() if size == count and split in (None, part)]
    have = " and ".join(f"{size:,} {part}" for part, size in sizes.items() if split in (None, part))
    if not fitting:
        raise _error(
            path, f"has {count:,} predictions, and the data set {have} images: one prediction per image is needed"
        )
    if len(fitting) > 1:
        raise _error(
            path, f"has {count:,} predictions, and both parts as many images: give --split=test or --split=val"
        )
    return fitting[0]


def _labels(path: Path, array: npt.NDArray[Any], num_classes: int) -> npt.NDArray[np.int64]:
    labels = array.astype(np.int64)
    if (labels != array).any():
        raise _error(path, "holds labels that are not whole numbers")
    if labels.min() < 0 or labels.max() >= num_classes:
        hint = "; classes count from 0" if labels.min() == 1 and labels.max() == num_classes else ""
        raise _error(
            path, f"holds labels from {labels.min()} to {labels.max()}, not within 0 to {num_classes - 1}{hint}"
        )
    return labels


def _error(path: Path, why: str) -> UserError:
    return UserError(f"--predictions={path} {why}")
