"""From a picture file to pixels as a viewer shows them: upright, 8 bits a channel, transparency on white."""

import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from kdignite.errors import UserError, reason

# formats that Pillow claims, though they hold data, films, documents or layers rather than a picture
NO_PICTURES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "PSD", "WMF"}
LONGEST_ASPECT = 4  # of a picture that is resized whole: of a longer one, more would be resized only to be cut away
WHITE = (255, 255, 255)
AHEAD = 4  # images for each thread that are decoded before they are needed
QUICK_SIZE = (64, 64)  # pixels; a JPEG whose decoding is only tried is decoded at about this size
T = TypeVar("T")
# EXIF orientation -> what turns the picture upright; 1 is upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's own limit, 89 million pixels, is below what scans and panoramas have; its warning would be no error
Image.MAX_IMAGE_PIXELS = 500_000_000
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF", category=UserWarning)  # often in photographs


class Broken(NamedTuple):
    """A file that cannot be read as a picture, and why."""

    path: Path
    why: str
    may_pass: bool = False  # the reason lies with the machine, not in the file


@cache
def picture_formats() -> tuple[str, ...]:
    """The formats that are read as pictures, by Pillow's names for them, in the order in which it tries them."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in NO_PICTURES)


@cache
def picture_suffixes() -> set[str]:
    """The suffixes of files that are taken for pictures: ``.jpg`` and so on."""
    formats = picture_formats()
    return {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}


def read_image(path: Path, *, size: int) -> Tensor:
    """Decode an image file as uint8 (3, size, size), or raise a `UserError` that names it."""
    image = _read(path, use=partial(resize_and_crop, size=size))
    if isinstance(image, Broken):
        raise unreadable(path, image.why)
    return image


def unreadable(what: object, why: str) -> UserError:
    return UserError(f"{what} is not a readable image ({why}): repair or remove it")


def decode_images(files: Sequence[Path], *, size: int, progress: bool) -> tuple[Tensor, list[Broken]]:
    """The images that can be read, uint8 (M, 3, size, size) in the order of their files, and the files that cannot."""
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    broken: list[Broken] = []
    read = try_images(files, size=size)
    for index, image in enumerate(_with_bar(read, "decoding", len(files), progress=progress)):
        if isinstance(image, Broken):
            broken.append(image)
        else:
            images[index - len(broken)] = image
    return images[: len(files) - len(broken)], broken


def find_broken(files: Sequence[Path], *, progress: bool) -> list[Broken]:
    """The files that cannot be read; each is decoded once, a JPEG at an eighth of its size."""
    decoded = _in_threads(files, _decode_quickly)
    return [one for one in _with_bar(decoded, "checking", len(files), progress=progress) if one is not None]


def try_images(files: Iterable[Path], *, size: int, workers: int | None = None) -> Iterator[Tensor | Broken]:
    """Each image as `read_image` has it, or why there is none, in the order of the files.

    Args:
        files: any number; only a few for each thread are decoded ahead of what has been taken.
        size: side of the images in pixels.
        workers: threads; None: one a core.
    """
    return _in_threads(files, partial(resize_and_crop, size=size), workers=workers)


def resize_and_crop(image: Image.Image, *, size: int) -> Tensor:
    """Resize the shorter side of a PIL image to ``size`` (bilinear, antialiased), then crop the central square.

    This is ``Resize(size)`` and ``CenterCrop(size)`` of torchvision, as most pretrained models were evaluated, on the
    picture as a viewer shows it (`as_shown`). A picture that is more than `LONGEST_ASPECT` times as long as it is wide
    is cropped to this shape first, so that the memory needed does not grow with its length. An upright RGB image of
    this size keeps its pixels. Returns uint8 (3, size, size).

    Raises:
        UserError: if the values of an image with more than 8 bits a channel have no known range.
    """
    rgb = as_shown(image)
    longest = LONGEST_ASPECT * min(rgb.size)
    if max(rgb.size) > longest:
        rgb = F.center_crop(rgb, [min(rgb.height, longest), min(rgb.width, longest)])
    cropped = F.center_crop(F.resize(rgb, [size], antialias=True), [size, size])
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in cropped.split()]))  # 2 x as fast as permuting


def as_shown(image: Image.Image) -> Image.Image:
    """A picture as a viewer shows it, in mode RGB.

    It is turned upright as its EXIF orientation says; transparent pixels are composed on white, so that colours that
    nobody sees are not learnt; 16 bits a channel are scaled to 8; of an animation it is the first frame.

    Raises:
        UserError: if the values of an image with more than 8 bits a channel have no known range.
    """
    image.load()  # a TIFF turns itself upright meanwhile
    turn = UPRIGHT.get(_orientation(image))
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, WHITE)
        image.paste(rgba, mask=rgba.getchannel("A"))
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - damaged EXIF raises anything, or warns; viewers show the picture as it lies
        return 1


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits (0 to 65,535), or of floating point (0 to 1), scaled to 0 to 255."""
    values = np.asarray(image).astype(np.float32)
    white = 1 if image.mode == "F" else 65_535
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):
        raise UserError(
            f"grey values must be 0 to {white:,} in Pillow's mode {image.mode}, not {low:g} to {high:g}: "
            "save it with 8 bits a channel"
        )
    scaled = np.rint(values * 255 / white).astype(np.uint8)
    hidden = image.info.get("transparency")  # one grey value
    return Image.fromarray(scaled if hidden is None else np.where(values == hidden, np.uint8(255), scaled))


def _in_threads(
    files: Iterable[Path], use: Callable[[Image.Image], T], *, workers: int | None = None
) -> Iterator[T | Broken]:
    """What becomes of each file (Pillow releases the interpreter's lock); what nobody waits for is not begun."""
    workers, waiting = workers or os.cpu_count() or 1, deque[Future[T | Broken]]()
    pool = ThreadPoolExecutor(workers)
    try:
        for path in files:
            waiting.append(pool.submit(_read, path, use=use))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _with_bar(done: Iterator[T], what: str, total: int, *, progress: bool) -> Iterator[T]:
    yield from tqdm(done, desc=what, total=total, unit="image", leave=False, disable=None if progress else True)


def _read(path: Path, *, use: Callable[[Image.Image], T]) -> T | Broken:
    try:
        with Image.open(path, formats=picture_formats()) as image:
            return use(image)
    except Exception as error:  # noqa: BLE001 - Pillow's decoders raise anything for a damaged file
        may_pass = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        return Broken(path, why_broken(error), may_pass)


def _decode_quickly(image: Image.Image) -> None:
    image.draft(None, QUICK_SIZE)
    as_shown(image)


def why_broken(error: Exception) -> str:
    """What Pillow says of a file that it cannot decode."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return (isinstance(error, OSError) and error.strerror) or reason(error)
