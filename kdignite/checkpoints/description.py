"""What a checkpoint says of its model, and how that is laid out in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import kdignite
from kdignite.checkpoints.weights import is_state_dict
from kdignite.data.specs import Preprocessing, preprocessing_from
from kdignite.errors import UserError

FORMAT = 1  # raised when files of an older version can no longer be read as they are


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
    if isinstance(payload, Mapping) and "about" in payload:
        raise UserError(f"{path} is the state of an unfinished run: use {path.with_name('best.pt')}")
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
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged: its description cannot be read ({error!r})") from error


def _tensors(values: Mapping[str, Any]) -> dict[str, Tensor]:
    if not is_state_dict(values):
        raise TypeError("weights that are no tensors")
    return dict(values)


def _plain(preprocessing: Preprocessing) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in preprocessing._asdict().items()}
