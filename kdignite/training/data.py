"""The data of a run, cut into parts that lie on the device that computes."""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite import files, processes
from kdignite.config import TrainConfig, typed_flags
from kdignite.console import say, say_once
from kdignite.data.batches import Share, image_side, on_device
from kdignite.data.checks import copies_notes, shortage_notes
from kdignite.data.folders import path_of
from kdignite.data.mixing import Mixing
from kdignite.data.registry import is_code, load_source
from kdignite.data.source import ImageSet, Source
from kdignite.data.splits import Part, Splits, limited, split_source
from kdignite.errors import UserError, brief
from kdignite.losses import balanced_weights
from kdignite.reports.page import Pictures

DATA_ROOT = "data"
DATASET = "cifar10"  # where neither a flag nor a teacher names one
DEV_STEPS = 2  # steps and evaluation batches of a dry run


class Data(NamedTuple):
    """A source, cut into parts that lie on the device that computes."""

    source: Source
    splits: Splits
    image_size: int
    limit_train: int | None = None

    @property
    def train(self) -> Part:
        """The images that are trained on."""
        return limited(self.splits.train, self.limit_train)


def data_folder(data_root: str | None) -> Path:
    return files.typed_path(data_root or os.environ.get("KDIGNITE_DATA") or DATA_ROOT)


def named_by(who: object, dataset: str, *, asked: str | None) -> str:
    """The data set that a flag names, else the one that a file names, if it is there and no code to run."""
    if asked is None and is_code(dataset):
        raise UserError(
            f"{who} was made with a data set of your own, and a file never names code to run: repeat its name: "
            f"{typed_flags(dataset=brief(dataset, longest=300))}"
        )
    if asked is None and is_gone(dataset):
        raise UserError(
            f"{who} was made with {brief(dataset, longest=300)}, and there is no "
            f"{brief(str(_path_in(dataset)), longest=300)}: where is it now? --dataset={dataset.partition(':')[0]}:NEW"
        )
    return asked or dataset


def is_gone(dataset: str) -> bool:
    """Whether a data set is named by a path at which there is nothing."""
    return ":" in dataset and not is_code(dataset) and not os.path.exists(_path_in(dataset))  # noqa: PTH110 - no OSError


def _path_in(dataset: str) -> Path:
    return path_of(dataset).absolute()


def open_data(
    dataset: str,
    *,
    data_root: str | None,
    val_size: float | None,
    image_size: int,
    device: torch.device,
    limit_train: int | None = None,
    skip_broken: bool = False,
) -> Data:
    """Load a data set, getting it first where it is missing, say what was understood, and cut it into its parts."""
    folder = data_folder(data_root)
    load = partial(load_source, dataset, data_root=folder, image_size=image_size, skip_broken=skip_broken)
    source = processes.local_rank0_first(load)
    splits = split_source(source, val_size=val_size)
    for line in [*source.notes, *copies_notes({"train": splits.train, "val": splits.val, "test": splits.test})]:
        say_once(line)
    train, val, test = _placed(splits, device)
    return Data(source, Splits(train, val, test, splits.hash), image_side(source.train), limit_train)


def open_training_data(config: TrainConfig, *, device: torch.device) -> Data:
    """The data of a training, with a line for each class that it cannot learn or measure."""
    data = open_data(
        config.dataset or DATASET,
        data_root=config.data_root,
        val_size=config.val_size,
        image_size=config.image_size or config.size,
        device=device,
        limit_train=config.limit_train,
        skip_broken=config.skip_broken,
    )
    parts = {"train": data.train, "val": data.splits.val, "test": data.splits.test}
    for line in shortage_notes({key: part.labels for key, part in parts.items()}, data.source.classes):
        say_once(line)
    if (weights := class_weights(config, data)) is not None:
        say(f"balance   classes weigh {float(weights.min()):.3g} to {float(weights.max()):.3g} in the cross-entropy")
    return data


def class_weights(config: TrainConfig, data: Data) -> Tensor | None:
    """The weights of the classes in the loss; None: all 1."""
    if config.balance == "none":
        return None
    return balanced_weights(data.train.labels, num_classes=len(data.source.classes))


def mixing_of(config: TrainConfig, data: Data) -> Mixing | None:
    """How the training images are mixed with one another; None: not at all."""
    if config.mix is None:
        return None
    return Mixing(config.mix, float(config.mix_alpha or 1), data.train.indices, len(data.source.classes))


def pictures_of(images: ImageSet) -> Pictures:
    """The images of a set by their positions, for a report."""
    return lambda indices: [images.images[index].cpu().numpy() for index in indices]


def share() -> Share:
    """What this process takes of the work."""
    return Share(processes.rank(), processes.world_size())


def is_partial(config: TrainConfig, data: Data) -> bool:
    """Whether a run sees only part of its training images."""
    return config.fast_dev_run or len(data.train.indices) < len(data.splits.train.indices)


def _placed(splits: Splits, device: torch.device) -> list[Part]:
    """The three parts on the device; parts of the same set share one copy of it."""
    placed: dict[int, Part] = {}
    parts = []
    for part in (splits.train, splits.val, splits.test):
        key = id(part.images.labels)
        placed[key] = placed.get(key) or on_device(part, device)
        parts.append(Part(placed[key].images, part.indices))
    return parts
