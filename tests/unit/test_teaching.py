"""Which teacher a run takes, what it inherits, and which teachers are refused."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdignite import checkpoints, files
from kdignite.checkpoints import Architecture, Description, Origin, Validation
from kdignite.config import BaselineConfig, DistillConfig
from kdignite.data.source import ImageSet, Source
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import split_source
from kdignite.errors import UserError
from kdignite.training import teacher as teacher_module
from kdignite.training.data import Data

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
ORIGIN = Origin("teacher", "cifar10", "f", "s", 5000, 32, "crop+flip", 0.0, False)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def save(folder: Path, *, at: str = "1", partial: bool = False, **origin: Any) -> Path:
    """A run folder as a teacher leaves it."""
    its = ORIGIN._replace(partial=partial, **origin)
    description = Description(
        Architecture("cnn5", {}), CLASSES, Preprocessing(32, (0, 0, 0), (1, 1, 1)), its, Validation(30, 30, 1)
    )
    folder.mkdir(parents=True)
    checkpoints.write(folder / "best.safetensors", checkpoints.to_payload(description, {"w": torch.zeros(1)}))
    result = {"command": its.command, "partial": partial, "finished_at": at}
    files.write_json(folder / "result.json", {**result, "dataset": its.dataset, "val_size": its.val_size})
    return folder


def chosen(root: Path, **config: Any) -> str:
    """The name of the folder of the teacher that was chosen."""
    return teacher_module.choose_teacher(DistillConfig(**config), root=root).path.parent.name


@pytest.mark.parametrize("name", ["best.safetensors", "result.json"])
def test_a_newer_teacher_whose_files_are_damaged_is_skipped_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    save(tmp_path / "old", at="1")
    (save(tmp_path / "new", at="2", augment="flip") / name).write_bytes(b"{")
    assert chosen(tmp_path) == "old"
    assert f"skipped   {tmp_path / 'new'}: " in capsys.readouterr().out
    assert teacher_module.inherit_from_newest(BaselineConfig(), root=tmp_path).augment == "crop+flip"


# --- which one


def test_the_newest_teacher_for_the_data_is_taken_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "old", at="1")
    save(tmp_path / "new", at="2")
    save(tmp_path / "digits", at="3", dataset="digits", val_size=200)
    save(tmp_path / "partial", at="4", partial=True)
    assert chosen(tmp_path) == "new"
    assert capsys.readouterr().out == f"teacher   {tmp_path / 'new'}, the newest finished one for cifar10\n"
    assert chosen(tmp_path, dataset="cifar10") == "new"
    assert chosen(tmp_path, dataset="digits") == "digits"


def test_a_teacher_for_another_validation_size_is_passed_over(tmp_path: Path) -> None:
    save(tmp_path / "small", at="2", val_size=1000)
    save(tmp_path / "usual", at="1", val_size=5000)
    assert chosen(tmp_path) == "small"
    assert chosen(tmp_path, val_size=5000) == "usual"
    assert chosen(tmp_path, val_size=1000.0) == "small"


def test_an_adopted_model_teaches_when_it_is_named_only(tmp_path: Path) -> None:
    save(tmp_path / "teacher")
    save(tmp_path / "adopted", at="2", command="adopt")
    save(tmp_path / "student", at="3", command="distill")
    assert chosen(tmp_path) == "teacher"
    assert chosen(tmp_path, teacher="adopted") == "adopted"


def test_a_folder_is_the_same_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "teacher", dataset="folder:images")
    (tmp_path / "images").mkdir()
    for name in ("folder:images", "folder:./images", f"folder:{tmp_path}/images"):
        assert chosen(tmp_path, dataset=name) == "teacher"
    assert chosen(tmp_path, dataset="folder:moved", teacher="teacher") == "teacher"
    assert "no finished teacher" in refused(lambda: chosen(tmp_path, dataset="folder:moved"))


def test_the_teacher_that_was_asked_for_is_taken_whatever_else_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "old", at="1", dataset="digits")
    save(tmp_path / "new", at="2")
    for name in ("old", str(tmp_path / "old"), str(tmp_path / "old" / "best.safetensors")):
        assert chosen(tmp_path, teacher=name) == "old"
        assert capsys.readouterr().out == f"teacher   {tmp_path / 'old' / 'best.safetensors'}\n"
    assert chosen(tmp_path, teacher="old", dataset="digits") == "old"


@pytest.mark.parametrize(
    ("config", "dataset", "flags"),
    [
        ({}, "cifar10", ""),
        ({"dataset": "cifar10"}, "cifar10", ""),
        ({"dataset": "digits"}, "digits", " --dataset=digits"),
        ({"val_size": 100}, "cifar10", " --val_size=100"),
        ({"dataset": "folder:x", "val_size": 0.2}, "folder:x", " --dataset=folder:x --val_size=0.2"),
    ],
)
def test_without_a_teacher_the_command_that_makes_one_is_told(
    tmp_path: Path, config: dict[str, Any], dataset: str, flags: str
) -> None:
    assert refused(lambda: chosen(tmp_path, **config)) == (
        f"{tmp_path}/ has no finished teacher for {dataset}: make one, python -m kdignite teacher{flags}; "
        "or name one, --teacher=RUN"
    )


def test_a_data_set_that_there_is_not_is_told_before_its_teacher_is_missed(tmp_path: Path) -> None:
    assert refused(lambda: chosen(tmp_path, dataset="digit")).endswith("not 'digit'; did you mean digits?")


@pytest.mark.parametrize("result", [{"command": "adopt"}, {"partial": True}])
def test_a_teacher_that_has_to_be_named_is_told(tmp_path: Path, result: dict[str, Any]) -> None:
    path = save(tmp_path / "study" / "mine") / "result.json"
    files.write_json(path, {**files.read_json(path), **result})
    assert refused(lambda: chosen(tmp_path)).endswith(
        "; or name one, --teacher=study/mine (adopted models and partial runs have to be named)"
    )
    assert "mine" not in refused(lambda: chosen(tmp_path, dataset="digits"))
    assert chosen(tmp_path, teacher="study/mine") == "mine"


def test_teachers_for_other_data_are_told(tmp_path: Path) -> None:
    save(tmp_path / "a", dataset="digits", val_size=200)
    save(tmp_path / "b", dataset="cifar100")
    save(tmp_path / "c", dataset="digits", val_size=100)
    assert refused(lambda: chosen(tmp_path)).endswith(
        "; or name one, --teacher=RUN; there are teachers for --dataset=cifar100 and --dataset=digits"
    )


def test_a_teacher_for_other_data_than_asked_for_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "t", dataset="digits") / "best.safetensors"
    assert refused(lambda: chosen(tmp_path, teacher="t", dataset="cifar10")) == (
        f"{path} was trained on digits, not on cifar10: leave out --dataset, or choose another --teacher"
    )


def test_a_teacher_that_is_not_there_or_damaged_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(lambda: chosen(tmp_path, teacher="no")).startswith("there is no run or checkpoint 'no'; runs in ")
    path = save(tmp_path / "t") / "best.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    assert "is damaged" in refused(lambda: chosen(tmp_path, teacher="t"))
    assert "has no finished teacher" in refused(lambda: chosen(tmp_path))
    assert f"skipped   {tmp_path / 't'}: {path} is damaged" in capsys.readouterr().out  # not silently passed over


# --- what is inherited


def test_what_was_left_open_comes_from_the_teacher() -> None:
    origin = ORIGIN._replace(dataset="digits", val_size=77, image_size=48, augment="none")
    config = teacher_module.inherit(DistillConfig(seed=3), origin)
    assert (config.dataset, config.val_size, config.image_size, config.augment) == ("digits", 77, 48, "none")
    assert config == replace(DistillConfig(seed=3), dataset="digits", val_size=77, image_size=48, augment="none")


def test_what_was_given_is_not_inherited() -> None:
    config = DistillConfig(dataset="cifar100", val_size=10, image_size=64, augment="flip")
    assert teacher_module.inherit(config, ORIGIN) == config


def test_what_a_teacher_does_not_know_stays_open() -> None:
    config = teacher_module.inherit(DistillConfig(), ORIGIN._replace(augment="", val_size=None))
    assert config.augment is None
    assert config.val_size is None


def test_a_run_without_a_teacher_takes_the_data_settings_of_the_newest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "old", at="1", val_size=1, augment="none")
    save(tmp_path / "new", at="2", val_size=77, augment="flip")
    config = teacher_module.inherit_from_newest(BaselineConfig(), root=tmp_path)
    assert (config.val_size, config.augment, config.image_size) == (77, "flip", 32)
    assert capsys.readouterr().out == f"data      settings as {tmp_path / 'new'} has them\n"
    assert teacher_module.inherit_from_newest(config, root=tmp_path) == config
    assert capsys.readouterr().out == ""


def test_a_run_for_other_data_than_any_teacher_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "t")
    for config in (BaselineConfig(dataset="digits"), BaselineConfig(val_size=123)):
        assert teacher_module.inherit_from_newest(config, root=tmp_path) is config
    assert capsys.readouterr().out == ""


# --- the checks


def coloured() -> Data:
    """Images whose brightest channel is their class."""
    labels = torch.arange(150) % 3
    images = torch.full((150, 3, 8, 8), 40, dtype=torch.uint8)
    images[torch.arange(150), labels] = 200
    source = Source("toy", CLASSES, ImageSet(images, labels), None, None, "f", 60, 30, "none")
    return Data(source, split_source(source, val_size=None), 8)


DATA = coloured()
ARCH = "my_teaching_model:make"


def average(outputs: torch.Tensor) -> nn.Module:
    """A model whose outputs are weighted means of the channels."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    model[2].weight.data.copy_(outputs)
    return model


@pytest.fixture(autouse=True)
def user_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder of `average` as a user's own model."""
    (tmp_path / "my_teaching_model.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes, bias=False))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def teacher(
    path: Path, *, outputs: torch.Tensor | None = None, recorded: int = 60, classes: Any = CLASSES, **origin: Any
) -> checkpoints.Checkpoint:
    """A checkpoint of a model of which all or as many answers are right as ``outputs`` make them."""
    its = ORIGIN._replace(**{"dataset": "toy", "split": DATA.splits.hash, "val_size": 60, **origin})
    preprocessing = Preprocessing(8, (0.5,) * 3, (0.25,) * 3)
    described = Description(Architecture(ARCH, {}), classes, preprocessing, its, Validation(recorded, 60, 4))
    weights = average(torch.eye(3) if outputs is None else outputs).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.write(path, checkpoints.to_payload(described, weights))
    return checkpoints.load_checkpoint(path)


def checked(found: checkpoints.Checkpoint, **config: Any) -> teacher_module.LoadedTeacher:
    given = DistillConfig(**{"dataset": "toy", "teacher_arch": ARCH, "val_size": 60, **config})
    return teacher_module.load_checked_teacher(found, given, DATA, root=found.path.parent, device=CPU)


def test_a_good_teacher_passes_and_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs" / "good" / "best.safetensors"
    found = checked(teacher(path))
    assert found.teacher_record.name == "good"
    assert found.teacher_record.accuracy == 1.0
    assert found.teacher_record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert capsys.readouterr().out == "teacher   100.00% on validation, 100.00% when it was saved\n"
    images, labels, _ = DATA.source.train
    assert torch.equal(found.logits_of(images).argmax(1), labels)


def test_a_teacher_in_a_file_of_another_name_is_called_by_it(tmp_path: Path) -> None:
    assert checked(teacher(tmp_path / "mine.pt")).teacher_record.name == "mine"


def test_a_teacher_whose_classes_come_in_another_order_is_as_good(tmp_path: Path) -> None:
    order = torch.tensor([2, 0, 1])
    classes = tuple(CLASSES[index] for index in order)
    assert (
        checked(teacher(tmp_path / "t.pt", outputs=torch.eye(3)[order], classes=classes)).teacher_record.accuracy == 1.0
    )


def test_a_teacher_of_another_split_is_refused(tmp_path: Path) -> None:
    found = teacher(tmp_path / "t.pt", split="0" * 64, val_size=33)
    for given in ({}, {"allow_weak_teacher": True}):
        assert refused(lambda given=given: checked(found, **given)) == (
            f"{tmp_path / 't.pt'} was trained on another split or other images of toy (--val_size=33) than "
            "this run's (--val_size=60), so it may have seen the validation images: "
            "use the same data and --val_size for both"
        )


def test_a_teacher_of_your_own_needs_its_function_again(tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    assert refused(lambda: checked(teacher(path), teacher_arch=None)).endswith(
        f"repeat its name: --teacher_arch={ARCH}"
    )


def test_a_teacher_of_other_classes_is_refused(tmp_path: Path) -> None:
    found = teacher(tmp_path / "t.pt", classes=("red", "green", "pink"))
    assert "has other classes than the data (3 against 3): blue, pink" in refused(lambda: checked(found))


def test_a_teacher_that_is_not_what_its_checkpoint_says_is_refused(tmp_path: Path) -> None:
    swapped = torch.eye(3)[[1, 0, 2]]
    found = teacher(tmp_path / "t.pt", outputs=swapped)
    told = refused(lambda: checked(found))
    assert told.startswith(f"{tmp_path / 't.pt'} scores 33.33% on validation, its checkpoint recorded 100.00%: ")
    assert checked(found, allow_weak_teacher=True).teacher_record.accuracy == pytest.approx(1 / 3)


def test_a_teacher_at_chance_is_refused_even_if_it_always_was(tmp_path: Path) -> None:
    found = teacher(tmp_path / "t.pt", outputs=torch.eye(3)[[1, 0, 2]], recorded=20)
    assert "33.33% on validation, which is near chance: a student would learn nothing" in refused(
        lambda: checked(found)
    )


def test_a_dry_run_compares_with_nothing_recorded_and_still_refuses_chance(tmp_path: Path) -> None:
    assert checked(teacher(tmp_path / "t.pt", recorded=30), fast_dev_run=True).teacher_record.accuracy == 1.0
    found = teacher(tmp_path / "bad.pt", outputs=torch.eye(3)[[1, 0, 2]])
    assert "near chance" in refused(lambda: checked(found, fast_dev_run=True))


@pytest.mark.parametrize(
    ("origin", "T", "warning"),
    [
        ({}, 4.0, None),
        ({"command": "adopt"}, 1.0, "an adopted teacher may have been trained on the validation images"),
        ({"label_smoothing": 0.1}, 4.0, "the teacher was trained with label smoothing 0.1"),
        ({"label_smoothing": 0.1}, 1.0, None),
    ],
)
def test_doubts_about_a_teacher_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], origin: dict[str, Any], T: float, warning: str | None
) -> None:
    checked(teacher(tmp_path / "t.pt", **origin), T=T)
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == (warning is not None)
    assert warning is None or warnings[0].startswith(f"warning   {warning}")
