"""What a checkpoint says of its model, and how that is laid out in a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

import kdignite
from kdignite import schema
from kdignite.checkpoints.weights import is_state_dict
from kdignite.config import command_line
from kdignite.data.specs import Preprocessing, check_class_names, preprocessing_from
from kdignite.errors import UserError, brief

FORMAT = 2  # raised when files of an older version can no longer be read as they are
LARGEST_IMAGE = 8192  # side in pixels
LARGEST_OPTION = 2**31  # of the numbers in an architecture's options
MOST_OPTIONS = 64


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
    """What a checkpoint file holds: plain JSON values, and tensors."""
    return {
        "format": FORMAT,
        "kdignite": kdignite.__version__,
        "architecture": {"name": description.architecture.name, "options": _listed(description.architecture.options)},
        "classes": list(description.classes),
        "preprocessing": _listed(description.preprocessing._asdict()),
        "origin": description.origin._asdict(),
        "validation": description.validation._asdict(),
        "weights": dict(weights),
    }


def from_payload(payload: Mapping[str, Any], path: Path) -> Checkpoint:
    """The checkpoint in what was read from a file."""
    _check_format(payload, path)
    try:
        description = Description(
            architecture=_architecture(schema.mapping(payload, "architecture")),
            classes=_classes(schema.sequence(payload, "classes")),
            preprocessing=preprocessing_from(schema.mapping(payload, "preprocessing")),
            origin=_origin(schema.mapping(payload, "origin")),
            validation=_validation(schema.mapping(payload, "validation")),
        )
        return Checkpoint(description, _tensors(payload.get("weights")), path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: its description cannot be read ({brief(error)})") from error


def no_checkpoint(path: Path) -> UserError:
    """What to do with somebody else's file."""
    return UserError(
        f"{path} is no kdignite checkpoint (it has no description of its model), or is damaged: "
        f"{command_line('adopt', path)} --arch=... --size=... --mean=... --std=... makes one of a state dict"
    )


def _check_format(payload: Mapping[str, Any], path: Path) -> None:
    """Refuse what is something else than a checkpoint, or one of another time."""
    if "about" in payload:
        raise UserError(f"{path} is the state of an unfinished run: use {path.with_name('best.safetensors')}")
    if "format" not in payload:
        raise no_checkpoint(path)
    if type(payload["format"]) is not int or payload["format"] != FORMAT:
        raise UserError(
            f"{path} has checkpoint format {brief(payload['format'])}, written by kdignite "
            f"{brief(payload.get('kdignite', '?'))}; "
            f"this is kdignite {kdignite.__version__}, which reads format {FORMAT}"
        )


def _architecture(values: Mapping[str, Any]) -> Architecture:
    options = schema.mapping(values, "options")
    if len(options) > MOST_OPTIONS:
        raise ValueError(f"a model with {len(options)} options")
    return Architecture(schema.name(values, "name"), {key: _option(key, value) for key, value in options.items()})


def _option(key: str, value: Any) -> Any:
    """A word, a number, or some of them; its builder checks what it takes."""
    items = value if isinstance(value, list | tuple) else [value]
    large = any(isinstance(item, int | float) and abs(item) > LARGEST_OPTION for item in items)
    if large or not schema.is_setting(value):
        raise ValueError(f"option {brief(key)} must be a word, a number or a few of them, not {brief(value)}")
    return tuple(items) if isinstance(value, list | tuple) else value


def _classes(names: list[Any]) -> tuple[str, ...]:
    check_class_names(names)
    return tuple(names)


def _origin(values: Mapping[str, Any]) -> Origin:
    _check_keys(values, Origin._fields)
    words = ("command", "dataset", "fingerprint", "split", "augment")
    return Origin(
        **{key: schema.text(values, key) for key in words},
        val_size=None if values["val_size"] is None else schema.number(values, "val_size", above=0),
        image_size=schema.count(values, "image_size", low=1, high=LARGEST_IMAGE),
        label_smoothing=_share(values, "label_smoothing"),
        partial=schema.flag(values, "partial"),
    )


def _validation(values: Mapping[str, Any]) -> Validation:
    _check_keys(values, Validation._fields)
    num_images = schema.count(values, "num_images", low=1)
    return Validation(
        num_correct=schema.count(values, "num_correct", high=num_images),
        num_images=num_images,
        epoch=schema.count(values, "epoch"),  # 0: adopted: unknown
    )


def _share(values: Mapping[str, Any], key: str) -> float:
    share = schema.number(values, key, below=1)
    if share < 0:
        raise ValueError(f"{key} must be at least 0, not {share:g}")
    return share


def _check_keys(values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if {*values} != {*known}:
        odd = sorted({*values} ^ {*known})
        raise ValueError(f"{brief(odd[0])} is one entry too {'many' if odd[0] in values else 'few'}")


def _tensors(values: Any) -> dict[str, Tensor]:
    if not is_state_dict(values):
        raise ValueError("weights that are no tensors")
    return dict(values)


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
