"""The arrays of a finished run, each checked before it is believed."""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from kdignite import checkpoints, schema
from kdignite.errors import UserError, brief

ARRAYS = ("test_logits", "test_labels", "test_indices")
VALIDATION = ("val_logits", "val_labels")
COMPRESSED_SHARE, COMPRESSED_BYTES = 16, 256 * 2**20  # what arrays may come to: so many times the file, or bytes
# of an array of plain numbers: its own length, bytes a number, and the shape
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '[<|][biuf]([1248])', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
HEADER_START, LONGEST_HEADER = 10, 1024  # bytes
AGAIN = "make the run again, or leave it out"


def read_predictions(path: Path, *, num_classes: int) -> list[list[npt.NDArray[Any]]]:
    """Logits, labels and indices of the test images; then logits and labels of the validation images, if it has any."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no predictions.npz: make the run again")
    try:
        # opened here: numpy leaves a file open that is no archive
        with path.open("rb") as file:
            names = _check_arrays(file)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in names}
    except checkpoints.UNREADABLE as error:
        raise UserError(f"{path} is damaged ({brief(error)}): {AGAIN}") from error
    parts = [{name: arrays[name] for name in part} for part in (ARRAYS, VALIDATION) if part[0] in arrays]
    with schema.checked(path, advice=AGAIN):
        for part in parts:
            _check_predictions(part, num_classes=num_classes)
    return [list(part.values()) for part in parts]


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


def _check_arrays(file: IO[bytes]) -> list[str]:
    """The arrays to read; refuses headers that claim another size than they have, for which numpy would take memory."""
    num_bytes = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        there = {name.removesuffix(".npy") for name in archive.namelist()}
        read = [*ARRAYS, *(VALIDATION if there.issuperset(VALIDATION) else ())]  # others are never read
        names = [f"{name}.npy" for name in read]
        claimed = sum(archive.getinfo(name).file_size for name in names)
        if claimed > max(COMPRESSED_SHARE * num_bytes, COMPRESSED_BYTES):
            raise ValueError(f"it claims too much for a file of {num_bytes:,} bytes")
        for name in names:
            with archive.open(name) as entry:
                header = HEADER.match(entry.read(LONGEST_HEADER))
            if header is None or header.end() != HEADER_START + int.from_bytes(header[1], "little"):
                raise ValueError(f"{name} is no array of plain numbers")
            shape = [int(length) for length in header[3].replace(b",", b" ").split()]
            if header.end() + int(header[2]) * math.prod(shape) != archive.getinfo(name).file_size:
                raise ValueError(f"{name} claims other numbers than it holds")
    file.seek(0)
    return read
