"""Images in folders: ``PATH/train/<class>/*``, and optionally ``PATH/val`` and ``PATH/test`` likewise."""

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from kdignite.data.registry import FOLDER
from kdignite.data.source import ImageSet, Source, StreamedImages, fingerprint
from kdignite.data.specs import check_class_names
from kdignite.errors import UserError

IN_MEMORY_BYTES = 2 * 2**30  # all sets together; above this, images are decoded each time they are asked for
SETS = ("train", "val", "test")

# What Pillow and its decoders raise for a file that is not the image its name promises.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


class Listing(NamedTuple):
    """The images of one set: their files, sorted within each class, and the index of each one's class."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def load_folder(name: str, *, image_size: int, progress: bool, **_: object) -> Source:
    """Load images from folders, one for each class.

    Classes are the folders in ``train``, sorted by name; files are sorted by their path within the class. Hidden files
    and files with an extension that Pillow cannot open are passed over. Every image becomes what `square` makes of it.

    Args:
        name: ``folder:PATH``.
        image_size: side in pixels at which images are kept.
        progress: show a bar while decoding.

    Returns:
        The sets that are there: in memory if all of them fit in `IN_MEMORY_BYTES`, else decoded at every use. The
        pixels are the same either way.

    Raises:
        UserError: if there are fewer than two classes, a class has no images, ``val`` or ``test`` has a class that
            ``train`` has not, or a file is no readable image.
    """
    root = place_of(name)
    if not (root / "train").is_dir():
        raise UserError(f"--dataset={name} needs images in PATH/train/CLASS/, but there is no folder {root / 'train'}")
    classes = tuple(_classes_in(root / "train"))
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} needs a folder for each of two or more classes, but has {len(classes)}")
    listings = {key: _listing(root / key, classes) for key in SETS if (root / key).is_dir()}
    num_bytes = sum(len(one.files) for one in listings.values()) * 3 * image_size**2
    if num_bytes <= IN_MEMORY_BYTES:
        tensors = {key: _decode(one.files, image_size, progress=progress) for key, one in listings.items()}
        sets = {key: ImageSet(tensors[key], torch.tensor(one.labels)) for key, one in listings.items()}
    else:
        read = partial(read_image, size=image_size)
        sets = {
            key: ImageSet(StreamedImages(one.files, read), torch.tensor(one.labels)) for key, one in listings.items()
        }
    digests = {key: _listing_digest(one, root) for key, one in listings.items()}
    recorded = _bytes_of(name).decode("utf-8", "surrogateescape")
    return folder_like_source(recorded, classes=classes, sets=sets, digests=digests)


def place_of(name: str) -> Path:
    """The folder that the name of a data set means.

    Args:
        name: ``folder:PATH``, as this process was given it, or as a record spells it, whatever locale wrote that.

    Returns:
        The path, which need not exist.
    """
    given = name.removeprefix(FOLDER)
    path = Path(given).expanduser()
    return path if path.is_dir() else Path(os.fsdecode(_bytes_of(given))).expanduser()


def folder_like_source(
    name: str, *, classes: tuple[str, ...], sets: Mapping[str, ImageSet], digests: Mapping[str, str]
) -> Source:
    """A data set of which nothing is known but its images: the usual defaults.

    Args:
        name: as the user typed it.
        classes: class names in the order of the labels.
        sets: ``train``, and ``val`` and ``test`` if there are such.
        digests: set name -> hash of its content.

    Returns:
        The data set.

    Raises:
        UserError: if class names are such as no table could show.
    """
    try:
        check_class_names(classes)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    return Source(
        name=name,
        classes=classes,
        train=sets["train"],
        val=sets.get("val"),
        test=sets.get("test"),
        fingerprint=fingerprint(classes, digests),
        default_val_size=0.1,
        default_test_size=0.1,
        default_augment="crop+flip",
    )


def read_image(path: Path, *, size: int) -> Tensor:
    """Decode a file.

    Args:
        path: an image file.
        size: side in pixels of what is returned.

    Returns:
        uint8 (3, size, size).

    Raises:
        UserError: if the file is not an image, is damaged, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            return square(image, size=size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not a readable image ({reason}): mend it or remove it") from error


def square(image: Image.Image, *, size: int) -> Tensor:
    """A picture of any shape as a square: shorter side to ``size`` (bilinear, antialiased), then the centre of it.

    This is ``Resize(size)`` and ``CenterCrop(size)`` of torchvision on a PIL image, as most pretrained models were
    evaluated. A picture that has this size already keeps its pixels.

    Args:
        image: a PIL image of any mode with 8 bits a channel.
        size: side in pixels.

    Returns:
        uint8 (3, size, size).

    Raises:
        UserError: if the image has more than 8 bits a channel: Pillow would cut bright pixels off, not scale them.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UserError(f"images must have 8 bits a channel, not Pillow's mode {image.mode}: convert it first")
    # A palette with transparency is to be converted in two steps: Pillow warns otherwise.
    rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    cropped = F.center_crop(F.resize(rgb, [size], antialias=True), [size, size])
    pixels: Tensor = F.pil_to_tensor(cropped)
    return pixels.contiguous()


def _classes_in(folder: Path) -> dict[str, Path]:
    """Class name -> its folder, sorted by name."""
    found = {_text(one.name, errors="backslashreplace"): one for one in folder.iterdir() if one.is_dir()}
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def _text(name: str, *, errors: str) -> str:
    """A name as UTF-8 spells it: under another locale the same bytes are other text, but no other data set."""
    return os.fsencode(name).decode("utf-8", errors)


def _bytes_of(name: str) -> bytes:
    """A name as UTF-8, also one whose bytes the locale could not read."""
    return name.encode("utf-8", "surrogateescape")


def _listing(folder: Path, classes: Sequence[str]) -> Listing:
    """The images of one set; its classes must be among those of the training set."""
    present = _classes_in(folder)
    if unknown := sorted(set(present) - set(classes)):
        raise UserError(f"{folder} has a class {unknown[0]!r} that train has not: its classes are {', '.join(classes)}")
    if not present:
        raise UserError(f"{folder} needs a folder for each class, but has none: fill it or remove it")
    extensions = {key for key, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = {name: _images_in(path, extensions) for name, path in present.items()}
    if empty := [name for name in present if not files[name]]:
        raise UserError(f"{present[empty[0]]} has no images: a class needs one or more")
    return Listing(
        files=tuple(path for paths in files.values() for path in paths),
        labels=tuple(classes.index(name) for name, paths in files.items() for _ in paths),
    )


def _images_in(folder: Path, extensions: set[str]) -> list[Path]:
    """Image files anywhere in a folder, following links to folders as to files, in an order that no system changes."""
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [one for one in folders if not one.startswith(".")]
        paths = (Path(parent, one) for one in names if not one.startswith("."))
        found += [path for path in paths if path.suffix.lower() in extensions]
    return sorted(found, key=lambda path: os.fsencode(path.relative_to(folder)))


def _decode(files: Sequence[Path], size: int, *, progress: bool) -> Tensor:
    """All images, decoded by as many threads as there are cores (Pillow releases the interpreter's lock)."""
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(partial(read_image, size=size), files)
        bar = tqdm(
            decoded, desc="decoding", total=len(files), unit="image", leave=False, disable=None if progress else True
        )
        for index, image in enumerate(bar):
            images[index] = image
    return images


def _listing_digest(listing: Listing, root: Path) -> str:
    """A hash of paths and sizes: the same whatever size the images are kept at, and whether they fit in memory."""
    files = [
        (_text(path.relative_to(root).as_posix(), errors="surrogateescape"), path.stat().st_size)
        for path in listing.files
    ]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
