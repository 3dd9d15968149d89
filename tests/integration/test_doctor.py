"""Mistakes planted by hand, in plain torch, into the evaluation of a model that was really trained: each is found.

Nothing below shares code with the doctor: the images come from scikit-learn, and every mistake is made as scripts do.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from kdignite import checkpoints
from kdignite.cli import main
from kdignite.commands.doctor import Diagnosis, diagnose, summarise
from kdignite.commands.teacher import teacher
from kdignite.config import DoctorConfig, TeacherConfig, configure
from kdignite.doctor.predictions import Predictions
from kdignite.models.cnn5 import cnn5
from kdignite.runs import Finished

WIDTHS = (16, 16, 16, 16, 16)
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


class World(NamedTuple):
    """A trained model and the test images, as a stranger's script would have them."""

    weights: dict[str, Tensor]
    mean: Tensor
    std: Tensor
    images: Tensor  # uint8 (300, 3, 32, 32)
    labels: Tensor

    def net(self, weights: dict[str, Tensor] | None = None) -> nn.Module:
        model = cnn5(num_classes=10, size=32, widths=WIDTHS)
        model.load_state_dict(self.weights if weights is None else weights)
        return model

    def normal(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std

    @property
    def pixels(self) -> Tensor:
        return self.images.float() / 255


@pytest.fixture
def undrawn() -> None:
    """Its figure is looked at."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of weights that are the same on every processor: what is told apart here depends on them.

    They come from nine epochs of such a run with ``--lr=0.25 --seed=5``, and a rate of nearly 0 keeps them.
    """
    weights = str(Path(__file__).with_name("digits.pt"))
    config = configure(
        TeacherConfig, dataset="digits", arch="cnn5", widths=WIDTHS, epochs=1, batch_size=50, lr=1e-12, threads=1,
        amp="off", weights=weights,
    )  # fmt: skip
    run = teacher(config, root=tmp_path_factory.mktemp("doctor"))
    assert run.result["test"]["accuracy"] > 0.9
    return run


@pytest.fixture(scope="module")
def world(trained: Finished) -> World:
    content = checkpoints.read(trained.folder / "best.safetensors")
    grey = torch.tensor(load_digits().images)[:, None] * 255 / 16
    enlarged = F.interpolate(grey, size=(32, 32), mode="bilinear").round().to(torch.uint8).repeat(1, 3, 1, 1)
    with np.load(trained.folder / "predictions.npz") as stored:
        rows = torch.tensor(stored["test_indices"])
    mean, std = (torch.tensor(content["preprocessing"][key])[:, None, None] for key in ("mean", "std"))
    return World(content["weights"], mean, std, enlarged[rows], torch.tensor(load_digits().target)[rows])


def asked_on(split: str, trained: Finished) -> Diagnosis:
    config = DoctorConfig(run=str(trained.folder), split=split, threads=1)
    checkpoint = checkpoints.load_checkpoint(trained.folder / "best.safetensors")
    return diagnose(config, checkpoint, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def on_val(trained: Finished) -> Diagnosis:
    return asked_on("val", trained)


@pytest.fixture(scope="module")
def on_test(trained: Finished) -> Diagnosis:
    return asked_on("test", trained)


def run(model: nn.Module, inputs: Tensor, *, batch: int = 64) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(batch)])


def cropped(images: Tensor) -> Tensor:
    """Random crops of the padded images, as a training transform makes them."""
    draw = np.random.default_rng(5)
    padded = F.pad(images, (4, 4, 4, 4), mode="reflect")
    corners = draw.integers(0, 9, (len(images), 2))
    return torch.stack([one[:, y : y + 32, x : x + 32] for one, (y, x) in zip(padded, corners, strict=True)])


def untrained() -> nn.Module:
    torch.manual_seed(77)
    return cnn5(num_classes=10, size=32, widths=WIDTHS)


def nothing_loaded(world: World) -> nn.Module:
    model = untrained()
    result = model.load_state_dict({f"model.{key}": one for key, one in world.weights.items()}, strict=False)
    assert len(result.unexpected_keys) == len(world.weights)
    return model


def no_statistics(world: World) -> Tensor:
    model = untrained()
    model.load_state_dict({k: v for k, v in world.weights.items() if "running" not in k}, strict=False)
    return run(model.eval(), world.normal(world.pixels))


def new_head(world: World) -> Tensor:
    model = untrained()
    model.load_state_dict({k: v for k, v in world.weights.items() if "linear" not in k}, strict=False)
    return run(model.eval(), world.normal(world.pixels))


def half_loaded(world: World) -> Tensor:
    model = untrained()
    known = ("conv1", "norm1", "bn1", "conv2", "norm2", "bn2", "conv3")
    result = model.load_state_dict({k: v for k, v in world.weights.items() if k.startswith(known)}, strict=False)
    assert 0 < len(result.missing_keys) < len(world.weights)
    return run(model.eval(), world.normal(world.pixels))


def with_statistics(world: World, mean: Any, std: Any) -> Tensor:
    return run(
        world.net().eval(), (world.pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    )


def reshaped(world: World) -> Tensor:
    as_read = np.ascontiguousarray(world.images.numpy().transpose(0, 2, 3, 1))  # what an image library returns
    return run(world.net().eval(), world.normal(torch.from_numpy(as_read).view(-1, 3, 32, 32).float() / 255))


def permuted(world: World) -> Tensor:
    return run(world.net().eval(), world.normal(world.pixels))[:, [3, 7, 0, 9, 1, 8, 2, 4, 6, 5]]


def shuffled(world: World) -> Tensor:
    return run(world.net().eval(), world.normal(world.pixels))[torch.randperm(300, generator=torch.manual_seed(1))]


# mistake -> the logits of a script that makes it
EXACT: dict[str, Callable[[World], Tensor]] = {
    "as recorded": lambda w: run(w.net().eval(), w.normal(w.pixels)),
    "not normalised": lambda w: run(w.net().eval(), w.pixels),
    "normalised twice": lambda w: run(w.net().eval(), w.normal(w.normal(w.pixels))),
    "ImageNet's statistics": lambda w: with_statistics(w, *IMAGENET),
    "CIFAR-10's statistics": lambda w: with_statistics(w, *CIFAR10),
    "0.5 and 0.5 statistics": lambda w: with_statistics(w, (0.5,) * 3, (0.5,) * 3),
    "0..255, normalised": lambda w: run(w.net().eval(), w.normal(w.images.float())),
    "0..255": lambda w: run(w.net().eval(), w.images.float()),
    "reshaped": reshaped,
    "no BatchNorm statistics": no_statistics,
    "answers one too high": lambda w: run(w.net().eval(), w.normal(w.pixels))[:, [9, *range(9)]],
    "answers one too low": lambda w: run(w.net().eval(), w.normal(w.pixels))[:, [*range(1, 10), 0]],
}
RANDOM: dict[str, Callable[[World], Tensor]] = {
    "train mode": lambda w: run(w.net().train(), w.normal(w.pixels)),
    "training views": lambda w: run(w.net().eval(), w.normal(cropped(w.images).float() / 255)),
    "train mode, views": lambda w: run(w.net().train(), w.normal(cropped(w.images).float() / 255)),
    "new head": new_head,
    "half loaded": half_loaded,
    "nothing loaded": lambda w: run(nothing_loaded(w).eval(), w.normal(w.pixels)),
    "nothing loaded, train mode": lambda w: run(nothing_loaded(w).train(), w.normal(w.pixels)),
    "nothing loaded, train mode, views": lambda w: run(
        nothing_loaded(w).train(), w.normal(cropped(w.images).float() / 255)
    ),
    "classes permuted": permuted,
    "order shuffled": shuffled,
}
PLANTED = {**EXACT, **RANDOM}
# what at most is taken for a random mistake, where that is less than any other random one
LIKE = {
    "train mode": {"train mode", "train mode, views"},
    "classes permuted": {"classes permuted"},
    "order shuffled": {"order shuffled"},
}


def summary_of(diagnosis: Diagnosis, predicted: npt.NDArray[np.int64] | None = None, **given: Any) -> dict[str, Any]:
    config = dataclasses.replace(diagnosis.config, **given)
    answers = None if predicted is None else Predictions(predicted, None, "test")
    return summarise(diagnosis._replace(config=config, predictions=answers), run="teacher")


@pytest.mark.parametrize("name", PLANTED)
def test_the_accuracy_of_a_planted_mistake_fits_it(name: str, world: World, on_val: Diagnosis) -> None:
    """The number is of the test images, the doctor's of the validation images."""
    right = PLANTED[name](world).argmax(1) == world.labels
    summary = summary_of(on_val, observed=float(right.float().mean()))
    assert name in summary["observed"]["candidates"]
    assert len(summary["observed"]["candidates"]) < len(summary["settings"])
    by_class = [float(right[world.labels == c].float().mean()) for c in range(10)]
    assert name in summary_of(on_val, per_class=tuple(by_class))["per_class"]["candidates"]


@pytest.mark.parametrize("name", EXACT)
def test_the_labels_alone_name_a_mistake_without_chance(name: str, world: World, on_test: Diagnosis) -> None:
    predicted = EXACT[name](world).argmax(1).numpy()
    named = summary_of(on_test, predicted)["predictions"]
    assert named["found"]
    assert named["agreement"] > 0.995
    if len(np.unique(predicted)) > 1:
        assert named["name"] == name
        assert named["second_agreement"] < named["agreement"]
    else:  # an input so broken that all is one class does not say how
        assert name in (named["name"], *named["tied"])


@pytest.mark.parametrize("name", RANDOM)
def test_the_labels_alone_tell_a_random_mistake_from_all_but_its_like(
    name: str, world: World, on_test: Diagnosis
) -> None:
    named = summary_of(on_test, RANDOM[name](world).argmax(1).numpy())["predictions"]
    found = {named["name"], *named["tied"]}
    assert named["found"]
    assert name in found
    assert not found & set(EXACT)
    assert found <= LIKE.get(name, found)


def test_a_permutation_of_the_classes_is_told(world: World, on_test: Diagnosis) -> None:
    summary = summary_of(on_test, permuted(world).argmax(1).numpy())
    assert summary["predictions"]["permutation"].startswith("0 as 2, 1 as 4, 2 as 6, 3 as 0")
    assert any("The best assignment of classes: 0 as 2" in line for line in summary["advice"])


def test_what_fits_nothing_names_nothing(world: World, on_val: Diagnosis, on_test: Diagnosis) -> None:
    """An accuracy far from those of all settings, and answers that are right for every other image alone."""
    scored = [float((one.predicted.numpy() == on_val.sample.labels.numpy()).mean()) for one in on_val.results.logits]
    far = [one for one, score in zip(on_val.results.logits, scored, strict=True) if not 0.2 < score < 0.9]
    assert len(far) > 5
    summary = summary_of(on_val._replace(results=on_val.results._replace(logits=far)), observed=0.55)
    assert summary["observed"]["candidates"] == []
    assert summary["advice"][0].endswith(
        "fits no setting of the table: another mistake, other images or another model."
    )
    half = world.labels.clone()
    half[::2] = (half[::2] + 3) % 10
    summary = summary_of(on_test, half.numpy())
    assert not summary["predictions"]["found"]
    assert summary["advice"][0].startswith("The predictions are those of no setting in the table. The nearest is: ")


def test_logits_decide_where_labels_cannot(world: World, on_test: Diagnosis) -> None:
    """All of one class, by two mistakes: the labels are the same, the logits are not."""
    broken = {name: EXACT[name](world) for name in EXACT}
    constant = [name for name, logits in broken.items() if len(logits.argmax(1).unique()) == 1]
    assert constant
    for name in constant:
        given = Predictions(broken[name].argmax(1).numpy(), broken[name].double().numpy(), "test")
        assert summarise(on_test._replace(predictions=given), run="x")["predictions"]["name"] == name


def test_the_recorded_setting_is_what_evaluate_says(trained: Finished, on_val: Diagnosis, on_test: Diagnosis) -> None:
    for split, diagnosis in (("val", on_val), ("test", on_test)):
        rows = {row["name"]: row for row in summary_of(diagnosis)["settings"]}
        assert rows["as recorded"]["accuracy"] == trained.result[split]["accuracy"]


class TestCommand:
    """The command line, from files to files."""

    @pytest.fixture
    def here(self, trained: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "teacher").symlink_to(trained.folder)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_the_published_mistake(self, world: World, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Prefixed keys, strict=False, no eval(), training views: by number, by labels, and the file explained."""
        torch.save({f"model.{key}": value for key, value in world.weights.items()}, "theirs.pt")
        predicted = RANDOM["nothing loaded, train mode, views"](world).argmax(1).numpy()
        np.save("labels.npy", predicted)
        accuracy = 100 * float((predicted == world.labels.numpy()).mean())
        flags = [f"--observed={accuracy}", "--predictions=labels.npy", "--weights=theirs.pt", "--threads=1"]
        assert main(["doctor", "teacher", *flags, "--draws=3"]) == 0
        out = capsys.readouterr().out
        assert "python -m kdignite adopt theirs.pt --arch=cnn5 --widths=16,16,16,16,16 --size=32 --mean=" in out
        assert "without the prefix 'model.', which every key has" in out
        assert "teacher on 300 test images of digits" in out
        summary = json.loads(Path("runs/doctor-teacher/doctor.json").read_text())
        assert "nothing loaded, train mode, views" in summary["observed"]["candidates"]
        assert "trained without label smoothing" in summary["teacher"]
        assert all(line in out for line in (*summary["teacher"], *summary["weights"], *summary["advice"]))
        assert Path("runs/doctor-teacher/doctor.png").stat().st_size > 10_000
        assert {row["name"] for row in summary["settings"] if row["draws"] and len(row["draws"]) == 3} == set(RANDOM)

    def test_the_line_it_prints_adopts_the_file(
        self, world: World, here: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save({f"model.{key}": value for key, value in world.weights.items()}, "theirs.pt")
        assert main(["doctor", "--weights=theirs.pt", "--arch=resnet20", "--dataset=digits"]) == 0
        assert "--arch=resnet20" not in [line.strip() for line in capsys.readouterr().out.splitlines()]
        assert main(["doctor", "teacher", "--weights=theirs.pt", "--draws=3", "--threads=1"]) == 0
        line = next(line.strip() for line in capsys.readouterr().out.splitlines() if "python -m kdignite adopt" in line)
        words = line[line.index("adopt") :].split()
        assert main([*words, "--name=theirs", "--threads=1"]) == 0
        assert "evaluated theirs.pt: 9" in capsys.readouterr().out
        assert main(["doctor", "theirs", "--draws=3", "--threads=1"]) == 0
        assert "trained elsewhere: with which label smoothing" in capsys.readouterr().out

    def test_a_model_of_ones_own_without_batchnorm(self, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (here / "ours.py").write_text(
            "from torch import nn\n"
            "def tiny(num_classes):\n"
            "    return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(192, num_classes))\n"
        )
        config = configure(TeacherConfig, dataset="digits", arch="ours:tiny", epochs=2, name="own", threads=1)
        teacher(config, root=here / "runs")
        assert main(["doctor", "own", "--threads=1"]) == 2
        assert "repeat its name: --arch=ours:tiny" in capsys.readouterr().err
        assert main(["doctor", "own", "--arch=ours:tiny", "--draws=3", "--threads=1"]) == 0
        out = capsys.readouterr().out
        assert "left out: train mode: here the same as 'as recorded'" in out
        assert "left out: no BatchNorm statistics: here the same as 'as recorded'" in out
        assert "left out: nothing loaded, train mode: here the same as 'nothing loaded'" in out
        assert "--observed=ACC lists the settings that score what you got" in out

    @pytest.mark.parametrize(
        ("flags", "text"),
        [
            ([], "doctor needs a run folder or a checkpoint, python -m kdignite doctor runs/NAME --observed=10, or "),
            (["--weights=x.pt"], "--weights=FILE --arch=NAME"),
            (["--observed=10", "--weights=x.pt", "--arch=cnn5"], "--observed needs the model that it belongs to"),
            (["teacher", "--observed=101"], "--observed must be at most 100, not 101"),
            (["teacher", "--per_class=.1,.2"], "--per_class needs 10 accuracies, one for each of 0, 1, 2, ..., not 2"),
            (["teacher", "--predictions=none.npy"], "there is no file none.npy: --predictions needs one"),
            (["teacher", "--weights=none.pt"], "there is no file none.pt"),
            (["nobody"], "there is no run or checkpoint 'nobody'"),
            (["teacher", "--arch=resnet20"], "holds a cnn5, not a resnet20"),
        ],
    )
    def test_what_is_refused(self, flags: list[str], text: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", *flags]) == 2
        assert text in capsys.readouterr().err
        assert [path.name for path in (here / "runs").iterdir()] == ["teacher"]
