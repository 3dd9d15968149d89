"""Arrays and Datasets of one's own as people have them: converted with a line, or refused with what mends them."""

import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.preprocessing import LabelBinarizer
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kdignite.data import custom
from kdignite.data.registry import load_source
from kdignite.data.source import Source
from kdignite.errors import UserError

DRAWS = np.random.default_rng(0)
IMAGES = DRAWS.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
IMAGES[0, 0, 0] = (0, 255, 7)
FIRST = IMAGES.transpose(0, 3, 1, 2)
GREY = IMAGES[..., 0]
LABELS = np.arange(12) % 3
ONE_HOT = LabelBinarizer().fit_transform(LABELS)
CLASSES = ["ant", "bee", "cat"]
Make = Callable[[], Any]
Load = Callable[[Make], Source]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Load a data set that a function makes."""

    def load_from(make: Make) -> Source:
        module = ModuleType("mine")
        module.make = make  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "mine", module)
        return load_source("mine:make", data_root=Path("unused"), image_size=8, progress=False)

    return load_from


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- labels

AS_THEY_ARE = [
    (LABELS[:, None], "labels int64 (12, 1) are taken as (N,)"),
    (torch.from_numpy(LABELS[:, None]), "labels int64 (12, 1) are taken as (N,)"),
    (ONE_HOT, "labels int64 (12, 3) are one-hot: the class is the column of the 1"),
    (ONE_HOT.astype(np.float32), "labels float32 (12, 3) are one-hot"),
    (ONE_HOT.astype(bool), "labels bool (12, 3) are one-hot"),
    (torch.from_numpy(LABELS).double(), "labels float64 (12,) are whole numbers"),
    (torch.from_numpy(LABELS).bfloat16(), "labels float32 (12,) are whole numbers"),
    (LABELS[:, None].astype(np.float16), "labels float16 (12, 1) are taken as (N,)"),
    (LABELS.astype(np.uint64), ""),
]
OTHERS = [
    (LABELS + 1, ("1", "2", "3"), "labels are 1, 2, 3: 3 classes, named after them"),
    (LABELS * 5, ("0", "5", "10"), "labels are 0, 5, 10: 3 classes"),
    (LABELS * 2**40, ("0", str(2**40), str(2**41)), "3 classes, named after them"),
    (LABELS.astype(np.uint64) + np.uint64(2**63), tuple(str(2**63 + i) for i in range(3)), "3 classes"),
    (np.array(CLASSES)[LABELS], tuple(CLASSES), "labels are text: 3 classes, sorted by name"),
    (np.array(CLASSES, dtype=object)[LABELS], tuple(CLASSES), "labels are text: 3 classes"),
    ((LABELS + 1).astype(object), ("1", "2", "3"), "labels are 1, 2, 3: 3 classes, named after them"),
]


@pytest.mark.parametrize(("labels", "note"), AS_THEY_ARE)
@pytest.mark.parametrize("as_items", [False, True])
def test_labels_of_one_meaning_are_class_indices(load: Load, labels: Any, note: str, as_items: bool) -> None:
    given = list(zip(IMAGES, labels, strict=True)) if as_items else (IMAGES, labels)
    source = load(lambda: {"train": given})
    assert (source.train.labels.tolist(), source.classes) == (LABELS.tolist(), ("0", "1", "2"))
    if not as_items:
        assert source.fingerprint == load(lambda: {"train": (IMAGES, LABELS)}).fingerprint
        assert [line.startswith(f"data      mine:make, train: {note}") for line in source.notes] == [True] * bool(note)


@pytest.mark.parametrize(("labels", "classes", "note"), OTHERS)
@pytest.mark.parametrize("as_items", [False, True])
def test_labels_with_another_count_are_named_after_themselves(
    load: Load, labels: Any, classes: tuple[str, ...], note: str, as_items: bool
) -> None:
    def of(kept: slice) -> Any:
        return list(zip(IMAGES[kept], labels[kept], strict=True)) if as_items else (IMAGES[kept], labels[kept])

    source = load(lambda: {"train": of(slice(9)), "test": of(slice(8, 10))})
    assert source.test is not None
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == (LABELS[:9].tolist(), LABELS[8:10].tolist())
    assert source.classes == classes
    assert note in source.notes[-1]


def test_booleans_are_two_classes(load: Load) -> None:
    source = load(lambda: {"train": (IMAGES, LABELS == 1), "classes": np.array(["no", "yes"])})
    assert (source.train.labels.tolist(), source.classes) == ((LABELS == 1).tolist(), ("no", "yes"))


def test_labels_from_1_with_names_count_from_1(load: Load) -> None:
    source = load(lambda: {"train": (IMAGES, LABELS + 1), "classes": CLASSES})
    assert (source.train.labels.tolist(), source.classes) == (LABELS.tolist(), tuple(CLASSES))
    assert source.notes == ("data      mine:make: labels count from 1: 1 is ant, 3 is cat",)


def test_text_is_looked_up_among_names_that_are_given(load: Load) -> None:
    order = ["dog", "cat", "bee", "ant"]
    source = load(lambda: {"train": (IMAGES, np.array(CLASSES)[LABELS]), "classes": order})
    assert (source.classes, source.train.labels.tolist()) == (tuple(order), [3 - label for label in LABELS.tolist()])


def test_a_column_of_a_one_hot_label_is_a_class_without_images_too(load: Load) -> None:
    wide = np.hstack([ONE_HOT, np.zeros_like(ONE_HOT)])
    assert load(lambda: {"train": (IMAGES, wide)}).classes == tuple("012345")


def test_a_gap_in_training_that_another_set_fills_is_a_class(load: Load) -> None:
    source = load(lambda: {"train": (IMAGES, LABELS // 2 * 2), "test": (IMAGES, LABELS)})
    assert source.classes == ("0", "1", "2")


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (LABELS - 1, "labels must not be negative, but they are -1 to 1; where -1 means no label, keep the others"),
        (LABELS / 2, "not float64 (12,) with 0.5: np.digitize(labels, bins) makes classes of measurements"),
        (np.where(LABELS, LABELS, np.nan), "with nan: keep the images that have one, images[np.isfinite(labels)]"),
        (np.where(LABELS, 1e300, 0.0), "with 1e+300"),
        (ONE_HOT[:, :2], "one-hot (N, C) with a single 1 in each row, not int64 (12, 2): labels.argmax(1) takes"),
        (ONE_HOT / 2, "labels.argmax(1) takes the largest of each row"),
        (
            LABELS[:, None, None],
            "labels must be whole numbers (N,), one for each image, not int64 (12, 1, 1): labels.reshape(-1)",
        ),
        (LABELS.astype("S"), "not |S21 (12,): labels.astype(str)"),
        (LABELS[0], "labels must be whole numbers (N,), one for each image, not int64 ()"),
        (LABELS * 1j, "not complex128 (12,)"),
        ([None] * 12, "not object (12,)"),
        (np.array([0, "ant"] * 6, dtype=object), "not object (12,)"),
    ],
)
def test_labels_without_one_meaning_are_refused_with_what_mends_them(load: Load, labels: Any, told: str) -> None:
    assert told in refused(lambda: load(lambda: {"train": (IMAGES, labels)}))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"train": (IMAGES, LABELS), "test": (IMAGES, np.array(CLASSES)[LABELS])}, "whole numbers, or text in all"),
        (
            {"train": (IMAGES, np.array(CLASSES)[LABELS % 2]), "test": (IMAGES, np.array(CLASSES)[LABELS])},
            "test: labels must be among ant, bee, not 'cat'",
        ),
        ({"train": list(zip(IMAGES, [0, "a"] * 6, strict=True))}, "whole numbers, or text in all items"),
        ({"train": (IMAGES, LABELS * 2), "classes": CLASSES}, "labels must be 0 to 2 for 3 classes, not 0 to 4"),
        ({"train": (IMAGES, LABELS), "classes": []}, '"classes" must be a list of names, not []'),
    ],
)
def test_labels_that_do_not_fit_one_another_are_refused(load: Load, given: Any, told: str) -> None:
    assert told in refused(lambda: load(lambda: given))


def test_no_label_takes_the_memory_of_the_machine(load: Load) -> None:
    """Neither one far away, nor one for each image."""
    many = np.zeros((2_500, 8, 8), np.uint8)
    tracemalloc.start()
    load(lambda: {"train": (IMAGES, LABELS * 2**40)})
    assert "are 2,500 classes for 2,500 training images, as if each image had its own" in refused(
        lambda: load(lambda: {"train": (many, np.arange(2_500))})
    )
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


# --- images of arrays


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (IMAGES / 255, "images float64 (12, 8, 8, 3) of 0 to 1 become uint8 of 0 to 255"),
        (torch.from_numpy(FIRST).float() / 255, "images float32 (12, 3, 8, 8) of 0 to 1 become uint8"),
        ((torch.from_numpy(FIRST).float() / 255).requires_grad_(), "images float32"),
        (
            IMAGES / 255 * 1.0004 - 2e-4,
            "images float64 (12, 8, 8, 3) of 0 to 1 become uint8",
        ),  # as resizing leaves them
        (IMAGES.astype(np.float32), "images float32 (12, 8, 8, 3) of 0 to 255 become uint8"),
        (IMAGES.astype(np.int64), "images int64 (12, 8, 8, 3) of 0 to 255 become uint8"),
        (IMAGES.astype(np.uint16), "images uint16"),
        (torch.from_numpy(IMAGES).half() / 255, "images float16"),
        ([Image.fromarray(one) for one in IMAGES], ""),
        (IMAGES.copy(order="F"), ""),
    ],
)
def test_images_of_one_meaning_are_converted(load: Load, images: Any, note: str) -> None:
    source = load(lambda: {"train": (images, LABELS)})
    assert torch.equal(source.train.images, torch.from_numpy(FIRST))  # type: ignore[arg-type]
    assert [line.startswith(f"data      mine:make, train: {note}") for line in source.notes] == [True] * bool(note)


@pytest.mark.parametrize("grey", [GREY, GREY[..., None], GREY[:, None], GREY / 255, torch.from_numpy(GREY)[:, None]])
def test_grey_images_become_three_equal_channels(load: Load, grey: Any) -> None:
    source = load(lambda: {"train": (grey, LABELS)})
    assert torch.equal(source.train.images, torch.from_numpy(np.stack([GREY] * 3, axis=1)))  # type: ignore[arg-type]
    assert source.notes[-1] == (
        f"data      mine:make, train: grey images {tuple(grey.shape)} become three equal channels"
    )


def test_black_and_white_images(load: Load) -> None:
    source = load(lambda: {"train": (IMAGES > 127, LABELS)})
    assert torch.equal(source.train.images, torch.from_numpy((FIRST > 127) * np.uint8(255)))  # type: ignore[arg-type]


def test_a_dark_set_means_what_the_training_images_mean(load: Load) -> None:
    bright, dark = IMAGES.astype(np.float32), np.zeros((12, 8, 8, 3), np.float32) + 1
    source = load(lambda: {"train": (bright, LABELS), "test": (dark, LABELS)})
    assert source.test is not None
    assert source.test.images[0].max() == 1


def test_sets_that_do_not_mean_the_same_are_refused(load: Load) -> None:
    shares = (IMAGES / 255).astype(np.float32)
    with pytest.raises(UserError, match=r"test: images of 0 to 255, and those of the training set are 0 to 1: give"):
        load(lambda: {"train": (shares, LABELS), "test": (IMAGES.astype(np.float32), LABELS)})
    for where in ("train", "test"):
        parts = {"train": (shares, LABELS), "test": (shares, LABELS)} | {where: (shares * 1.5, LABELS)}
        with pytest.raises(UserError, match=rf"{where}: .* not float32 of 0 to 1\.5: images\.clip\(0, 1\) if they are"):
            load(lambda parts=parts: parts)


def test_images_of_bytes_0_and_1_are_kept_and_doubted(load: Load) -> None:
    source = load(lambda: {"train": (IMAGES // 128, LABELS)})
    assert source.train.images[0].max() == 1
    assert source.notes == (
        "data      mine:make, train: no pixel is above 1 of 255, nearly black: if they are 0 to 1, return images * 255",
    )


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (IMAGES / 127.5 - 1, "of -1 to 1: if they are normalised, leave that out (it is done here), or undo it: ((ima"),
        (IMAGES / 60.0 - 2, "or undo it: ((images * std + mean) * 255).round().astype('uint8')"),
        (
            IMAGES * np.uint16(257),
            "uint16 of 0 to 65535: (images / 257).round().astype('uint8') if they have",
        ),
        (IMAGES.astype(np.int16) * 16, "(images / 16).round().astype('uint8')"),
        (np.where(IMAGES == 7, np.nan, IMAGES), "leave images out that hold NaN or infinity"),
        (IMAGES * 1j, "not complex128 (12, 8, 8, 3)"),
        (IMAGES[..., [0, 1, 2, 0]], "not uint8 (12, 8, 8, 4): images[..., :3] leaves the transparency out"),
        (FIRST[:, [0, 1, 2, 0]], "not uint8 (12, 4, 8, 8): images[:, :3] leaves"),
        (np.moveaxis(IMAGES, 0, -1), "not uint8 (8, 8, 3, 12): np.moveaxis(images, -1, 0)"),
        (FIRST.reshape(12, -1), "not uint8 (12, 192): images.reshape(-1, 3, 8, 8)"),
        (GREY.reshape(12, -1), "not uint8 (12, 64): images.reshape(-1, 8, 8)"),
        (IMAGES[:, :7], "not uint8 (12, 7, 8, 3): list(zip(images, labels)) is a Dataset, whose images are resized"),
        ([IMAGES[0], *IMAGES[1:, :7]], "not object (12,): list(zip(images, labels)) is a Dataset"),
        (["x.png"] * 12, "not <U5 (12,): --dataset=csv:FILE reads a table of paths and labels"),
        ([Path("x.png")] * 12, "not object (12,): --dataset=csv:FILE reads a table of paths and labels"),
        (np.array(["x.png"] * 12, dtype=object), "not object (12,): --dataset=csv:FILE reads a table"),
    ],
)
def test_images_without_one_meaning_are_refused_with_what_mends_them(load: Load, images: Any, told: str) -> None:
    assert told in refused(lambda: load(lambda: {"train": (images, LABELS)}))


@pytest.mark.parametrize(
    ("images", "mend"),
    [
        (IMAGES * np.uint16(257), lambda images: (images / 257).round().astype("uint8")),
        (IMAGES / 127.5 - 1, lambda images: ((images + 1) * 127.5).round().astype("uint8")),
        (np.moveaxis(IMAGES, 0, -1), lambda images: np.moveaxis(images, -1, 0)),
        (FIRST.reshape(12, -1), lambda images: images.reshape(-1, 3, 8, 8)),
    ],
)
def test_what_mends_them_does(load: Load, images: Any, mend: Callable[[Any], Any]) -> None:
    source = load(lambda: {"train": (mend(images), LABELS)})
    assert torch.equal(source.train.images, torch.from_numpy(FIRST))  # type: ignore[arg-type]


# --- Datasets and functions

PICTURES = [Image.fromarray(one) for one in IMAGES]


class Stream(IterableDataset[Any]):
    """A Dataset without an index, but with a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(IMAGES, LABELS, strict=True))

    def __len__(self) -> int:
        return 12


class Items(Dataset[Any]):
    """What a function of the index returns."""

    def __init__(self, item: Callable[[int], Any], length: Any = 12) -> None:
        self.item, self.length = item, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def ends(index: int) -> Any:
    return PICTURES[:9][index], 0


def fails(index: int) -> Any:
    return {}["a key of the user's own"]


@pytest.mark.parametrize(
    ("dataset", "note"),
    [
        (Items(lambda i: (PICTURES[i], int(LABELS[i]))), ""),
        (Items(lambda i: {"image": PICTURES[i], "label": int(LABELS[i])}), "image ['image'] and label ['label'] of 2"),
        (Items(lambda i: {"id": f"{i}", "img": PICTURES[i], "y": LABELS[i]}), "image ['img'] and label ['y'] of 3"),
        (Items(lambda i: (PICTURES[i], int(LABELS[i]), f"{i}.png")), "items are image [0] and label [1] of 3 parts"),
        (Items(lambda i: (f"{i}.png", FIRST[i], torch.tensor(LABELS[i]))), "items are image [1] and label [2] of 3"),
        (Items(lambda i: (int(LABELS[i]), PICTURES[i])), "items are image [1] and label [0] of 2 parts"),
        (Items(lambda i: (torch.from_numpy(FIRST[i]) / 255, LABELS[i])), "images float32 of 0 to 1 become uint8"),
        (Items(lambda i: (IMAGES[i].astype(int), LABELS[i])), "images int64 of 0 to 255 become uint8"),
        (TensorDataset(torch.from_numpy(FIRST), torch.from_numpy(LABELS), torch.zeros(12)), "image [0] and label [1]"),
        ([IMAGES, LABELS], ""),
    ],
)
def test_items_of_one_meaning_are_taken(load: Load, dataset: Any, note: str) -> None:
    source = load(lambda: {"train": dataset})
    assert torch.equal(source.train.images, torch.from_numpy(FIRST))  # type: ignore[arg-type]
    assert source.train.labels.tolist() == LABELS.tolist()
    assert [note in line for line in source.notes] == [True] * bool(note)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Stream(), "not a Stream: list(dataset) makes one of what it yields, if that ends and fits in memory"),
        (zip(IMAGES, LABELS, strict=True), "not a zip: list(dataset) makes one"),
        (
            DataLoader(TensorDataset(torch.zeros(2))),
            "not a DataLoader: return the Dataset that it loads, loader",
        ),
        ({"x": IMAGES, "y": LABELS}, "not a dict: return (images, labels), such as (data['x'], data['y'])"),
        (Items(ends), "must have items 0 to 11, as its length says, but has no item 9 (IndexError: list index out of"),
        (Items(ends, -1), "its __len__ must return the number of its items: __len__() should return >= 0"),
        (Items(ends, 2.5), "its __len__ must return the number of its items: 'float' object cannot be"),
        (Dataset(), "must be (images, labels) or a Dataset with a length and an index, not a Dataset"),
        (
            Items(lambda i: (i, i, i)),
            "train[0] must be (image, label), not a tuple of 3: return [(item[0], item[0])",
        ),
        (
            Items(lambda i: {"img": PICTURES[i], "fine": 1, "coarse": 2}),
            "not a dict of 'img', 'fine', 'coarse': return [(item['img'], item['fine']) for item in dataset]",
        ),
        (Items(lambda i: (FIRST[i] * 1.0, 1)), "float images must be 0 to 1: return image.round().astype('uint8')"),
        (Items(lambda i: (FIRST[i] - 9.0, 1)), "train[0]: images must be whole numbers of 0 to 255 or float of 0 to 1"),
        (Items(lambda i: (IMAGES[i][..., [0, 1, 2, 0]], 1)), "image[..., :3] leaves the transparency out"),
        (Items(lambda i: (FIRST[i][[0, 1, 2, 0]], 1)), "not uint8 (4, 8, 8): image[:3] leaves the transparency out"),
        (Items(lambda i: (FIRST[i].reshape(-1), 1)), "not uint8 (192,): image.reshape(3, 8, 8)"),
        (Items(lambda i: (GREY[i].reshape(-1), 1)), "not uint8 (64,): image.reshape(8, 8)"),
        (Items(lambda i: (FIRST[i : i + 1], 1)), "not uint8 (1, 3, 8, 8): image[0]"),
        (Items(lambda i: ("x.png", 1)), "not <U5 (): --dataset=csv:FILE reads a table of paths and labels"),
        (Items(lambda i: (Path("x.png"), 1)), "not object (): --dataset=csv:FILE reads a table of paths and labels"),
        (Items(lambda i: (b"\x89PNG", 1)), "not |S4 (): Image.open(io.BytesIO(image)) is one"),
    ],
)
def test_what_is_no_set_is_refused_with_what_would_be_one(load: Load, given: Any, told: str) -> None:
    assert told in refused(lambda: load(lambda: {"train": given}))


def test_a_picture_that_is_opened_late_and_broken_is_named(load: Load, tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "x.png")
    whole = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(whole[:-40])
    with Image.open(tmp_path / "x.png") as opened:
        told = refused(lambda: load(lambda: {"train": [(PICTURES[0], 0), (opened, 1)]}))
    assert told.startswith(f"mine:make, train[1] ({tmp_path / 'x.png'}) is not a readable image (")
    assert told.endswith("): repair or remove it")


def test_an_error_of_the_users_own_code_is_left_alone(load: Load) -> None:
    with pytest.raises(KeyError, match="a key of the user's own"):
        load(lambda: {"train": Items(fails)})


def test_a_function_that_fails_is_told_in_one_line_with_its_own_error(load: Load) -> None:
    def make() -> Any:
        raise FileNotFoundError(2, "No such file", "my.npz")

    assert refused(lambda: load(make)) == (
        "--dataset=mine:make fails: FileNotFoundError: [Errno 2] No such file: 'my.npz' (--traceback shows where)"
    )


def test_the_line_of_the_module_that_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_data.py").write_text("def make():\n    return inner()\n\n\ndef inner():\n    return 1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "failing_data:make"
    told = refused(lambda: load_source(name, data_root=tmp_path, image_size=8, progress=False))
    assert told == (
        f"--dataset={name} fails: ZeroDivisionError: division by zero "
        "(failing_data.py, line 6; --traceback shows where)"
    )


def test_a_function_that_needs_arguments_is_refused(load: Load) -> None:
    assert refused(lambda: load(lambda root: root)) == (  # type: ignore[arg-type, misc]
        "--dataset=mine:make must be a function without arguments (missing a required argument: 'root'): give each a "
        "default, or name another function that calls it"
    )


# --- the same twice


def shuffled() -> Any:
    order = np.random.default_rng().permutation(12)
    return {"train": (IMAGES[order], LABELS[order])}


def noisy() -> Any:
    return {"train": (IMAGES // 2 + np.random.default_rng().integers(0, 9, IMAGES.shape, np.uint8), LABELS)}


def cropped() -> Any:
    draws = np.random.default_rng()
    return {"train": Items(lambda i: (np.roll(IMAGES[i], draws.integers(1, 7), 1), LABELS[i]))}


def relabelled() -> Any:
    draws = np.random.default_rng()
    return {"train": Items(lambda i: (IMAGES[i], int(draws.integers(0, 2**40))))}


def growing(counts: Iterator[int]) -> Callable[[], Any]:
    def make() -> Any:
        count = next(counts)
        return {"train": (IMAGES[:count], LABELS[:count])}

    return make


@pytest.mark.parametrize("make", [shuffled, noisy, cropped, relabelled, growing(iter([9, 12, 12]))])
def test_a_function_that_is_not_the_same_twice_is_refused(load: Load, make: Callable[[], Any]) -> None:
    assert "is another when it is read again: take shuffling and random transforms out" in refused(lambda: load(make))


@pytest.mark.parametrize(("seconds", "size"), [(-1.0, 2**30), (10.0, -1)])
def test_what_takes_long_is_called_once_and_its_items_are_read_again(
    load: Load, monkeypatch: pytest.MonkeyPatch, seconds: float, size: int
) -> None:
    monkeypatch.setattr(custom, "LONGEST_S", seconds)
    monkeypatch.setattr(custom, "LARGEST_BYTES", size)
    load(shuffled)
    assert re.search(r"train: image or label \d+ is another", refused(lambda: load(cropped)))


def test_what_is_seeded_by_the_index_is_the_same(load: Load) -> None:
    def rolled(index: int) -> Any:
        return np.roll(IMAGES[index], np.random.default_rng(index).integers(8), 1), LABELS[index]

    assert load(lambda: {"train": Items(rolled)}).train.labels.tolist() == LABELS.tolist()
