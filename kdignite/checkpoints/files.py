"""Files: written so that a crash leaves a usable one, read so that nothing is used unchecked."""

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch

from kdignite.checkpoints.archives import check_archive, is_archive
from kdignite.checkpoints.description import Checkpoint, from_payload
from kdignite.checkpoints.vetting import LIMIT_BYTES, Node, vet
from kdignite.errors import UserError, brief
from kdignite.files import write_atomically

# What torch, numpy and zipfile raise on bytes that are no file of theirs, or not any more.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError),
    *(LookupError, TypeError, AssertionError, struct.error),
)
OLD_MAGIC, OLD_PROTOCOL, OLD_COUNT_BYTES = 0x1950A86A20F9469CFC6C, 1001, 8  # of files of torch before 1.6


def write(path: Path, payload: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write a file so that at every moment either the old or the new one is complete on the disk.

    Temporary file in the same folder, sync, rename, sync of the folder; the old file is gone only with the rename.
    """
    write_atomically(path, lambda file: _save(dict(payload), file), previous=previous)


def read(path: Path, *, may_be_old: bool = True) -> Any:
    """Read a file that ``torch.save`` wrote, after following what it asks for, without running anything it names."""
    if not path.is_file():  # what follows links; a pipe or a device is none, and might never end
        raise UserError(f"there is no file {path}")
    try:
        with path.open("rb") as file:  # once: what was checked is what is loaded, even if the name changes hands
            _check(file, may_be_old=may_be_old)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        why = brief(_first_line(error))
        raise UserError(f"{path} is damaged, or was not written by torch.save ({why})") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of torch.save, or holds more than tensors and plain values "
            f"({brief(_first_line(error))}), so it was not loaded: "
            "save the state dict alone, torch.save(model.state_dict(), FILE)"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint of kdignite."""
    return from_payload(read(path, may_be_old=False), path)


def _check(file: IO[bytes], *, may_be_old: bool) -> None:
    """Refuse a file that is damaged, or asks for more than it holds."""
    if is_archive(file):
        _check_new(file)
        return
    _check_old(file)
    if not may_be_old:
        raise ValueError("a file of torch before 1.6, which has no checksums")


def _check_new(file: IO[bytes]) -> None:
    """Every entry by its checksum, the pickle, and the storages that it claims by the sizes of their entries."""
    sizes = check_archive(file)
    top = next(iter(sizes), "").partition("/")[0]
    if any(not name.startswith(f"{top}/") for name in sizes) or sizes.get(f"{top}/data.pkl", 0) > LIMIT_BYTES:
        raise zipfile.BadZipFile("an archive of something else")
    with zipfile.ZipFile(file) as archive:
        found = vet(io.BytesIO(archive.read(f"{top}/data.pkl")))
    for storage in found.storages.values():
        if sizes.get(f"{top}/data/{storage.key}") != storage.num_bytes:
            raise ValueError(f"a tensor claims {storage.num_bytes:,} bytes that are not there")


def _check_old(file: IO[bytes]) -> None:
    """Five pickles and then the numbers, without checksums: that the sizes agree is all that can be known."""
    pickled = io.BytesIO(file.read(LIMIT_BYTES))
    magic, protocol, _, found, keys = (vet(pickled) for _ in range(5))
    if magic.value != OLD_MAGIC or protocol.value != OLD_PROTOCOL:
        raise pickle.UnpicklingError("another kind of pickle")
    named = keys.value.items if isinstance(keys.value, Node) and keys.value.kind == "list" else []
    if {*named} != {*found.storages} or len(named) != len(found.storages):
        raise ValueError("tensors without numbers")
    end = pickled.tell() + sum(OLD_COUNT_BYTES + storage.num_bytes for storage in found.storages.values())
    if end != file.seek(0, os.SEEK_END):
        raise ValueError(f"its tensors end at byte {end:,}, the file does not")


def _save(payload: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(payload, file)
    except RuntimeError as error:  # what torch's archive writer makes of a full disk
        cause = error.__context__
        told = (cause.errno, cause.strerror) if isinstance(cause, OSError) else (_first_line(error),)
        raise OSError(*told) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
