"""The choice of a data set by name, the digits, and data sets of the user's own."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from kdignite.commands.data import class_table
from kdignite.data import custom
from kdignite.data.decode import resize_and_crop
from kdignite.data.registry import load_source
from kdignite.data.source import ImageSet, Source, StreamedImages, content_digest, describe_source
from kdignite.errors import UserError
from kdignite.plugins import import_function

DRAWS = np.random.default_rng(0)
HWC = DRAWS.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
CHW = np.ascontiguousarray(HWC.transpose(0, 3, 1, 2))
GREY = np.ascontiguousarray(HWC[..., 0])
LABELS = np.array([0, 1, 2, 0, 1, 2])

Returning = Callable[..., Source]


def load(name: str, size: int = 8) -> Source:
    return load_source(name, data_root=Path("unused"), image_size=size, progress=False)


def tensor(one: ImageSet | None) -> torch.Tensor:
    assert one is not None
    assert isinstance(one.images, torch.Tensor)
    return one.images


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder that is not on the import path yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


@pytest.fixture
def returning(monkeypatch: pytest.MonkeyPatch) -> Returning:
    """Load ``own_data:make``, a function that returns a given value."""

    def load_returned(value: Any, *, size: int = 8) -> Source:
        module = ModuleType("own_data")
        module.make = lambda: value  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "own_data", module)
        return load("own_data:make", size)

    return load_returned


class Pairs:
    """A map-style Dataset that no torch class is behind."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.pairs = list(zip(images, labels, strict=True))

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.pairs[index]


# --- by name


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("cifar-10", "not 'cifar-10'; did you mean cifar10?"),
        ("CIFAR100", "not 'CIFAR100'; did you mean cifar100?"),
        ("mnist", "not 'mnist'"),
    ],
)
def test_unknown_name(name: str, end: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name)
    choices = "cifar10, cifar100, digits, folder:PATH, csv:FILE, package.module:function"
    assert str(caught.value) == f"--dataset must be one of {choices}, {end}"


def test_a_folder_without_its_word_is_suggested(here: Path) -> None:
    (here / "pets").mkdir()
    with pytest.raises(UserError, match=r"not 'pets'; did you mean folder:pets\?$"):
        load("pets")


def test_description(returning: Returning) -> None:
    source = returning({"train": (HWC, LABELS), "test": (HWC[:2], LABELS[:2]), "classes": ["a", "b", "c"]})
    assert describe_source(source).splitlines() == [
        "data set     own_data:make",
        "train        6 images",
        "val          none of its own",
        "test         2 images",
        "classes      3: a, b, c",
        f"fingerprint  {source.fingerprint[:12]}",
    ]


def test_description_of_many_classes() -> None:
    source = load("digits")._replace(classes=tuple(f"c{index}" for index in range(100)))
    assert "classes      100: c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, ...\n" in describe_source(source)
    assert "train        1,797 images\n" in describe_source(source)
    shown = [line.strip("| ").split(" | ") for line in class_table(source).splitlines()[2:]]
    counts = np.bincount(load_digits().target, minlength=100)
    assert [row[0].strip() for row in shown[:10]] == [f"c{c}" for c in np.argsort(-counts, kind="stable")[:10]]
    assert shown[10][0].strip() == "..."
    assert [int(row[1]) for row in shown[11:]] == [0] * 10


def test_digest_depends_on_pixels_labels_and_shape() -> None:
    images, labels = torch.from_numpy(CHW), torch.from_numpy(LABELS)
    changed = images.clone()
    changed[5, 2, 7, 7] ^= 1
    others = [(changed, labels), (images, labels.flip(0)), (images.reshape(6, 3, 4, 16), labels)]
    assert len({content_digest(*one) for one in [(images, labels), *others]}) == 4
    assert content_digest(torch.from_numpy(HWC).permute(0, 3, 1, 2), labels) == content_digest(images, labels)


# --- digits


def test_digits() -> None:
    source = load("digits", size=64)
    images = tensor(source.train)
    assert images.shape == (1797, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:, 0], images[:, 1])
    assert torch.equal(images[:, 0], images[:, 2])
    assert source.train.labels.tolist() == load_digits().target.tolist()
    assert source.classes == tuple("0123456789")
    assert (source.val, source.test) == (None, None)
    assert (source.default_val_size, source.default_test_size, source.default_augment) == (200, 300, "crop")
    assert source.fingerprint == load("digits").fingerprint


def test_digits_are_enlarged_bilinearly() -> None:
    """Each axis by itself: pixel centres of the large image at (i + 1/2) / 4 - 1/2 of the small one."""
    grey = load_digits().images[17] * 255 / 16
    at = (np.arange(32) + 0.5) / 4 - 0.5
    wide = np.stack([np.interp(at, np.arange(8), row) for row in grey])
    both = np.stack([np.interp(at, np.arange(8), column) for column in wide.T]).T
    assert np.abs(tensor(load("digits").train)[17, 0].numpy() - both).max() <= 0.5


# --- arrays of the user's own


@pytest.mark.parametrize("images", [HWC, CHW, torch.from_numpy(HWC), torch.from_numpy(CHW)])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype(np.uint8), torch.from_numpy(LABELS), LABELS.tolist()])
def test_arrays(returning: Returning, images: Any, labels: Any) -> None:
    source = returning({"train": (images, labels)}, size=64)
    assert torch.equal(tensor(source.train), torch.from_numpy(CHW))
    assert tensor(source.train).is_contiguous()
    assert source.train.labels.dtype == torch.int64
    assert source.train.labels.tolist() == LABELS.tolist()
    assert source.classes == ("0", "1", "2")
    assert (source.val, source.test, source.default_test_size) == (None, None, 0.1)
    assert source.fingerprint == returning({"train": (HWC, LABELS)}).fingerprint


def test_grey_arrays(returning: Returning) -> None:
    images = tensor(returning({"train": (GREY, LABELS)}).train)
    assert torch.equal(images, torch.from_numpy(np.stack([GREY] * 3, axis=1)))


def test_read_only_arrays_are_copied(returning: Returning) -> None:
    fixed = CHW.copy()
    fixed.setflags(write=False)
    tensor(returning({"train": (fixed, LABELS)}).train).zero_()
    assert np.array_equal(fixed, CHW)


def test_all_sets_and_class_names(returning: Returning) -> None:
    given = {
        "train": (HWC, LABELS),
        "val": (HWC[:3], LABELS[:3]),
        "test": (CHW[:2], LABELS[:2]),
        "classes": ("x", "y", "z"),
    }
    source = returning(given)
    assert source.classes == ("x", "y", "z")
    assert torch.equal(tensor(source.val), torch.from_numpy(CHW[:3]))
    assert torch.equal(tensor(source.test), torch.from_numpy(CHW[:2]))
    others = [{**given, "classes": ("x", "y", "w")}, {**given, "val": None}, {**given, "val": given["test"]}]
    assert len({source.fingerprint, *(returning(other).fingerprint for other in others)}) == 4


IMAGES_WANTED = (
    r"own_data:make, train: images must be uint8 \(N, H, W, 3\), \(N, 3, H, W\) or \(N, H, W\) with H = W, not "
)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (None, 'own_data:make must return a dict with "train": .* not a NoneType'),
        ((HWC, LABELS), "must return a dict .* not a tuple"),
        ({"test": (HWC, LABELS)}, 'must return a dict with "train", but its keys are: test'),
        ({}, 'must return a dict with "train", but its keys are: none'),
        ({"train": None}, r'must return a dict with "train", but its keys are: train \(None\)$'),
        ({"train": (HWC, LABELS), "valid": 1}, r"keys train, val, test and classes, not 'valid'; did you mean val\?$"),
        ({"train": 7}, r"own_data:make, train must be \(images, labels\) or a Dataset with a length .* not a int"),
        ({"train": iter([])}, r"train must be \(images, labels\) or a Dataset with a length .* not a list_iterator"),
        ({"train": (HWC, LABELS, LABELS)}, r"train must be \(images, labels\), not a tuple of 3"),
        ({"train": (HWC[:, :7], LABELS)}, IMAGES_WANTED + r"uint8 \(6, 7, 8, 3\)"),
        ({"train": (HWC[..., :2], LABELS)}, IMAGES_WANTED + r"uint8 \(6, 8, 8, 2\)"),
        ({"train": (HWC[0, 0], LABELS)}, IMAGES_WANTED + r"uint8 \(8, 3\)"),
        ({"train": ([HWC[0], HWC[0, 0]], LABELS)}, IMAGES_WANTED + r"object \(2,\)"),
        ({"train": (HWC, LABELS[:4])}, "train must have a label for each image, not 4 labels for 6 images"),
        ({"train": (HWC[:0], LABELS[:0])}, "train must have one image or more, not none"),
        ({"train": []}, "train must have one image or more, not none"),
        ({"train": (HWC, LABELS), "classes": "ab"}, "\"classes\" must be a list of names, not 'ab'"),
        ({"train": (HWC, LABELS), "classes": [1, 2]}, r'"classes" must be a list of names, not \[1, 2\]'),
        ({"train": (HWC, LABELS), "classes": 3}, '"classes" must be a list of names, not 3'),
        ({"train": (HWC, LABELS), "classes": ["a", "b"]}, "train: labels must be 0 to 1 for 2 classes, not 0 to 2"),
        ({"train": (HWC, LABELS), "classes": ["a", "b", "a"]}, "but some are equal: a, b, a"),
        ({"train": (HWC, LABELS * 0)}, "own_data:make needs two or more classes, not 1"),
        ({"train": (HWC, LABELS % 2), "test": (HWC, LABELS)}, "test: labels must be 0 to 1 for 2 classes, not 0 to 2"),
        (
            {"train": (HWC, LABELS), "test": (HWC[:, :4, :4], LABELS)},
            "the images of all sets must have the same side in pixels, not train 8, test 4",
        ),
    ],
)
def test_what_is_not_of_the_form_is_refused(returning: Returning, returned: Any, told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        returning(returned)
    assert "\n" not in str(caught.value)


# --- Datasets of the user's own


@pytest.mark.parametrize(
    "dataset",
    [
        Pairs(HWC, LABELS),
        Pairs(torch.from_numpy(CHW), LABELS.tolist()),
        Pairs([Image.fromarray(one) for one in HWC], torch.from_numpy(LABELS)),
        TensorDataset(torch.from_numpy(CHW), torch.from_numpy(LABELS)),
        list(zip(HWC, LABELS, strict=True)),
    ],
)
def test_datasets(returning: Returning, dataset: Any) -> None:
    source = returning({"train": dataset})
    assert torch.equal(tensor(source.train), torch.from_numpy(CHW))
    assert source.train.labels.tolist() == LABELS.tolist()
    assert source.fingerprint == returning({"train": (HWC, LABELS)}).fingerprint


def test_images_of_a_dataset_are_resized_as_those_of_folders_are(returning: Returning) -> None:
    images = [Image.fromarray(DRAWS.integers(0, 256, (9 + index, 15, 3), dtype=np.uint8)) for index in range(6)]
    found = tensor(returning({"train": Pairs(images, LABELS)}, size=6).train)
    assert torch.equal(found, torch.stack([resize_and_crop(one, size=6) for one in images]))


def test_grey_images_of_a_dataset(returning: Returning) -> None:
    grey = tensor(returning({"train": Pairs(GREY, LABELS)}).train)
    assert torch.equal(grey, torch.from_numpy(np.stack([GREY] * 3, axis=1)))


def test_datasets_that_do_not_fit_in_memory_are_streamed(returning: Returning, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"train": Pairs(HWC, LABELS), "test": Pairs(HWC[:2], LABELS[:2])}
    held = returning(given)
    monkeypatch.setattr(custom, "IN_MEMORY_BYTES", 8 * 3 * 8 * 8)
    assert isinstance(returning(given).train.images, torch.Tensor)
    monkeypatch.setattr(custom, "IN_MEMORY_BYTES", 8 * 3 * 8 * 8 - 1)
    source = returning(given)
    assert source.train.hashes == held.train.hashes
    assert isinstance(source.train.images, StreamedImages)
    streamed = pickle.loads(pickle.dumps(source.train.images))
    assert torch.equal(torch.stack([streamed[index] for index in range(len(streamed))]), tensor(held.train))
    assert source.fingerprint == held.fingerprint


IMAGE_WANTED = (
    r"own_data:make, train\[0\]: an image must be a PIL image or uint8 \(H, W, 3\), \(3, H, W\) or \(H, W\), not "
)


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([HWC[0]], r"own_data:make, train\[0\] must be \(image, label\), not a ndarray"),
        ([(HWC[0], 0), (HWC[0],)], r"train\[1\] must be \(image, label\), not a tuple"),
        ([(HWC[0, ..., :2], 0)], IMAGE_WANTED + r"uint8 \(8, 8, 2\)"),
        ([("x.png", 0)], IMAGE_WANTED + r"<U5 \(\)"),
        (
            [(Image.fromarray(np.full((8, 8), 2, np.float32)), 0)],
            r"train\[0\] is not a readable image \(grey values must be 0 to 1 in",
        ),
        ([(HWC[0], [[0, 1]])], r"train\[0\]: a label must be a whole number, a name or one-hot, not a list"),
        ([(HWC[0], None)], r"train\[0\]: a label must be a whole number, a name or one-hot, not a NoneType"),
    ],
)
def test_datasets_that_are_not_of_the_form_are_refused(returning: Returning, items: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        returning({"train": items})


# --- functions of the user's own


def test_a_function_in_the_current_folder_is_found(here: Path) -> None:
    (here / "pack").mkdir()
    (here / "pack" / "found_here.py").write_text("def make():\n    return 7\n")
    assert import_function("pack.found_here:make", flag="dataset")() == 7
    assert sys.path.count(str(here)) == 1


@pytest.mark.parametrize(
    "spec", ["", "make", "module:", ":make", "a b:make", "a..b:make", "a:b.c", "a:b:c", "a.py/x:f"]
)
def test_bad_form(spec: str) -> None:
    with pytest.raises(UserError, match=r"^--arch needs package.module:function, such as .*, not ") as caught:
        import_function(spec, flag="arch")
    assert str(caught.value).endswith(repr(spec))


@pytest.mark.parametrize(
    ("spec", "module"),
    [("nowhere_x:f", "nowhere_x"), ("json.nowhere:f", "json.nowhere"), ("nowhere_x.y:f", "nowhere_x")],
)
def test_missing_module(here: Path, spec: str, module: str) -> None:
    with pytest.raises(UserError) as caught:
        import_function(spec, flag="dataset")
    assert str(caught.value) == f"--dataset: there is no module {module}, neither in {here} nor installed"


@pytest.mark.parametrize("line", ["import nowhere_y", "from json import nowhere_z", "import json.nowhere_w"])
def test_what_the_users_module_fails_to_import_keeps_its_traceback(here: Path, line: str) -> None:
    name = f"broken_{line.split('_')[1]}"
    (here / f"{name}.py").write_text(f"{line}\n")
    with pytest.raises(ImportError, match="nowhere"):
        import_function(f"{name}:make", flag="dataset")


def test_missing_name() -> None:
    with pytest.raises(
        UserError, match=r"--dataset=json:loadz: json \(.*json/__init__.py\) has no loadz; did you mean"
    ):
        import_function("json:loadz", flag="dataset")
    with pytest.raises(UserError, match=r"--dataset=time:qqq: time \(built in\) has no qqq$"):
        import_function("time:qqq", flag="dataset")


def test_not_callable() -> None:
    with pytest.raises(UserError, match=r"--arch=math:pi needs a function, but pi is of type float"):
        import_function("math:pi", flag="arch")
