"""Which runs are compared, which are refused and in which words, from folders made by hand."""

import dataclasses
import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from kdignite import files
from kdignite.cli.entry import make_config
from kdignite.cli.parse import parse_args
from kdignite.commands import compare as compare_module
from kdignite.commands.compare import compare
from kdignite.comparison.caveats import SHORT
from kdignite.comparison.costs import COSTS
from kdignite.comparison.pairing import LOSS_FLAGS, NOT_COMPARED, machine_notes, typed_line
from kdignite.comparison.runs import read_run
from kdignite.config import (
    PRESETS,
    AdoptConfig,
    BaselineConfig,
    CompareConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
    configure,
    parameter_names,
    to_json,
)
from kdignite.errors import UserError
from kdignite.metrics import evaluation_summary, fitted_divisor, recorded

KINDS = {"teacher": TeacherConfig, "distill": DistillConfig, "baseline": BaselineConfig}
CLASSES = ("cat", "dog", "frog")
LABELS = np.repeat(np.arange(3), 20)
COST = {**dict.fromkeys(COSTS, 10), "latency_threads": 1}
FILES = ["classes.csv", "compare.json", "compare.md", "compare.png", "report.html", "summary.csv"]


def taught_by(folder: Path) -> dict[str, Any]:
    sha256 = hashlib.sha256((folder / "best.safetensors").read_bytes()).hexdigest()
    return {"name": folder.name, "sha256": sha256, "accuracy": 0.9}


def make(
    folder: Path,
    command: str,
    *,
    draw: int = 0,
    classes: tuple[str, ...] = CLASSES,
    labels: np.ndarray = LABELS,
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    **result: Any,
) -> Path:
    """A run folder as training leaves it; ``draw`` decides what the model answers."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(draw)
    logits = (rng.normal(size=(len(labels), len(classes))) + 2 * np.eye(len(classes))[labels]).astype(np.float32)
    (folder / "best.safetensors").write_bytes(f"weights of {folder.name}".encode())
    settings = {} if command == "adopt" else to_json(configure(KINDS[command], dataset="digits", **(config or {})))
    told = {
        "command": command,
        "name": folder.name,
        "partial": False,
        "seed": settings.get("seed", 0),
        "dataset": "digits",
        "fingerprint": "f" * 64,
        "split": "5" * 64,
        "arch": settings.get("arch", "cnn5"),
        "method": settings.get("method"),
        "cost": COST | ({"num_parameters": 20} if command == "teacher" else {}),
        "epochs": settings.get("epochs", 10),
        "best_epoch": 3,
        "teacher": None,
        "test": recorded(evaluation_summary(logits, labels, classes=classes)),
    }
    about = {"device": "cpu", "threads": 2, "cpu": "AVX2", "commit": "c0ffee", "packages": {"torch": "2.9.0"}}
    files.write_json(folder / "config.json", settings)
    files.write_json(folder / "environment.json", about | (environment or {}))
    files.write_json(folder / "result.json", told | result)
    arrays = {"logits": logits, "labels": labels.astype(np.int64), "indices": np.arange(len(labels))}
    np.savez(folder / "predictions.npz", **{f"test_{name}": array for name, array in arrays.items()})
    return folder


@pytest.fixture
def drawn() -> None:
    """The comparisons of this test are drawn."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the others are not, which takes half a second each; ``test_comparison_reports.py`` draws every kind."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(compare_module, "comparison_figure", lambda summary: None)
        monkeypatch.setattr(compare_module, "save_figure", lambda figure, path: path.touch())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Runs that can be compared: a teacher, two students, two baselines."""
    root = tmp_path / "runs"
    make(root / "teacher", "teacher")
    for seed in (0, 1):
        own: dict[str, Any] = {"config": {"seed": seed}, "draw": 1 + seed}
        make(root / f"student-{seed}", "distill", teacher=taught_by(root / "teacher"), **own)
        make(root / f"baseline-{seed}", "baseline", **{**own, "draw": 3 + seed})
    return root


def again(root: Path, name: str, command: str, **given: Any) -> None:
    """Make a run of the fixture anew, with something different."""
    shutil.rmtree(root / name, ignore_errors=True)
    if command == "distill":
        given = {"teacher": taught_by(root / "teacher"), "draw": 1, **given}
    make(root / name, command, **given)


def compared(root: Path, *names: str, **given: Any) -> dict[str, Any]:
    return compare(CompareConfig(runs=names, **given), root=root).result


def refused(root: Path, *names: str, **given: Any) -> str:
    """The line that refuses a comparison, which leaves nothing behind."""
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        compared(root, *names, **given)
    assert "\n" not in str(caught.value)
    assert sorted(root.parent.rglob("*")) == before
    return str(caught.value).replace(f"{root.parent}/", "")


ONE = ("teacher", "student-0", "baseline-0")
ALL = (*ONE, "student-1", "baseline-1")


# --- what is compared


@pytest.mark.usefixtures("drawn")
def test_the_folder_of_a_comparison(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished = compare(CompareConfig(runs=ONE), root=root)
    assert finished.folder == root / "compare-student-0"
    assert sorted(path.name for path in finished.folder.iterdir()) == FILES
    assert json.loads((finished.folder / "compare.json").read_text()) == finished.result
    said, report = capsys.readouterr().out, (finished.folder / "compare.md").read_text()
    title, picture, body = report.split("\n\n", maxsplit=2)
    assert (title, picture) == ("# Student against baseline", f"![{finished.result['verdict']['text']}](compare.png)")
    assert (
        said
        == f"{body}\nfiles       {finished.folder}/ ({', '.join(['report.html', 'compare.md', 'compare.png'])}, "
        + ("classes.csv, summary.csv, compare.json)\n")
    )
    assert str(root.parent) not in report + json.dumps(finished.result)


def test_nothing_is_overwritten_and_a_name_can_be_given(root: Path) -> None:
    for name in ("compare-student-0", "compare-student-0-2"):
        assert compare(CompareConfig(runs=ONE), root=root).folder.name == name
    assert compare(CompareConfig(runs=ONE, name="mine"), root=root).folder == root / "mine"
    assert refused(root, *ONE, name="mine") == "runs/mine exists and is never overwritten: choose another --name"


def test_the_order_of_the_words_changes_nothing(root: Path) -> None:
    assert compared(root, *ALL) == compared(root, *reversed(ALL))


def test_pairs_are_those_of_a_seed(root: Path) -> None:
    summary = compared(root, *ALL)
    assert summary["seeds"] == [0, 1]
    roles = [(run["role"], run["run"], run["seed"]) for run in summary["runs"]]
    assert roles == [
        ("teacher", "teacher", 0),
        *((r, f"{r}-{seed}", seed) for r in ("student", "baseline") for seed in (0, 1)),
    ]
    counted = {name: read_run(root / name, label="").result["test"]["num_correct"] for name in ALL}
    for role in ("student", "baseline"):
        assert summary[role]["num_correct"] == [counted[f"{role}-{seed}"] for seed in (0, 1)]
    gains = [counted[f"student-{seed}"] - counted[f"baseline-{seed}"] for seed in (0, 1)]
    assert summary["difference"]["mean"] == pytest.approx(sum(gains) / 2 / 60)


@pytest.mark.usefixtures("drawn")
def test_a_teacher_may_be_left_out(root: Path) -> None:
    summary = compared(root, "student-0", "baseline-0")
    assert summary["teacher"] is None
    assert summary["student"]["agreement"] is None
    assert summary["notes"][-1] == "the teacher, 'teacher', is not shown: name its run too"


def test_an_adopted_model_is_a_teacher(root: Path) -> None:
    again(root, "teacher", "adopt")
    again(root, "student-0", "distill")
    path = root / "teacher" / "result.json"
    untrained = {
        key: value for key, value in files.read_json(path).items() if key not in ("seed", "epochs", "best_epoch")
    }
    files.write_json(path, untrained)
    summary = compared(root, *ONE)
    assert summary["runs"][0]["role"] == "teacher"
    assert summary["runs"][0]["seed"] is None
    told = "the teacher was adopted: its run does not record whether it was trained on these test images"
    assert told in summary["notes"]


def test_runs_are_found_by_path_and_name_and_called_without_the_path(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root / "study" / "one", "baseline", draw=3)
    shutil.copytree(root / "student-0", root.parent / "elsewhere" / "student, mine")
    monkeypatch.chdir(root.parent)
    summary = compared(Path("runs"), "runs/teacher/", str(root.parent / "elsewhere" / "student, mine"), "study/one")
    assert [run["run"] for run in summary["runs"]] == ["teacher", "elsewhere/student, mine", "study/one"]
    assert (root / "compare-student, mine" / "compare.md").is_file()


def test_a_folder_of_the_same_name_does_not_hide_a_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root.parent)
    (root.parent / "teacher").mkdir()
    assert compared(Path("runs"), *ONE)["runs"][0]["run"] == "teacher"


# --- words that name no run


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("nobody",), "there is no run 'nobody'; finished runs in runs/: "
         "baseline-0, baseline-1, student-0, student-1, teacher"),
        (("teacher/best.safetensors",), "teacher/best.safetensors is a file: "
         "compare takes run folders, as runs/NAME or NAME"),
        (("open",), "runs/open is not a finished run: it has no result.json; let the run end, or leave it out"),
        (("study",), "runs/study is a folder of runs: name those to compare, as runs/study/one"),
        (("teacher", "teacher"), "runs/teacher is named twice: name every run once"),
    ],
)  # fmt: skip
def test_words_that_are_no_run(root: Path, words: tuple[str, ...], line: str) -> None:
    (root / "open").mkdir()
    (root / "study").mkdir()
    shutil.copytree(root / "student-0", root / "study" / "one")
    assert refused(root, *words, "student-0", "baseline-0") == line


def test_a_run_spelt_in_two_ways_is_named_twice(root: Path) -> None:
    (root / "link").symlink_to(root / "teacher")
    assert refused(root, *ONE, str(root / "link")) == "runs/link is named twice: name every run once"


def test_no_runs_at_all(tmp_path: Path) -> None:
    told = refused(tmp_path / "runs", "a", "b")
    assert told == "there is no run 'a'; finished runs in runs/: none"


# --- damaged runs


def broken_json(folder: Path) -> None:
    (folder / "result.json").write_text('{"command": ')


def no_mapping(folder: Path) -> None:
    (folder / "result.json").write_text("[]")


def rewritten(**values: Any) -> Callable[[Path], None]:
    return lambda folder: files.write_json(
        folder / "result.json", {**files.read_json(folder / "result.json"), **values}
    )


def without(key: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        values = files.read_json(folder / "result.json")
        del values[key]
        files.write_json(folder / "result.json", values)

    return act


def predictions(**changed: Any) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        with np.load(folder / "predictions.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
        arrays |= {f"test_{name}": change(arrays[f"test_{name}"]) for name, change in changed.items()}
        np.savez(folder / "predictions.npz", **{name: array for name, array in arrays.items() if array is not None})

    return act


def with_validation(**changed: Any) -> Callable[[Path], None]:
    """Adds the first 20 test images as validation images."""

    def act(folder: Path) -> None:
        with np.load(folder / "predictions.npz") as stored:
            arrays = {name: stored[name] for name in stored.files}
        arrays |= {f"val_{name}": arrays[f"test_{name}"][:20] for name in ("logits", "labels")}
        np.savez(folder / "predictions.npz", **(arrays | {f"val_{name}": value for name, value in changed.items()}))

    return act


def cut_short(folder: Path) -> None:
    path = folder / "predictions.npz"
    path.write_bytes(path.read_bytes()[:200])


def one_bit(folder: Path) -> None:
    path = folder / "predictions.npz"
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(bytes(data))


def a_single_array(folder: Path) -> None:
    with (folder / "predictions.npz").open("wb") as file:
        np.save(file, np.zeros(3))


def nan_at_the_end(logits: np.ndarray) -> np.ndarray:
    logits = logits.copy()
    logits[-1, -1] = np.nan
    return logits


AGAIN = "make the run again, or leave it out"
RESULT = "runs/student-0/result.json is damaged"
ARRAYS = "runs/student-0/predictions.npz is damaged"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (broken_json, f"{RESULT} (Expecting value"),
        (no_mapping, f"{RESULT} (it holds no JSON object)"),
        (without("split"), f"{RESULT} (it has no split): {AGAIN}"),
        (without("seed"), f"{RESULT} (it has no seed): {AGAIN}"),
        (rewritten(test={}), f"{RESULT} (it has no num_correct): {AGAIN}"),
        (rewritten(teacher=None), f"{RESULT} (teacher must be a dict, not None): {AGAIN}"),
        (rewritten(command="sweep"), "runs/student-0 is no run of teacher, adopt, distill, baseline: leave it out"),
        (lambda folder: (folder / "config.json").unlink(), "runs/student-0/config.json cannot be read: No such file"),
        (lambda folder: (folder / "environment.json").write_text("{"), "runs/student-0/environment.json is damaged ("),
        (lambda folder: (folder / "predictions.npz").unlink(),
         "runs/student-0 has no predictions.npz: make the run again"),
        (cut_short, f"{ARRAYS} ("),
        (one_bit, f"{ARRAYS} ("),
        (a_single_array, f"{ARRAYS} ("),
        (predictions(labels=lambda _: None), f"{ARRAYS} ("),
        (predictions(labels=lambda labels: labels.astype(object)), f"{ARRAYS} (test_labels.npy is no array of"),
        (predictions(labels=lambda labels: labels[:-1]), f"{ARRAYS} (not of one "
         "length and 3 classes: test_logits (60, 3), test_labels (59,), test_indices (60,))"),
        (predictions(indices=lambda indices: indices[:5]), f"{ARRAYS} (not of one length"),
        (predictions(logits=lambda logits: logits[:, :2]), f"{ARRAYS} (not of one length"),
        (predictions(logits=lambda z: z[:0], labels=lambda y: y[:0], indices=lambda i: i[:0]),
         f"{ARRAYS} (not of one length"),
        (predictions(labels=lambda labels: labels * 1.0), f"{ARRAYS} (labels and indices are "
         "no whole numbers)"),
        (predictions(labels=lambda labels: labels + 1), f"{ARRAYS} (its labels are not "
         "all below 3)"),
        (predictions(logits=nan_at_the_end), f"{ARRAYS} (its scores are not all finite"),
        (predictions(logits=lambda logits: -logits), "runs/student-0/result.json says"),
        (with_validation(logits=np.zeros((20, 2), np.float32)), f"{ARRAYS} (not of one length and 3 cl"),
        (with_validation(labels=np.full(20, 3)), f"{ARRAYS} (its labels are not all below 3)"),
    ],
)  # fmt: skip
def test_a_damaged_run_is_refused(root: Path, damage: Callable[[Path], None], line: str) -> None:
    damage(root / "student-0")
    assert refused(root, *ONE).startswith(line)


def test_validation_images_choose_a_divisor(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_run(root / "student-0", label="one").divisor() is None
    with_validation()(root / "student-0")
    found = read_run(root / "student-0", label="one")
    assert found.divisor() == fitted_divisor(found.logits[:20], found.labels[:20])
    monkeypatch.setattr("kdignite.comparison.runs.FITTED", 25)  # of 60 logits: every third image
    assert found.divisor() == fitted_divisor(found.logits[:20:3], found.labels[:20:3])


def test_predictions_of_another_run_are_noticed(root: Path) -> None:
    shutil.copy(root / "student-1" / "predictions.npz", root / "student-0")
    said, own = (files.read_json(root / f"student-{i}" / "result.json")["test"]["num_correct"] for i in (0, 1))
    assert said != own
    assert refused(root, *ONE) == (
        f"runs/student-0/result.json says {said} test images are right, its predictions.npz {own}: "
        "they are not of one run; make the run again"
    )


# --- roles


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("teacher", "student-0"), "compare needs a student and a baseline, and has no baseline (teacher runs/teacher; "
         "student runs/student-0): name its run too, or make one with python -m kdignite baseline "
         "--dataset=digits"),
        (("baseline-0", "baseline-1"), "compare needs a student and a baseline, and has no student (baseline "
         "runs/baseline-0; baseline runs/baseline-1): name its run too, or make one with python -m kdignite distill "
         "--dataset=digits"),
        (("teacher",), "compare needs a student and a baseline, and has no student and baseline (teacher "
         "runs/teacher): name its run too, or make one with python -m kdignite distill --teacher=runs/teacher"),
        ((*ONE, "other"), "runs/teacher, runs/other are more teachers than runs/student-0 had: keep 'teacher'"),
        (("other", "student-0", "baseline-0"), "runs/other is not the teacher of runs/student-0: its "
         "best.safetensors (sha256 OTHER) is not the file of 'teacher' (sha256 TEACHER): name the run of that "
         "one, or leave the teacher out"),
    ],
)  # fmt: skip
def test_roles_that_do_not_fit(root: Path, words: tuple[str, ...], line: str) -> None:
    make(root / "other", "teacher")
    for name in ("teacher", "other"):
        line = line.replace(name.upper(), taught_by(root / name)["sha256"][:12])
    assert refused(root, *words) == line


def test_more_teachers_than_the_student_had(root: Path) -> None:
    for name in ("second", "third"):
        make(root / name, "teacher")
    members = [taught_by(root / name) | {"weight": 0.5} for name in ("teacher", "second")]
    again(root, "student-0", "distill", teacher=members[0] | {"name": "teacher+second", "members": members})
    told = "runs/teacher, runs/second, runs/third are more teachers than runs/student-0 had: keep 'teacher', 'second'"
    assert refused(root, *ONE, "second", "third") == told


def test_a_teacher_without_its_checkpoint(root: Path) -> None:
    (root / "teacher" / "best.safetensors").unlink()
    assert refused(root, *ONE) == "runs/teacher has no best.safetensors, which identifies a teacher: leave it out"


def test_students_of_two_teachers(root: Path) -> None:
    make(root / "other", "teacher")
    again(root, "student-1", "distill", config={"seed": 1}, teacher=taught_by(root / "other"))
    assert refused(root, *ALL) == (
        "the students had different teachers, 'teacher' (runs/student-0), 'other' (runs/student-1): "
        "compare those of one teacher"
    )


# --- the same images


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"fingerprint": "a" * 64}, "runs/student-0 and runs/baseline-0 were made with different data (digits "
         "ffffffffffff against digits aaaaaaaaaaaa): compare runs of the same --dataset and --val_size"),
        ({"split": "b" * 64}, "runs/student-0 and runs/baseline-0 were made with different training and validation "
         "images (digits 555555555555 against digits bbbbbbbbbbbb): compare runs of the same --dataset and --val_size"),
        ({"classes": ("cat", "dog", "bird")}, "runs/student-0 and runs/baseline-0 have different classes: "
         "compare runs on the same data"),
        ({"labels": LABELS[:30]}, "runs/student-0 and runs/baseline-0 were tested on different images (60 and 30): "
         "compare runs that were tested on the same ones, all of them with --fast_dev_run or none"),
        ({"labels": LABELS[::-1]}, "runs/student-0 and runs/baseline-0 were tested on different images (60 and 60): "
         "compare runs that were tested on the same ones, all of them with --fast_dev_run or none"),
    ],
)  # fmt: skip
def test_other_images_are_refused(root: Path, given: dict[str, Any], line: str) -> None:
    again(root, "baseline-0", "baseline", **given)
    assert refused(root, "student-0", "baseline-0") == line


def test_the_same_labels_of_other_images_are_refused(root: Path) -> None:
    predictions(indices=lambda indices: indices + 1)(root / "teacher")
    assert refused(root, *ONE).startswith("runs/teacher and runs/student-0 were tested on different images (60 and 60)")


# --- fairness


def test_a_baseline_of_other_views_is_refused(root: Path) -> None:
    again(root, "baseline-0", "baseline", config={"mix": "mixup", "mix_alpha": 1.0})
    assert "--mix: unset (runs/student-0) -> mixup (runs/baseline-0)" in refused(root, *ONE)


def test_views_that_never_repeat_are_new_ones_however_many(root: Path) -> None:
    usual = BaselineConfig().epochs
    for views in (usual, usual + 1):
        again(root, "baseline-0", "baseline", config={"views": views})
        assert compared(root, *ONE)["settings"]
    again(root, "baseline-0", "baseline", config={"views": usual - 1})
    assert f"--views: unset (runs/student-0) -> {usual - 1} (runs/baseline-0)" in refused(root, *ONE)


def test_every_difference_but_the_loss_is_named(root: Path) -> None:
    again(root, "baseline-0", "baseline", config={"lr": 0.05, "epochs": 7, "widths": (8, 8), "grad_clip": 1.0})
    usual = DistillConfig()
    assert refused(root, *ONE) == (
        "student and baseline differ in more than the loss, so the effect of distillation cannot be isolated: "
        "--widths: unset (runs/student-0) -> 8,8 (runs/baseline-0); "
        f"--epochs: {usual.epochs} (runs/student-0) -> 7 (runs/baseline-0); "
        f"--lr: {usual.lr} (runs/student-0) -> 0.05 (runs/baseline-0); "
        "--grad_clip: unset (runs/student-0) -> 1 (runs/baseline-0): "
        "train one of them again with the flags of the other"
    )


def test_a_setting_that_one_run_did_not_record_is_a_difference(root: Path) -> None:
    path = root / "baseline-0" / "config.json"
    files.write_json(path, {key: value for key, value in files.read_json(path).items() if key != "momentum"})
    assert "--momentum: 0.9 (runs/student-0) -> not recorded (runs/baseline-0)" in refused(root, *ONE)


FREE = {
    **{"name": "mine", "preset": "original", "keep_last": True, "device": "cpu", "threads": 1},
    **{"dataset": "folder:x", "data_root": "elsewhere", "val_size": 0.1},
    **{"command": "other", "save_every_s": 1.0, "resume": "newest", "graph": "off"},
}
IDENTIFIED = {"seed", "weights"}  # by which runs are paired; by its sha256
OF_THE_TEACHER = {"teacher", "teacher_arch", "allow_weak_teacher", "cache"}  # that it was the same, its sha256 says


@pytest.mark.parametrize("name", FREE)
def test_a_free_flag_may_differ(root: Path, name: str) -> None:
    """What changes no weight, the data that were compared already, and the machine, of which a note tells."""
    path = root / "baseline-0" / "config.json"
    files.write_json(path, {**files.read_json(path), name: FREE[name]})
    compared(root, *ONE)


def test_every_flag_is_either_free_or_compared() -> None:
    """A new flag is compared unless somebody decides that it changes nothing."""
    assert set(FREE) | IDENTIFIED | OF_THE_TEACHER == NOT_COMPARED
    assert {"alpha", "T", "teacher", "teacher_arch", "allow_weak_teacher"} <= LOSS_FLAGS
    assert OF_THE_TEACHER <= LOSS_FLAGS
    assert not LOSS_FLAGS & set(to_json(BaselineConfig()))


def with_weights(root: Path, *, typed: str, recorded: str | None) -> None:
    """Make the baseline anew, with such initial weights in its config and its environment."""
    environment = {} if recorded is None else {"weights": recorded}
    again(root, "baseline-0", "baseline", config={"weights": typed}, draw=3, environment=environment)


def test_the_file_of_initial_weights_is_known_by_what_it_holds(root: Path) -> None:
    one, other = "1" * 64, "2" * 64
    again(root, "student-0", "distill", config={"weights": "a.pt"}, environment={"weights": one})
    with_weights(root, typed="moved/b.pt", recorded=one)
    compared(root, *ONE)
    with_weights(root, typed="a.pt", recorded=other)
    told = refused(root, *ONE)
    assert f"cannot be isolated: --weights: {one} (runs/student-0) -> {other} (runs/baseline-0)" in told


def test_runs_that_recorded_no_sha256_are_compared_by_what_was_typed(root: Path) -> None:
    with_weights(root, typed="none", recorded="none")
    compared(root, *ONE)
    with_weights(root, typed="a.pt", recorded=None)
    assert "--weights: none (runs/student-0) -> a.pt (runs/baseline-0)" in refused(root, *ONE)


@pytest.mark.parametrize(
    ("name", "command", "config", "line"),
    [
        ("student-1", "distill", {"seed": 1, "alpha": 0.5}, "the students differ in more than the seed: --alpha: 0.9 "
         "(runs/student-0) -> 0.5 (runs/student-1): compare one of them at a time"),
        ("baseline-1", "baseline", {"seed": 1, "lr": 0.5, "view_seed": 4}, "the baselines differ in more than the "
         f"seed: --view_seed: 0 (runs/baseline-0) -> 4 (runs/baseline-1); --lr: {BaselineConfig().lr} "
         "(runs/baseline-0) -> 0.5 (runs/baseline-1): compare one of them at a time"),
        ("student-1", "distill", {"seed": 0}, "runs/student-0 and runs/student-1 are both students of seed 0: "
         "leave one of them out"),
        ("student-1", "distill", {"seed": 7}, "every seed needs a student and a baseline, there is no baseline of "
         "seed 7 and no student of seed 1: name those runs, make them with python -m kdignite baseline "
         "--dataset=digits --seed=7, or leave out runs/student-1, runs/baseline-1"),
    ],
)  # fmt: skip
def test_groups_that_are_no_recipe(root: Path, name: str, command: str, config: dict[str, Any], line: str) -> None:
    again(root, name, command, config=config)
    assert refused(root, *ALL) == line


def test_a_baseline_taught_the_students(root: Path) -> None:
    """It is their teacher where each of them has another baseline, and else their baseline."""
    again(root, "student-0", "distill", teacher=taught_by(root / "baseline-1"))
    runs = compared(root, "student-0", "baseline-0", "baseline-1")["runs"]
    assert {one["run"]: one["role"] for one in runs} == {
        "student-0": "student",
        "baseline-0": "baseline",
        "baseline-1": "teacher",
    }
    again(root, "student-0", "distill", teacher=taught_by(root / "baseline-0"))
    runs = compared(root, "student-0", "baseline-0")["runs"]
    assert [one["role"] for one in runs] == ["student", "baseline"]


def test_an_adopted_teacher_of_many_classes(root: Path) -> None:
    """Whose names were typed: a setting that is a long list."""
    settings = files.read_json(root / "teacher" / "config.json")
    files.write_json(root / "teacher" / "config.json", settings | {"classes": [f"class {i}" for i in range(1000)]})
    assert compared(root, *ONE)["teacher"] is not None


def test_a_seed_without_a_partner(root: Path) -> None:
    assert refused(root, *ONE, "baseline-1") == (
        "every seed needs a student and a baseline, there is no student of seed 1: name those runs, make them with "
        "python -m kdignite distill --dataset=digits --seed=1, or leave out runs/baseline-1"
    )


def test_the_line_that_makes_a_partner_can_be_pasted(root: Path) -> None:
    """It gives the recipe of the run that is there, with every setting that differs from the preset's."""
    own = {"preset": "quick", "widths": (8, 8, 8, 8, 8), "seed": 3, "name": "x"}
    again(root, "student-0", "distill", config={**own, "epochs": 9, "threads": 1, "alpha": 0.25})
    recorded = files.read_json(root / "student-0" / "config.json") | {"dataset": "folder:my pictures"}
    files.write_json(root / "student-0" / "config.json", recorded)
    typed = shlex.split(refused(root, "teacher", "student-0").partition("make one with python -m kdignite ")[2])
    made, usual = make_config(parse_args(typed)), configure(BaselineConfig, preset="quick")
    changed = {"dataset": "folder:my pictures", "widths": (8, 8, 8, 8, 8), "seed": 3, "epochs": 9}
    assert to_json(made) == to_json(dataclasses.replace(usual, **changed))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (DistillConfig, {"preset": "patient", "method": "at", "alpha": 0.9}),
        (DistillConfig, {"preset": "patient", "alpha": 0.0, "teacher": "runs/t"}),
        (DistillConfig, {"preset": "reference", "method": "fitnet", "alpha": 1.0, "T": 8.0}),
        (DistillConfig, {"preset": "reference", "method": "kd", "seed": 3}),
        (DistillConfig, {"preset": "patient", "arch": "fastresnet", "lr": 0.1, "batch_size": 100}),
        (DistillConfig, {"preset": "pictures", "arch": "cnn5", "size": 32}),
        (TeacherConfig, {"arch": "resnet20", "lr": 0.25, "batch_size": 250, "weight_decay": 1.2e-3}),
        (TeacherConfig, {"preset": "patient", "arch": "cnn5", "widths": (96, 192, 256, 8, 8)}),
        (TeacherConfig, {"preset": "patient", "arch": "resnet20"}),
        (BaselineConfig, {"preset": "quick", "arch": "resnet18", "stem": "cifar", "size": 64}),
    ],
)
def test_a_run_is_made_again_by_its_line(kind: type[TrainConfig], values: dict[str, Any]) -> None:
    """Also where a value is that of the preset, which another method or model would not have."""
    config = to_json(configure(kind, **values))
    line = typed_line(kind.command, config)
    assert to_json(make_config(parse_args(shlex.split(line.partition("kdignite ")[2])))) == config


def test_an_adopted_run_is_made_again_by_its_line() -> None:
    values: dict[str, Any] = {"size": 48, "mean": (0.5,) * 3, "std": (0.25,) * 3, "val_size": 500.0}
    config = AdoptConfig(file="their weights.pt", arch="timm:resnet18", classes=("cat", "dog"), **values)
    line = typed_line("adopt", to_json(config))
    assert make_config(parse_args(shlex.split(line.partition("kdignite ")[2]))) == config


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with a method of one's own."""

    def method(student: Any, teacher: Any, labels: Any, *, gap: float) -> None: ...

    monkeypatch.setitem(sys.modules, "mine", ModuleType("mine"))
    monkeypatch.setattr(sys.modules["mine"], "method", method, raising=False)


@pytest.mark.usefixtures("mine")
def test_students_of_different_methods(root: Path) -> None:
    again(root, "student-1", "distill", config={"seed": 1, "method": "mine:method", "gap": 0.5})
    assert refused(root, *ALL) == (
        "the students differ in more than the seed: --method: kd (runs/student-0) -> mine:method (runs/student-1); "
        "--alpha: 0.9 (runs/student-0) -> unset (runs/student-1); --T: 4 (runs/student-0) -> unset (runs/student-1); "
        "--standardize: false (runs/student-0) -> unset (runs/student-1); "
        "--gap: not recorded (runs/student-0) -> 0.5 (runs/student-1): compare one of them at a time"
    )


@pytest.mark.usefixtures("mine")
def test_a_student_of_a_method_of_ones_own_has_parameters_that_its_baseline_has_not(root: Path) -> None:
    own = {**dict.fromkeys(parameter_names(DistillConfig)), "method": "mine:method", "gap": 0.5}
    for seed in (0, 1):
        again(root, f"student-{seed}", "distill", config={"seed": seed, **own})
    taught = {"cache_dtype": "float32", "teacher_amp": "off", "teacher_outputs": None, "cache_top": None}
    taught |= dict.fromkeys(("teacher_shares", "control", "student_layers", "teacher_layers"))
    assert compared(root, *ALL)["settings"] == own | taught


def test_students_may_name_their_teacher_differently(root: Path) -> None:
    again(root, "student-1", "distill", config={"seed": 1, "teacher": "runs/teacher", "allow_weak_teacher": True})
    assert compared(root, *ALL)["seeds"] == [0, 1]


# --- notes


def test_one_seed_proves_nothing_and_a_short_one_less(root: Path) -> None:
    summary = compared(root, *ONE)
    advice = (
        "about distillation: repeat distill and baseline with --seed=1 and --seed=2, ...; "
        "in a study: reproduce ... --seeds=3"
    )
    assert summary["notes"] == [f"one seed proves nothing {advice}"]
    assert summary["verdict"]["kind"] == "one seed"
    assert summary["verdict"]["text"].startswith("One seed proves nothing about distillation: student - baseline is ")
    again(root, "student-0", "distill", config={"epochs": 2})
    again(root, "baseline-0", "baseline", config={"epochs": 2}, draw=3)
    summary = compared(root, *ONE)
    assert summary["notes"] == [
        "trained for 2 epochs only: longer training may reverse the result",
        f"one short seed proves nothing {advice}",
    ]
    assert summary["verdict"]["text"].startswith("One short seed proves nothing about distillation: student - baseline")


@pytest.mark.parametrize("command", ["distill", "baseline"])
def test_a_quick_run_counts_as_short_and_a_whole_one_does_not(command: str) -> None:
    assert PRESETS["quick"][command]["epochs"] < SHORT
    assert KINDS[command]().epochs >= SHORT


def test_a_partial_run_is_nothing_to_quote(root: Path) -> None:
    again(root, "baseline-0", "baseline", partial=True)
    summary = compared(root, *ALL)
    assert summary["notes"][0] == "baseline-0 used only part of its images: not a result to quote"
    assert summary["verdict"]["text"].endswith(" Only part of the images was used: not a result to quote.")
    again(root, "student-0", "distill", partial=True)
    assert compared(root, *ALL)["notes"][0].startswith("student-0, baseline-0 used only part of their images: not a")


def test_what_computed_a_run_is_told_where_it_differs(root: Path) -> None:
    other = {"device": "NVIDIA A100", "threads": 1, "cpu": "AVX512", "commit": None, "packages": {"torch": "2.10.0"}}
    again(root, "student-0", "distill", environment={"processes": 1})
    again(root, "baseline-0", "baseline", environment=other | {"processes": 2})
    notes = compared(root, *ONE)["notes"]
    assert [note for note in notes if note.startswith("different")] == [
        "different device: cpu (teacher, student-0), NVIDIA A100 (baseline-0)",
        "different processes: 1 (student-0), 2 (baseline-0)",
        "different threads: 2 (teacher, student-0), 1 (baseline-0)",
        "different cpu: AVX2 (teacher, student-0), AVX512 (baseline-0)",
        "different torch: 2.9.0 (teacher, student-0), 2.10.0 (baseline-0)",
        "different commit of the code: c0ffee (teacher, student-0), unset (baseline-0)",
    ]


def test_a_difference_of_many_runs_is_a_short_line(root: Path) -> None:
    seeds = (0, 1, 2, 3)
    for seed in seeds:
        again(root, f"student-{seed}", "distill", seed=seed, environment={"commit": 40 * "d"})
        again(root, f"baseline-{seed}", "baseline", seed=seed, environment={"commit": 40 * "d"})
    names = [f"{role}-{seed}" for seed in seeds for role in ("student", "baseline")]
    named = "student-0, student-1, student-2, student-3, baseline-0, baseline-1 and 2 more"
    told = f"commit of the code: c0ffee (teacher), dddddddddddd ({named})"
    assert any(note.endswith(told) for note in compared(root, "teacher", *names)["notes"])


@pytest.mark.parametrize(
    ("part", "one", "other"),
    [("processor", "EPYC 1", "EPYC 2"), ("cpu", "AVX2", "AVX512")],
    ids=["name", "instructions"],
)
def test_latencies_of_different_processors_are_not_compared(root: Path, part: str, one: str, other: str) -> None:
    told = "latencies were measured on different processors: they cannot be compared"
    alike = {"processor": "EPYC", "cpu": "AVX2"}
    for name, command in zip(ONE, ("teacher", "distill", "baseline"), strict=True):
        again(root, name, command, environment=alike | {part: one})
    assert compared(root, *ONE)["cost"]["saved"]["latency_median_ms"] == 1
    again(root, "student-0", "distill", environment=alike | {part: other})
    summary = compared(root, *ONE)
    assert f"different {part}: {one} (teacher, baseline-0), {other} (student-0)" in summary["notes"]
    assert told in summary["notes"]
    assert summary["cost"]["saved"]["latency_median_ms"] is summary["cost"]["saved"]["latency_p95_ms"] is None
    assert summary["cost"]["saved"]["num_parameters"] == 2


def test_runs_on_gpus_are_compared_and_other_libraries_are_told(root: Path) -> None:
    told = [f"CUDA 13.0, cuDNN {number}, deterministic, no TF32" for number in (91000, 91001)]
    again(root, "student-0", "distill", environment={"device": "H100", "cuda": told[0]})
    again(root, "baseline-0", "baseline", environment={"device": "H100", "cuda": told[1]})
    notes = compared(root, *ONE)["notes"]
    assert any(note.startswith("different cuda: ") and all(one in note for one in told) for note in notes)


@pytest.mark.parametrize("unknown", [{}, {"processor": None}])
def test_a_processor_that_was_not_recorded_speaks_against_nothing(root: Path, unknown: dict[str, Any]) -> None:
    again(root, "student-0", "distill", environment={"processor": "EPYC 1"})
    again(root, "baseline-0", "baseline", environment=unknown)
    summary = compared(root, *ONE)
    assert summary["cost"]["saved"]["latency_median_ms"] == 1
    assert not [note for note in summary["notes"] if "processor" in note]


def test_a_run_that_went_on_elsewhere_was_computed_with_both(root: Path) -> None:
    moved = {"iteration": 3, "at": "2026-01-01", "changed": {"processor": "EPYC 2", "packages": {"torch": "2.10.0"}}}
    for name, command in zip(ONE, ("teacher", "distill", "baseline"), strict=True):
        again(root, name, command, environment={"processor": "EPYC 1"})
    again(root, "student-0", "distill", environment={"processor": "EPYC 1", "resumed": [moved]})
    summary = compared(root, *ONE)
    told = [note for note in summary["notes"] if note.startswith("different")]
    assert told == [
        "different processor: EPYC 1 (teacher, student-0, baseline-0), EPYC 2 (student-0)",
        "different torch: 2.9.0 (teacher, student-0, baseline-0), 2.10.0 (student-0)",
    ]
    assert summary["cost"]["saved"]["latency_median_ms"] is None


def test_another_version_of_the_code_is_told(root: Path) -> None:
    for name, command in zip(ONE, ("teacher", "distill", "baseline"), strict=True):
        again(root, name, command, environment={"kdignite": "2" if name == "student-0" else "1"})
    assert "different kdignite: 1 (teacher, baseline-0), 2 (student-0)" in compared(root, *ONE)["notes"]


def test_a_strange_processor_is_just_another_one(root: Path) -> None:
    again(root, "student-0", "distill", environment={"processor": ["EPYC", 2]})
    again(root, "baseline-0", "baseline", environment={"processor": "EPYC 1"})
    assert compared(root, *ONE)["cost"]["saved"]["latency_median_ms"] is None


@pytest.mark.parametrize("resumed", [1, [1], [{}], [{"changed": 1}], [{"changed": {"processor": {}}}]])
def test_a_damaged_record_of_resuming_is_told(root: Path, resumed: Any) -> None:
    again(root, "student-0", "distill", environment={"resumed": resumed})
    assert refused(root, *ONE).startswith("runs/student-0/environment.json is damaged (")


def test_equal_machines_are_not_mentioned(root: Path) -> None:
    assert machine_notes([read_run(root / name, label=name) for name in ALL]) == []


@pytest.mark.usefixtures("drawn")
def test_a_difference_of_the_same_size_in_every_seed(root: Path) -> None:
    for seed in (0, 1):
        again(root, f"student-{seed}", "distill", config={"seed": seed}, draw=5)
        again(root, f"baseline-{seed}", "baseline", config={"seed": seed}, draw=5)
    summary = compared(root, *ALL)
    assert summary["difference"] == {"mean": 0, "std": 0, "low": None, "high": None}
    assert summary["verdict"]["kind"] == "no spread"
    said = "No interval can be given: student - baseline is 0.00 points in each of the 2 seeds."
    assert summary["verdict"]["text"] == said
    same = "the difference is the same for every seed, which gives no interval: chance, or equal models"
    assert same in summary["notes"]


@pytest.mark.usefixtures("drawn")
def test_an_interval_beyond_all_accuracies(root: Path) -> None:
    sure = 9 * np.eye(3)[LABELS].astype(np.float32)
    predictions(logits=lambda _: sure)(root / "student-1")
    rewritten(test=recorded(evaluation_summary(sure, LABELS, classes=CLASSES)))(root / "student-1")
    summary = compared(root, *ALL)
    assert summary["student"]["accuracy"]["high"] > 1
    assert "an interval reaches beyond what an accuracy can be: 2 seeds are too few for it" in summary["notes"]


def test_a_teacher_that_knows_no_more_than_the_baseline(root: Path) -> None:
    told = "the teacher is no better than the baseline: there was little to learn from it"
    again(root, "baseline-0", "baseline", draw=0)  # answers what the teacher answers
    assert told in compared(root, *ONE)["notes"]


@pytest.mark.usefixtures("drawn")
def test_costs_that_were_not_measured_or_not_alike(root: Path) -> None:
    again(root, "baseline-0", "baseline", cost=None)
    summary = compared(root, *ONE)
    assert "no cost was measured for baseline-0" in summary["notes"]
    again(root, "baseline-0", "baseline")
    again(root, "student-0", "distill", cost={**COST, "latency_threads": 2})
    summary = compared(root, *ONE)
    assert "latencies were measured with different numbers of threads" in summary["notes"]
    assert summary["cost"]["saved"]["latency_median_ms"] is None
    assert summary["cost"]["saved"]["num_parameters"] == 2


# --- published figures


def test_published_figures_are_for_cifar_10(root: Path) -> None:
    assert refused(root, *ONE, reference="original") == (
        "--reference=original has the ten classes of CIFAR-10, these runs have 3 (cat, dog, frog): leave out "
        "--reference"
    )
    assert compared(root, *ONE)["published"] is None
