"""Checkpoints: written so that a crash leaves a usable file, read so that nothing is used unchecked.

A checkpoint says everything needed to use it: the architecture and its arguments, class names, preprocessing, the split
it was selected on, and the accuracy it had there. Weights are loaded completely or not at all.
"""

import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import kdignite
from kdignite.data.specs import Preprocessing, preprocessing_from
from kdignite.errors import UserError

FORMAT = 1  # raised when files of an older version can no longer be read as they are
LISTED = 6  # keys named in an error; the rest is counted
TEMPORARY = ".tmp-"
FOLDER_BIT = 0x10  # MS-DOS attribute of an entry of an archive

# What torch and zipfile raise on bytes that are no file of torch.save, or not any more. The last four come from files
# without checksums (torch before 1.6), whose every byte is trusted.
UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError),
    *(LookupError, TypeError, AssertionError, struct.error),
)


class Architecture(NamedTuple):
    """How a model is built: a name of the registry or ``package.module:function``, and its arguments."""

    name: str
    options: dict[str, Any]


class Origin(NamedTuple):
    """What a model was trained on, and how."""

    command: str  # teacher, baseline, distill or adopt
    dataset: str
    fingerprint: str  # of the data
    split: str  # hash of which images are for training, validation and test
    val_size: float | None
    image_size: int  # side at which images were kept before any preprocessing
    augment: str
    label_smoothing: float
    partial: bool  # a dry run, or trained on a limited number of images


class Validation(NamedTuple):
    """What the model scored on the validation images when it was saved."""

    num_correct: int
    num_images: int
    epoch: int  # counted from 1

    @property
    def accuracy(self) -> float:
        """The share of correct predictions, in [0, 1]."""
        return self.num_correct / self.num_images


class Description(NamedTuple):
    """Everything that using a model needs, beside its weights."""

    architecture: Architecture
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    origin: Origin
    validation: Validation


class Checkpoint(NamedTuple):
    """A model as it was read: a description and weights on the CPU."""

    description: Description
    weights: dict[str, Tensor]
    path: Path


def to_payload(description: Description, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a checkpoint file holds: plain values and tensors, readable without running code.

    Args:
        description: of the model.
        weights: its state dict.

    Returns:
        The dict that `from_payload` reads.
    """
    return {
        "format": FORMAT,
        "kdignite": kdignite.__version__,
        "architecture": description.architecture._asdict(),
        "classes": list(description.classes),
        "preprocessing": _plain(description.preprocessing),
        "origin": description.origin._asdict(),
        "validation": description.validation._asdict(),
        "weights": dict(weights),
    }


def from_payload(payload: Mapping[str, Any], path: Path) -> Checkpoint:
    """The checkpoint in what was read from a file.

    Args:
        payload: as `to_payload` made it.
        path: the file, for messages.

    Returns:
        The checkpoint.

    Raises:
        UserError: if the file is no kdignite checkpoint, or of a newer format.
    """
    if not isinstance(payload, Mapping) or "format" not in payload:
        raise UserError(
            f"{path} is no kdignite checkpoint (it has no description of its model): "
            f"python -m kdignite adopt {path} --arch=... --size=... --mean=... --std=... makes one of it"
        )
    if payload["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {payload['format']}, written by kdignite {payload.get('kdignite', '?')}; "
            f"this is kdignite {kdignite.__version__}, which reads format {FORMAT}"
        )
    try:
        architecture = payload["architecture"]
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in architecture["options"].items()}
        description = Description(
            architecture=Architecture(architecture["name"], options),
            classes=tuple(payload["classes"]),
            preprocessing=preprocessing_from(payload["preprocessing"]),
            origin=Origin(**payload["origin"]),
            validation=Validation(**payload["validation"]),
        )
        return Checkpoint(description, _tensors(payload["weights"]), path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its description cannot be read ({error!r})") from error


def write(path: Path, payload: Mapping[str, Any]) -> None:
    """Write a file so that at every moment either the old or the new one is complete on the disk.

    Temporary file in the same folder, sync, rename, sync of the folder; the old file is gone only with the rename.

    Args:
        path: where to; an existing file is replaced.
        payload: tensors and plain values.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            torch.save(dict(payload), file)
            file.flush()
            os.fsync(file.fileno())
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


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights into a model completely, or raise before the first one is touched.

    Args:
        model: as its architecture builds it.
        weights: its state dict.
        source: where they come from, for messages.

    Raises:
        UserError: if a key is missing or unexpected, a shape or a type differs, or a value is not finite. The message
            lists the keys and names a prefix that would make them match.
    """
    own = model.state_dict()
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise UserError(
            f"the weights of {source} do not fit the model: missing {listed(missing)}; unexpected {listed(unexpected)}"
            f"{_prefix_hint(own, weights)}"
        )
    wrong = [
        f"{key} {_shape(weights[key])} for {_shape(own[key])}" for key in own if not _alike(weights[key], own[key])
    ]
    if wrong:
        raise UserError(f"the weights of {source} do not fit the model: {listed(wrong)}")
    broken = [key for key, value in weights.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise UserError(f"the weights of {source} are not finite numbers: {listed(broken)}")
    model.load_state_dict(dict(weights), strict=True)


def state_dict_in(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict in somebody else's file: the content itself, or the one dict of tensors among its entries.

    Args:
        content: what `read` returned.
        path: the file, for messages.

    Returns:
        Names to tensors.

    Raises:
        UserError: if there is none, or more than one.
    """
    if _is_state_dict(content):
        return dict(content)
    found = {k: v for k, v in content.items() if _is_state_dict(v)} if isinstance(content, Mapping) else {}
    if len(found) != 1:
        have = f"one of {', '.join(map(str, found))}" if found else "none"
        raise UserError(f"{path} must hold one state dict (names to tensors); found {have}: save that one alone")
    return dict(next(iter(found.values())))


def strip_prefix(weights: Mapping[str, Tensor], prefix: str, path: Path) -> dict[str, Tensor]:
    """Take a prefix off the front of every key.

    Args:
        weights: a state dict.
        prefix: such as ``module.``; empty: nothing is done.
        path: the file, for messages.

    Returns:
        The state dict with shorter keys.

    Raises:
        UserError: if a key does not start with the prefix.
    """
    others = [key for key in weights if not key.startswith(prefix)]
    if others:
        raise UserError(f"not every key of {path} starts with {prefix!r}: {listed(others)}")
    return {key.removeprefix(prefix): value for key, value in weights.items()}


def listed(words: list[str]) -> str:
    """A few words and a count of the rest.

    Args:
        words: any number of them.

    Returns:
        Text such as ``a, b and 4 more``, or ``none``.
    """
    if not words:
        return "none"
    rest = len(words) - LISTED
    return ", ".join(words[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    if not _is_state_dict(values):
        raise TypeError("weights that are no tensors")
    return dict(values)


def _plain(preprocessing: Preprocessing) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in preprocessing._asdict().items()}


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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _shape(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(v, Tensor) for v in value.values())


def _prefix_hint(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What to strip, where stripping one prefix would make the keys match."""
    longest = min(weights, key=len, default="")
    ends = [index + 1 for index, letter in enumerate(longest) if letter == "."]
    for prefix in (longest[:end] for end in ends):
        if {key.removeprefix(prefix) for key in weights if key.startswith(prefix)} == set(own):
            return f"; they match without their prefix: --strip_prefix={prefix}"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
