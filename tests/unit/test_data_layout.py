"""What is understood of folders as people have them: parts, classes, files passed over, links, broken files."""

import errno
import os
import string
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from kdignite.commands.adopt import _class_names
from kdignite.commands.data import class_table, data
from kdignite.config import AdoptConfig, DataConfig, PredictConfig
from kdignite.data import checking, decode, folders
from kdignite.data.registry import load_source
from kdignite.data.scan import find_pictures
from kdignite.data.source import Source, StreamedImages
from kdignite.errors import UserError
from kdignite.training.data import open_data
from kdignite.training.teacher import _same_place


def picture(path: Path, grey: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(path)
    return path


def make(root: Path, *paths: str) -> None:
    """A picture at each path, each of another grey."""
    for index, path in enumerate(paths):
        picture(root / path, grey=index)


def load(root: Path, *, skip_broken: bool = False) -> Source:
    return load_source(f"folder:{root}", data_root=root, image_size=8, progress=False, skip_broken=skip_broken)


def greys(source: Source, part: str = "train") -> list[int]:
    images = getattr(source, part).images
    return [int(images[index][0, 0, 0]) for index in range(len(images))]


def notes(source: Source) -> str:
    """What is said besides the two lines that are always there."""
    return "\n".join(source.notes[2:])


CLASSES = ("train/ant/a.png", "train/bee/b.png")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "VALID", "Test"),
        ("TRAIN", "validation", "testing"),
        ("training", "dev", "TESTING"),
        ("train", "Validation", "tEST"),
    ],
)
def test_parts_have_their_usual_names_in_any_case(train: str, val: str, test: str, tmp_path: Path) -> None:
    make(tmp_path, *(f"{part}/{name}/x.png" for part in (train, val, test) for name in ("ant", "bee")))
    source = load(tmp_path)
    assert [greys(source, part) for part in ("train", "val", "test")] == [[0, 1], [2, 3], [4, 5]]
    assert source.notes == (
        f"images    folder:{tmp_path}: train 2 ({train}/), val 2 ({val}/), test 2 ({test}/)",
        "classes   2: ant 1/1/1, bee 1/1/1 (train/val/test)",
    )


def test_folders_of_classes_without_train(tmp_path: Path) -> None:
    make(tmp_path, "bee/x.png", "ant/more/y.png", "ant/a.png")
    (tmp_path / "README.md").touch()
    source = load(tmp_path)
    assert (source.classes, greys(source)) == (("ant", "bee"), [2, 1, 0])
    assert source.notes == (
        f"images    folder:{tmp_path}: train 3 (in folders of classes); val and test held out of train",
        "classes   2: ant 2, bee 1 (train)",
    )


@pytest.mark.parametrize("named", [["train"], ["test"], ["test", "train"]])
def test_trains_can_be_a_class(named: list[str], tmp_path: Path) -> None:
    make(tmp_path, "bus/x.png", "car/x.png", *(f"{name}/x.png" for name in named))
    source = load(tmp_path)
    assert source.classes == ("bus", "car", *named)
    told = "/, ".join(named) + f"/: without folders inside, each taken as a class like the other folders of {tmp_path}"
    assert notes(source) == f"note      {told}"


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "two validation parts": ((*CLASSES, "val/ant/x.png", "Valid/ant/x.png"), "would both be the val images: rename"),
    "no train": (("val/ant/x.png", "Test/ant/x.png"), r"has val/, Test/ but no train/: rename the folder"),
    "pictures in train": (
        ("train/x.png", "val/x.png"),
        "train needs a folder for each of two or more classes, but has 0",
    ),
    "pictures alone": (("x.png", "y.png"), "needs a folder for each of two or more classes, but has 0$"),
    "one level too high": (
        ("inside/train/ant/x.png", "inside/val/ant/x.png"),
        r"has 1; did you mean folder:.*/inside\?",
    ),
    "one level too high, flat": (("inside/ant/x.png", "inside/bee/x.png"), r"has 1; did you mean folder:.*/inside\?"),
    "test without classes": ((*CLASSES, "test/x.png"), "test needs a folder for each class, but has none"),
}


@pytest.mark.parametrize(("paths", "told"), REFUSED.values(), ids=REFUSED)
def test_other_layouts_are_refused_with_what_to_do(paths: tuple[str, ...], told: str, tmp_path: Path) -> None:
    make(tmp_path, *paths)
    with pytest.raises(UserError, match=told):
        load(tmp_path)


def test_what_lies_beside_train_is_named(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, "extra/ant/x.png", "old/y.png")
    (tmp_path / "val").touch()
    (tmp_path / "labels.txt").touch()
    assert notes(load(tmp_path)) == "note      not used: extra/, old/, val beside train/"


def test_a_part_alone_names_the_parts_beside_it(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, "valid/ant/x.png", "other/x.png")
    told = f"note      not used: valid/ beside {tmp_path}/train: --dataset=folder:{tmp_path} takes them too"
    assert notes(load(tmp_path / "train")) == told


def test_files_passed_over_are_counted_and_named(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, "train/ant/._a.png", "train/loose.png")
    before = load(tmp_path).fingerprint
    for name in ("1.heic", "2.heic", "3.HEIC", "x", "y.h5", "z.mpg", "Thumbs.db", ".DS_Store"):
        (tmp_path / "train" / "ant" / name).write_bytes(b"not for Pillow")
    source = load(tmp_path)
    assert source.fingerprint == before
    first, second = notes(source).splitlines()
    assert first.startswith("note      passed over: 7 files (")
    for kind in ("2 .heic", "1 .HEIC", "1 without suffix", "1 .h5", "1 .mpg", "1 hidden"):
        assert kind in first
    assert ", such as train/ant/" in first
    assert second == "note      passed over: 1 picture outside the folders of the classes, such as train/loose.png"


@pytest.mark.parametrize("suffix", ["h5", "hdf", "mpg", "grib", "fits", "eps", "bufr", "psd", "wmf", "heic", "txt"])
def test_what_is_no_picture_stops_nothing(suffix: str, tmp_path: Path) -> None:
    make(tmp_path, *CLASSES)
    (tmp_path / "train" / "ant" / f"stray.{suffix}").write_bytes(b"\x89HDF\r\n\x1a\n")
    assert greys(load(tmp_path)) == [0, 1]


def test_a_class_of_other_files_says_which(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES)
    (tmp_path / "train" / "cat").mkdir()
    for index in range(3):
        (tmp_path / "train" / "cat" / f"{index}.heic").touch()
    with pytest.raises(
        UserError, match=r"cat has no images: .*; Pillow reads no pictures .* here \(3 \.heic\): convert"
    ):
        load(tmp_path)


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "lost+found", "__pycache__", ".ipynb_checkpoints", "..x"])
@pytest.mark.parametrize("flat", [True, False])
def test_folders_of_systems_are_no_classes(name: str, flat: bool, tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, f"train/{name}/x.png", f"train/ant/{name}/y.png")
    source = load(tmp_path / "train" if flat else tmp_path)
    assert (source.classes, greys(source)) == (("ant", "bee"), [0, 1])
    where = "" if flat else "train/"
    assert notes(source).splitlines() == [
        f"note      no classes: {name}/ in {tmp_path}/train (hidden, or a system's own)",
        f"note      passed over: 1 folder (hidden, or a system's own), such as {where}ant/{name}",
    ]


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{composed}/x.png", f"train/{apart}/y.png", "train/dog/z.png", f"val/{apart}/v.png")
    source = load(tmp_path)
    assert source.classes == (composed, "dog")
    assert source.train.labels.tolist() == [0, 0, 1]
    assert source.val is not None
    assert source.val.labels.tolist() == [0]
    assert notes(source).splitlines() == [
        f"note      2 folders of {tmp_path}/train are one class {composed!r}, spelt with other characters",
    ]
    config = AdoptConfig(file="x", arch="cnn5", size=32, mean=(0, 0, 0), std=(1, 1, 1), classes=("dog", apart))
    assert _class_names(config, source.classes) == ("dog", composed)


def test_the_table_has_every_class_and_part(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, "train/bee/c.png", "val/bee/x.png")
    assert class_table(load(tmp_path)).splitlines() == [
        "| class | train | val |",
        "|-------|------:|----:|",
        "| ant   |     1 |   0 |",
        "| bee   |     2 |   1 |",
    ]


def test_what_was_understood_is_printed_once_by_all_that_load_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path, *CLASSES, "train/bee/c.png", "val/ant/x.png", "test/bee/x.png", "extra/x.png")
    for _ in range(2):
        open_data(f"folder:{tmp_path}", data_root=None, val_size=None, image_size=8, device=torch.device("cpu"))
    said = capsys.readouterr().out.splitlines()
    notes = load(tmp_path).notes
    assert said[: len(notes)] == [*notes]
    assert len(said) == len(set(said))
    data(DataConfig(dataset=f"folder:{tmp_path}", image_size=8))
    assert not set(notes) & set((shown := capsys.readouterr().out).splitlines())
    assert class_table(load(tmp_path)) in shown


# --- links


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("train/ant/self", "."),
        ("train/ant/up", ".."),
        ("train/ant/top", "../.."),
        ("train/ant/out", "../../.."),
        ("train/ant/deep/self", "../.."),
        ("train/ant/dog", "../bee"),
        ("train/cat", "bee"),
        ("test", "val"),
        ("test", "train"),
    ],
)
def test_a_folder_that_is_reached_twice_is_refused(link: str, target: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make(root, *CLASSES, "train/ant/deep/x.png", "val/ant/x.png", "val/bee/x.png")
    (root / link).symlink_to(target, target_is_directory=True)
    with pytest.raises(UserError, match=r"(is the same folder as|leads back to) .*: remove the link"):
        load(root)


def test_links_elsewhere_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "store", "bees/x.png", "more/y.png")
    make(tmp_path / "root", "train/ant/a.png")
    (tmp_path / "root" / "train" / "bee").symlink_to(tmp_path / "store" / "bees")
    (tmp_path / "root" / "train" / "ant" / "more").symlink_to("../../../store/more")
    monkeypatch.chdir(tmp_path / "root")
    assert greys(load(Path())) == greys(load(tmp_path / "root")) == [0, 1, 0]


# --- files that cannot be read


@pytest.fixture(params=["in memory", "streamed"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "streamed":
        monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    return str(request.param)


def damaged(root: Path) -> None:
    """Ten pictures, three of which cannot be read: cut in their header, cut in their pixels, and text."""
    make(root, *(f"train/{name}/{index}.png" for name in ("ant", "bee") for index in range(5)))
    for path, cut in (("train/ant/1.png", 20), ("train/bee/0.png", -40)):
        (root / path).write_bytes((root / path).read_bytes()[:cut])
    (root / "train/bee/4.png").write_text("no picture")


def test_all_broken_files_are_found_at_once(held: str, tmp_path: Path) -> None:
    damaged(tmp_path)
    told = (
        r": 3 of 10 files cannot be read as images: .*/ant/1\.png \(.*\), .*/bee/0\.png .*/bee/4\.png .*--skip_broken$"
    )
    with pytest.raises(UserError, match=told):
        load(tmp_path)


def test_the_others_can_be_used(held: str, tmp_path: Path) -> None:
    damaged(tmp_path)
    source = load(tmp_path, skip_broken=True)
    assert isinstance(source.train.images, StreamedImages) == (held == "streamed")
    assert greys(source) == [0, 2, 3, 4, 6, 7, 8]
    assert source.train.labels.tolist() == [0] * 4 + [1] * 3
    assert source.notes[1] == "classes   2: ant 4, bee 3 (train)"
    assert "skipped: 3 of 10 files cannot be read as images: " in source.notes[2]
    for path in ("train/ant/1.png", "train/bee/0.png", "train/bee/4.png"):
        (tmp_path / path).unlink()
    assert load(tmp_path).fingerprint == source.fingerprint


def test_a_class_without_a_readable_image_is_refused(held: str, tmp_path: Path) -> None:
    make(tmp_path, *CLASSES)
    (tmp_path / "train/bee/b.png").write_bytes(b"")
    with pytest.raises(UserError, match="no training image of class 'bee' can be read"):
        load(tmp_path, skip_broken=True)


def test_a_part_without_a_readable_image_is_refused(held: str, tmp_path: Path) -> None:
    make(tmp_path, *CLASSES, "val/ant/x.png")
    (tmp_path / "val/ant/x.png").write_bytes(b"")
    with pytest.raises(UserError, match="no val image can be read"):
        load(tmp_path, skip_broken=True)


def test_a_large_set_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    damaged(tmp_path)
    checked: list[int] = []
    find = decode.find_broken

    def counted(files: list[Path], *, progress: bool) -> list[decode.Broken]:
        checked.append(len(files))
        return find(files, progress=progress)

    monkeypatch.setattr(checking, "find_broken", counted)
    first, again = (load(tmp_path, skip_broken=True) for _ in range(2))
    assert first.notes == again.notes
    assert checked == [10]
    record = tmp_path / checking.RECORD
    for change in (
        lambda: os.utime(tmp_path / "train/ant/0.png", ns=(0, 0)),
        lambda: (tmp_path / "train/ant/0.png").chmod(0o600),
        lambda: record.write_text("{}"),
        lambda: record.write_text("damaged"),
        lambda: picture(tmp_path / "train/bee/4.png"),
    ):
        change()
        load(tmp_path, skip_broken=True)
    assert checked == [10] * 6
    assert len(load(tmp_path, skip_broken=True).train.labels) == 8


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), MemoryError()])
def test_what_may_pass_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    monkeypatch.setattr(folders, "IN_MEMORY_BYTES", 0)
    damaged(tmp_path)
    decode_quickly = decode._decode_quickly

    def fail(image: Image.Image) -> None:
        raise error

    monkeypatch.setattr(decode, "_decode_quickly", fail)
    with pytest.raises(UserError, match="no training image of class"):
        load(tmp_path, skip_broken=True)
    monkeypatch.setattr(decode, "_decode_quickly", decode_quickly)
    assert len(load(tmp_path, skip_broken=True).train.labels) == 7


@pytest.mark.parametrize("kind", ["folder:", "csv:"])
def test_a_path_that_no_record_can_hold_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(UserError, match="is no UTF-8, in which runs are recorded: rename the folder"):
        load_source(f"{kind}{tmp_path}/d\udcff", data_root=tmp_path, image_size=8)


@pytest.mark.parametrize("word", ["~no-such-user/p", "x" * 300, "/" + "y/" * 3_000])
@pytest.mark.parametrize("kind", ["", "folder:", "csv:"])
def test_a_path_that_cannot_be_is_told(tmp_path: Path, kind: str, word: str) -> None:
    with pytest.raises(UserError, match=r"no folder|needs a table|must be one of"):
        load_source(f"{kind}{word}", data_root=tmp_path, image_size=8)


def test_a_tilde_without_a_user_is_a_character(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_pictures([picture(Path("~$a.png")).name])
    assert found.files == (Path("~$a.png"),)
    with pytest.raises(UserError, match="--out must be a file in a folder that is there, not ~no-such-user/rows"):
        PredictConfig(paths=("~$a.png",), model="m", out="~no-such-user/rows")
    assert _same_place("folder:~no-such-user/p", f"folder:{tmp_path}/~no-such-user/p")


def test_a_folder_of_any_name_is_refused_where_a_file_is_to_be_written_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for letter in string.ascii_lowercase:
        Path(letter).mkdir()
    assert PredictConfig(paths=("x",), model="m").out is None
    for word in ("x", ""):
        with pytest.raises(UserError, match="--sheet must be a file in a folder that is there"):
            PredictConfig(paths=("x",), model="m", sheet=word)
    make(tmp_path / "~pets", "ant/x.png", "bee/x.png")
    assert load(Path("~pets")).classes == ("ant", "bee")


def test_a_link_to_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    make(tmp_path, *CLASSES)
    (tmp_path / "train" / "ant" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"ant/gone\.png \(No such file or directory\)"):
        load(tmp_path)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, *CLASSES)

    def walk(folder: Path, *, onerror: Callable[[OSError], None], **_: object) -> list[object]:
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return []

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(UserError, match=r"train/ant cannot be read \(Permission denied\): allow it"):
        load(tmp_path)
