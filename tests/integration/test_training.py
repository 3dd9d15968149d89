"""Whole runs on digits: what they leave behind, and the promises that hold between them."""

import csv
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdignite import checkpoints
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.evaluate import evaluate
from kdignite.commands.teacher import teacher
from kdignite.config import EvaluateConfig
from kdignite.errors import RunFailed, UserError
from kdignite.handlers import LossNotFinite
from kdignite.runs import Finished
from kdignite.training import model as model_module

from .conftest import alone, learner, student

FILES = {
    "best.safetensors",
    "classification_report.png",
    "config.json",
    "confusion_matrix.png",
    "environment.json",
    "metrics.csv",
    "predictions.npz",
    "report.html",
    "result.json",
}
UNBALANCED = """
from sklearn.datasets import load_digits


def make():
    digits = load_digits()
    images = (digits.images * 15).astype("uint8").repeat(4, 1).repeat(4, 2)
    return {"train": (images, digits.target == 8), "classes": ["other", "eight"]}
"""
TAGS = {"loss/train", "loss/ce", "loss/val", "accuracy/train", "accuracy/val", "lr", "images_per_s"}


FEW = {"epochs": 1, "limit_train": 300}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load_checkpoint(folder / "best.safetensors").weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def distilled(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A student of that teacher."""
    root = tmp_path_factory.mktemp("distilled")
    (root / "teacher").symlink_to(taught.folder)
    return distill(student(), root=root)


def scalars(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_a_teacher_learns_and_leaves_everything_behind(taught: Finished) -> None:
    assert taught.result["test"]["accuracy"] > 0.9
    files = {path.name for path in taught.folder.iterdir()}
    events = {name for name in files if name.startswith("events.out.tfevents")}
    assert files - events == FILES
    assert len(events) == 1


def test_the_result_is_what_the_predictions_say(taught: Finished) -> None:
    with np.load(taught.folder / "predictions.npz") as saved:
        labels, predicted = saved["test_labels"], saved["test_logits"].argmax(1)
        assert saved["test_logits"].dtype == np.float32
        assert len(np.unique(saved["test_indices"])) == len(labels) == 300
        assert not set(saved["test_indices"]) & set(saved["val_indices"])
    result = json.loads((taught.folder / "result.json").read_text())
    assert result["test"]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted, zero_division=0)
    for c, row in enumerate(result["test"]["per_class"]):
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx([precision[c], recall[c], f1[c]])
        assert row["support"] == support[c]


def test_the_result_holds_the_cost_of_the_saved_model(taught: Finished) -> None:
    best, cost = taught.folder / "best.safetensors", taught.result["cost"]
    weights = checkpoints.load_checkpoint(best).weights
    stored = sum(weight.numel() * weight.element_size() for weight in weights.values())
    assert cost["num_parameters"] == 9 * (3 * 16 + 4 * 16 * 16) + 2 * 5 * 16 + 16 * 10 + 10
    assert cost["multiply_adds"] == 9 * (3 * 16 * 32**2 + 16 * 16 * (16**2 + 8**2 + 4**2 + 2**2)) + 16 * 10
    assert cost["file_bytes"] == best.stat().st_size > stored
    assert cost["peak_memory_bytes"] == stored + 4 * (3 + 2 * 16) * 32**2  # image, and BatchNorm's input and output
    assert 0 < cost["latency_median_ms"] <= cost["latency_p95_ms"]


def test_validation_accuracy_is_one_number_everywhere(taught: Finished, distilled: Finished, root: Path) -> None:
    """While training, in ``evaluate --split=val``, and of the same model as a teacher."""
    recorded = checkpoints.load_checkpoint(taught.folder / "best.safetensors").description.validation
    with (taught.folder / "metrics.csv").open() as file:
        while_training = max(float(row["accuracy_val"]) for row in csv.DictReader(file))
    evaluated = evaluate(EvaluateConfig(run="teacher", split="val", threads=1), root=root).result
    assert evaluated["num_correct"] == recorded.num_correct == taught.result["val"]["num_correct"]
    assert while_training == recorded.accuracy == evaluated["accuracy"] == distilled.result["teacher"]["accuracy"]


@pytest.mark.parametrize("given", [{}, {**FEW, "seed": 3}, {**FEW, "balance": "loss", "label_smoothing": 0.1}])
def test_alpha_0_is_the_baseline_bit_for_bit(root: Path, given: dict[str, Any]) -> None:
    without = baseline(alone(**given), root=root)
    ignored = distill(student(alpha=0.0, **given), root=root)
    assert same(weights(without.folder), weights(ignored.folder))
    assert ignored.result["test"] == without.result["test"]


def test_a_balanced_loss_finds_the_rare_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nine of ten images are of one class; that the loss of a student is the baseline's is shown above."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "unbalanced.py").write_text(UNBALANCED)
    given = {"dataset": "unbalanced:make", "epochs": 1, "schedule": "constant", "lr": 0.01, "augment": "none"}
    plain, balanced = (baseline(alone(**given, balance=one), root=tmp_path).result for one in ("none", "loss"))
    assert plain["test"]["per_class"][1]["recall"] < balanced["test"]["per_class"][1]["recall"]
    assert plain["test"]["balanced_accuracy"] < balanced["test"]["balanced_accuracy"]
    said = re.findall(r"balance   classes weigh (\S+) to (\S+) in the cross-entropy", capsys.readouterr().out)
    assert [list(map(float, one)) for one in said] == [pytest.approx([0.5 / 0.9, 0.5 / 0.1], rel=0.05)]


def test_alpha_changes_the_student(root: Path) -> None:
    runs = [distill(student(alpha=alpha, **FEW), root=root) for alpha in (0.0, 0.7, 1.0)]
    folders = [weights(run.folder) for run in runs]
    assert not same(folders[0], folders[1])
    assert not same(folders[1], folders[2])


def test_the_teacher_is_not_changed(taught: Finished, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its file nor the parameters and buffers of the model that taught."""

    models: list[torch.nn.Module] = []
    build = model_module.build_model
    monkeypatch.setattr(
        model_module, "build_model", lambda *args, **kwargs: models.append(build(*args, **kwargs)) or models[-1]
    )
    before = hashlib.sha256((taught.folder / "best.safetensors").read_bytes()).hexdigest()
    distill(student(**FEW), root=root)
    assert hashlib.sha256((taught.folder / "best.safetensors").read_bytes()).hexdigest() == before
    (teacher_model,) = [m for m in models if m.state_dict()["conv1.weight"].shape[0] == 16]
    assert same(teacher_model.state_dict(), weights(taught.folder))
    assert not teacher_model.training


def test_the_same_command_twice_gives_the_same_weights_in_two_folders(root: Path) -> None:
    torch.manual_seed(123)  # what others draw must not matter
    first = baseline(alone(seed=1), root=root)
    torch.rand(17)
    second = baseline(alone(seed=1), root=root)
    assert (first.folder.name, second.folder.name) == ("baseline-seed1", "baseline-seed1-2")
    assert same(weights(first.folder), weights(second.folder))


def test_seeds_differ(root: Path) -> None:
    assert not same(
        *(weights(baseline(alone(seed=seed, **FEW), root=root).folder) for seed in (1, 2)),
    )


def test_the_same_tags_in_every_run(taught: Finished, distilled: Finished) -> None:
    recalls = {f"recall/{digit}" for digit in range(10)}
    tests = {"test/accuracy", "test/balanced_accuracy", "test/loss", "test/ece"}
    of_teacher, of_student = scalars(taught.folder), scalars(distilled.folder)
    assert set(of_teacher.Tags()["scalars"]) == TAGS | recalls | tests
    assert set(of_student.Tags()["scalars"]) == TAGS | recalls | tests | {"loss/kd", "accuracy/teacher"}
    assert [event.step for event in of_student.Scalars("accuracy/val")] == [1, 2]
    assert of_student.Tags()["images"] == ["confusion_matrix", "classification_report", "reliability", "mistakes"]


def test_metrics_csv_and_tensorboard_agree(distilled: Finished) -> None:
    with (distilled.folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    events = scalars(distilled.folder)
    for column, tag in (("kd", "loss/kd"), ("ce", "loss/ce"), ("loss_val", "loss/val"), ("lr", "lr")):
        assert [float(row[column]) for row in rows] == pytest.approx([e.value for e in events.Scalars(tag)], rel=1e-6)
    for row in rows:
        assert float(row["loss"]) == pytest.approx(0.3 * float(row["ce"]) + 0.7 * float(row["kd"]), rel=1e-5)


def test_partial_runs_are_marked_and_never_teach_unasked(tmp_path: Path) -> None:
    run = teacher(learner(fast_dev_run=True), root=tmp_path)
    assert run.folder.name == "teacher-dev"
    assert run.result["partial"]
    assert checkpoints.load_checkpoint(run.folder / "best.safetensors").description.origin.partial
    limited = teacher(learner(limit_train=100, epochs=1), root=tmp_path)
    assert limited.result["partial"]
    with pytest.raises(UserError, match=r"has no finished teacher for digits: make one, python -m kdignite teacher"):
        distill(student(), root=tmp_path)


def test_a_refusal_leaves_no_folder(root: Path) -> None:
    before = sorted(root.iterdir())
    for config, text in (
        (student(arch="cnn6"), "cnn6"),
        (student(device="cuda:7"), "--device=cuda:7 is not there"),
        (student(teacher="nobody"), "there is no run or checkpoint 'nobody'"),
        (student(dataset="cifar10", teacher="teacher"), "was trained on digits, not on cifar10"),
        (student(val_size=50, teacher="teacher"), "was trained on another split or other images of digits"),
        (student(weights="nowhere.pt"), "there is no file nowhere.pt"),
        (student(widths=(8, 8)), "widths"),
    ):
        with pytest.raises(UserError, match=text):
            distill(config, root=root)
    assert sorted(root.iterdir()) == before


def test_the_newest_teacher_for_the_same_split_is_taken(root: Path) -> None:
    other = teacher(learner(val_size=100, epochs=1, name="other"), root=root)
    run = distill(student(val_size=200), root=root)
    assert run.result["teacher"]["name"] == "teacher"
    assert other.result["val_size"] == 100


def test_baseline_takes_the_data_settings_of_the_teacher(tmp_path: Path) -> None:
    teacher(
        learner(val_size=100, augment="none", epochs=1),
        root=tmp_path,
    )
    run = baseline(alone(epochs=1), root=tmp_path)
    config = json.loads((run.folder / "config.json").read_text())
    assert (config["val_size"], config["augment"]) == (100, "none")


def test_a_loss_that_is_no_number_stops_the_run(root: Path) -> None:
    with pytest.raises(RunFailed, match=r"the loss is not a finite number any more \(epoch 1, .*lr=1e\+30"):
        baseline(alone(lr=1e30, name="diverged"), root=root)
    assert not (root / "diverged" / "result.json").exists()
    assert not (root / "diverged" / "best.safetensors").exists()


def test_a_run_that_never_had_a_finite_validation_ends_as_one_whose_loss_is_no_number(root: Path) -> None:
    """Studies leave such a run out and go on: the weights of the only step are none, its loss was a number."""
    one_step = {"limit_train": 20, "batch_size": 20, "epochs": 1, "lr": 1e30, "schedule": "constant"}
    with pytest.raises(LossNotFinite, match=r"no epoch of .*diverged had a finite validation result: try a lower --lr"):
        baseline(alone(**one_step, name="diverged"), root=root)


def test_last_is_kept_only_on_request(root: Path) -> None:
    run = baseline(alone(keep_last=True, epochs=1), root=root)
    state = checkpoints.read(run.folder / "last.safetensors")
    assert set(state) >= {"model", "optimizer", "trainer", "sums", "clock", "history", "about"}
    assert state["trainer"]["iteration"] == 26  # 1,297 images in batches of 50


def test_teacher_and_student_of_different_input_sizes(root: Path) -> None:
    run = distill(student(size=48, epochs=1, normalize="imagenet"), root=root)
    preprocessing = checkpoints.load_checkpoint(run.folder / "best.safetensors").description.preprocessing
    assert (preprocessing.size, preprocessing.mean) == (48, (0.485, 0.456, 0.406))


def test_early_stopping_stops(root: Path, capsys: pytest.CaptureFixture) -> None:
    run = baseline(alone(epochs=8, patience=1, lr=1e-9, limit_train=300), root=root)
    assert run.result["epochs"] < 8
    assert "warning   --patience under --schedule=onecycle" in capsys.readouterr().out


def test_files_hold_no_host_name_and_no_absolute_path(taught: Finished) -> None:
    import socket

    for name in ("config.json", "environment.json", "result.json"):
        text = (taught.folder / name).read_text()
        assert socket.gethostname() not in text.split('"')
        assert str(Path.cwd()) not in text
        assert str(taught.folder.parent) not in text
