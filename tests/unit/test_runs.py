"""The folder of a run: how it is named, found, and never overwritten."""

import importlib
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

import kdignite
from kdignite import files, runs, schema
from kdignite.commands.adopt import adopt
from kdignite.commands.bench import bench
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.commands.export import export
from kdignite.config import (
    AdoptConfig,
    BaselineConfig,
    BenchConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    TeacherConfig,
    TrainConfig,
)
from kdignite.config.fields import Config
from kdignite.devices import compute_exactly
from kdignite.errors import UserError

HALVES = (0.5, 0.5, 0.5)
CPU = torch.device("cpu")
module = importlib.import_module("kdignite.runs.environment")  # the package has a function of that name


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (TeacherConfig(), "teacher"),
        (BaselineConfig(), "baseline"),
        (BaselineConfig(fast_dev_run=True), "baseline-dev"),
        (BaselineConfig(seed=3), "baseline-seed3"),
        (DistillConfig(alpha=0.5, T=1.0, seed=1), "distill-a0.5-T1-seed1"),
        (DistillConfig(alpha=0.5, T=1.0), "distill-a0.5-T1"),
        (DistillConfig(alpha=0, T=2.5), "distill-a0-T2.5"),
        (DistillConfig(alpha=0.123456789, T=20), "distill-a0.123457-T20"),
        (DistillConfig(alpha=0.5, T=1.0, fast_dev_run=True), "distill-a0.5-T1-dev"),
    ],
)
def test_a_name_says_what_the_run_is(config: TrainConfig, name: str) -> None:
    assert runs.default_name(config) == name


def test_a_default_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    made = [runs.create(tmp_path / "runs", name=None, default="teacher").name for _ in range(4)]
    assert made == ["teacher", "teacher-2", "teacher-3", "teacher-4"]


def test_runs_that_start_in_the_same_moment_get_a_folder_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the clock stands still: no name is made of the time."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    together = threading.Barrier(8)

    def start(_: int) -> list[str]:
        together.wait()
        return [runs.create(tmp_path / "runs", name=None, default="teacher").name for _ in range(20)]

    with ThreadPoolExecutor(8) as pool:
        made = [name for names in pool.map(start, range(8)) for name in names]
    assert sorted(made) == sorted({"teacher", *(f"teacher-{number}" for number in range(2, 161))})


def test_a_name_that_was_asked_for_by_several_at_once_is_given_to_one(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> str:
        together.wait()
        try:
            return runs.create(tmp_path / "runs", name="mine", default="teacher").name
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(start, range(8)))
    taken = f"{tmp_path / 'runs' / 'mine'} exists and is never overwritten: choose another --name"
    assert sorted(told) == sorted(["mine", *[taken] * 7])


def test_a_number_that_is_free_again_is_used(tmp_path: Path) -> None:
    for _ in range(3):
        runs.create(tmp_path, name=None, default="teacher")
    (tmp_path / "teacher-2").rmdir()
    assert runs.create(tmp_path, name=None, default="teacher").name == "teacher-2"


def test_a_file_or_a_dead_link_takes_a_name_too(tmp_path: Path) -> None:
    (tmp_path / "teacher").write_text("")
    (tmp_path / "teacher-2").symlink_to(tmp_path / "nowhere")
    assert runs.create(tmp_path, name=None, default="teacher").name == "teacher-3"


def test_folders_above_are_made_and_the_run_is_empty(tmp_path: Path) -> None:
    folder = runs.create(tmp_path / "a" / "b", name="mine", default="teacher")
    assert folder == tmp_path / "a" / "b" / "mine"
    assert folder.is_dir()
    assert list(folder.iterdir()) == []


def test_a_name_that_was_asked_for_and_is_taken_is_refused(tmp_path: Path) -> None:
    folder = runs.create(tmp_path, name="mine", default="teacher")
    (folder / "best.safetensors").write_text("precious")
    told = refused(lambda: runs.create(tmp_path, name="mine", default="teacher"))
    assert told == f"{folder} exists and is never overwritten: choose another --name"
    assert (folder / "best.safetensors").read_text() == "precious"
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("command", "config"),
    [
        (adopt, AdoptConfig(file="nothing.pt", arch="cnn5", size=32, mean=HALVES, std=HALVES, name="mine")),
        (bench, BenchConfig(arch="nothing", name="mine")),
        (doctor, DoctorConfig(run="nothing", name="mine")),
        (doctor, DoctorConfig(weights="nothing.pt", arch="cnn5", name="mine")),
        (evaluate, EvaluateConfig(run="nothing", name="mine")),
        (export, ExportConfig(run="nothing", name="mine")),
    ],
)
def test_a_name_that_is_taken_is_refused_before_all_else(
    tmp_path: Path, command: Callable[..., object], config: Config
) -> None:
    folder = runs.create(tmp_path, name="mine", default="teacher")
    told = refused(lambda: command(config, root=tmp_path))
    assert told == f"{folder} exists and is never overwritten: choose another --name"


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_file_in_the_place_of_the_root_is_refused(tmp_path: Path, name: str | None) -> None:
    root = tmp_path / "runs"
    root.write_text("a file")
    told = refused(lambda: runs.create(root, name=name, default="teacher"))
    assert told == f"no run folder can be made in {root}: File exists"
    assert root.read_text() == "a file"


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_file_above_the_root_is_refused(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "runs"
    told = refused(lambda: runs.create(root, name=name, default="teacher"))
    assert told == f"no run folder can be made in {root}: Not a directory"


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_root_that_cannot_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", denied)
    told = refused(lambda: runs.create(tmp_path, name=name, default="teacher"))
    assert told == f"no run folder can be made in {tmp_path}: Permission denied"


def test_a_name_that_no_folder_can_have_asks_for_a_short_one(tmp_path: Path) -> None:
    told = refused(lambda: runs.create(tmp_path, name=None, default=f"compare-{'x' * 250}"))
    assert told == f"no run folder can be made in {tmp_path}: File name too long: choose a short --name"


# --- files


def test_json_comes_back_and_can_be_read_by_everybody(tmp_path: Path) -> None:
    values = {"name": "Käse", "numbers": [1, 0.1, 1e-300], "none": None, "nested": {"a": True}}
    files.write_json(tmp_path / "result.json", values)
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == values
    assert (tmp_path / "result.json").stat().st_mode & 0o777 == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_is_no_json_leaves_no_file_and_the_old_one(tmp_path: Path, value: object) -> None:
    files.write_json(tmp_path / "result.json", 1)
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "result.json", {"loss": value})
    assert (tmp_path / "result.json").read_text() == "1\n"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_the_environment_says_what_computed_and_not_where() -> None:
    found = runs.environment(CPU)
    assert found["kdignite"] == kdignite.__version__
    assert found["packages"]["torch"] == version("torch")
    assert set(found["packages"]) == set(module.PACKAGES)
    assert found["packages"]["scipy"] == version("scipy")  # which computes the intervals
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["processes"] == 1
    text = json.dumps(found)
    for private in (socket.gethostname(), str(Path.cwd()), str(Path.home()), str(Path(kdignite.__file__).parent)):
        assert private not in text
    assert not re.search(r'"/', text)


def test_a_gpu_is_told_with_its_libraries_and_how_they_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91_000)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    compute_exactly()
    found = runs.environment(torch.device("cuda", 1))
    assert found["device"] == "card 1"
    assert found["cuda"] == "CUDA 13.0, cuDNN 91000, deterministic, no TF32"
    assert runs.environment(CPU)["cuda"] is None
    assert [name for name, value in found.items() if name != "packages" and not schema.is_setting(value)] == []


def test_the_processor_is_called_by_its_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listing = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "CPUINFO", listing)
    monkeypatch.setattr(module.platform, "processor", lambda: "arm")
    assert runs.environment(CPU)["processor"] == "arm"
    listing.write_text("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Chip: 2 GHz \n\nmodel name\t: Other\n")
    assert runs.environment(CPU)["processor"] == "Chip: 2 GHz"
    listing.write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert runs.environment(CPU)["processor"] == "arm"
    monkeypatch.setattr(module.platform, "processor", lambda: "")
    assert runs.environment(CPU)["processor"] is None


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_is_that_of_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kdignite, "__file__", str(tmp_path / "kdignite" / "__init__.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runs.environment(CPU)["commit"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    git = ["git", "-C", str(tmp_path), *identity]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert runs.environment(CPU)["commit"] == head
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runs.environment(CPU)["commit"] is None


def test_the_time_sorts_as_text_and_is_utc() -> None:
    first = files.now()
    time.sleep(0.002)
    assert first < files.now()
    assert datetime.fromisoformat(first).utcoffset() == timedelta(0)


# --- finding runs


def finish(
    folder: Path, *, command: str = "teacher", partial: bool = False, at: str = "2030-01-01", **more: Any
) -> Path:
    folder.mkdir(parents=True)
    (folder / "best.safetensors").write_text("")
    result = {"command": command, "partial": partial, "finished_at": at, "dataset": "digits", "val_size": 200}
    files.write_json(folder / "result.json", {**result, **more})
    return folder


def found_in(root: Path) -> list[str]:
    return [run.folder.relative_to(root).as_posix() for run in runs.finished_teachers(root)]


def test_teachers_are_sorted_by_the_time_in_their_result_and_not_of_the_file(tmp_path: Path) -> None:
    for name, at in (("a", "2030-01-02T00:00:00.000+00:00"), ("b", "2030-01-03"), ("c", "2030-01-01")):
        finish(tmp_path / name, at=at)
    for age, name in enumerate("bac"):  # the times of the files say something else
        os.utime(tmp_path / name / "result.json", (1000 + age, 1000 + age))
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert found_in(tmp_path) == ["b", "a", "c"]


def test_only_whole_and_finished_runs_that_can_teach_are_found(tmp_path: Path) -> None:
    finish(tmp_path / "teacher", at="2")
    finish(tmp_path / "adopted", command="adopt", at="1")
    finish(tmp_path / "partial", partial=True)
    finish(tmp_path / "student", command="distill")
    finish(tmp_path / "baseline", command="baseline")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "best.safetensors").write_text("")
    (tmp_path / "evaluation").mkdir()
    files.write_json(tmp_path / "evaluation" / "result.json", {"accuracy": 1})
    (tmp_path / "list").mkdir()
    files.write_json(tmp_path / "list" / "result.json", ["command", "partial", "finished_at"])
    (tmp_path / "file").write_text("")
    assert found_in(tmp_path) == ["teacher"]


def test_runs_of_a_study_are_found_one_level_deeper_and_no_further(tmp_path: Path) -> None:
    finish(tmp_path / "study" / "teacher", at="3")
    finish(tmp_path / "teacher", at="2")
    finish(tmp_path / "study" / "deep" / "teacher", at="9")
    assert found_in(tmp_path) == ["study/teacher", "teacher"]


def test_the_result_comes_with_the_run(tmp_path: Path) -> None:
    finish(tmp_path / "teacher", dataset="cifar100")
    assert runs.finished_teachers(tmp_path)[0].result["dataset"] == "cifar100"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "is damaged"),
        ("[1, 2]", "it holds no JSON object"),
        (b"\xff\xfe", "is damaged"),
        (" " * 200, "is larger than any that a run writes"),
    ],
)
def test_a_run_whose_files_cannot_be_read_is_skipped_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str | bytes, why: str
) -> None:
    finish(tmp_path / "teacher")
    bad = finish(tmp_path / "bad", at="9") / "result.json"
    bad.write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(files, "LARGEST_JSON", 199)
    assert found_in(tmp_path) == ["teacher"]
    assert capsys.readouterr().out.startswith(f"skipped   {bad.parent}: {bad} {why}" if why[0] != "i" else "skipped ")


def test_a_root_that_is_not_there_holds_no_teachers(tmp_path: Path) -> None:
    assert runs.finished_teachers(tmp_path / "runs") == []


# --- what a RUN on the command line means


def test_a_checkpoint_is_found_by_file_folder_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    best = finish(root / "teacher") / "best.safetensors"
    other = root / "teacher" / "other.pt"
    other.write_text("")
    deep = finish(root / "study" / "one") / "best.safetensors"
    monkeypatch.chdir(tmp_path)
    assert runs.find_checkpoint(str(best), root=root) == best
    assert runs.find_checkpoint(str(best.parent), root=root) == best
    assert runs.find_checkpoint("runs/teacher", root=root) == Path("runs/teacher/best.safetensors")
    assert runs.find_checkpoint("runs/teacher/", root=root) == Path("runs/teacher/best.safetensors")
    assert runs.find_checkpoint("teacher", root=root) == best
    assert runs.find_checkpoint("teacher/other.pt", root=root) == other
    assert runs.find_checkpoint("study/one", root=root) == deep


def test_a_folder_of_the_same_name_does_not_hide_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best = finish(tmp_path / "runs" / "teacher") / "best.safetensors"
    (tmp_path / "teacher").mkdir()
    monkeypatch.chdir(tmp_path)
    assert runs.find_checkpoint("teacher", root=tmp_path / "runs") == best


def test_a_run_that_saved_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "early").mkdir()
    told = refused(lambda: runs.find_checkpoint("early", root=tmp_path))
    assert told == f"{tmp_path / 'early'} is no folder of a run: it has no best.safetensors"
    (tmp_path / "early" / "config.json").write_text("{}")
    for run in ("early", str(tmp_path / "early")):
        told = refused(lambda run=run: runs.find_checkpoint(run, root=tmp_path))
        assert (
            told == f"{tmp_path / 'early'} has no best.safetensors: its run did not get to the end of its first epoch"
        )


def test_that_a_run_is_unfinished_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finish(tmp_path / "cut")
    runs.find_checkpoint("cut", root=tmp_path)
    assert capsys.readouterr().out == ""
    (folder / "result.json").unlink()
    (folder / "config.json").write_text('{"command": "distill", "epochs": 30}')
    (folder / "metrics.csv").write_text("epoch\n" + "1\n" * 18)
    told = f"warning   {folder} is unfinished (epoch 18 of 30): this is its best model so far\n"
    for run in ("cut", str(folder / "best.safetensors")):
        runs.find_checkpoint(run, root=tmp_path)
        assert capsys.readouterr().out == told
    (folder / "config.json").write_text("{")  # an older or damaged run still has its model
    runs.find_checkpoint("cut", root=tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("run", ["exported", "exported/model.safetensors"])
def test_an_export_is_no_run(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("config.json", "export.json", "model.safetensors"):
        (folder / name).write_text("{}")
    assert refused(lambda: runs.find_checkpoint(run, root=tmp_path)) == (
        f"{folder} is for other programs, as its README.md says; here, name the run that it was made from"
    )


def test_a_study_is_no_run(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "manifest.json").write_text("{}")
    assert refused(lambda: runs.find_checkpoint("study", root=tmp_path)) == (
        f"{study} is a folder of runs: name one of them, {study}/NAME with a NAME of none yet"
    )
    finish(study / "one")
    finish(study / "two")
    assert refused(lambda: runs.find_checkpoint("study", root=tmp_path)).endswith("with a NAME of one, two")


def test_a_network_is_no_run(tmp_path: Path) -> None:
    told = refused(lambda: runs.find_checkpoint("timm:resnet50", root=tmp_path))
    assert told.endswith(
        "; a network has to become one first: adopt FILE --arch=timm:resnet50, or teacher --arch=timm:resnet50"
    )


def test_a_run_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    told = refused(lambda: runs.find_checkpoint("no", root=tmp_path))
    assert told == f"there is no run or checkpoint 'no'; runs in {tmp_path}/: none"
    finish(tmp_path / "b")
    finish(tmp_path / "a")
    (tmp_path / "early").mkdir()
    told = refused(lambda: runs.find_checkpoint("no", root=tmp_path))
    assert told == f"there is no run or checkpoint 'no'; runs in {tmp_path}/: a, b"
