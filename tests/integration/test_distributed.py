"""Several processes on one run: the numbers of one process, one voice, and none that waits for ever."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdignite import checkpoints
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.data.batches import Share
from kdignite.methods.registry import METHODS
from kdignite.runs import Finished

from . import several
from .alike import assert_alike, curves, result, table, weights
from .conftest import alone, student
from .launching import TORCHRUN, ended, ended_by_torchrun, started
from .test_command_line import environment

# smooth, since rounding decides on which side of a ReLU's kink the empty background of a digit lies
WITHOUT_NORM = """
from torch import nn

def without_norm(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(1800, num_classes))
"""
ALL_METHODS = """
import sys
from kdignite import processes
from kdignite.cli import main
from kdignite.methods.registry import METHODS

words = ["distill", "--dataset=digits", "--batch_size=50", "--epochs=1", "--lr=0.001", "--limit_train=210"]
words += ["--arch=without_norm:without_norm", "--amp=off", "--threads=1", "--teacher=teacher"]
with processes.process_group():
    for name in sys.argv[1:]:
        layers = ["--student_layers=1", "--teacher_layers=relu2"] if METHODS[name].needs == "features" else []
        if code := main([*words, f"--method={name}", f"--name={name}", *layers]):
            sys.exit(code)
"""
KDIGNITE = ["-m", "kdignite"]
DIGITS = ["--dataset=digits", "--batch_size=50", "--widths=8,8,8,8,8"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found, in a job of SLURM, which calls both of them its task 0."""
    folder = tmp_path_factory.mktemp("ranks")
    group = started([several.__file__, str(folder)], folder, SLURM_JOB_ID="1", SLURM_LOCALID="0", OMP_NUM_THREADS="1")
    both = ended_by_torchrun(group)
    assert [one.code for one in both] == [0, 0], both
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_twenty_steps_are_those_of_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = several.trained(Share())
    assert not torch.equal(expected["weights"]["0.weight"], several.convolutional().state_dict()["0.weight"])
    for found in ranks:
        assert found["still there"] == 2
        for trained in (found["trained"], found["trained in their group"]):
            for name, value in trained["weights"].items():
                torch.testing.assert_close(value, expected["weights"][name], rtol=0, atol=1e-9)
            assert trained["means"] == pytest.approx(expected["means"], rel=1e-9)


def test_a_student_and_what_is_learnt_beside_it_are_one_module_to_both(ranks: list[dict[str, Any]]) -> None:
    expected = several.trained_on_features(Share())
    for found in ranks:
        trained = found["trained on features"]
        assert {name for name in trained["weights"] if name.startswith("projector.")}
        for name, value in trained["weights"].items():
            torch.testing.assert_close(value, expected["weights"][name], rtol=0, atol=1e-9)
        assert trained["means"] == pytest.approx(expected["means"], rel=1e-9)


RELATE_IMAGES = ("dist", "sp", "pkt", "rkd")  # those of each process, as the documents say


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_two_processes_is_that_in_one(name: str, ranks: list[dict[str, Any]]) -> None:
    expected = several.trained_by(name, Share(), pieces=2 if name in RELATE_IMAGES else 1)
    fresh = several.convolutional().state_dict()
    assert not torch.equal(expected["weights"]["network.0.weight"], fresh["0.weight"])
    for found in (one["trained by"][name] for one in ranks):
        assert found["weights"].keys() == expected["weights"].keys()
        for key, value in found["weights"].items():
            torch.testing.assert_close(value, expected["weights"][key], rtol=0, atol=1e-9)
        assert found["means"] == pytest.approx(expected["means"], rel=1e-9)
    if name in RELATE_IMAGES:
        whole = several.trained_by(name, Share())["means"]
        assert whole["loss"] != pytest.approx(expected["means"]["loss"], rel=1e-6)


def test_every_process_has_every_answer_once(ranks: list[dict[str, Any]]) -> None:
    expected = several.evaluated(Share())
    for found in ranks:
        for number, outcome in found["evaluated"].items():
            assert outcome.loss == expected[number].loss
            for ours, theirs in zip(outcome[:4], expected[number][:4], strict=True):
                assert torch.equal(ours, theirs)  # the logits of one process, bit for bit
            assert torch.equal(outcome.indices, torch.arange(number))


def test_what_they_agree_on(ranks: list[dict[str, Any]]) -> None:
    first, second = (found["agreed"] for found in ranks)
    for rank, found in enumerate((first, second)):
        assert found["world"] == 2
        assert found["local rank"] == (rank, str(rank))
        assert found["made"] == "by 0"
        assert found["mistake of the first"] == ("UserError", "a mistake of 0")
        assert found["mistake of one"] == ("UserError", "a mistake of 1")
        assert found["everyone's"] == [0, 10]
        assert found["largest"] == 7
        assert found["sums"].tolist() == [2.0, 2.0]
        assert found["no sums"].tolist() == []
        assert torch.equal(found["rows"], torch.arange(6.0).view(3, 2))
        assert found["buffers"]["running_mean"].tolist() == [1.0, 1.0]
        assert int(found["buffers"]["num_batches_tracked"]) == 3
        assert found["means of sums that were loaded"] == {"loss": 1.0}  # 6 over 4 images, and 2 more without loss
        assert found["stages"] == ["teacher"]
    assert first["bug of the first"] == ("KeyError", "'a bug'")
    assert second["bug of the first"][0] == "RunFailed"
    assert [first["there already"], second["there already"]] == [False, True]
    assert first["granted"] == second["granted"] != []
    assert all(found["after"] == (1, 0) for found in ranks)
    assert ranks[1]["threads left"] == 0  # the first process goes on serving the addresses of all


@pytest.fixture
def place(taught: Finished, tmp_path: Path) -> Path:
    """A folder with a teacher, and a model without BatchNorm."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "teacher").symlink_to(taught.folder)
    (tmp_path / "without_norm.py").write_text(WITHOUT_NORM)
    return tmp_path


MORE = {"mix": "mixup", "freeze_epochs": 1, "backbone_lr_mult": 0.5, "cache_top": 4}


@pytest.mark.parametrize("more", [{}, pytest.param(MORE, marks=pytest.mark.slow)], ids=["plain", "more"])
def test_torchrun_makes_the_run_of_one_process(
    more: dict[str, Any], place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "--dataset=digits", "--batch_size=50", "--epochs=2", "--lr=0.02", "--alpha=0.7", "--T=3"]
    words += ["--arch=without_norm:without_norm", "--amp=off"]  # bfloat16 rounds at the third digit
    words += [f"--{name}={value}" for name, value in more.items()]
    command = [*TORCHRUN, *KDIGNITE, *words, "--name=two"]
    done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images/s") == done.stdout.count("Test images, two") == 1
    monkeypatch.syspath_prepend(place)
    config = student(arch="without_norm:without_norm", amp="off", widths=None, epochs=2, lr=0.02, name="one", **more)
    two, one = place / "runs" / "two", distill(config, root=place / "runs").folder
    assert "0 of 2 views have cached teacher logits" in done.stdout
    assert "2 of 2 views have cached teacher logits" in capsys.readouterr().out
    assert {path.name for path in (place / "runs").iterdir()} == {"teacher", "one", "two", ".teacher_cache"}
    assert {path.name for path in two.iterdir() if "tfevents" not in path.name} == {
        path.name for path in one.iterdir() if "tfevents" not in path.name
    }
    assert weights(two).keys() == weights(one).keys()  # and no prefix that would have to be taken off
    for name, value in weights(two).items():
        torch.testing.assert_close(value, weights(one)[name], rtol=1e-4, atol=1e-5)
    assert len(list(two.glob("events*"))) == 1
    assert curves(two).keys() == curves(one).keys()
    for ours, theirs in zip(table(two), table(one), strict=True):
        assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-5)
        assert float(ours["accuracy_train"]) == pytest.approx(float(theirs["accuracy_train"]), abs=2 / 1297)
    ours, theirs = (np.load(folder / "predictions.npz") for folder in (two, one))
    assert np.array_equal(ours["test_indices"], theirs["test_indices"])
    np.testing.assert_allclose(ours["test_logits"], theirs["test_logits"], atol=1e-3)
    assert json.loads((two / "environment.json").read_text())["processes"] == 2
    assert json.loads((one / "environment.json").read_text())["processes"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["baseline", "--alhpa=1"], "baseline: no flag --alhpa"),
        (["evaluate", "runs/teacher"], "evaluate runs in one process: python -m kdignite evaluate ..., without"),
        (["distill", *DIGITS, "--teacher=nowhere"], "there is no run or checkpoint 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_of_all_processes(place: Path, words: list[str], message: str) -> None:
    first, second = ended_by_torchrun(started([*KDIGNITE, *words], place))
    lines = (first.errors + second.errors).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"kdignite: error: {message}")
    # the launcher may end the other one before it has got so far, or before it has a handler for that
    assert 2 in (first.code, second.code)
    assert {first.code, second.code} <= {2, 143, -signal.SIGTERM}
    assert {path.name for path in (place / "runs").iterdir()} == {"teacher"}


def started_training(place: Path, *words: str) -> list[subprocess.Popen[str]]:
    """Two processes in the middle of a long baseline ``run`` that has saved its state."""
    group = started([*KDIGNITE, "baseline", *DIGITS, "--epochs=60", "--name=run", "--threads=1", *words], place)
    deadline = time.monotonic() + 120
    while not (place / "runs" / "run" / "last.safetensors").exists():
        assert time.monotonic() < deadline
        assert all(one.poll() is None for one in group)
        time.sleep(0.02)
    return group


def test_a_signal_to_one_process_stops_all_and_one_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    group = started_training(place, "--save_every_s=3600", "--schedule=constant", "--lr=0.01")
    folder = place / "runs" / "run"
    saved, asked = (folder / "last.safetensors").stat().st_mtime_ns, time.monotonic()
    group[1].send_signal(signal.SIGTERM)
    first, second = ended(group)
    assert time.monotonic() - asked < 10
    assert (first.code, second.code) == (143, 143)
    assert first.errors == "kdignite: terminated\n"
    assert second.errors == second.out == ""
    assert first.out.splitlines()[-1] == "stopped   resume with: python -m kdignite baseline --resume=runs/run"
    assert (folder / "last.safetensors").stat().st_mtime_ns > saved
    iteration = checkpoints.read(folder / "last.safetensors")["trainer"]["iteration"]
    epochs = iteration // 26 + 1
    # the same run in one process
    given = {"resume": str(folder), "epochs": epochs, "given": ("resume", "epochs")}
    done = baseline(alone(**given), root=place / "runs")
    assert done.result["epochs"] == epochs
    assert "another machine than before (processes: 2 -> 1)" in capsys.readouterr().out
    assert json.loads((folder / "environment.json").read_text())["resumed"][0]["changed"] == {"processes": 1}


def test_where_one_process_is_killed_the_other_says_so_and_ends(place: Path) -> None:
    group = started_training(place)
    group[1].kill()
    first, _ = ended(group)
    assert first.code == 1
    assert first.errors == "kdignite: failed: another process of this run has ended, so this one cannot go on\n"
    assert "run       runs/run" in first.out.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_restarted_and_the_run_ends_bit_equal(place: Path, victim: int) -> None:
    words = [*KDIGNITE, "baseline", *DIGITS, "--epochs=12", "--name=run", "--threads=1", "--save_every_s=0"]
    whole, broken = place / "whole", place / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    subprocess.run([*TORCHRUN, *words], cwd=whole, env=environment(), check=True, capture_output=True)
    command = [*TORCHRUN, "--max-restarts=1", *words, "--resume"]
    launcher = subprocess.Popen(command, cwd=broken, env=environment(), stdout=subprocess.PIPE, text=True)
    state = broken / "runs" / "run" / "last.safetensors"
    while not state.exists():
        assert launcher.poll() is None
        time.sleep(0.02)
    time.sleep(0.7)
    os.kill(process_of(launcher.pid, rank=victim), signal.SIGKILL)
    out, _ = launcher.communicate(timeout=200)
    assert launcher.returncode == 0
    assert "resume    after iteration" in out
    assert_alike(broken / "runs" / "run", whole / "runs" / "run")
    assert json.loads((broken / "runs" / "run" / "environment.json").read_text())["resumed"][0]["changed"] == {}


def process_of(launcher: int, *, rank: int) -> int:
    """The process of a rank among the children of torchrun."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return next(int(pid) for pid in children if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_torchrun_takes_every_method(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one group, which they find and leave; a network without BatchNorm, that both train alike."""
    (place / "all_methods.py").write_text(ALL_METHODS)
    both = ended_by_torchrun(started([str(place / "all_methods.py"), *METHODS], place), seconds=600)
    assert [one.code for one in both] == [0, 0], both
    monkeypatch.syspath_prepend(place)
    own = {"arch": "without_norm:without_norm", "amp": "off", "widths": None, "epochs": 1, "alpha": None, "T": None}
    for name, row in METHODS.items():
        two = place / "runs" / name
        assert json.loads((two / "environment.json").read_text())["processes"] == 2
        layers = {"student_layers": ("1",), "teacher_layers": ("relu2",)} if row.needs == "features" else {}
        config = student(**own, **layers, method=name, lr=0.001, limit_train=210, name=f"{name}-one")
        one = distill(config, root=place / "runs").folder
        assert weights(two).keys() == weights(one).keys()  # nothing of a projector
        same_batch = name != "fitnet" and name not in RELATE_IMAGES
        for ours, theirs in zip(table(two), table(one), strict=True):
            assert ours.keys() == theirs.keys()
            assert float(ours["loss"]) == pytest.approx(float(theirs["loss"]), rel=1e-4 if same_batch else 0.5)


@pytest.mark.slow
def test_a_whole_study_is_compared_once(tmp_path: Path) -> None:
    words = ["reproduce", *DIGITS, "--epochs=1", "--teacher_arch=cnn5", "--teacher_epochs=4", "--teacher_batch_size=50"]
    command = [*TORCHRUN, *KDIGNITE, *words, "--seeds=2", "--threads=1"]
    for told in ("--- compare-2-seeds", "finished  runs/reproduce-standard/compare-distill-a0.9-T4"):
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(told) == 1
    study = tmp_path / "runs" / "reproduce-standard"
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"reproduce-standard", ".teacher_cache"}
    stages = json.loads((study / "manifest.json").read_text())["stages"]
    trained = {"teacher", "distill-a0.9-T4", "distill-a0.9-T4-seed1", "baseline", "baseline-seed1"}
    assert {name for name, stage in stages.items() if "evaluated" in stage} == trained
    assert {path.name for path in study.iterdir() if path.is_dir()} == {*trained, "compare-distill-a0.9-T4"}
    assert all(len(list((study / name).glob("events*"))) == 1 for name in trained)
    assert all(result(study / name)["test"]["num_images"] == 300 for name in trained)


@pytest.mark.slow
def test_a_whole_sweep_is_reported_once(place: Path) -> None:
    command = [*TORCHRUN, *KDIGNITE, "sweep", *DIGITS, "--epochs=1", "--alpha=0.5,1", "--T=2", "--threads=1"]
    for runs in (2, 0):
        done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Chosen on validation") == 1
        assert done.stdout.count("--- distill") == runs
    report = json.loads((place / "runs" / "sweep-standard" / "sweep.json").read_text())
    assert [(cell["alpha"], cell["T"]) for cell in report["cells"]] == [(0.5, 2.0), (1.0, 2.0)]


@pytest.mark.slow
def test_a_whole_study_of_methods_is_reported_once(place: Path) -> None:
    pytest.importorskip("optuna")
    words = ["study", *DIGITS, "--methods=dkd", "--trials=2", "--search_epochs=1", "--epochs=1", "--seeds=1"]
    for trained in (6, 0):
        command = [*TORCHRUN, *KDIGNITE, *words, "--threads=1"]
        done = subprocess.run(command, cwd=place, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("images/s") == trained
        assert done.stdout.count("Too few seeds to tell methods apart") == 1
    stages = json.loads((place / "runs" / "study-standard" / "manifest.json").read_text())["stages"]
    assert {*stages} == {"search-baseline", "search-dkd", "baseline-seed0", "dkd-seed0"}
