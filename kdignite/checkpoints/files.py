"""Files: written so that a crash leaves a usable one, read so that nothing is used unchecked."""

import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch

from kdignite.checkpoints.description import Checkpoint, from_payload
from kdignite.errors import UserError

TEMPORARY = ".tmp-"
FOLDER_BIT = 0x10  # MS-DOS attribute of an entry of an archive
# What torch and zipfile raise on bytes that are no file of torch.save, or not any more. The last four come from files
# without checksums (torch before 1.6), whose every byte is trusted.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError),
    *(LookupError, TypeError, AssertionError, struct.error),
)


def write(path: Path, payload: Mapping[str, Any], *, previous: Path | None = None) -> None:
    """Write a file so that at every moment either the old or the new one is complete on the disk.

    Temporary file in the same folder, sync, rename, sync of the folder; the old file is gone only with the rename.

    Args:
        path: where to; an existing file is replaced.
        payload: tensors and plain values.
        previous: the name that an existing file gets instead of being dropped; None: it is dropped.

    Raises:
        OSError: if it cannot be written (the disk is full, say); the old file is still there then.
    """
    replace(path, lambda file: _save(dict(payload), file), previous=previous)


def replace(path: Path, save: Callable[[IO[bytes]], Any], *, previous: Path | None = None) -> None:
    """Put a new file in place of an old one, completely or not at all.

    Args:
        path: where to; an existing file is replaced.
        save: writes the content into an open binary file.
        previous: the name that an existing file gets instead of being dropped; None: it is dropped.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            save(file)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def read(path: Path) -> Any:
    """Read a file that ``torch.save`` wrote, after checking its checksums, without running anything it names.

    Args:
        path: the file.

    Returns:
        Tensors on the CPU and plain values.

    Raises:
        UserError: if it is missing, damaged, or holds anything but tensors and plain values.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        _check_archive(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what matters follows: loaded or refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise UserError(f"{path} is damaged, or was not written by torch.save ({_first_line(error)})") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is no file of torch.save, or holds more than tensors and plain values, so it was not loaded: "
            "save the state dict alone, torch.save(model.state_dict(), FILE)"
        ) from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint of kdignite.

    Args:
        path: the file.

    Returns:
        Its description and weights.

    Raises:
        UserError: as `read` and `from_payload`.
    """
    return from_payload(read(path), path)


def _check_archive(path: Path) -> None:
    """The checksum of every entry; files of torch before 1.6 are no archives and have none."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # torch reads nothing for an entry that is marked as a folder: its tensor would be whatever was in memory
        folders = [entry.filename for entry in archive.infolist() if entry.external_attr & FOLDER_BIT]
        damaged = folders[0] if folders else archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"checksum of {damaged}")


def _save(payload: dict[str, Any], file: IO[bytes]) -> None:
    try:
        torch.save(payload, file)
    except RuntimeError as error:  # what torch's archive writer makes of a full disk
        reason = error.__context__ if isinstance(error.__context__, OSError) else error
        raise OSError(_first_line(reason)) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
