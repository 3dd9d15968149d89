"""Methods on features, from training to report: resumed bit-equal, and a student that is a student like any other."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from kdignite import checkpoints, stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.distill import distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.commands.sweep import sweep
from kdignite.config import CompareConfig, DistillConfig, DoctorConfig, EvaluateConfig, SweepConfig, configure
from kdignite.errors import UserError
from kdignite.losses import cross_entropy
from kdignite.methods.registry import METHODS
from kdignite.methods.terms import Outputs, Terms

from .alike import assert_alike, table, weights
from .conftest import NARROW, alone
from .test_resume import asked_to_stop

NAMES = [name for name, row in METHODS.items() if row.needs == "features"]
PARTS = {"rkd": {"distance", "angle"}}  # where they are not called as the method
LEARN = [name for name in NAMES if METHODS[name].init]
SHORT = {"limit_train": 300}  # 6 steps an epoch


def short(method: str, **given: object) -> DistillConfig:
    return configure(DistillConfig, **{**NARROW, **SHORT, "teacher": "teacher", "method": method, **given})


@pytest.mark.parametrize("name", NAMES)
def test_stopped_within_an_epoch_it_ends_the_same(
    name: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = distill(short(name, name="whole", alpha=0.3, T=2.0, keep_last=True), root=root)
    said = capsys.readouterr().out
    assert "0 of 2 views have cached teacher logits and features" in said
    assert ("that are learnt beside the student" in said) == (name in LEARN)
    asked_to_stop(monkeypatch, 9)
    with pytest.raises(stopping.Stopped):
        distill(short(name, name="run", alpha=0.3, T=2.0, keep_last=True), root=root)
    state = checkpoints.read(root / "run" / "last.safetensors")
    assert state["trainer"]["iteration"] == 9
    assert ("projector" in state) == (name in LEARN)
    again = distill(configure(DistillConfig, resume="run"), root=root)
    assert_alike(again.folder, whole.folder)
    ends = (checkpoints.read(one.folder / "last.safetensors") for one in (again, whole))
    one, other = ({**end["model"], **end.get("projector", {})} for end in ends)
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert {"ce", "kd", *PARTS.get(name, {name})} <= set(table(whole.folder)[0])


@pytest.mark.parametrize("name", ["at", "fitnet"])
def test_with_weight_0_it_is_the_baseline(name: str, root: Path) -> None:
    """Hooks, projectors and their keys change nothing of the student, and its file holds nothing else."""
    none = {key: 0.0 for key in METHODS[name].parameters if key.startswith("weight")}
    student = weights(distill(short(name, epochs=1, **none), root=root).folder)
    plain = weights(baseline(alone(**SHORT, epochs=1), root=root).folder)
    assert student.keys() == plain.keys()
    assert all(torch.equal(value, plain[key]) for key, value in student.items())


def test_every_command_takes_such_a_student(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = distill(short("fitnet", name="student"), root=root)
    baseline(alone(**SHORT, name="baseline"), root=root)
    found = evaluate(EvaluateConfig(run="student", threads=1), root=root)
    assert found.result["accuracy"] == trained.result["test"]["accuracy"]
    compared = compare(CompareConfig(runs=("student", "baseline", "teacher")), root=root)
    assert "fitnet" in (compared.folder / "compare.md").read_text()
    settings = doctor(DoctorConfig(run="student", num_images=100, draws=3, threads=1), root=root).result["settings"]
    assert "as recorded" in {one["name"] for one in settings}
    config = configure(SweepConfig, **{**NARROW, **SHORT, "epochs": 1, "method": "sp", "weight": (1.0, 30.0)})
    report = sweep(config, root=root).result
    assert [cell["weight"] for cell in report["cells"]] == [1.0, 30.0]
    assert capsys.readouterr().out.count("features  relu5 8x1x1 to relu5 16x1x1") == 2


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "a typing error": (
        {"student_layers": ("rellu2",)},
        "--student_layers: --arch=cnn5 has no layer 'rellu2'; did you mean relu2?; there are conv1, norm1, pool1, "
        "relu1, conv2,",
    ),
    "of the teacher": ({"teacher_layers": ("layer2",)}, "best.safetensors has no layer 'layer2'; there are conv1"),
    "not as many": (
        {"student_layers": ("relu1", "relu2")},
        "--student_layers=relu1,relu2 and --teacher_layers=relu2 are not as many: name a layer of the teacher for each",
    ),
    "no map": (
        {"student_layers": ("flatten",)},
        "--method=fitnet compares maps (channels, height, width), but flatten of --student_layers returns (8,)",
    ),
    "one pixel": (
        {"method": "at", "student_layers": ("relu5",), "teacher_layers": ("relu3",)},
        "--method=at compares maps of 2 pixels or more, but relu5 of --student_layers returns (8, 1, 1)",
    ),
    "twice": ({"student_layers": ("relu1", "relu1")}, "--student_layers=relu1,relu1 names a layer twice"),
    "too few stages": (
        {"method": "at", "arch": "torchvision:mobilenet_v3_small", "widths": None, "size": 8},
        "which layers of --arch=torchvision:mobilenet_v3_small are compared is not known: name them, --student_layers=",
    ),
    "logits": (
        {"method": "kd", "student_layers": ("relu1",)},
        "--method=kd compares logits, not features: leave out --student_layers",
    ),
}


def gap(student: Outputs, teacher: Outputs, labels: Tensor, *, scale: float = 0.1) -> Terms:
    """Bring the mean of a layer to that of the teacher's."""
    (own,), (other,) = student.features.values(), teacher.features.values()
    distance = (own.mean() - other.mean()).square()
    return Terms(cross_entropy(student.logits, labels) + scale * distance, {"gap": distance})


def closer(student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
    """The same without labels: its loss is of features alone."""
    return Terms(gap(student, teacher, labels).parts["gap"], {})


def net(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, num_classes))


def test_a_method_and_a_network_of_ones_own_name_their_layers(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mine", SimpleNamespace(gap=gap, closer=closer, net=net))
    own = {"arch": "mine:net", "widths": None, "epochs": 1, "teacher_layers": ("relu2",)}
    done = distill(short("mine:gap", **own, student_layers=("1",)), root=root)
    assert float(table(done.folder)[0]["gap"]) > 0
    assert json.loads((done.folder / "config.json").read_text())["student_layers"] == ["1"]
    unlabelled = distill(short("mine:closer", **own, student_layers=("1",), name="unlabelled"), root=root)
    assert float(table(unlabelled.folder)[0]["loss"]) > 0
    with pytest.raises(UserError) as caught:
        distill(short("fitnet", **own), root=root)
    told = "which layers of --arch=mine:net are compared is not known: name them, --student_layers=A,B"
    assert str(caught.value) == f"{told}; there are 0, 1, 2, 3"
    monkeypatch.setattr(sys.modules["mine"], "gap", lambda student, teacher, labels: student.features)
    with pytest.raises(UserError, match=r"--method=mine:gap must return .* scalars that depend on the student"):
        distill(short("mine:gap", **own, student_layers=("1",)), root=root)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_before_there_is_a_run(case: str, root: Path) -> None:
    given, told = REFUSED[case]
    with pytest.raises(UserError) as caught:
        distill(short(**{"method": "fitnet", **given}), root=root)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in root.iterdir()} <= {"teacher", ".teacher_cache"}
