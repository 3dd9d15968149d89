"""Copies of images in several parts, and classes that a part lacks: found, counted and said before a run."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from kdignite.commands.data import data
from kdignite.config import BaselineConfig, DataConfig
from kdignite.console import say_once
from kdignite.data import folders
from kdignite.data.checks import copies_notes, num_copies, shortage_notes
from kdignite.data.items import read_items
from kdignite.data.source import ImageSet
from kdignite.data.splits import Part, all_images
from kdignite.training.data import open_data, open_training_data

CPU = torch.device("cpu")


def drawn(count: int, *, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 3)


def test_copies_are_counted_by_content_within_a_set_and_between_sets() -> None:
    train, test = drawn(20), drawn(9, seed=1)
    test.images[[2, 5, 7]] = train.images[[0, 11, 11]]
    train.images[3] = train.images[12]
    parts = {"train": Part(train, torch.arange(10)), "val": Part(train, torch.arange(10, 20)), "test": all_images(test)}
    assert [line.partition(" images are")[0] for line in copies_notes(parts)] == [
        "warning   1 of 10 validation",
        "warning   1 of 9 test",
    ]
    assert num_copies(train) == 1
    assert copies_notes({"train": all_images(drawn(20)), "test": all_images(drawn(9, seed=1))}) == []


def test_copies_are_counted_between_arrays_and_a_dataset() -> None:
    train = drawn(9)
    test = read_items([(one, 0) for one in train.images[:2]], "test", size=8, keep=True, progress=False)
    parts = {"train": train, "test": ImageSet(test.images, train.labels[:2], test.hashes)}
    (line,) = copies_notes({key: all_images(one) for key, one in parts.items()})
    assert line.startswith("warning   2 of 2 test images are training images too")


def test_classes_that_a_part_lacks_are_named() -> None:
    labels = {"train": torch.tensor([0, 0, 3]), "val": torch.tensor([1, 2, 3]), "test": torch.tensor([1])}
    assert shortage_notes(labels, ("ant", "bee", "cat", "dog")) == [
        "warning   2 of 4 classes have no training image (bee, cat): no model can learn them",
        "note      1 of 4 classes has no validation image (ant): the accuracy that chooses the epoch says nothing of "
        "them",
        "note      3 validation images: an accuracy on so few has a standard error of up to 29 points",
        "note      3 of 4 classes have no test image (ant, cat, dog)",
        "note      1 test image: an accuracy on so few has a standard error of up to 50 points",
    ]


@pytest.mark.parametrize("num_images", [0, 1, 99, 100])
def test_few_held_out_images_are_said_with_their_standard_error(num_images: int) -> None:
    labels = {"train": torch.tensor([0, 0]), "test": torch.zeros(num_images, dtype=torch.int64)}
    told = {
        1: ["note      1 test image: an accuracy on so few has a standard error of up to 50 points"],
        99: ["note      99 test images: an accuracy on so few has a standard error of up to 5 points"],
    }
    assert shortage_notes(labels, ("ant",)) == told.get(num_images, []) + (
        [] if num_images else ["note      1 of 1 classes has no test image (ant)"]
    )


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """Eight cats, eight dogs, one fox; three of the test images are training images under other names."""
    number = 0
    for part, name, count in (("train", "cat", 8), ("train", "dog", 8), ("train", "fox", 1), ("test", "cat", 4)):
        (tmp_path / part / name).mkdir(parents=True)
        for index in range(count):
            number += 1
            colour = (number * 5, number * 7, 100)
            Image.new("RGB", (8, 8), colour).save(tmp_path / part / name / f"{index}.png")
    for index in range(3):
        content = (tmp_path / "train" / "cat" / f"{index}.png").read_bytes()
        (tmp_path / "test" / "cat" / f"copy{index}.png").write_bytes(content)
    return f"folder:{tmp_path}"


@pytest.mark.parametrize("limit", [folders.IN_MEMORY_BYTES, 0])
def test_a_run_says_so_before_it_begins(
    pets: str, limit: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", limit)
    say_once.cache_clear()
    open_training_data(BaselineConfig(dataset=pets, limit_train=2, size=8), device=CPU)
    assert [line.partition(" (")[0] for line in capsys.readouterr().out.splitlines()[2:]] == [
        "warning   3 of 7 test images are training images too",
        "warning   1 of 3 classes has no training image",
        "note      1 of 3 classes has no validation image",
        "note      2 validation images: an accuracy on so few has a standard error of up to 35 points",
        "note      2 of 3 classes have no test image",
        "note      7 test images: an accuracy on so few has a standard error of up to 19 points",
    ]
    open_data(pets, data_root=None, val_size=None, image_size=8, device=CPU)
    assert capsys.readouterr().out == ""  # said already


def test_data_shows_counts_and_doubts(pets: str, capsys: pytest.CaptureFixture[str]) -> None:
    data(DataConfig(dataset=pets, image_size=8))
    text = capsys.readouterr().out
    assert "| cat   |     8 |    7 |\n| dog   |     8 |    0 |\n| fox   |     1 |    0 |\n" in text
    assert "note      1 to 8 training images a class: --balance=loss" in text
    assert "warning   3 of 7 test images are training images too" in text
    assert text.count("no test image") == text.count("note      2 of 3 classes have no test image (dog, fox)\n") == 1
