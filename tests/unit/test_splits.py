"""Splits by example: what a source brings is kept, every process agrees, and what cannot be split is refused."""

import os
import subprocess
import sys

import pytest
import torch

from kdignite.data.source import ImageSet, Source
from kdignite.data.splits import Part, all_images, limited, split_source, stratified_pick
from kdignite.errors import UserError


def images(count: int, *, num_classes: int = 4) -> ImageSet:
    return ImageSet(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), torch.arange(count) % num_classes)


def source(count: int = 100, *, own: tuple[str, ...] = (), fingerprint: str = "0f", num_classes: int = 4) -> Source:
    return Source(
        name="drawn",
        classes=tuple("abcdefgh"[:num_classes]),
        train=images(count, num_classes=num_classes),
        val=images(12) if "val" in own else None,
        test=images(16) if "test" in own else None,
        fingerprint=fingerprint,
        default_val_size=0.1,
        default_test_size=20,
        default_augment="flip",
    )


def test_default_sizes_are_the_sources_own() -> None:
    splits = split_source(source(100), val_size=None)
    assert [len(part.indices) for part in splits[:3]] == [72, 8, 20]


def test_each_class_gets_its_share() -> None:
    splits = split_source(source(100), val_size=20)
    assert [torch.bincount(part.labels).tolist() for part in splits[:3]] == [[15] * 4, [5] * 4, [5] * 4]


def test_what_a_source_brings_itself_is_kept() -> None:
    own = source(100, own=("val", "test"))
    train, val, test, _ = split_source(own, val_size=None)
    assert train.images is own.train
    assert val.images is own.val
    assert test.images is own.test
    assert [part.indices.tolist() for part in (train, val, test)] == [list(range(n)) for n in (100, 12, 16)]


def test_validation_is_held_out_of_train_beside_a_test_set_of_its_own() -> None:
    own = source(100, own=("test",))
    train, val, test, _ = split_source(own, val_size=20)
    assert test.images is own.test
    assert val.images is own.train
    assert sorted(train.indices.tolist() + val.indices.tolist()) == list(range(100))


def test_test_is_held_out_of_train_beside_a_validation_set_of_its_own() -> None:
    own = source(100, own=("val",))
    train, val, test, _ = split_source(own, val_size=None)
    assert val.images is own.val
    assert sorted(train.indices.tolist() + test.indices.tolist()) == list(range(100))
    assert len(test.indices) == 20


def test_the_test_part_does_not_depend_on_val_size() -> None:
    parts = [split_source(source(100), val_size=size).test.indices for size in (1, 20, 0.5)]
    assert torch.equal(parts[0], parts[1])
    assert torch.equal(parts[0], parts[2])


def test_the_hash_tells_data_and_val_size_apart() -> None:
    hashes = [
        split_source(source(100), val_size=None).hash,
        split_source(source(100), val_size=9).hash,
        split_source(source(100, fingerprint="1e"), val_size=None).hash,
        split_source(source(101), val_size=None).hash,
        split_source(source(100, own=("test",)), val_size=None).hash,
    ]
    assert len(set(hashes)) == len(hashes)
    assert split_source(source(100), val_size=8).hash == hashes[0]  # 8 of 80 is the default tenth: the same images
    assert all(len(one) == 64 for one in hashes)


def test_every_process_makes_the_same_split() -> None:
    code = (
        "import torch; from kdignite.data.source import *; from kdignite.data.splits import *;"
        "train = ImageSet(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.arange(100) % 4);"
        "torch.manual_seed(5);"
        "source = Source('drawn', ('a', 'b', 'c', 'd'), train, None, None, '0f', .1, 20, '');"
        "print(split_source(source, val_size=7).hash)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert told.strip() == split_source(source(100), val_size=7).hash


def test_spare_images_go_to_the_largest_fraction_then_to_the_lower_class() -> None:
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    # 4 of 10: shares 2, 1.2, 0.8
    assert torch.bincount(labels[stratified_pick(labels, 4, key=("k",))]).tolist() == [2, 1, 1]
    even = torch.tensor([0, 1, 2] * 4)
    assert torch.bincount(even[stratified_pick(even, 4, key=("k",))]).tolist() == [2, 1, 1]


def test_another_key_picks_others() -> None:
    labels = torch.arange(100) % 2
    assert not torch.equal(stratified_pick(labels, 20, key=("one",)), stratified_pick(labels, 20, key=("two",)))


def test_a_limit_that_limits_nothing() -> None:
    part = all_images(images(10))
    assert limited(part, None) is part
    assert limited(part, 10) is part
    assert limited(part, 99) is part


def test_a_limit_keeps_every_class_in_proportion() -> None:
    part = limited(Part(images(100), torch.arange(40, 100)), 12)
    assert torch.bincount(part.labels).tolist() == [3] * 4
    assert part.indices.min() >= 40


def test_a_source_with_its_own_validation_images_takes_no_val_size() -> None:
    with pytest.raises(UserError, match=r"^drawn brings its own validation images: leave out --val_size$"):
        split_source(source(own=("val",)), val_size=10)


@pytest.mark.parametrize(("val_size", "count"), [(77, 77), (80, 80), (5000, 5000), (0.99, 79), (0.001, 0)])
def test_too_few_images_left(val_size: float, count: int) -> None:
    text = (
        rf"^holding {count} of 80 images of drawn out for val leaves too few: "
        r"choose a --val_size between 1 and 76, or a fraction$"
    )
    with pytest.raises(UserError, match=text):
        split_source(source(100), val_size=val_size)


def test_the_largest_val_size_is_the_one_the_error_names() -> None:
    assert len(split_source(source(100), val_size=76).val.indices) == 76


@pytest.mark.parametrize(("own", "count", "part"), [((), 21, "test"), (("test",), 3, "val")])
def test_a_source_too_small_to_split_is_not_blamed_on_val_size(own: tuple[str, ...], count: int, part: str) -> None:
    wanted = {"test": 20, "val": 1}[part]
    text = rf"^holding {wanted} of {count} images of drawn out for {part} leaves too few: add images, or a {part} set$"
    with pytest.raises(UserError, match=text):
        split_source(source(count, own=own), val_size=1)
