"""Images in folders: ``PATH/train/<class>/*``, and optionally ``PATH/val`` and ``PATH/test`` likewise."""

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

from kdignite.data.fingerprint import content_hashes, files_digest
from kdignite.data.registry import FOLDER
from kdignite.data.source import ImageSet, Source, StreamedImages, fingerprint
from kdignite.data.specs import check_class_names
from kdignite.errors import UserError, reason

IN_MEMORY_BYTES = 2 * 2**30  # all sets together; above this, images are decoded at every use
SETS = ("train", "val", "test")

# raised by Pillow and its decoders for a file that is no valid image
DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


class Listing(NamedTuple):
    """The images of one set: their files, sorted within each class, and the index of each one's class."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


def load_folder(name: str, *, image_size: int, progress: bool, **_: object) -> Source:
    """Load images from folders, one for each class.

    Classes are the folders in ``train``, sorted by name; files are sorted by their path within the class. Hidden files
    and files with an extension that Pillow cannot open are skipped. Images are resized by `resize_and_crop`.

    Args:
        name: ``folder:PATH``.
        image_size: side in pixels at which images are kept.
        progress: show a bar while decoding.

    Returns:
        The sets that are there: in memory if all of them fit in `IN_MEMORY_BYTES`, else decoded at every use. The
        pixels are the same either way.

    Raises:
        UserError: if there are fewer than two classes, a class has no images, ``val`` or ``test`` has a class that
            ``train`` has not, or a file is not a readable image.
    """
    root = folder_path(name)
    if not (root / "train").is_dir():
        raise UserError(f"--dataset={name} needs images in PATH/train/CLASS/, but there is no folder {root / 'train'}")
    classes = tuple(_find_classes(root / "train"))
    if len(classes) < 2:
        raise UserError(f"{root / 'train'} needs a folder for each of two or more classes, but has {len(classes)}")
    listings = {key: _list_images(root / key, classes) for key in SETS if (root / key).is_dir()}
    num_bytes = sum(len(one.files) for one in listings.values()) * 3 * image_size**2
    hashes = content_hashes({key: one.files for key, one in listings.items()}, root, progress=progress)
    if num_bytes <= IN_MEMORY_BYTES:
        tensors = {key: _decode(one.files, image_size, progress=progress) for key, one in listings.items()}
        sets = {key: ImageSet(tensors[key], torch.tensor(one.labels)) for key, one in listings.items()}
    else:
        read = partial(read_image, size=image_size)
        sets = {
            key: ImageSet(StreamedImages(one.files, read), torch.tensor(one.labels), hashes[key])
            for key, one in listings.items()
        }
    digests = {key: files_digest(hashes[key], one.labels) for key, one in listings.items()}
    recorded = _utf8_bytes(name).decode("utf-8", "surrogateescape")
    return source_with_defaults(recorded, classes=classes, sets=sets, digests=digests)


def folder_path(name: str) -> Path:
    """The folder of ``folder:PATH``, as typed or as recorded, whatever locale wrote the record; it need not exist."""
    given = name.removeprefix(FOLDER)
    path = Path(given).expanduser()
    return path if path.is_dir() else Path(os.fsdecode(_utf8_bytes(given))).expanduser()


def source_with_defaults(
    name: str, *, classes: tuple[str, ...], sets: Mapping[str, ImageSet], digests: Mapping[str, str]
) -> Source:
    """A data set of images with the default splits and augmentation, after a check of its class names."""
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
    """Decode an image file as uint8 (3, size, size), or raise a `UserError` that names it."""
    try:
        with Image.open(path) as image:
            return resize_and_crop(image, size=size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except DECODE_ERRORS as error:
        raise UserError(f"{path} is not a readable image ({reason(error)}): repair or remove it") from error


def resize_and_crop(image: Image.Image, *, size: int) -> Tensor:
    """Resize the shorter side of a PIL image to ``size`` (bilinear, antialiased), then crop the central square.

    This is ``Resize(size)`` and ``CenterCrop(size)`` of torchvision, as most pretrained models were evaluated. An image
    of this size keeps its pixels. Returns uint8 (3, size, size).

    Raises:
        UserError: if the image has more than 8 bits a channel: Pillow would clip bright pixels, not scale them.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise UserError(f"images must have 8 bits a channel, not Pillow's mode {image.mode}: convert it first")
    # Pillow warns unless a palette with transparency is converted in two steps
    rgb = (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    cropped = F.center_crop(F.resize(rgb, [size], antialias=True), [size, size])
    pixels: Tensor = F.pil_to_tensor(cropped)
    return pixels.contiguous()


def _find_classes(folder: Path) -> dict[str, Path]:
    """Class name -> its folder, sorted by name."""
    found = {_utf8_text(one.name, errors="backslashreplace"): one for one in folder.iterdir() if one.is_dir()}
    return {name: found[name] for name in sorted(found) if not name.startswith(".")}


def _utf8_text(name: str, *, errors: str) -> str:
    """A name decoded as UTF-8, whatever the locale: the same files give the same names and digests everywhere."""
    return os.fsencode(name).decode("utf-8", errors)


def _utf8_bytes(name: str) -> bytes:
    """A name encoded as UTF-8, also one whose bytes the locale could not decode."""
    return name.encode("utf-8", "surrogateescape")


def _list_images(folder: Path, classes: Sequence[str]) -> Listing:
    """The images of one set; its classes must be among those of the training set."""
    present = _find_classes(folder)
    if unknown := sorted(set(present) - set(classes)):
        raise UserError(f"{folder} has a class {unknown[0]!r} that train has not: its classes are {', '.join(classes)}")
    if not present:
        raise UserError(f"{folder} needs a folder for each class, but has none: fill it or remove it")
    extensions = {key for key, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = {name: _image_files(path, extensions) for name, path in present.items()}
    if empty := [name for name in present if not files[name]]:
        raise UserError(f"{present[empty[0]]} has no images: a class needs one or more")
    return Listing(
        files=tuple(path for paths in files.values() for path in paths),
        labels=tuple(classes.index(name) for name, paths in files.items() for _ in paths),
    )


def _image_files(folder: Path, extensions: set[str]) -> list[Path]:
    """Image files anywhere in a folder, links followed, in an order that is the same on every system."""
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
