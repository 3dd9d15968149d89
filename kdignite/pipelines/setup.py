"""From a config to the things a run is made of: device, data, model. No file is written here."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from kdignite import checkpoints
from kdignite.checkpoints import Architecture, Checkpoint, Origin
from kdignite.config import TrainConfig
from kdignite.data.batches import image_side, on_device, pixel_batches
from kdignite.data.preprocess import Prepare, Statistics, measure_statistics, preparer, statistics_sample
from kdignite.data.sources import Source, load_source
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from kdignite.data.splits import Part, Splits, limited, split_source
from kdignite.errors import UserError
from kdignite.evaluation import Logits, fed
from kdignite.models.registry import build_model, check_model
from kdignite.models.weights import imagenet_file, transfer_weights
from kdignite.streams import seeded

DATA_ROOT = "data"
DATASET = "cifar10"  # where neither a flag nor a teacher names one
DEV_STEPS = 2  # steps and evaluation batches of a dry run

Say = Callable[[str], None]
T = TypeVar("T", bound=TrainConfig)


class Data(NamedTuple):
    """A source, cut into parts that lie on the device that computes."""

    source: Source
    splits: Splits
    image_size: int


class Student(NamedTuple):
    """A model to be trained, and how it is fed."""

    model: nn.Module
    prepare: Prepare
    preprocessing: Preprocessing
    architecture: Architecture


def say(line: str) -> None:
    """Print a line at once, also into a pipe.

    Args:
        line: of text.
    """
    print(line, flush=True)


def choose_device(name: str, *, threads: int | None) -> torch.device:
    """The device that computes.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU; None: as torch chooses.

    Returns:
        The device; ``auto`` is the first GPU, else the CPU.

    Raises:
        UserError: if it is not there. Nothing falls back to the CPU unasked.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device={name} is not there: torch sees {torch.cuda.device_count()} GPUs; try --device=cpu")
    return device


def data_folder(data_root: str | None) -> Path:
    """The folder of data sets.

    Args:
        data_root: as asked for; None: the environment's KDIGNITE_DATA, else ``data``.

    Returns:
        The folder, which need not exist.
    """
    return Path(data_root or os.environ.get("KDIGNITE_DATA") or DATA_ROOT)


def open_data(
    dataset: str, *, data_root: str | None, val_size: float | None, image_size: int, device: torch.device
) -> Data:
    """Load a data set, getting it first where it is missing, and cut it into its parts.

    Args:
        dataset: its name.
        data_root: folder of data sets.
        val_size: validation images; None: the data set's own number.
        image_size: side at which images of varying size are kept.
        device: that computes.

    Returns:
        The data, on the device.
    """
    source = load_source(dataset, data_root=data_folder(data_root), image_size=image_size)
    splits = split_source(source, val_size=val_size)
    train, val, test = _placed(splits, device)
    return Data(source, Splits(train, val, test, splits.hash), image_side(source.train))


def open_training_data(config: TrainConfig, *, device: torch.device) -> Data:
    """The data that a training command names.

    Args:
        config: of the run.
        device: that computes.

    Returns:
        The data, on the device.
    """
    return open_data(
        config.dataset or DATASET,
        data_root=config.data_root,
        val_size=config.val_size,
        image_size=config.image_size or config.size,
        device=device,
    )


def settle(config: T, data: Data, *, device: torch.device) -> T:
    """The config with every value that was left open filled in, which is what a run records.

    Args:
        config: as given.
        data: that it names.
        device: that computes.

    Returns:
        The resolved config.
    """
    source = data.source
    own_val_size = None if source.val is not None else source.default_val_size
    return dataclasses.replace(
        config,
        dataset=source.name,
        val_size=own_val_size if config.val_size is None else config.val_size,
        image_size=data.image_size,
        augment=config.augment or source.default_augment,
        normalize=config.normalize or ("imagenet" if config.weights == "imagenet" else "data"),
        device=str(device),
        threads=torch.get_num_threads(),
        epochs=1 if config.fast_dev_run else config.epochs,
        warmup_epochs=0.0 if config.fast_dev_run else config.warmup_epochs,
    )


def training_part(config: TrainConfig, data: Data) -> Part:
    """The images that are trained on.

    Args:
        config: whose limit applies.
        data: with its training part.

    Returns:
        The part, or as much of it as the limit allows.
    """
    return limited(data.splits.train, config.limit_train)


def build_student(config: TrainConfig, data: Data, *, device: torch.device) -> Student:
    """The model of a run with its initial weights, a function of the seed.

    Args:
        config: resolved.
        data: whose classes and statistics it gets.
        device: that computes.

    Returns:
        The model on the device, in channels_last memory, with its preprocessing.
    """
    architecture = architecture_of(config)
    with seeded("init", config.seed):
        model = build_model(
            architecture.name, num_classes=len(data.source.classes), size=config.size, options=architecture.options
        )
    load_initial_weights(model, config)
    statistics = _statistics(config, data)
    preprocessing = Preprocessing(config.size, statistics.mean, statistics.std)
    return Student(_on(model, device), preparer(preprocessing, device=device), preprocessing, architecture)


def architecture_of(config: Any) -> Architecture:
    """What the config says of the model: its name, and the options that were set.

    Args:
        config: with ``arch``, ``widths`` and ``stem``.

    Returns:
        The architecture.
    """
    options = {"widths": config.widths, "stem": config.stem}
    return Architecture(config.arch, {key: value for key, value in options.items() if value is not None})


def check_architecture(config: TrainConfig) -> None:
    """Refuse a model that cannot be built as asked, before anything is loaded.

    Args:
        config: of the run.
    """
    check_model(config.arch, size=config.size, options=architecture_of(config).options)
    if config.weights == "imagenet" and config.stem == "cifar":
        raise UserError("--weights=imagenet are made for --stem=imagenet: leave out --stem=cifar, or --weights")
    if config.weights not in ("none", "imagenet") and not Path(config.weights).is_file():
        raise UserError(f"--weights must be none, imagenet or a file; there is no file {config.weights}")


def load_initial_weights(model: nn.Module, config: TrainConfig) -> None:
    """Load what ``--weights`` names into a new model.

    Args:
        model: as built.
        config: of the run.
    """
    if config.weights == "none":
        return
    path = imagenet_file(config.arch) if config.weights == "imagenet" else Path(config.weights)
    found = checkpoints.state_dict_in(checkpoints.read(path), path)
    new = transfer_weights(model, found, source=config.weights)
    head = f"; a new head: {', '.join(new)}" if new else ""
    say(f"weights   {config.weights}{head}")


def revive(
    checkpoint: Checkpoint, *, classes: tuple[str, ...], device: torch.device, arch: str | None, again: str
) -> Logits:
    """A model as a function, from its checkpoint alone: architecture, weights, preprocessing, order of classes.

    Args:
        checkpoint: as read.
        classes: of the data it will be asked about, in their order.
        device: that computes.
        arch: the function of a user's own model, repeated; a file never names code to run.
        again: the command that repeats it, up to the name, for the message.

    Returns:
        A function from uint8 images to logits in the order of ``classes``.

    Raises:
        UserError: if the model cannot be built, the weights do not fit, or the classes are others.
    """
    description = checkpoint.description
    name, options = description.architecture
    if ":" in name and arch != name:
        raise UserError(
            f"{checkpoint.path} was made with a model of your own, and a file never names code to run: "
            f"repeat its name: {again}{name}"
        )
    size = description.preprocessing.size
    model = build_model(name, num_classes=len(description.classes), size=size, options=options)
    checkpoints.load_weights(model, checkpoint.weights, source=str(checkpoint.path))
    prepare = preparer(description.preprocessing, device=device)
    return fed(_on(model, device), prepare=prepare, order=_class_order(checkpoint, classes, device))


def origin_of(config: TrainConfig, data: Data) -> Origin:
    """What a checkpoint says of the run it comes from.

    Args:
        config: resolved.
        data: of the run.

    Returns:
        The origin.
    """
    return Origin(
        command=config.command,
        dataset=data.source.name,
        fingerprint=data.source.fingerprint,
        split=data.splits.hash,
        val_size=config.val_size,
        image_size=data.image_size,
        augment=str(config.augment),
        label_smoothing=config.label_smoothing,
        partial=is_partial(config),
    )


def is_partial(config: TrainConfig) -> bool:
    """Whether a run saw only part of its training images.

    Args:
        config: of the run.

    Returns:
        True for dry runs and runs with a limit.
    """
    return config.fast_dev_run or config.limit_train is not None


def _placed(splits: Splits, device: torch.device) -> list[Part]:
    """The three parts on the device; parts of the same set share one copy of it."""
    placed: dict[int, Part] = {}
    parts = []
    for part in (splits.train, splits.val, splits.test):
        key = id(part.images.labels)
        placed[key] = placed.get(key) or on_device(part, device)
        parts.append(Part(placed[key].images, part.indices))
    return parts


def _statistics(config: TrainConfig, data: Data) -> Statistics:
    if config.normalize == "imagenet":
        return Statistics(IMAGENET_MEAN, IMAGENET_STD)
    train = data.splits.train
    return measure_statistics(pixel_batches(train.images, statistics_sample(train.indices).split(500)))


def _on(model: nn.Module, device: torch.device) -> nn.Module:
    return model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _class_order(checkpoint: Checkpoint, classes: tuple[str, ...], device: torch.device) -> Tensor | None:
    """For each class of the data the output that stands for it; None where the order is the same."""
    own = checkpoint.description.classes
    if own == classes:
        return None
    if sorted(own) != sorted(classes):
        different = checkpoints.listed(sorted(set(own) ^ set(classes)))
        raise UserError(
            f"{checkpoint.path} knows other classes than the data ({len(own)} against {len(classes)}): {different}"
        )
    return torch.tensor([own.index(name) for name in classes], device=device)
