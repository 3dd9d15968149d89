"""Pictures in folders: ``PATH/train/<class>/*``, optionally ``PATH/val`` and ``PATH/test``, or ``PATH/<class>/*``."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.checking import find_broken_once
from kdignite.data.decode import Broken, decode_images, read_image
from kdignite.data.fingerprint import content_hashes, files_digest
from kdignite.data.layout import PART_NAMES, find_layout
from kdignite.data.scan import Listing, scan
from kdignite.data.source import ImageSet, Source, StreamedImages, fingerprint
from kdignite.data.specs import check_class_names
from kdignite.errors import UserError, listed
from kdignite.files import typed_path

IN_MEMORY_BYTES = 2 * 2**30  # all sets together; above this, images are decoded at every use
SETS = tuple(PART_NAMES)


class Pictures(NamedTuple):
    """The picture files of a data set, before any is opened."""

    root: Path  # what their recorded paths are relative to
    classes: tuple[str, ...]
    listings: dict[str, Listing]  # by part
    origins: dict[str, str]  # part -> where it was found, in words
    notes: tuple[str, ...]  # what was passed over


def load_folder(name: str, *, image_size: int, progress: bool, skip_broken: bool, **_: object) -> Source:
    """Load images from folders, one for each class.

    Classes are the folders in ``train``, sorted by name; files are sorted by their path within the class. `find_layout`
    says which folders are which, `scan` which files are pictures, `as_shown` what their pixels are. Images are resized
    by `resize_and_crop`.

    Args:
        name: ``folder:PATH``.
        image_size: side in pixels at which images are kept.
        progress: show a bar while decoding.
        skip_broken: leave files out that cannot be read, instead of refusing them.

    Returns:
        The sets that are there: in memory if all of them fit in `IN_MEMORY_BYTES`, else decoded at every use. The
        pixels are the same either way. Its notes say what was understood, and what was passed over.

    Raises:
        UserError: if there are fewer than two classes, a class has no images, ``val`` or ``test`` has a class that
            ``train`` has not, a link leads back, or files are not readable images (all of them are counted).
    """
    root = path_of(name)
    layout = find_layout(name, root)
    found = scan(layout, root)
    if layout.folders["train"] == root:
        origins = {"train": "in folders of classes"}
    else:
        origins = {part: f"{folder.name}/" for part, folder in layout.folders.items()}
    pictures = Pictures(root, tuple(layout.parts["train"]), found.listings, origins, (*layout.notes, *found.notes))
    return load_pictures(name, pictures, image_size=image_size, progress=progress, skip_broken=skip_broken)


def path_of(name: str) -> Path:
    """The path in ``folder:PATH``, as typed or as recorded, whatever locale wrote the record; it need not exist."""
    given = name.partition(":")[2]
    path = typed_path(given)
    return path if os.path.exists(path) else typed_path(os.fsdecode(_utf8_bytes(given)))  # noqa: PTH110 - no OSError


def load_pictures(name: str, pictures: Pictures, *, image_size: int, progress: bool, skip_broken: bool) -> Source:
    """Decode pictures that were found, or check them where they are decoded at every use.

    Raises:
        UserError: if files are not readable images, unless they are skipped and every class keeps an image.
    """
    files = [path for one in pictures.listings.values() for path in one.files]
    in_memory = len(files) * 3 * image_size**2 <= IN_MEMORY_BYTES
    if in_memory:
        decoded, broken = decode_images(files, size=image_size, progress=progress)
    else:
        broken = find_broken_once(files, pictures.root, progress=progress)
    notes = [_broken_note(name, broken, len(files), skip_broken=skip_broken)] if broken else []
    listings = {part: _without(one, {found.path for found in broken}) for part, one in pictures.listings.items()}
    _check_what_is_left(name, pictures.classes, listings)
    hashes = content_hashes({part: one.files for part, one in listings.items()}, pictures.root, progress=progress)
    images: Iterable[Tensor | StreamedImages]
    if in_memory:
        images = decoded.split([len(one.files) for one in listings.values()])
    else:
        images = [StreamedImages(one.files, partial(read_image, size=image_size)) for one in listings.values()]
    sets = {
        part: ImageSet(pixels, torch.tensor(one.labels, dtype=torch.int64), () if in_memory else hashes[part])
        for (part, one), pixels in zip(listings.items(), images, strict=True)
    }
    source = source_with_defaults(
        _utf8_bytes(name).decode("utf-8", "surrogateescape"),
        classes=pictures.classes,
        sets=sets,
        digests={part: files_digest(hashes[part], one.labels) for part, one in listings.items()},
    )
    understood = _understood(name, pictures.classes, listings, pictures.origins)
    return source._replace(notes=(*understood, *(f"note      {one}" for one in (*pictures.notes, *notes))))


def _broken_note(name: str, broken: Sequence[Broken], num_files: int, *, skip_broken: bool) -> str:
    """The files that are skipped, as a line; or the error about all of them."""
    named = listed([f"{one.path} ({one.why})" for one in broken])
    told = f"{len(broken):,} of {num_files:,} files cannot be read as images: {named}"
    if not skip_broken:
        raise UserError(f"{name}: {told}; repair or remove them, or leave them out with --skip_broken")
    return f"skipped: {told}"


def _check_what_is_left(name: str, classes: Sequence[str], listings: Mapping[str, Listing]) -> None:
    if missing := sorted(set(range(len(classes))) - set(listings["train"].labels)):
        raise UserError(f"{name}: no training image of class {classes[missing[0]]!r} can be read")
    if empty := [part for part, one in listings.items() if not one.files]:
        raise UserError(f"{name}: no {empty[0]} image can be read")


def _without(listing: Listing, paths: Set[Path]) -> Listing:
    kept = [(path, label) for path, label in zip(*listing, strict=True) if path not in paths]
    return Listing(tuple(path for path, _ in kept), tuple(label for _, label in kept)) if paths else listing


def _understood(
    name: str, classes: Sequence[str], listings: Mapping[str, Listing], origins: Mapping[str, str]
) -> Iterator[str]:
    """Two lines: the parts with their origin, the classes with their counts."""
    parts = ", ".join(f"{part} {len(one.files):,} ({origins[part]})" for part, one in listings.items())
    missing = [part for part in SETS if part not in listings]
    held_out = f"; {' and '.join(missing)} held out of train" if missing else ""
    yield f"images    {name}: {parts}{held_out}"
    counts = [Counter(one.labels) for one in listings.values()]
    numbers = ["/".join(f"{one[label]:,}" for one in counts) for label in range(len(classes))]
    each = listed([f"{label} {number}" for label, number in zip(classes, numbers, strict=True)])
    yield f"classes   {len(classes):,}: {each} ({'/'.join(listings)})"


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


def _utf8_bytes(name: str) -> bytes:
    """A name encoded as UTF-8, also one whose bytes the locale could not decode."""
    return name.encode("utf-8", "surrogateescape")
