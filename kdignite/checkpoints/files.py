"""Files: kdignite's own in safetensors, written so that a crash leaves a usable one; and those of others.

The header of an own file holds everything that is no tensor, as JSON under the key ``kdignite``. That JSON begins with
the SHA-256 of the whole file, computed with 64 zeros in its place.
"""

import hashlib
import json
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from kdignite.checkpoints.arrays import OtherArray, read_arrays
from kdignite.checkpoints.description import Checkpoint, from_payload, no_checkpoint
from kdignite.checkpoints.kinds import (
    ARCHIVE,
    FROM_TORCH,
    LENGTH_BYTES,
    PICKLE,
    conversion,
    is_npz,
    is_safetensors,
    kind_of,
    no_file,
)
from kdignite.checkpoints.tree import flatten, unflatten
from kdignite.errors import UserError, brief
from kdignite.files import LARGEST_JSON, write_atomically

# What torch, safetensors, numpy and zipfile raise on bytes that are no file of theirs, or not any more.
UNREADABLE = (
    *(SafetensorError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError, MemoryError),
    *(LookupError, TypeError, AssertionError, AttributeError, ArithmeticError, struct.error),
)
START = b'{"__metadata__":{"kdignite":"{\\"sha256\\":\\"'  # of the header of an own file
ZEROS = b"0" * 64
DIGEST = slice(LENGTH_BYTES + len(START), LENGTH_BYTES + len(START) + len(ZEROS))  # bytes of the file
PROTOCOL = b"\x80\x02"  # of pickle, in files of torch.save
OLD_MODULE = b"(X\x06\0\0\0moduleq\0"  # in those of the old format, before the class of a module
FRAME = 0x95  # the first operand of pickle protocol 4 and 5
HEADER_BYTES = 1024  # of a file of torch.save, within which its object begins
NUMBERS = "biufc"  # kinds of arrays that are tensors


def write(path: Path, payload: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write nested values and tensors so that at every moment the old or the new file is complete on the disk."""
    tensors: dict[str, Tensor] = {}
    values = {"sha256": ZEROS.decode(), **flatten(payload, tensors)}
    for name, shared in _sharing(tensors):
        tensors[name] = shared.clone()  # safetensors refuses tensors in the same memory
    text = json.dumps(values, separators=(",", ":"))
    content = memoryview(safetensors.torch.save(tensors, metadata={"kdignite": text}))
    digest = hashlib.sha256(content).hexdigest().encode()

    def save(file: IO[bytes]) -> None:
        for part in (content[: DIGEST.start], digest, content[DIGEST.stop :]):
            file.write(part)

    write_atomically(path, save, previous=previous)


def _sharing(tensors: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Those that lie in the memory of an earlier one."""
    first = {one.untyped_storage().data_ptr(): name for name, one in reversed([*tensors.items()])}
    return [(name, one) for name, one in tensors.items() if first[one.untyped_storage().data_ptr()] != name]


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote; nothing of it is used before the checksum was compared."""
    with _opened(path) as file, _refusing(path, "was not written by kdignite"):
        content = file.read()
        if not _is_own(content):
            raise ValueError("another kind of file")
        if content[DIGEST] != _digest(content):
            raise ValueError("its checksum differs")
        tensors = safetensors.torch.load(content)
        header_end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        if header_end > LARGEST_JSON:
            raise ValueError(f"a description of {header_end:,} bytes")
        values = json.loads(json.loads(content[LENGTH_BYTES:header_end])["__metadata__"]["kdignite"])
        del values["sha256"]
        return dict(unflatten(values, tensors))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of kdignite, completely and checked; nothing in it can run.

    Args:
        path: a ``best.safetensors``.

    Returns:
        The description of the model, and its weights on the CPU.

    Raises:
        UserError: if it is missing, damaged, or of another kind or format.
    """
    path = Path(path)
    with _opened(path) as file:
        if not _is_own(file.read(DIGEST.stop)):
            raise no_checkpoint(path)
    return from_payload(read(path), path)


def read_foreign(path: Path) -> Any:
    """Read somebody else's file without running anything it names: of torch.save, safetensors or ``numpy.savez``.

    Raises:
        UserError: if it is missing, damaged, holds more than tensors and plain values, or is of another kind; the
            error says which one, and what converts it.
    """
    with _opened(path) as file, _refusing(path, "was not written by torch.save or safetensors"):
        start = file.read(DIGEST.stop)
        file.seek(0)
        if not start:
            raise ValueError("it is empty")
        if _is_own(start):
            return read(path)
        has_header = is_safetensors(start)
        if not has_header and (kind := kind_of(path, file)):
            raise UserError(f"{path} is {kind}")
        if has_header or not start.startswith((ARCHIVE, PICKLE)):
            return dict(sorted(safetensors.torch.load(file.read()).items()))  # else in another order each time
        return _arrays(path, file) if start.startswith(ARCHIVE) and is_npz(_members(file)) else _unpickled(path, file)


def _members(file: IO[bytes]) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    file.seek(0)
    return names


def _arrays(path: Path, file: IO[bytes]) -> dict[str, Any]:
    """The arrays of a file of ``numpy.savez`` as tensors; those of text as they are."""
    try:
        arrays = read_arrays(file, list)
    except OtherArray as error:
        raise UserError(f"{path} holds other things too: {error}: leave it out") from error
    return {
        name: torch.from_numpy(one.astype(one.dtype.newbyteorder("="))) if one.dtype.kind in NUMBERS else one
        for name, one in arrays.items()
    }


def _unpickled(path: Path, file: IO[bytes]) -> Any:
    try:
        _check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that torch refuses anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = _first_line(error.__context__ or error)  # torch's own text advises to lift the limits
        named = re.search(r"GLOBAL (\S+)", why)
        if named and _is_object_of(named[1], file):
            what = f"is a whole pickled object, {brief(named[1])}"
        elif why.endswith(f"operand {FRAME}"):
            what = "was written with pickle protocol 4 or 5, which torch does not read without running code"
        else:
            what = f"holds more than tensors and plain values ({brief(why.partition(' was not an allowed')[0])})"
        line = conversion(FROM_TORCH, path)
        raise UserError(
            f"{path} {what}, so it was not loaded and nothing in it was run; if you trust its source, this saves its "
            f"weights alone: {line}"
        ) from error


def _is_object_of(name: str, file: IO[bytes]) -> bool:
    """Whether what a file of torch.save holds is one object of a class, such as a module."""
    file.seek(0)
    head = file.read(HEADER_BYTES)
    if head.startswith(ARCHIVE):
        with zipfile.ZipFile(file) as archive:
            pickled = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(pickled) as entry:
                head = entry.read(HEADER_BYTES)
    module, _, last = name.rpartition(".")
    named = f"c{module}\n{last}\n".encode()
    return any(start + named in head for start in (PROTOCOL, PROTOCOL + OLD_MODULE))


def _check_archive(file: IO[bytes]) -> None:
    """What torch does not check: that entries have their checksums, and are not compressed."""
    if file.read(len(ARCHIVE)) == ARCHIVE:
        with zipfile.ZipFile(file) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > file.seek(0, 2):
                raise zipfile.BadZipFile("it claims more bytes than it has")
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"checksum of {damaged}")
    file.seek(0)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file that is opened once: what was checked is what is read, even if the name changes hands."""
    if not path.is_file():  # what follows links; a pipe or a device is none, and might never end
        raise UserError(no_file(path))
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def _refusing(path: Path, otherwise: str) -> Iterator[None]:
    """Within the block an unreadable file is a `UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged, or {otherwise} ({brief(_first_line(error))})") from error


def _is_own(content: bytes) -> bool:
    return content[LENGTH_BYTES : DIGEST.start] == START


def _digest(content: bytes) -> bytes:
    sha = hashlib.sha256(content[: DIGEST.start] + ZEROS)
    sha.update(memoryview(content)[DIGEST.stop :])
    return sha.hexdigest().encode()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
