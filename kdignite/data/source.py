"""The types of a data set, whatever it was read from."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Indexable(Protocol):
    """Anything with a length that can be indexed from 0: a list, a map-style Dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class StreamedImages(Dataset[Tensor]):
    """Images that are decoded at every use, because all of them would not fit in memory.

    Args:
        items: what identifies each image, such as its path.
        decode: item -> uint8 (3, S, S). Both must be picklable, for the workers of a DataLoader.
    """

    def __init__(self, items: Indexable, decode: Callable[[Any], Tensor]) -> None:
        self.items = items
        self.decode = decode

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Tensor:
        """One image, uint8 (3, S, S)."""
        return self.decode(self.items[index])


class ImageSet(NamedTuple):
    """Images with their labels, in a fixed order."""

    images: Tensor | StreamedImages  # uint8 (N, 3, S, S), or a Dataset whose item i is uint8 (3, S, S)
    labels: Tensor  # (N,) int64 in [0, C)
    hashes: tuple[str, ...] = ()  # of the content of each image; empty: of images in memory, whose pixels say it


class Source(NamedTuple):
    """A data set before it is split."""

    name: str  # as the user typed it
    classes: tuple[str, ...]
    train: ImageSet
    val: ImageSet | None  # None: to be split off train
    test: ImageSet | None  # None: to be split off train
    fingerprint: str  # sha256, hex
    default_val_size: float  # a count if >= 1, a fraction below
    default_test_size: float  # likewise; used only if test is None
    default_augment: str
    notes: tuple[str, ...] = ()  # lines to print: what was understood, what was passed over or converted


def describe_source(source: Source) -> str:
    """A data set as lines of text: name, images of each set, classes, start of the fingerprint."""
    sets = {"train": source.train, "val": source.val, "test": source.test}
    classes = ", ".join(source.classes[:10]) + (", ..." if len(source.classes) > 10 else "")
    lines = [
        ("data set", source.name),
        *((key, f"{len(one.labels):,} images" if one else "none of its own") for key, one in sets.items()),
        ("classes", f"{len(source.classes)}: {classes}"),
        ("fingerprint", source.fingerprint[:12]),
    ]
    return "\n".join(f"{key:<12} {value}" for key, value in lines)


def fingerprint(classes: tuple[str, ...], digests: Mapping[str, str]) -> str:
    """sha256 in hex of a whole data set, from its class names and the hash of each of its sets."""
    return hashlib.sha256(json.dumps([list(classes), dict(digests)]).encode()).hexdigest()


def content_digest(images: Tensor, labels: Tensor) -> str:
    """sha256 in hex of ``shape, images, labels`` (the shape: the same bytes could be other images)."""
    digest = pixels_digest(images)
    digest.update(labels.to(torch.int64).contiguous().numpy().data)
    return digest.hexdigest()


def pixels_digest(images: Tensor) -> "hashlib._Hash":
    """The hash object of `content_digest` before the labels."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.contiguous().numpy().data)
    return digest
