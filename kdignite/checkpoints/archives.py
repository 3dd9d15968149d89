"""Archives of ``torch.save`` and ``np.savez``: what their directory claims, compared with what is there."""

import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO

HEADER = b"PK\x03\x04"  # what an archive starts with
END = b"PK\x05\x06"  # of the record that ends an archive without comment
END_BYTES = 22
ENTRY_BYTES = 30  # of the header before each entry, without its name
FOLDER_BIT = 0x10  # MS-DOS attribute of an entry
ENCRYPTED = 0x1  # flag of an entry
COMPRESSED_SHARE = 16  # what is compressed may claim this many times the file, or
COMPRESSED_BYTES = 256 * 2**20  # so many bytes
# The header of an array of plain numbers: its own length, bytes a number, and the shape.
ARRAY = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '[<|][biuf]([1248])', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
ARRAY_START, LONGEST_HEADER = 10, 1024  # bytes


def is_archive(file: IO[bytes]) -> bool:
    """Whether torch takes a file for an archive, which its first four bytes decide."""
    file.seek(0)
    start = file.read(len(HEADER))
    file.seek(0)
    return start == HEADER


def check_archive(file: IO[bytes], *, may_be_compressed: bool = False) -> Mapping[str, int]:
    """Check the directory of an archive, and the checksum of every entry.

    Two programs that read an archive may see different entries in it where names repeat, entries overlap, or something
    follows its end; so there is no such archive here.
    """
    num_bytes = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
        file.seek(max(0, num_bytes - END_BYTES))
        if file.read(len(END)) != END or len({entry.filename.lower() for entry in entries}) != len(entries):
            raise zipfile.BadZipFile("its directory can be read in two ways")
        _check_entries(entries, num_bytes=num_bytes, may_be_compressed=may_be_compressed)
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged}")
    return {entry.filename: entry.file_size for entry in entries}


def check_arrays(file: IO[bytes]) -> None:
    """Refuse an archive of ``np.savez`` unless every entry holds the plain numbers that its header claims."""
    sizes = check_archive(file, may_be_compressed=True)
    with zipfile.ZipFile(file) as archive:
        for name, size in sizes.items():
            with archive.open(name) as entry:
                header = ARRAY.match(entry.read(LONGEST_HEADER))
            if header is None or header.end() != ARRAY_START + int.from_bytes(header[1], "little"):
                raise zipfile.BadZipFile(f"{name} is no array of plain numbers")
            shape = [int(length) for length in header[3].replace(b",", b" ").split()]
            if header.end() + int(header[2]) * math.prod(shape) != size:
                raise zipfile.BadZipFile(f"{name} claims other numbers than it holds")


def _check_entries(entries: Sequence[zipfile.ZipInfo], *, num_bytes: int, may_be_compressed: bool) -> None:
    """What can be known before a byte of any entry is read."""
    end = 0
    for entry in entries:
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        # torch reads nothing for an entry that is marked as a folder: its tensor would be whatever was in memory
        if entry.external_attr & FOLDER_BIT or entry.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"{entry.filename} is a folder or encrypted")
        if not stored and not may_be_compressed:
            raise zipfile.BadZipFile(f"{entry.filename} is compressed")
        if entry.header_offset < end:
            raise zipfile.BadZipFile(f"{entry.filename} overlaps another entry")
        end = entry.header_offset + ENTRY_BYTES + len(entry.filename) + entry.compress_size
    claimed = sum(entry.file_size for entry in entries)
    allowed = max(COMPRESSED_SHARE * num_bytes, COMPRESSED_BYTES) if may_be_compressed else num_bytes
    if end > num_bytes or claimed > allowed:
        raise zipfile.BadZipFile(f"it claims {claimed:,} bytes in a file of {num_bytes:,}")
