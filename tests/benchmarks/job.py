"""The job that every contender does, and what the rivals share: arguments, images, models, accuracy, record.

Of kdignite only models, data and splits are used here, so that the job is the same; they need no Ignite.
"""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from kdignite.data.registry import load_source
from kdignite.data.splits import Part, limited, split_source
from kdignite.models.registry import build_model

SIZE = 32  # side of the images in pixels
PADDING = 4  # pixels by which a crop may move, as in kdignite's views of 32 pixels
EVALUATION_BATCH = 500  # images


class Job(NamedTuple):
    """What a rival is told."""

    dataset: str
    data_root: Path
    limit_train: int | None
    arch: str
    epochs: int
    batch_size: int
    lr: float
    momentum: float
    alpha: float  # weight of the teacher's term, as everywhere in kdignite
    T: float
    threads: int
    weights: Path  # state dict that the student starts from
    teacher: Path  # state dict
    teacher_arch: str
    mean: tuple[float, ...]  # of each channel, of the input of teacher and student alike
    std: tuple[float, ...]
    seed: int  # of order and views
    workers: int  # processes that make batches
    output: Path


class PilImages(Dataset[tuple[Any, int]]):
    """Pixels in memory that become PIL images one by one, as in torchvision's own CIFAR-10."""

    def __init__(self, part: Part, transform: transforms.Compose) -> None:
        """Take the pixels of a part.

        Args:
            part: whose images are in memory.
            transform: from a PIL image to the model's input.
        """
        self.pixels = part.images.images[part.indices].permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = part.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        """The number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The transformed image and its label."""
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class Images(NamedTuple):
    """The images of a job."""

    train: PilImages  # cropped and mirrored at random
    test: PilImages  # as they are
    num_classes: int


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add what all contenders are told alike, under the names of kdignite's own flags.

    Args:
        parser: gets the arguments.
    """
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data_root", type=_absolute, default=_absolute(os.environ.get("KDIGNITE_DATA", "data")))
    parser.add_argument("--limit_train", type=int, help="train on this many images only; unset: on the whole split")
    parser.add_argument("--arch", default="cnn5", help="the student")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.05, help="of SGD, constant over the run")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--alpha", type=float, default=0.9, help="weight of the teacher's term")
    parser.add_argument("--T", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def parse_job(description: str | None) -> Job:
    """The job on a rival's command line.

    Args:
        description: for ``--help``.

    Returns:
        The job.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_recipe(parser)
    parser.add_argument("--weights", type=Path, required=True, help="file with the student's initial state dict")
    parser.add_argument("--teacher", type=Path, required=True, help="file with the teacher's state dict")
    parser.add_argument("--teacher_arch", default="resnet56")
    parser.add_argument("--mean", type=_numbers, required=True, help="of each channel, separated by commas")
    parser.add_argument("--std", type=_numbers, required=True, help="of each channel, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="of order and views")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to be written")
    return Job(**vars(parser.parse_args()))


def load_images(
    dataset: str, *, data_root: Path, limit_train: int | None, mean: Sequence[float], std: Sequence[float]
) -> Images:
    """The images that kdignite trains on and is tested on, as PIL images with torchvision's transforms.

    Args:
        dataset: its name.
        data_root: folder of data sets.
        limit_train: training images; None: all of the split.
        mean: of each channel, for pixels in 0..1.
        std: of each channel, for pixels in 0..1.

    Returns:
        The images.
    """
    source = load_source(dataset, data_root=data_root, image_size=SIZE)
    splits = split_source(source, val_size=None)
    views = [transforms.RandomCrop(SIZE, padding=PADDING), transforms.RandomHorizontalFlip()]
    normalized = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return Images(
        PilImages(limited(splits.train, limit_train), transforms.Compose([*views, *normalized])),
        PilImages(splits.test, transforms.Compose(normalized)),
        len(source.classes),
    )


def load_model(name: str, weights: Path, *, num_classes: int) -> nn.Module:
    """A model of kdignite's registry with weights from a plain file.

    Args:
        name: of the model.
        weights: file with its state dict.
        num_classes: number of outputs.

    Returns:
        The model.
    """
    model = build_model(name, num_classes=num_classes, size=SIZE, options={})
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model


def accuracy(model: nn.Module, images: PilImages) -> float:
    """The share of images that a model classifies correctly, in eval mode.

    Args:
        model: from input to logits.
        images: with their labels.

    Returns:
        In [0, 1].
    """
    model.eval()
    with torch.inference_mode():
        batches = DataLoader(images, batch_size=EVALUATION_BATCH)
        num_correct = sum(int((model(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    return num_correct / len(images)


def write_record(
    output: Path, *, num_images: int, seconds: Sequence[float], accuracy: float, packages: Sequence[str]
) -> None:
    """Write what was measured, and print it.

    Args:
        output: JSON file.
        num_images: in an epoch.
        seconds: of each epoch, from asking for the first batch to the last update.
        accuracy: of the last weights on the test images.
        packages: whose versions are recorded.
    """
    images_per_s = [num_images / one for one in seconds]
    record = {
        "images_per_s": images_per_s,
        "median_images_per_s": statistics.median(images_per_s),
        "train_seconds": sum(seconds),
        "accuracy": accuracy,
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
    text = json.dumps(record, indent=2)
    output.write_text(text + "\n", encoding="utf-8")
    print(text)


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(word) for word in text.split(","))
