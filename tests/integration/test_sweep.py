"""A grid of distillations on digits: one folder, one teacher, chosen on validation."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kdignite import stopping
from kdignite.commands import sweep as module
from kdignite.commands.sweep import sweep
from kdignite.commands.teacher import teacher
from kdignite.config import Sweep, SweepConfig, configure
from kdignite.errors import RunFailed, UserError
from kdignite.handlers import LossNotFinite
from kdignite.runs import Finished
from kdignite.training import device as device_module

from .conftest import NARROW, learner, signalled


def grid(**given: object) -> Sweep:
    return configure(SweepConfig, **{**NARROW, "epochs": 1, "alpha": (0.5, 1.0), "T": (1.0, 4.0), **given})


@pytest.fixture(scope="module")
def swept(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("runs")
    (root / "teacher").symlink_to(taught.folder)
    return sweep(grid(), root=root)


def result(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return read


def forbidden(*args: object, **given: object) -> Finished:
    pytest.fail("trained again")


def test_every_pair_is_trained_in_one_folder(swept: Finished) -> None:
    assert swept.folder.name == "sweep-standard"
    names = {f"distill-a{alpha}-T{T}" for alpha in ("0.5", "1") for T in ("1", "4")}
    assert {path.name for path in swept.folder.iterdir() if path.is_dir()} == names
    manifest = json.loads((swept.folder / "manifest.json").read_text())
    assert set(manifest["stages"]) == names
    assert "/" not in json.dumps(manifest)  # no place of this machine


def test_the_report_is_what_the_runs_recorded_on_validation(swept: Finished) -> None:
    for cell in swept.result["cells"]:
        run = result(swept.folder / f"distill-a{cell['alpha']:g}-T{cell['T']:g}")
        assert cell["seeds"] == [0]
        assert cell["accuracies"] == [cell["mean"]] == [run["val"]["accuracy"]]
    best = max(swept.result["cells"], key=lambda cell: float(cell["mean"]))
    assert swept.result["chosen"] == best
    assert json.loads((swept.folder / "sweep.json").read_text()) == swept.result
    text = (swept.folder / "sweep.md").read_text()
    assert f"Chosen on validation: --alpha={best['alpha']:g} --T={best['T']:g}" in text
    rows = (swept.folder / "sweep.csv").read_text().splitlines()
    assert rows[0] == "alpha,T,seed,accuracy_val"
    assert len(rows) == 5
    with Image.open(swept.folder / "sweep.png") as image:
        assert image.width > 600


def test_the_teacher_answers_each_view_once_for_all(swept: Finished) -> None:
    """One table for the training images and one for those of the validation."""
    tables = [path for path in (swept.folder.parent / ".teacher_cache").iterdir() if path.is_dir()]
    assert len(tables) == 2
    assert sorted(len(list(table.glob("view*"))) for table in tables) == [1, 1]


def test_it_goes_on_with_more_seeds_and_values(swept: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is missing is trained, and a cell with more seeds is chosen before one that was lucky once."""
    trained = []
    real = module.distill

    def counted(config: Any, **given: Any) -> Finished:
        trained.append((config.alpha, config.T, config.seed))
        return real(config, **given)

    monkeypatch.setattr(module, "distill", counted)
    again = sweep(grid(alpha=(0.5,), T=(1.0, 2.0), seeds=2), root=swept.folder.parent)
    assert again.folder == swept.folder
    assert trained == [(0.5, 2.0, 0), (0.5, 1.0, 1), (0.5, 2.0, 1)]
    found = {(cell["alpha"], cell["T"]): cell for cell in again.result["cells"]}
    assert {key: cell["seeds"] for key, cell in found.items()} == {
        **{(0.5, 1.0): [0, 1], (0.5, 2.0): [0, 1]},
        **{(0.5, 4.0): [0], (1.0, 1.0): [0], (1.0, 4.0): [0]},
    }
    chosen = again.result["chosen"]
    assert chosen["seeds"] == [0, 1]
    assert chosen["mean"] == pytest.approx(sum(chosen["accuracies"]) / 2)
    assert chosen["mean"] == max(cell["mean"] for cell in found.values() if len(cell["seeds"]) == 2)


def test_it_goes_on_after_the_last_finished_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = module.distill

    def stopped(config: Any, **given: Any) -> Finished:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RunFailed("stopped here")
        return real(config, **given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "distill", stopped)
        with pytest.raises(RunFailed, match="stopped here"):
            sweep(grid(alpha=(0.5,)), root=root)
    done = sweep(grid(alpha=(0.5,)), root=root)
    assert len(done.result["cells"]) == 2
    monkeypatch.setattr(module, "distill", forbidden)
    assert sweep(grid(alpha=(0.5,)), root=root).result == done.result


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"alpha": (0.5, 0.5)}, "--alpha=0.5,0.5 names a value twice"),
        ({"alpha": (1 / 3,)}, "--alpha takes numbers of up to 6 digits, not 0.3333333333333333"),
        ({"alpha": (1.5,)}, "--alpha must be at most 1, not 1.5"),
        ({"T": (0.0,)}, "--T must be above 0, not 0"),
        ({"lr": 0.0}, "--lr must be above 0, not 0"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"arch": "cnn6"}, "cnn6"),
        ({"dataset": "cifar100"}, "has no finished teacher for cifar100"),
    ],
)
def test_a_mistake_is_told_before_anything_is_made(root: Path, given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        sweep(grid(**given), root=root)
    assert told in str(caught.value)
    assert {path.name for path in root.iterdir()} == {"teacher"}


def test_without_a_teacher_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished teacher for digits"):
        sweep(grid(), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_settings_are_another_sweep(swept: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "distill", forbidden)
    with pytest.raises(UserError, match=r"is a study with other settings: --lr: 0.1 -> 0.2; choose another --name"):
        sweep(grid(lr=0.2, name=swept.folder.name), root=swept.folder.parent)


ONE = {"alpha": (0.5,), "T": (1.0,)}
HOLD = """
import pathlib, sys
from kdignite import runs
with runs.locked(pathlib.Path(sys.argv[1])):
    print(flush=True)
    input()
"""


def test_a_newer_teacher_does_not_end_a_sweep(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on with its own; the newer one is for a sweep of its own."""
    first = sweep(grid(**ONE), root=root)
    newer = teacher(learner(widths=(16,) * 5, epochs=6, seed=1), root=root).folder
    assert sweep(grid(alpha=(0.5,), T=(1.0, 2.0)), root=root).folder == first.folder
    taught = {json.loads(path.read_text())["teacher"]["sha256"] for path in first.folder.glob("*/result.json")}
    assert len(taught) == 1
    other = sweep(grid(**ONE, teacher=str(newer)), root=root)
    assert other.folder.name == "sweep-standard-2"
    monkeypatch.setattr(module, "distill", forbidden)
    with pytest.raises(UserError, match=r"other settings: --teacher: \w+ -> \w+; choose another --name"):
        sweep(grid(**ONE, teacher=str(newer), name=first.folder.name), root=root)


def test_one_command_at_a_time_works_in_it(root: Path) -> None:
    folder = sweep(grid(**ONE), root=root).folder
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match=rf"in progress in another process \(pid {other.pid}\)"):
            sweep(grid(**ONE), root=root)
        other.communicate(b"\n")


def test_a_signal_in_a_run_that_ends_in_an_error_stops_the_sweep_after_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(module, "distill", signalled(tried, LossNotFinite("the loss is nan")))
    with pytest.raises(stopping.Stopped):
        sweep(grid(), root=root)
    assert len(tried) == 1


def test_a_loss_that_is_no_number_costs_its_cell_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = module.distill

    def diverging(config: Any, **given: Any) -> Finished:
        if config.alpha == 0.5:
            raise LossNotFinite("the loss is not a finite number any more")
        return real(config, **given)

    monkeypatch.setattr(module, "distill", diverging)
    done = sweep(grid(T=(1.0,)), root=root)
    assert [cell["alpha"] for cell in done.result["cells"]] == [1.0]
    assert "failed    the loss is not a finite number any more" in capsys.readouterr().out
    with pytest.raises(LossNotFinite):
        sweep(grid(**ONE, name="alone"), root=root)


def test_a_sweep_goes_on_past_a_pair_that_really_diverged(root: Path) -> None:
    """It left an unfinished run behind."""
    for _ in range(2):
        with pytest.raises(LossNotFinite):
            sweep(grid(**ONE, lr=1e30, schedule="constant"), root=root)


def test_what_auto_comes_to_is_the_same_in_all_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor that has bfloat16 the same command is another sweep, not one that ends in a refusal."""
    first = sweep(grid(**ONE, amp="auto"), root=root)
    settings = json.loads((first.folder / "manifest.json").read_text())["settings"]
    assert settings["amp"] == json.loads((first.folder / "distill-a0.5-T1" / "config.json").read_text())["amp"]
    monkeypatch.setattr(device_module, "_has_bf16", lambda device: settings["amp"] == "off")
    assert sweep(grid(**ONE, amp="auto"), root=root).folder.name == "sweep-standard-2"
    assert sweep(grid(**ONE, amp=settings["amp"]), root=root).folder == first.folder


def test_a_report_is_there_after_each_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.distill

    def stopped(config: Any, **given: Any) -> Finished:
        if config.T == 4.0:
            raise KeyboardInterrupt
        return real(config, **given)

    monkeypatch.setattr(module, "distill", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(grid(alpha=(0.5,)), root=root)
    report = json.loads((root / "sweep-standard" / "sweep.json").read_text())
    assert [(cell["alpha"], cell["T"]) for cell in report["cells"]] == [(0.5, 1.0)]


def test_only_cells_with_the_same_seeds_are_chosen_from(root: Path) -> None:
    sweep(grid(T=(1.0,)), root=root)
    other = sweep(grid(**ONE, seed=3), root=root)
    assert other.result["chosen"]["seeds"] == [0, 3]
    assert other.result["chosen_from"] == 1
    assert "the mean of 2 seeds; the best of the 1 with these seeds" in (other.folder / "sweep.md").read_text()


def test_what_is_no_fair_choice_is_refused(root: Path) -> None:
    folder = sweep(grid(T=(1.0,), amp="off"), root=root).folder
    path = folder / "distill-a1-T1" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"amp": "bf16"}))
    with pytest.raises(UserError, match="the students differ in more than alpha and T and the seed: --amp: off"):
        sweep(grid(T=(1.0,), amp="off"), root=root)


def test_part_of_the_images_is_nothing_to_quote(root: Path) -> None:
    done = sweep(grid(**ONE, limit_train=200), root=root)
    assert "These runs used only part of their images: not a result to quote." in done.result["notes"]


@pytest.mark.parametrize("spoil", [lambda run: run | {"val": {}}, lambda run: run | {"seed": "x"}])
def test_a_damaged_run_is_told_and_made_again_once_it_is_removed(
    root: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    folder = sweep(grid(**ONE), root=root).folder
    path = folder / "distill-a0.5-T1" / "result.json"
    path.write_text(json.dumps(spoil(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"distill-a0\.5-T1.* is damaged"):
        sweep(grid(**ONE), root=root)
    shutil.rmtree(path.parent)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["stages"]["distill-a0.5-T1"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert len(sweep(grid(**ONE), root=root).result["cells"]) == 1
