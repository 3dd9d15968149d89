"""Runs that were really trained, compared, and every figure computed again from their predictions."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, recall_score

from kdignite import checkpoints, files
from kdignite.cli import main
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.distill import distill
from kdignite.commands.teacher import teacher
from kdignite.comparison.pairing import LOSS_FLAGS, NOT_COMPARED
from kdignite.config import CompareConfig, to_json
from kdignite.errors import UserError
from kdignite.runs import Finished

from .conftest import alone, learner, student

STUDENTS, BASELINES = ("student-0", "student-1"), ("baseline-0", "baseline-1")
ALL = ("teacher", *STUDENTS, *BASELINES)


class Told(NamedTuple):
    """A comparison and what it wrote."""

    finished: Finished
    text: str


@pytest.fixture(scope="module")
def trained(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher, and student and baseline of two seeds."""
    root = tmp_path_factory.mktemp("compared") / "runs"
    root.mkdir()
    (root / "teacher").symlink_to(taught.folder)
    for seed in (0, 1):
        distill(student(seed=seed, name=STUDENTS[seed]), root=root)
        baseline(alone(seed=seed, name=BASELINES[seed]), root=root)
    return root


@pytest.fixture(scope="module")
def told(trained: Path) -> Told:
    """All of them compared."""
    finished = compare(CompareConfig(runs=ALL), root=trained)
    return Told(finished, (finished.folder / "compare.md").read_text(encoding="utf-8"))


class Predicted(NamedTuple):
    """What a run answered to the test images."""

    logits: np.ndarray
    labels: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The class with the largest score."""
        return self.logits.argmax(1)


def predicted(root: Path, name: str) -> Predicted:
    with np.load(root / name / "predictions.npz") as stored:
        return Predicted(stored["test_logits"].astype(np.float64), stored["test_labels"])


def rows_of(text: str, heading: str) -> dict[str, list[str]]:
    """First cell of a row -> the others."""
    _, _, part = text.partition(f"## {heading}\n")
    lines = [line for line in part.partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in cells[2:]}


def per_cent(text: str) -> float:
    return float(text) / 100


def accuracies(root: Path, names: tuple[str, ...]) -> np.ndarray:
    return np.array([accuracy_score(run.labels, run.classes) for run in (predicted(root, name) for name in names)])


def test_accuracies_and_intervals(told: Told, trained: Path) -> None:
    rows = rows_of(told.text, "Accuracy on the test images")
    for role, names in (("teacher", ("teacher",)), ("student", STUDENTS), ("baseline", BASELINES)):
        found = accuracies(trained, names)
        low, high = map(per_cent, rows[role][1].split(" to "))
        assert per_cent(rows[role][0]) == pytest.approx(found.mean(), abs=6e-5)
        if role == "teacher":
            count = round(found[0] * 300)
            expected = stats.binomtest(count, 300).proportion_ci(0.95, method="wilson")
        else:
            expected = stats.ttest_1samp(found, 0).confidence_interval(0.95)
            assert per_cent(rows[role][2]) == pytest.approx(found.std(ddof=1), abs=6e-5)
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=6e-5)


def test_the_difference_and_the_verdict(told: Told, trained: Path) -> None:
    gains = accuracies(trained, STUDENTS) - accuracies(trained, BASELINES)
    row = rows_of(told.text, "Accuracy on the test images")["student - baseline"]
    assert per_cent(row[0]) == pytest.approx(gains.mean(), abs=6e-5)
    expected = stats.ttest_rel(accuracies(trained, STUDENTS), accuracies(trained, BASELINES)).confidence_interval(0.95)
    ends = [per_cent(end) for end in row[1].split(" to ")]
    assert ends == pytest.approx([expected.low, expected.high], abs=6e-5)
    kind = (
        "Distillation gained"
        if expected.low > 0
        else "Distillation cost"
        if expected.high < 0
        else "No difference shown"
    )
    assert told.finished.result["verdict"]["text"].startswith(kind)
    assert "2 seeds)" in told.finished.result["verdict"]["text"]


def test_recall_by_class(told: Told, trained: Path) -> None:
    rows = rows_of(told.text, "By class")
    assert list(rows) == [*map(str, range(10)), "overall"]

    def recalls(names: tuple[str, ...]) -> np.ndarray:
        found = [predicted(trained, name) for name in names]
        return np.mean([recall_score(run.labels, run.classes, average=None) for run in found], axis=0)

    by_role = [recalls(names) for names in (("teacher",), STUDENTS, BASELINES)]
    for c in range(10):
        assert [per_cent(cell) for cell in rows[str(c)][:3]] == pytest.approx([one[c] for one in by_role], abs=6e-4)
        assert per_cent(rows[str(c)][3]) == pytest.approx(by_role[1][c] - by_role[2][c], abs=6e-4)


def test_fidelity_and_calibration(told: Told, trained: Path) -> None:
    fidelity, calibration = (rows_of(told.text, name) for name in ("Fidelity to the teacher", "Calibration"))
    its = predicted(trained, "teacher")
    wrong = its.classes != its.labels
    p = np.exp(its.logits) / np.exp(its.logits).sum(1, keepdims=True)
    for column, names in enumerate((STUDENTS, BASELINES)):
        agreed, on_errors, divergence, losses = [], [], [], []
        for run in (predicted(trained, name) for name in names):
            q = np.exp(run.logits) / np.exp(run.logits).sum(1, keepdims=True)
            agreed.append((run.classes == its.classes).mean())
            on_errors.append((run.classes == its.classes)[wrong].mean())
            divergence.append(stats.entropy(p, q, axis=1).mean())
            losses.append(log_loss(run.labels, q))
        for (name, cells), values, scale in zip(
            fidelity.items(), (agreed, on_errors, divergence), (100, 100, 1), strict=True
        ):
            mean, std = map(float, re.fullmatch(r"([\d.]+) \(std ([\d.]+)\)", cells[column]).groups())
            assert mean == pytest.approx(scale * np.mean(values), abs=0.051), name
            assert std == pytest.approx(scale * np.std(values, ddof=1), abs=0.051), name
        assert float(calibration["cross-entropy (nats)"][column + 1].split()[0]) == pytest.approx(
            np.mean(losses), abs=6e-4
        )


def test_costs_are_those_of_the_runs(told: Told, trained: Path) -> None:
    costs = {name: files.read_json(trained / name / "result.json")["cost"] for name in ALL}
    rows = rows_of(told.text, "Cost")
    parameters = [costs[name]["num_parameters"] for name in ("teacher", "student-0", "baseline-0")]
    assert [int(cell.replace(",", "")) for cell in rows["parameters"][:3]] == parameters
    assert rows["parameters"][3] == f"{parameters[0] / parameters[1]:.1f} x fewer"
    latency = np.median([costs[name]["latency_median_ms"] for name in STUDENTS])
    assert told.finished.result["cost"]["student"]["latency_median_ms"] == pytest.approx(latency)


def test_what_is_written(told: Told, trained: Path) -> None:
    folder = told.finished.folder
    assert folder == trained / "compare-student-0"
    assert json.loads((folder / "compare.json").read_text()) == told.finished.result
    assert str(trained.parent) not in told.text
    assert [run["run"] for run in told.finished.result["runs"]] == list(ALL)
    assert "trained for 2 epochs only" in told.text
    with Image.open(folder / "compare.png") as image:
        assert image.width >= 1200


def test_one_seed_without_the_teacher(trained: Path) -> None:
    summary = compare(CompareConfig(runs=("student-1", "baseline-1")), root=trained).result
    mine, other = predicted(trained, "student-1"), predicted(trained, "baseline-1")
    right, others_right = mine.classes == mine.labels, other.classes == other.labels
    only = int((right & ~others_right).sum()), int((others_right & ~right).sum())
    assert (summary["mcnemar"]["only_first"], summary["mcnemar"]["only_second"]) == only
    expected = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1
    assert summary["mcnemar"]["p_value"] == pytest.approx(expected)
    assert summary["verdict"]["text"].startswith("One short seed proves nothing about distillation")


def test_alpha_0_differs_from_the_baseline_by_exactly_nothing(trained: Path) -> None:
    for seed in (0, 1):
        distill(student(seed=seed, alpha=0.0, name=f"ignored-{seed}"), root=trained)
    summary = compare(CompareConfig(runs=("teacher", "ignored-0", "ignored-1", *BASELINES)), root=trained).result
    assert summary["difference"] == {"mean": 0, "std": 0, "low": None, "high": None}
    assert {row["difference"] for row in summary["per_class"]} == {0}
    assert summary["student"] == summary["baseline"]
    assert summary["verdict"]["kind"] == "no spread"
    one = compare(CompareConfig(runs=("ignored-0", "baseline-0")), root=trained).result
    assert one["mcnemar"] == {"only_first": 0, "only_second": 0, "p_value": 1}


@pytest.fixture
def gone(trained: Path) -> Iterator[None]:
    """Everything but the run folders is out of reach: no data, no weights but the teacher's file."""
    hidden = [(path, path.with_suffix(".hidden")) for name in ALL[1:] for path in [trained / name / "best.safetensors"]]
    for path, other in hidden:
        path.rename(other)
    yield
    for path, other in hidden:
        other.rename(path)


def test_from_the_command_line_with_the_folders_alone(
    trained: Path, gone: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.parent)
    assert main(["compare", "runs/teacher", *STUDENTS, "--name=again", *(f"runs/{name}" for name in BASELINES)]) == 0
    printed = capsys.readouterr().out
    report = (trained / "again" / "compare.md").read_text(encoding="utf-8")
    assert report.endswith(printed.partition("\nfiles  ")[0])
    assert main(["compare", *ALL, "--reference=original"]) == 2
    assert "--reference=original has the ten classes of CIFAR-10" in capsys.readouterr().err


def test_runs_that_were_not_trained_alike_are_refused(trained: Path) -> None:
    baseline(alone(seed=0, lr=0.05, name="other-lr"), root=trained)
    teacher(learner(epochs=1, name="other-teacher"), root=trained)
    before = sorted(path.name for path in trained.iterdir())
    for words, text in (
        (("student-0", "other-lr"), r"--lr: [\d.]+ \(\S*student-0\) -> 0.05 \(\S*other-lr\)"),
        (("other-teacher", "student-0", "baseline-0"), r"other-teacher is not the teacher of \S*student-0"),
        (("student-0", "student-1", "baseline-0"), r"there is no baseline of seed 1"),
    ):
        with pytest.raises(UserError, match=text):
            compare(CompareConfig(runs=words), root=trained)
    assert sorted(path.name for path in trained.iterdir()) == before


def test_initial_weights_are_known_by_what_their_file_holds(trained: Path, tmp_path: Path) -> None:
    weights = checkpoints.load_checkpoint(trained / "student-0" / "best.safetensors").weights
    torch.save(weights, tmp_path / "a.pt")
    shutil.copy(tmp_path / "a.pt", tmp_path / "moved.pt")
    torch.save({key: value.abs() for key, value in weights.items()}, tmp_path / "other.pt")
    distill(student(epochs=1, weights=str(tmp_path / "a.pt"), name="from-a"), root=trained)
    for name in ("moved", "other"):
        baseline(alone(epochs=1, weights=str(tmp_path / f"{name}.pt"), name=f"from-{name}"), root=trained)
    sha256 = {name: files.sha256(tmp_path / f"{name}.pt") for name in ("a", "moved", "other")}
    assert sha256["a"] == sha256["moved"]
    environment = (trained / "from-a" / "environment.json").read_text(encoding="utf-8")
    assert json.loads(environment)["weights"] == sha256["a"]
    assert str(tmp_path) not in environment
    assert files.read_json(trained / "baseline-0" / "environment.json")["weights"] == "none"
    compare(CompareConfig(runs=("from-a", "from-moved")), root=trained)
    with pytest.raises(UserError, match=rf"--weights: {sha256['a']} \(\S*from-a\) -> {sha256['other']} \("):
        compare(CompareConfig(runs=("from-a", "from-other")), root=trained)


def test_what_runs_record_is_what_is_compared(trained: Path) -> None:
    """The flags of a run are all in its config, under the names by which they are compared."""
    recorded = [files.read_json(trained / name / "config.json") for name in (STUDENTS[0], BASELINES[0])]
    assert [set(one) - {"command"} for one in recorded] == [set(to_json(student())), set(to_json(alone()))]
    assert set(recorded[0]) - set(recorded[1]) == LOSS_FLAGS
    compared = {key for key in recorded[1] if key not in NOT_COMPARED}
    assert {"lr", "epochs", "augment", "view_seed", "arch", "widths", "label_smoothing", "limit_train"} <= compared
