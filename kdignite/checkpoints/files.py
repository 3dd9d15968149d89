"""Files: kdignite's own in safetensors, written so that a crash leaves a usable one; and those of others.

The header of an own file holds everything that is no tensor, as JSON under the key ``kdignite``. That JSON begins with
the SHA-256 of the whole file, computed with 64 zeros in its place.
"""

import hashlib
import json
import pickle
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

from kdignite.checkpoints.description import Checkpoint, from_payload, no_checkpoint
from kdignite.checkpoints.tree import flatten, unflatten
from kdignite.errors import UserError, brief
from kdignite.files import LARGEST_JSON, write_atomically

# What torch, safetensors, numpy and zipfile raise on bytes that are no file of theirs, or not any more.
UNREADABLE = (
    *(SafetensorError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError, MemoryError),
    *(LookupError, TypeError, AssertionError, AttributeError, ArithmeticError, struct.error),
)
LENGTH_BYTES = 8  # before the header: its length
START = b'{"__metadata__":{"kdignite":"{\\"sha256\\":\\"'  # of the header of an own file
ZEROS = b"0" * 64
DIGEST = slice(LENGTH_BYTES + len(START), LENGTH_BYTES + len(START) + len(ZEROS))  # bytes of the file
ARCHIVE, PICKLE = b"PK\x03\x04", b"\x80"  # what files of torch.save start with


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


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of kdignite, completely and checked; nothing in it can run.

    Args:
        path: a ``best.safetensors``.

    Returns:
        The description of the model, and its weights on the CPU.

    Raises:
        UserError: if it is missing, damaged, or of another kind or format.
    """
    with _opened(path) as file:
        if not _is_own(file.read(DIGEST.stop)):
            raise no_checkpoint(path)
    return from_payload(read(path), path)


def read_foreign(path: Path) -> Any:
    """Read somebody else's file of ``torch.save`` or safetensors, without running anything it names; or an own one."""
    with _opened(path) as file, _refusing(path, "was not written by torch.save or safetensors"):
        start = file.read(DIGEST.stop)
        file.seek(0)
        if _is_own(start):
            return read(path)
        if start.startswith((ARCHIVE, PICKLE)):
            return _unpickled(path, file)
        return dict(sorted(safetensors.torch.load(file.read()).items()))  # else in another order each time


def _unpickled(path: Path, file: IO[bytes]) -> Any:
    try:
        _check_archive(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols that torch refuses anyway
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = brief(_first_line(error.__context__ or error))  # torch's own text advises to lift the limits
        raise UserError(
            f"{path} is no file of torch.save, or holds more than tensors and plain values ({why}), "
            "so it was not loaded: save the state dict alone, torch.save(model.state_dict(), FILE)"
        ) from error


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
        raise UserError(f"there is no file {path}")
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
