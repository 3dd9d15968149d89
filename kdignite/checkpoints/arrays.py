"""Arrays in a file of ``numpy.savez``, which take no more memory than such a file may mean."""

import math
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

COMPRESSED_SHARE, COMPRESSED_BYTES = 16, 256 * 2**20  # what arrays may come to: so many times the file, or bytes
# of an array of numbers or text: its own length, bytes a number or letters a word, and the shape
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '[<>|=]([biufcSUV])([0-9]{1,9})', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
HEADER_START, LONGEST_HEADER = 10, 1024  # bytes
LETTER_BYTES = 4


class OtherArray(ValueError):
    """An array of something else than numbers or text."""


def read_arrays(file: IO[bytes], choose: Callable[[list[str]], Sequence[str]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays that are chosen among the names in a file; no other is read.

    Raises:
        OtherArray: if one is no array of numbers or text.
        ValueError: if they claim too much for the file, or one claims another size than it has, for which numpy would
            take memory; what is no such file raises one of `UNREADABLE`.
    """
    num_bytes = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        names = choose([name.removesuffix(".npy") for name in archive.namelist()])
        claimed = sum(archive.getinfo(f"{name}.npy").file_size for name in names)
        if claimed > max(COMPRESSED_SHARE * num_bytes, COMPRESSED_BYTES):
            raise ValueError(f"it claims too much for a file of {num_bytes:,} bytes")
        for name in names:
            _check_header(archive, f"{name}.npy")
    file.seek(0)
    with np.load(file, allow_pickle=False) as stored:
        return {name: stored[f"{name}.npy"] for name in names}


def _check_header(archive: zipfile.ZipFile, name: str) -> None:
    with archive.open(name) as entry:
        header = HEADER.match(entry.read(LONGEST_HEADER))
    if header is None or header.end() != HEADER_START + int.from_bytes(header[1], "little"):
        raise OtherArray(f"{name} is no array of plain numbers or text")
    shape = [int(length) for length in header[4].replace(b",", b" ").split()]
    item_bytes = int(header[3]) * (LETTER_BYTES if header[2] == b"U" else 1)
    if header.end() + item_bytes * math.prod(shape) != archive.getinfo(name).file_size:
        raise ValueError(f"{name} claims other numbers than it holds")
