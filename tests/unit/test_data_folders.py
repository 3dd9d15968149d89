"""Images in folders: order, classes, resizing, memory or stream, and what is refused."""

import hashlib
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from kdignite import files
from kdignite.data import fingerprint, folders
from kdignite.data.decode import resize_and_crop
from kdignite.data.fingerprint import content_hashes
from kdignite.data.registry import load_source
from kdignite.data.source import Source, StreamedImages
from kdignite.errors import UserError

DRAWS = np.random.default_rng(0)


def picture(path: Path, *, width: int = 20, height: int = 14, mode: str = "RGB") -> Image.Image:
    """A random picture, saved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)
    image.save(path)
    return image


def load(root: Path, size: int = 8) -> Source:
    return load_source(f"folder:{root}", data_root=Path("unused"), image_size=size, progress=False)


def tensor(source: Source) -> torch.Tensor:
    assert isinstance(source.train.images, torch.Tensor)
    return source.train.images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, two of them in val; pictures of several shapes, modes and formats."""
    for index, name in enumerate(["cat", "ant", "bee"]):
        picture(tmp_path / "train" / name / "b.png", width=20 + index)
        picture(tmp_path / "train" / name / "a.jpg", height=30 + index)
    picture(tmp_path / "train" / "ant" / "more" / "c.BMP", mode="L")
    picture(tmp_path / "val" / "cat" / "x.gif", mode="P")
    picture(tmp_path / "val" / "bee" / "y.png", mode="RGBA")
    return tmp_path


def reference(path: Path, size: int) -> torch.Tensor:
    """What torchvision's own evaluation transform gives."""
    transform = transforms.Compose(
        [transforms.Resize(size, InterpolationMode.BILINEAR, antialias=True), transforms.CenterCrop(size)]
    )
    return torch.from_numpy(np.array(transform(Image.open(path).convert("RGB")))).permute(2, 0, 1)


def test_classes_order_and_pixels(root: Path) -> None:
    source = load(root)
    assert source.classes == ("ant", "bee", "cat")
    paths = ["ant/a.jpg", "ant/b.png", "ant/more/c.BMP", "bee/a.jpg", "bee/b.png", "cat/a.jpg", "cat/b.png"]
    assert source.train.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert source.train.labels.dtype == torch.int64
    assert torch.equal(tensor(source), torch.stack([reference(root / "train" / path, 8) for path in paths]))
    assert source.test is None
    assert source.val is not None
    assert source.val.labels.tolist() == [1, 2]
    assert (source.default_val_size, source.default_test_size, source.default_augment) == (0.1, 0.1, "crop+flip")


def test_streamed_images_have_identical_pixels(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = load(root)
    num_bytes = 9 * 3 * 8 * 8
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", num_bytes)
    assert isinstance(load(root).train.images, torch.Tensor)
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", num_bytes - 1)
    streamed = load(root)
    for key in ("train", "val"):
        images = getattr(streamed, key).images
        assert isinstance(images, StreamedImages)
        images = pickle.loads(pickle.dumps(images))
        assert torch.equal(torch.stack([images[index] for index in range(len(images))]), getattr(held, key).images)
        assert torch.equal(getattr(streamed, key).labels, getattr(held, key).labels)


def test_a_constant_picture_stays_constant_and_the_centre_is_kept() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = (10, 200, 30)
    assert torch.equal(
        resize_and_crop(Image.fromarray(pixels), size=10), torch.from_numpy(pixels[:, 10:20]).permute(2, 0, 1)
    )


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 254
    assert (resize_and_crop(Image.fromarray(stripes), size=8).float() - 127).abs().max() <= 6


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    pixels = DRAWS.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert torch.equal(resize_and_crop(Image.fromarray(pixels), size=8), torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png").quantize(16)
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    with Image.open(tmp_path / "p.png") as opened:
        pixels = resize_and_crop(opened, size=14)
        assert torch.equal(pixels, resize_and_crop(Image.open(tmp_path / "p.png").convert("RGBA"), size=14))


def test_hidden_and_other_files_are_passed_over(root: Path) -> None:
    before = load(root)
    picture(root / "train" / "ant" / ".hidden.png")
    picture(root / "train" / "ant" / ".folder" / "x.png")
    picture(root / "train" / ".checkpoints" / "x.png")
    picture(root / "train" / "loose.png")
    (root / "train" / "ant" / "notes.txt").write_text("not an image")
    assert load(root).fingerprint == before.fingerprint


def test_the_fingerprint_does_not_depend_on_how_images_are_kept(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = load(root).fingerprint
    larger = load_source(f"folder:{root}", data_root=root, image_size=40, progress=False).fingerprint
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    assert in_memory == larger == load(root).fingerprint
    assert len(in_memory) == len(hashlib.sha256().hexdigest())


def test_the_fingerprint_is_of_the_content_whatever_names_and_places(root: Path) -> None:
    before = load(root).fingerprint
    moved = root.rename(root.parent / f"{root.name}-moved")
    path, other = moved / "train" / "ant" / "b.png", moved / "train" / "bee" / "b.png"
    path.rename(path.with_name("bb.png")).rename(path)
    for file in moved.rglob("*.*"):
        os.utime(file)
    assert load(moved).fingerprint == before
    found = {before}
    picture(path)
    found.add(load(moved).fingerprint)
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)  # the same files under other classes
    assert len({*found, load(moved).fingerprint}) == 3


def test_a_picture_that_is_changed_in_place_is_another_data_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where hashes are kept, and size and time of change are as they were."""
    monkeypatch.setattr(fingerprint, "SETTLED_S", -math.inf)  # keep hashes of files however new they are
    path = root / "train" / "ant" / "b.png"
    before, stamp = load(root).fingerprint, path.stat()
    assert (root / fingerprint.KEPT).is_file()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the checksum of the last chunk, which Pillow skips
    path.write_bytes(content)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert load(root).fingerprint != before


def test_hashes_are_kept_and_what_was_kept_is_checked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[Path]()
    sha256 = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (read.append(path), sha256(path))[1])
    before = load(root).fingerprint
    assert len(read) == 9
    load(root)
    assert len(read) == 18  # files that are this new may change without another time
    monkeypatch.setattr(fingerprint, "SETTLED_S", -math.inf)
    load(root)
    assert load(root).fingerprint == before
    assert len(read) == 27
    kept = root / fingerprint.KEPT
    for damage in ("", "[]", "{", '{"train/ant/a.jpg": 1}', '{"train/ant/a.jpg": [1, 2, 3, 4]}'):
        kept.write_text(damage)
        assert load(root).fingerprint == before
    kept.unlink()
    root.chmod(0o500)
    monkeypatch.setattr(files, "write_atomically", lambda *_: (_ for _ in ()).throw(PermissionError()))  # also for root
    assert load(root).fingerprint == before
    root.chmod(0o700)


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    assert content_hashes({"train": [tmp_path / "x.png"]}, tmp_path, progress=False) == {"train": ("",)}


def test_no_train_folder(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"needs images in PATH/train/CLASS/ or PATH/CLASS/, but there is no folder .*/none$"
    ):
        load(tmp_path / "none")


def test_one_class(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "ant" / "x.png")
    with pytest.raises(UserError, match="needs a folder for each of two or more classes, but has 1"):
        load(tmp_path)


@pytest.mark.parametrize("part", ["train", "val"])
def test_empty_class(root: Path, part: str) -> None:
    (root / part / "ant2").mkdir()
    (root / "train" / "ant2").mkdir(exist_ok=True)
    if part == "val":
        picture(root / "train" / "ant2" / "x.png")
    with pytest.raises(UserError, match=f"{part}/ant2 has no images: a class needs one or more"):
        load(root)


def test_unknown_class(root: Path) -> None:
    picture(root / "test" / "dog" / "x.png")
    with pytest.raises(UserError, match="test has a class 'dog' that train has not: its classes are ant, bee, cat"):
        load(root)


def test_set_without_classes(root: Path) -> None:
    (root / "test").mkdir()
    with pytest.raises(UserError, match="test needs a folder for each class, but has none: fill it or remove it"):
        load(root)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
@pytest.mark.parametrize("limit", [math.inf, 0])
def test_unreadable_image_is_named(
    root: Path, content: bytes | str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", limit)
    path = root / "train" / "bee" / "b.png"
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:200])
    with pytest.raises(
        UserError, match=r"1 of 9 files cannot be read as images: .*/train/bee/b\.png \(.*\); repair or"
    ):
        load(root)


def test_an_image_bomb_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match=r"b\.png \(more than 10 pixels\)"):
        load(root)
