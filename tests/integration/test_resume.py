"""A run that was stopped, at any iteration and in any way, ends as if nobody had stopped it."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from kdignite import checkpoints, files, stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.teacher import teacher
from kdignite.config import NEWEST, BaselineConfig, DistillConfig, TrainConfig, configure
from kdignite.errors import RunFailed, UserError
from kdignite.runs import Finished
from kdignite.training import spec as spec_module
from kdignite.training import trainer as trainer_module

from .alike import assert_alike, table, weights
from .conftest import alone, learner, student

EPOCH = 26  # iterations: 1,297 images in batches of 50, or 520 in batches of 20


class Pulled(BaseException):
    """The plug was pulled: nothing that runs afterwards in the process may help the run."""


def asked_to_stop(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Somebody presses Ctrl-C during an iteration."""
    run_batches = trainer_module.run_batches

    def pressed(*args: Any, first_iteration: int = 0, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, first_iteration=first_iteration, **sizes), 1):
            if first_iteration + number == iteration:
                assert stopping.request_stop(signal.SIGINT)
                monkeypatch.setattr(trainer_module, "run_batches", run_batches)
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", pressed)


COMMANDS: dict[str, tuple[Callable[..., Finished], Callable[..., TrainConfig]]] = {
    "teacher": (teacher, learner),
    "baseline": (baseline, alone),
    "distill": (distill, student),
}


@pytest.fixture(scope="module", params=COMMANDS)
def whole(request: pytest.FixtureRequest, taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run of each command that was never stopped."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("whole")
    (root / "teacher").symlink_to(taught.folder)
    command, config = COMMANDS[request.param]
    return command(config(**settings(request.param)), root=root)


def settings(command: str) -> dict[str, Any]:
    """Dropout-free models have no mask to lose; momentum, BatchNorm, early stopping and views they all have."""
    small = {"limit_train": 20 * EPOCH, "batch_size": 20}
    own = {"teacher": "teacher"} if command == "distill" else {}
    return {"name": "run", "patience": 5, "epochs": 3, **small, **own}


# iteration 1; inside the first, second and third epoch; the last of an epoch; the first of one; the very last
STOPS = (1, 7, EPOCH, EPOCH + 1, 2 * EPOCH + 11, 3 * EPOCH)


def test_stopped_after_any_iterations_it_ends_the_same(
    whole: Finished, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, config = COMMANDS[whole.result["command"]]
    started = config(**settings(whole.result["command"]))
    for iteration in STOPS:
        asked_to_stop(monkeypatch, iteration)
        with pytest.raises(stopping.Stopped):
            command(started, root=root)
        # a teacher answers to a whole view in the first step of an epoch, which is stopped then and done again
        done = iteration - (command is distill and iteration % EPOCH == 1)
        assert (root / "run" / "last.safetensors").exists() == (done > 0)
        assert not done or checkpoints.read(root / "run" / "last.safetensors")["trainer"]["iteration"] == done
        started = configure(type(started), resume="run")
    again = command(started, root=root)
    assert again.folder == root / "run"
    assert_alike(again.folder, whole.folder)


@pytest.mark.slow
def test_stopped_with_mixed_images_and_few_logits_it_ends_the_same(
    root: Path, tmp_path: Path, taught: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"mix": "mixup", "augment": "rrc+flip+jitter", "cache_top": 3, "cache_dtype": "float16", "views": 1}
    other = tmp_path / "other"
    other.mkdir()
    (other / "teacher").symlink_to(taught.folder)
    started = student(**settings("distill"), **given)
    whole = distill(started, root=other)
    asked_to_stop(monkeypatch, EPOCH + 5)
    with pytest.raises(stopping.Stopped):
        distill(started, root=root)
    assert_alike(distill(configure(type(started), resume="run"), root=root).folder, whole.folder)


@pytest.mark.parametrize("iteration", [2, 8, 11])
def test_a_run_too_short_for_batch_norm_ends_the_same_whether_stopped_or_not(
    taught: Finished, root: Path, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its statistics are measured anew before each evaluation: a function of the weights and the data alone."""
    short = {"limit_train": 200, "epochs": 3, "name": "run"}  # 12 steps
    whole = distill(student(**short, alpha=0.0), root=root)
    assert whole.result["val"]["accuracy"] > 0.15
    (root / "run").rename(root / "whole")
    asked_to_stop(monkeypatch, iteration)
    with pytest.raises(stopping.Stopped):
        baseline(alone(**short), root=root)
    again = baseline(configure(BaselineConfig, resume="run"), root=root)
    one, other = (checkpoints.load_checkpoint(folder / "best.safetensors") for folder in (root / "whole", again.folder))
    assert all(torch.equal(value, other.weights[key]) for key, value in one.weights.items())


def test_the_line_that_resumes_can_be_pasted_whatever_the_folder_is_called(
    taught: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "it's my folder"
    asked_to_stop(monkeypatch, 3)
    with pytest.raises(stopping.Stopped):
        baseline(alone(epochs=1), root=root)
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("stopped"))
    typed = shlex.split(line.partition("resume with: ")[2])
    assert typed == ["python", "-m", "kdignite", "baseline", f"--resume={root / 'baseline'}"]


def test_the_scale_of_the_loss_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"amp": "fp16", "limit_train": 200, "epochs": 2}
    whole = distill(student(**config, name="whole"), root=root)
    asked_to_stop(monkeypatch, 5)
    with pytest.raises(stopping.Stopped):
        distill(student(**config, name="run"), root=root)
    scaler = checkpoints.read(root / "run" / "last.safetensors")["scaler"]
    assert scaler["scale"] > 0
    again = distill(configure(DistillConfig, resume="run"), root=root)
    assert_alike(again.folder, whole.folder)


# --- without a chance to save: what the last save holds is what counts


def pulled(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """The process ends after an iteration, and nothing that is printed or saved afterwards counts."""
    run_batches = trainer_module.run_batches

    def cut(*args: Any, first_iteration: int = 0, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, first_iteration=first_iteration, **sizes)):
            if first_iteration + number == iteration:
                monkeypatch.setattr(trainer_module, "run_batches", run_batches)
                raise Pulled
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", cut)


def unfinished(root: Path, monkeypatch: pytest.MonkeyPatch, *, iteration: int = EPOCH + 7, **given: Any) -> Path:
    """A baseline that was stopped in its second epoch, with a save after every iteration."""
    pulled(monkeypatch, iteration)
    with pytest.raises(Pulled):
        baseline(alone(**{**settings("baseline"), "save_every_s": 0, **given}), root=root)
    return root / str(given.get("name", "run"))


def resumed(root: Path, **given: Any) -> Finished:
    return baseline(configure(BaselineConfig, **{"resume": "run", **given}), root=root)


@pytest.fixture(scope="module")
def reference(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same baseline, never stopped."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("reference")
    (root / "teacher").symlink_to(taught.folder)
    return baseline(alone(**settings("baseline")), root=root).folder


def test_the_start_in_the_middle_of_an_epoch_is_what_makes_it_the_same(
    reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it the engine would be fed the epoch from its first batch again, and this must show."""
    asked_to_stop(monkeypatch, EPOCH + 7)
    with pytest.raises(stopping.Stopped):
        baseline(alone(**settings("baseline")), root=root)
    run_batches = trainer_module.run_batches

    def from_the_first_batch(*args: Any, first_iteration: int, **sizes: int) -> Iterator[Any]:
        return run_batches(*args, first_iteration=first_iteration - first_iteration % EPOCH, **sizes)

    monkeypatch.setattr(trainer_module, "run_batches", from_the_first_batch)
    again = baseline(configure(BaselineConfig, resume="run"), root=root)
    first, second = weights(again.folder), weights(reference)
    assert not all(torch.equal(first[key], second[key]) for key in first)
    assert table(again.folder) != table(reference)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())}


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: len(content) // 2]
    elif kind == "empty":
        content = bytearray()
    else:
        content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["truncated", "empty", "bit-flipped"])
def test_a_damaged_state_is_told_and_the_one_before_it_is_used(
    reference: Path, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unfinished(root, monkeypatch)
    damage(folder / "last.safetensors", kind)
    (folder / ".tmp-4711-last.safetensors").write_bytes(b"half written")
    again = resumed(root)
    out = capsys.readouterr().out
    warnings = [line for line in out.splitlines() if line.startswith("warning   ") and "last.safetensors" in line]
    assert len(warnings) == 1
    assert warnings[0].endswith("previous.safetensors is used instead")
    assert f"resume    after iteration {EPOCH + 6} of {3 * EPOCH}" in out
    assert_alike(again.folder, reference)


def test_where_every_state_is_damaged_the_run_is_left_as_it_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(root, monkeypatch)
    damage(folder / "last.safetensors", "truncated")
    damage(folder / "previous.safetensors", "bit-flipped")
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        resumed(root)
    told = rf"{folder} cannot be resumed, none of its states can be used: {folder}/last\.safetensors is damaged.*; "
    assert re.fullmatch(rf"{told}{folder}/previous\.safetensors is damaged.*", str(caught.value))
    assert contents(folder) == before


def test_a_removed_state_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(root, monkeypatch, iteration=2 * EPOCH + 3)
    for name in ("last.safetensors", "previous.safetensors"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=r"run cannot be resumed: it has no last\.safetensors; start a new run"):
        resumed(root)


@pytest.mark.parametrize("written", [("best.safetensors",), ("best.safetensors", "metrics.csv")])
def test_killed_between_the_first_epoch_and_its_save_it_starts_at_its_beginning(
    written: tuple[str, ...], reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of an epoch the best model and the tables are written before the state that goes on from there."""
    folder = unfinished(root, monkeypatch, iteration=5, save_every_s=3600)
    other = baseline(alone(epochs=1, seed=7), root=root).folder
    for name in written:
        shutil.copy(other / name, folder)
    assert_alike(resumed(root).folder, reference)


def test_diverged_in_its_first_epoch_it_does_so_again(root: Path) -> None:
    for _ in range(2):
        with pytest.raises(RunFailed, match="the loss is not a finite number any more"):
            baseline(alone(lr=1e30, schedule="constant", name="run", resume=NEWEST), root=root)


def test_resuming_goes_on_with_the_teacher_that_the_run_had(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest one may be another by then."""
    asked_to_stop(monkeypatch, 7)
    with pytest.raises(stopping.Stopped):
        distill(student(name="run", epochs=1), root=root)
    newer = teacher(learner(epochs=5, seed=3), root=root)
    again = distill(student(epochs=1, resume=NEWEST), root=root)
    assert again.folder == root / "run"
    other = distill(student(epochs=1, alpha=0.25, resume=NEWEST), root=root)
    assert other.result["teacher"]["sha256"] == files.sha256(newer.folder / "best.safetensors")


def test_the_line_that_resumes_names_code_of_the_users_own(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ModuleType("own_nets")
    own.tiny = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, num_classes))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_nets", own)
    asked_to_stop(monkeypatch, 3)
    with pytest.raises(stopping.Stopped):
        baseline(configure(BaselineConfig, dataset="digits", arch="own_nets:tiny", name="run"), root=root)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == f"stopped   resume with: python -m kdignite baseline --resume={root}/run --arch=own_nets:tiny"


def test_stopped_before_its_first_save_it_starts_at_its_beginning(
    reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(root, monkeypatch, iteration=5, save_every_s=3600)
    assert not (folder / "last.safetensors").exists()
    assert_alike(resumed(root).folder, reference)


@pytest.mark.parametrize("kind", ["truncated", "gone"])
def test_without_its_best_file_a_run_goes_on_with_the_best_of_what_comes(
    reference: Path, root: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = unfinished(root, monkeypatch)
    if kind == "gone":
        (folder / "best.safetensors").unlink()
    else:
        damage(folder / "best.safetensors", kind)
    again = resumed(root)
    assert ("the best of the epochs to come takes its place" in capsys.readouterr().out) == (kind == "truncated")
    assert again.result["best_epoch"] >= 2
    assert table(again.folder) == table(reference)


def test_files_removed_by_hand_while_it_trains_do_not_end_a_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_batches = trainer_module.run_batches

    def sweeping(*args: Any, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, **sizes)):
            if number == EPOCH + 3:
                for path in (root / "run").iterdir():
                    if path.suffix == ".safetensors" or "tfevents" in path.name or path.suffix == ".csv":
                        path.unlink()
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", sweeping)
    done = baseline(alone(**settings("baseline")), root=root)
    assert done.result["best_epoch"] >= 2
    assert len(table(done.folder)) == 3
    assert "best.safetensors is gone: the best of the epochs to come" in capsys.readouterr().out


def test_a_folder_removed_while_it_trains_is_told_without_a_traceback(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of TensorBoard's thread neither, which is the first to find it gone."""
    run_batches = trainer_module.run_batches

    def removing(*args: Any, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, **sizes)):
            if number == EPOCH + 3:
                shutil.rmtree(root / "run")
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", removing)
    with pytest.raises(RunFailed, match=r"best\.safetensors cannot be written \(No such file or directory\)"):
        baseline(alone(**settings("baseline")), root=root)
    told = capfd.readouterr()
    assert "TensorBoard's file cannot be written (No such file or directory): the training goes on without" in told.out
    assert "3/3" in told.out
    assert told.err == ""
    assert threading.excepthook.__module__ != trainer_module.__name__


# --- settings


def test_other_settings_are_refused_one_by_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(root, monkeypatch)
    before = contents(folder)
    with pytest.raises(UserError) as caught:
        resumed(root, batch_size=60, lr=0.2, seed=1)
    assert str(caught.value) == (
        f"{folder} has other settings: batch_size: 20 -> 60; lr: 0.1 -> 0.2; seed: 0 -> 1; "
        "resume it with its own, or start a new run"
    )
    with pytest.raises(UserError, match=r"epochs: 3 -> 4; under --schedule=onecycle the learning rate of every step"):
        resumed(root, epochs=4)
    assert contents(folder) == before


def test_more_epochs_under_a_constant_rate_are_those_of_a_longer_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"schedule": "constant", "lr": 0.02}
    unfinished(root, monkeypatch, epochs=2, **given)
    longer = resumed(root, epochs=4)
    at_once = baseline(alone(**{**settings("baseline"), **given, "epochs": 4, "name": "at-once"}), root=root)
    assert json.loads((longer.folder / "config.json").read_text())["epochs"] == 4
    assert_alike(longer.folder, at_once.folder)


@pytest.mark.parametrize("how", ["named", "newest"])
def test_a_finished_run_under_a_constant_rate_can_be_made_longer(
    root: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {**settings("baseline"), "schedule": "constant", "lr": 0.02, "patience": None, "keep_last": True}
    name = {"name": "run" if how == "named" else None}
    short = baseline(alone(**{**given, "epochs": 1, **name}), root=root)
    if how == "named":
        longer = resumed(root, epochs=2)
    else:
        longer = baseline(alone(**{**given, "epochs": 2, **name, "resume": NEWEST}), root=root)
    assert longer.folder == short.folder
    assert f"resume    after iteration {EPOCH} of {2 * EPOCH}" in capsys.readouterr().out
    assert (longer.result["epochs"], json.loads((longer.folder / "config.json").read_text())["epochs"]) == (2, 2)
    at_once = baseline(alone(**{**given, "epochs": 2, "name": "at-once"}), root=root)
    assert_alike(longer.folder, at_once.folder)


def test_what_a_finished_run_cannot_become_is_refused(root: Path) -> None:
    """Whatever the flag, as for a run that is not finished; and nothing of the run is touched."""
    given = {"schedule": "constant", "epochs": 2, "patience": None, "keep_last": False}
    folder = baseline(alone(**{**settings("baseline"), **given}), root=root).folder
    before = contents(folder)
    for flags, told in (
        ({"epochs": 3}, f"{folder} has finished with 2 epochs, --epochs=3 needs its last.safetensors, which --keep_"),
        ({"epochs": 1}, f"{folder} has finished with 2 epochs, --epochs=1 is too few: leave it out, or start a new"),
        ({"lr": 0.5}, f"{folder} has other settings: lr: 0.1 -> 0.5; resume it with its own, or start a new run"),
        ({"val_size": 50.0}, f"{folder} has other settings: split: "),
    ):
        with pytest.raises(UserError) as caught:
            resumed(root, **flags)
        assert str(caught.value).startswith(told)
        assert contents(folder) == before
    for flags in ({"lr": 0.1}, {"threads": 2}, {"epochs": 2}, {"amp": "auto"}, {"save_every_s": 1.0}):
        assert resumed(root, **flags).folder == folder
    assert contents(folder) == before


def test_a_run_that_stopped_early_is_not_made_longer(root: Path) -> None:
    given = {"schedule": "constant", "lr": 1e-6, "patience": 1, "keep_last": True, "epochs": 4}
    done = baseline(alone(**{**settings("baseline"), **given}), root=root)
    assert done.result["epochs"] < 4
    with pytest.raises(UserError, match=r"--epochs=9 changes nothing: --patience=1 stopped it"):
        resumed(root, epochs=9)


def test_fewer_epochs_than_are_done_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished(root, monkeypatch, schedule="constant")
    with pytest.raises(UserError, match=r"the run is in epoch 2 already, --epochs=1 is too few"):
        resumed(root, epochs=1)


def test_another_number_of_threads_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished(root, monkeypatch)
    again = resumed(root, threads=2)
    out = capsys.readouterr().out
    assert "another machine than before (threads: 1 -> 2)" in out
    assert "not bit-equal" in out
    entry = json.loads((again.folder / "environment.json").read_text())["resumed"][0]
    assert (entry["iteration"], entry["changed"]) == (EPOCH + 7, {"threads": 2})


def test_a_finished_run_stays_as_it_is(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(reference)
    for resume in (str(reference), str(reference / "best.safetensors"), "run"):
        again = resumed(reference.parent, resume=resume)
        assert again.folder.resolve() == reference.resolve()
        assert f"resume    {again.folder} has already finished (3 epochs): nothing is done" in capsys.readouterr().out
    assert contents(reference) == before


# --- --resume alone


def test_the_newest_run_of_the_same_settings_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"save_every_s": 0, "epochs": 2}
    for seed in (0, 1, 0):
        pulled(monkeypatch, EPOCH + 5)
        with pytest.raises(Pulled):
            baseline(alone(seed=seed, **given), root=root)
    assert {path.name for path in root.iterdir()} == {"teacher", "baseline", "baseline-seed1", "baseline-2"}
    assert baseline(alone(seed=0, resume=NEWEST, **given), root=root).folder.name == "baseline-2"
    assert baseline(alone(seed=1, resume=NEWEST, **given), root=root).folder.name == "baseline-seed1"
    assert baseline(alone(seed=0, resume=NEWEST, **given), root=root).folder.name == "baseline"
    assert not (root / "baseline-3").exists()


def test_with_none_to_resume_it_begins_and_with_a_finished_one_it_ends(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = baseline(alone(resume=NEWEST), root=root)
    assert "has no run of these settings: this is a new one" in capsys.readouterr().out
    assert json.loads((first.folder / "config.json").read_text())["resume"] is None
    before = contents(first.folder)
    again = baseline(alone(resume=NEWEST), root=root)
    assert "has already finished (2 epochs)" in capsys.readouterr().out
    assert (again.folder, contents(first.folder)) == (first.folder, before)


def test_a_name_says_which_run_is_meant(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unfinished(root, monkeypatch)
    with pytest.raises(UserError, match=r"run has other settings: seed: 0 -> 1"):
        baseline(alone(**settings("baseline"), seed=1, resume=NEWEST), root=root)
    assert baseline(alone(**settings("baseline"), resume=NEWEST), root=root).folder == folder


def test_the_teacher_is_the_one_it_began_with(taught: Finished, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a newer one has finished since."""
    pulled(monkeypatch, EPOCH + 5)
    with pytest.raises(Pulled):
        distill(student(name="run", save_every_s=0), root=root)
    newer = teacher(learner(epochs=1), root=root)
    again = distill(configure(type(student()), resume="run"), root=root)
    assert again.result["teacher"]["sha256"] == files.sha256(taught.folder / "best.safetensors")
    (again.folder / "result.json").unlink()
    other = configure(type(student()), resume="run", teacher=str(newer.folder), allow_weak_teacher=True)
    with pytest.raises(UserError, match=r"teacher: [0-9a-f]{64} -> [0-9a-f]{64}"):
        distill(other, root=root)


# --- numbers that are none


def test_a_loss_that_is_no_number_is_in_the_table_and_in_no_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate jumps in the second epoch: the first one's files stay, and the state is finite."""
    given = {**settings("baseline"), "save_every_s": 0, "schedule": "constant", "lr": 0.02}

    monkeypatch.setattr(
        spec_module, "learning_rate", lambda *_, peak, **__: lambda step: 1e30 if step >= EPOCH else peak
    )
    with pytest.raises(RunFailed, match=r"the loss is not a finite number any more \(epoch 2"):
        baseline(alone(**given), root=root)
    rows = table(root / "run")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[1]["loss"] in ("nan", "inf")
    assert checkpoints.load_checkpoint(root / "run" / "best.safetensors").description.validation.epoch == 1
    state = checkpoints.read(root / "run" / "last.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in state["model"].values())


# --- memory that does not suffice


def test_a_run_that_finds_no_memory_says_what_takes_less_and_can_go_on(
    reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_batches = trainer_module.run_batches

    def hungry(*args: Any, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, **sizes)):
            if number == EPOCH + 7:
                monkeypatch.setattr(trainer_module, "run_batches", run_batches)
                torch.empty(2**45)  # numbers; more than any machine has
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", hungry)
    with pytest.raises(RunFailed, match=r"^out of memory \(\d+ bytes more were needed\): try a smaller --batch_size"):
        baseline(alone(**settings("baseline")), root=root)
    assert_alike(resumed(root).folder, reference)


# --- a disk that is full


def test_a_state_or_a_log_that_cannot_be_written_costs_no_training(
    reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = files.write_atomically

    def full(path: Path, *args: Any, **given: Any) -> None:
        full_until_epoch_3 = path.name in ("metrics.csv", "last.safetensors", "best.safetensors") and len(written) < 6
        if full_until_epoch_3:
            written.append(path.name)
            raise OSError(28, "No space left on device")
        write(path, *args, **given)

    written: list[str] = []
    for module in (files, checkpoints.files):
        monkeypatch.setattr(module, "write_atomically", full)
    done = baseline(alone(**settings("baseline")), root=root)
    out = capsys.readouterr().out
    assert set(written) >= {"metrics.csv", "best.safetensors"}
    assert "metrics.csv cannot be written (No space left on device): the training goes on without" in out
    assert "best.safetensors cannot be written (No space left on device): it is tried again after each epoch" in out
    assert_alike(done.folder, reference)


def test_a_best_file_that_can_never_be_written_is_a_failure(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoints.files.write

    def full(path: Path, payload: Any, **given: Any) -> None:
        if path.name == "best.safetensors":
            raise OSError(28, "No space left on device")
        write(path, payload, **given)

    monkeypatch.setattr(checkpoints, "write", full)
    with pytest.raises(RunFailed, match=r"best\.safetensors cannot be written \(No space left on device\): fix that"):
        baseline(alone(**settings("baseline")), root=root)
    assert not (root / "run" / "result.json").exists()


# --- another process


def holding(folder: Path) -> subprocess.Popen[str]:
    code = """if True:
        import pathlib, sys
        from kdignite.runs import locked
        with locked(pathlib.Path(sys.argv[1])):
            print("held", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", code, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_run_in_progress_is_left_alone_and_a_stale_lock_taken_over(
    reference: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(root, monkeypatch)
    process = holding(folder)
    try:
        with pytest.raises(UserError, match=rf"run is in progress in another process \(pid {process.pid}\)"):
            resumed(root)
    finally:
        process.kill()
        process.communicate()
    assert (folder / ".lock").read_text() == f"{process.pid}\n"
    assert_alike(resumed(root).folder, reference)
    assert not (folder / ".lock").exists()


def test_a_file_of_initial_weights_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it held is what the run started from, whatever becomes of it while the run goes on."""
    first = baseline(alone(name="first", epochs=1, limit_train=100), root=tmp_path)
    file = tmp_path / "weights.safetensors"
    shutil.copy(first.folder / "best.safetensors", file)
    started_from, run_batches = files.sha256(file), trainer_module.run_batches

    def removing(*args: Any, **sizes: int) -> Iterator[Any]:
        for batch in run_batches(*args, **sizes):
            file.unlink(missing_ok=True)
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", removing)
    finished = baseline(alone(name="run", weights=str(file), epochs=2, limit_train=100, keep_last=True), root=tmp_path)
    state = checkpoints.read(finished.folder / "last.safetensors")
    assert state["about"]["run"]["weights"] == started_from
    assert files.read_json(finished.folder / "environment.json")["weights"] == started_from
