"""Pixels of a picture file, whatever its format and mode, against the same picture saved plainly."""

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kdignite.data.decode import LONGEST_ASPECT, UPRIGHT, read_image, resize_and_crop
from kdignite.errors import UserError

SIDE = 24
Grey = NDArray[np.uint8]
DRAWS = np.random.default_rng(0)
SMOOTH: Grey = np.add.outer(np.arange(SIDE) * 5, np.arange(SIDE) * 4).astype(np.uint8)
PLAIN = np.stack([SMOOTH, 255 - SMOOTH, SMOOTH.T // 2], axis=2)
HIDDEN = DRAWS.random((SIDE, SIDE)) < 0.3
RGB, GREY = Image.fromarray(PLAIN), Image.fromarray(SMOOTH)
ON_WHITE = Image.fromarray(np.where(HIDDEN[..., None], np.uint8(255), PLAIN))
GREY_ON_WHITE = Image.fromarray(np.where(HIDDEN, np.uint8(255), SMOOTH))
ALPHA = np.where(HIDDEN, 0, 255).astype(np.uint8)
FEW = RGB.quantize(16)
KEYED = np.where(HIDDEN, 200, SMOOTH // 2).astype(np.uint8)  # grey, with one value that only hidden pixels have
BITS = SMOOTH > 100
GREY16 = Image.fromarray(SMOOTH.astype(np.uint16) * 257)


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def tagged(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def saved(name: str, image: Image.Image, **options: object) -> Callable[[Path], None]:
    return lambda folder: image.save(folder / name, **options)  # type: ignore[arg-type]


def png16(folder: Path) -> None:
    """Colour of 16 bits a channel, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = np.pad((PLAIN.astype(">u2") * 257).view(np.uint8).reshape(SIDE, -1), ((0, 0), (1, 0)))  # 0: no filter
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    (folder / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def ppm16(folder: Path) -> None:
    (folder / "x.ppm").write_bytes(b"P6 24 24 65535\n" + (PLAIN.astype(">u2") * 257).tobytes())


def pgm16(folder: Path) -> None:
    (folder / "x.pgm").write_bytes(b"P5 24 24 65535\n" + (SMOOTH.astype(">u2") * 257).tobytes())


# what is written -> what a viewer shows, and by how many levels of 255 a pixel may differ
CASES: dict[str, tuple[Callable[[Path], None], Image.Image, int]] = {
    "rgb.png": (saved("x.png", RGB), RGB, 0),
    "rgb.bmp": (saved("x.bmp", RGB), RGB, 0),
    "rgb.tga": (saved("x.tga", RGB), RGB, 0),
    "rgb.webp": (saved("x.webp", RGB, lossless=True), RGB, 0),
    "rgb.tiff": (saved("x.tiff", RGB), RGB, 0),
    "multi-page.tiff": (saved("x.tiff", RGB, save_all=True, append_images=[ON_WHITE]), RGB, 0),
    "grey.png": (saved("x.png", GREY), GREY, 0),
    "jpeg": (saved("x.jpg", RGB, quality=100, subsampling=0), RGB, 6),
    "png called jpg": (saved("x.jpg", RGB, format="PNG"), RGB, 0),
    "rgba": (saved("x.png", Image.fromarray(np.dstack([PLAIN, ALPHA]))), ON_WHITE, 0),
    "rgba.webp": (saved("x.webp", Image.fromarray(np.dstack([PLAIN, ALPHA])), lossless=True, exact=True), ON_WHITE, 0),
    "rgba.tiff": (saved("x.tiff", Image.fromarray(np.dstack([PLAIN, ALPHA]))), ON_WHITE, 0),
    "opaque rgba": (saved("x.png", RGB.convert("RGBA")), RGB, 0),
    "la": (saved("x.png", Image.merge("LA", [GREY, Image.fromarray(ALPHA)])), GREY_ON_WHITE, 0),
    "l+trns": (
        saved("x.png", Image.fromarray(KEYED), transparency=200),
        Image.fromarray(np.where(HIDDEN, np.uint8(255), KEYED)),
        0,
    ),
    "16+trns": (
        saved("x.png", Image.fromarray(KEYED.astype(np.uint16) * 257), transparency=200 * 257),
        Image.fromarray(np.where(HIDDEN, np.uint8(255), KEYED)),
        0,
    ),
    "rgb+trns": (
        saved("x.png", Image.fromarray(np.where(HIDDEN[..., None], np.uint8(9), PLAIN | 16)), transparency=(9, 9, 9)),
        Image.fromarray(np.where(HIDDEN[..., None], np.uint8(255), PLAIN | 16)),
        0,
    ),
    "palette": (saved("x.png", FEW), FEW, 0),
    "palette.gif": (saved("x.gif", FEW), FEW, 0),
    "palette+index": (
        saved("x.png", FEW, transparency=3),
        Image.fromarray(np.where((np.array(FEW) == 3)[..., None], np.uint8(255), np.array(FEW.convert("RGB")))),
        0,
    ),
    "palette+bytes": (
        saved("x.png", FEW, transparency=bytes([0, 0] + 14 * [255])),
        Image.fromarray(np.where((np.array(FEW) < 2)[..., None], np.uint8(255), np.array(FEW.convert("RGB")))),
        0,
    ),
    "1 bit": (saved("x.png", Image.fromarray(BITS)), Image.fromarray(np.uint8(255) * BITS), 0),
    "1 bit.tiff": (saved("x.tiff", Image.fromarray(BITS)), Image.fromarray(np.uint8(255) * BITS), 0),
    "16 grey.png": (saved("x.png", GREY16), GREY, 0),
    "16 grey.tiff": (saved("x.tiff", GREY16), GREY, 0),
    "16 rgb.png": (png16, RGB, 0),
    "16 grey.pgm": (pgm16, GREY, 0),
    "16 rgb.ppm": (ppm16, RGB, 0),
    "32 grey.tiff": (saved("x.tiff", Image.fromarray(SMOOTH.astype(np.int32) * 257)), GREY, 0),
    "float.tiff": (saved("x.tiff", Image.fromarray((SMOOTH / 255).astype(np.float32))), GREY, 0),
    "cmyk.tiff": (saved("x.tiff", RGB.convert("CMYK")), RGB, 1),
    "cmyk.jpg": (saved("x.jpg", RGB.convert("CMYK"), quality=100), RGB, 8),
    "animated.gif": (saved("x.gif", FEW, save_all=True, append_images=[ON_WHITE.quantize(16)]), FEW, 0),
    "animated.webp": (saved("x.webp", RGB, save_all=True, append_images=[ON_WHITE], lossless=True), RGB, 0),
    "animated.png": (saved("x.png", RGB, save_all=True, append_images=[ON_WHITE]), RGB, 0),
    "mpo": (saved("x.jpg", RGB, format="MPO", save_all=True, append_images=[ON_WHITE], quality=100), RGB, 12),
}


@pytest.mark.parametrize(("write", "shown", "tolerance"), CASES.values(), ids=CASES)
def test_pixels_are_those_that_a_viewer_shows(
    write: Callable[[Path], None], shown: Image.Image, tolerance: int, tmp_path: Path
) -> None:
    write(tmp_path)
    (path,) = tmp_path.iterdir()
    assert (read_image(path, size=SIDE).int() - pixels(shown).int()).abs().max() <= tolerance


@pytest.mark.parametrize("orientation", [1, *UPRIGHT])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_pictures_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    options = {"quality": 100, "subsampling": 0} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    lying = Image.fromarray(PLAIN[:, :20])
    lying.save(tmp_path / f"x.{suffix}", exif=tagged(orientation), **options)
    reference = Image.open(tmp_path / f"x.{suffix}")
    reference.load()  # Pillow turns a TIFF itself
    upright = ImageOps.exif_transpose(reference)
    assert upright.size == ((24, 20) if orientation > 4 else (20, 24))
    assert torch.equal(read_image(tmp_path / f"x.{suffix}", size=16), resize_and_crop(upright.convert("RGB"), size=16))


def test_damaged_exif_does_not_make_a_picture_unreadable(tmp_path: Path) -> None:
    RGB.save(tmp_path / "x.png", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(read_image(tmp_path / "x.png", size=SIDE), pixels(RGB))


def test_what_is_hidden_teaches_nothing(tmp_path: Path) -> None:
    """Red and blue behind full transparency are the same white picture."""
    for name, colour in (("red", (255, 0, 0, 0)), ("blue", (0, 0, 255, 0))):
        Image.new("RGBA", (8, 8), colour).save(tmp_path / f"{name}.png")
        assert (read_image(tmp_path / f"{name}.png", size=8) == 255).all()


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (3, 9_999)])
def test_a_thin_picture_needs_megabytes(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizing it whole would make 96 x 5,760,000 pixels."""
    made: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def watched(image: Image.Image, to: tuple[int, int], *rest: Any, **options: Any) -> Image.Image:
        made.append(to)
        return resize(image, to, *rest, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", size=96) == torch.tensor([10, 20, 30]).view(3, 1, 1)).all()
    assert made
    assert max(width * height for width, height in made) <= LONGEST_ASPECT * 96 * 96


@pytest.mark.parametrize("aspect", [LONGEST_ASPECT, LONGEST_ASPECT + 0.1, 9])
def test_cropping_first_keeps_the_middle(aspect: float) -> None:
    """Against the whole picture, resized and then cropped: equal, or moved by at most half a pixel."""
    wide = np.zeros((30, int(30 * aspect), 3), dtype=np.uint8)
    wide[:] = np.sin(np.linspace(0, 8 * np.pi, wide.shape[1]))[None, :, None] * 100 + 120
    whole = Image.fromarray(wide)
    resized = whole.resize((int(10 * whole.width / 30), 10), Image.Resampling.BILINEAR)
    left = round((resized.width - 10) / 2)
    wanted = pixels(resized.crop((left, 0, left + 10, 10))).int()
    difference = resize_and_crop(whole, size=10).int() - wanted
    assert difference.abs().max() <= (0 if aspect <= LONGEST_ASPECT else wanted.diff().abs().max() / 2 + 1)


@pytest.mark.parametrize(
    ("values", "told"), [((0, 2), "0 to 1 in Pillow's mode F, not 0 to 2"), ((-1, 1), "not -1 to 1")]
)
def test_grey_of_no_known_range_is_refused(values: tuple[float, float], told: str, tmp_path: Path) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "x.tiff")
    with pytest.raises(UserError, match=f"x.tiff is not a readable image .*{told}"):
        read_image(tmp_path / "x.tiff", size=8)


def test_scans_and_panoramas_are_read(tmp_path: Path) -> None:
    """100 million pixels, of which Pillow would warn; warnings are errors in the tests."""
    Image.new("1", (10_000, 10_000), 1).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", size=8) == 255).all()
