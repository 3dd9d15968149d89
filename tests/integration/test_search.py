"""Settings chosen by Optuna on digits: trials are run folders that several processes share and go on with."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdignite import runs, stopping, trials
from kdignite.commands import search as module
from kdignite.commands.search import search
from kdignite.config import Search, SearchConfig, configure
from kdignite.errors import RunFailed, UserError
from kdignite.handlers import LossNotFinite, Pruned
from kdignite.runs import Finished

from .conftest import NARROW, signalled

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("few_pixels")


def looking(**given: object) -> Search:
    settings = {**NARROW, "epochs": 2, "trials": 3, "limit_train": 200, "prune": False, **given}
    return configure(SearchConfig, **settings)


def forbidden(*args: object, **given: object) -> Finished:
    pytest.fail("trained again")


@pytest.fixture(scope="module")
def found(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("runs")
    (root / "teacher").symlink_to(taught.folder)
    return search(looking(), root=root)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_the_first_trial_has_the_defaults_and_each_is_a_run(found: Finished) -> None:
    assert found.folder.name == "search-kd-standard"
    first, *others = found.result["trials"]
    assert first["values"] == {"alpha": 0.9, "T": 4.0, "lr": 0.1}
    assert len(others) == 2
    for one in found.result["trials"]:
        folder = found.folder / f"trial-{one['number']}"
        config, result = read(folder / runs.CONFIG), read(folder / runs.RESULT)
        assert {name: config[name] for name in one["values"]} == one["values"]
        assert (one["state"], one["epochs"], one["accuracy"]) == ("complete", 2, result["val"]["accuracy"])


def test_the_best_on_validation_is_chosen_and_the_test_images_are_not_used(found: Finished) -> None:
    best = max(found.result["trials"], key=lambda one: float(one["accuracy"]))
    assert found.result["chosen"] == best
    assert read(found.folder / module.SEARCH) == found.result
    text = (found.folder / "search.md").read_text()
    line = " ".join(f"--{name}={value:g}" for name, value in best["values"].items())
    assert "python -m kdignite distill --dataset=digits" in text
    assert line in text
    assert len((found.folder / "search.csv").read_text().splitlines()) == 4
    assert (found.folder / "search.png").stat().st_size > 5000


def test_more_trials_go_on_in_the_same_folder_as_if_asked_for_at_once(
    found: Finished, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = search(looking(trials=4), root=root)
    longer = search(looking(trials=4), root=found.folder.parent)
    assert longer.folder == found.folder
    assert longer.result["trials"] == at_once.result["trials"]
    monkeypatch.setattr(module, "distill", forbidden)
    assert search(looking(trials=4), root=root).result == at_once.result


def test_a_trial_that_was_stopped_is_resumed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder and the numbers are those of a search that was never stopped."""
    real, called = module.distill, []

    def stopped(config: Any, **given: Any) -> Finished:
        called.append(config.name)
        if len(called) == 2:
            raise KeyboardInterrupt
        return real(config, **given)

    with monkeypatch.context() as patch:
        patch.setattr(module, "distill", stopped)
        with pytest.raises(KeyboardInterrupt):
            search(looking(trials=2), root=root)
        done = search(looking(trials=2), root=root)
    assert called == ["trial-0", "trial-1", "trial-1"]
    whole = search(looking(trials=2, name="whole"), root=root)
    assert done.result["trials"] == whole.result["trials"]


WORKER = """
import sys
from pathlib import Path
import torch
from kdignite.commands.search import search
from kdignite.config import SearchConfig, configure
torch.set_num_threads(1)
settings = dict(dataset="digits", epochs=1, batch_size=50, threads=1, widths=(8, 8, 8, 8, 8), limit_train=200)
search(configure(SearchConfig, **settings, trials=4, name="shared"), root=Path(sys.argv[1]))
"""


def test_processes_share_a_search_and_none_does_a_trial_twice(root: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(root)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [worker.communicate(timeout=200)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    begun = [line for text in printed for line in text.splitlines() if line.startswith("--- trial")]
    assert sorted(line.split()[2] for line in begun) == ["0:", "1:", "2:", "3:"]
    assert [one["state"] for one in read(root / "shared" / module.SEARCH)["trials"]] == ["complete"] * 4


def test_a_report_is_read_and_written_while_no_other_process_writes_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the report of a process that read before the last trial ended could replace the one of that trial."""
    real, held = trials.rows_of, []

    def rows_of(opened: trials.Trials) -> list[trials.TrialRow]:
        held.append((opened.folder / ".report.lock").exists())
        return real(opened)

    monkeypatch.setattr(trials, "rows_of", rows_of)
    folder = search(looking(trials=1, epochs=1), root=root).folder
    assert held == [True, True]
    assert not (folder / ".report.lock").exists()


def test_what_falls_behind_is_stopped_and_keeps_its_epoch(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "is_behind", lambda _, number, *, epoch, accuracy: number == 1 and accuracy < 2)
    done = search(looking(trials=2), root=root)
    _, pruned = done.result["trials"]
    assert (pruned["state"], pruned["epochs"]) == ("pruned", 1)
    folder = done.folder / "trial-1"
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
    assert not (folder / runs.RESULT).exists()
    assert not (folder / runs.LAST).exists()
    assert done.result["chosen"]["number"] == 0


def test_a_trial_has_its_state_until_its_end_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in between, it would be an open one that cannot be resumed, and end each process that takes it."""
    state = tmp_path / "trial-0" / runs.LAST
    state.parent.mkdir()
    state.write_text("")
    closed: list[bool] = []

    def behind(*_: object, **__: object) -> Finished:
        raise Pruned("behind")

    monkeypatch.setattr(trials, "next_trial", lambda *_: trials.OpenTrial(0, {"alpha": 0.5, "T": 2.0, "lr": 0.1}))
    monkeypatch.setattr(trials, "close_trial", lambda *_, **__: closed.append(state.exists()))
    monkeypatch.setattr(module, "distill", behind)
    assert module._run_next(lambda: None, looking(), tmp_path, {})  # type: ignore[arg-type, return-value]
    assert closed == [True]
    assert not state.exists()


def test_a_loss_that_is_no_number_costs_its_trial_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = module.distill

    def diverging(config: Any, **given: Any) -> Finished:
        if config.name == "trial-0":
            raise LossNotFinite("the loss is nan")
        return real(config, **given)

    monkeypatch.setattr(module, "distill", diverging)
    done = search(looking(trials=2, epochs=1), root=root)
    assert [one["state"] for one in done.result["trials"]] == ["fail", "complete"]


@pytest.mark.parametrize("error", [LossNotFinite("the loss is nan"), Pruned("behind")])
def test_a_signal_in_a_trial_that_ends_in_an_error_stops_the_search_after_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(module, "distill", signalled(tried, error))
    for number in range(2):
        with pytest.raises(stopping.Stopped):
            search(looking(trials=2), root=root)
        assert tried[number:] == [f"trial-{number}"]


def test_a_search_of_nothing_but_failures_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(config: Any, **given: Any) -> Finished:
        raise LossNotFinite("the loss is nan")

    monkeypatch.setattr(module, "distill", diverging)
    with pytest.raises(RunFailed, match=r"no trial of .* has come to its end"):
        search(looking(trials=1), root=root)


def test_the_baseline_is_searched_by_the_same_rules(root: Path) -> None:
    done = search(looking(trials=2, epochs=1, method="baseline"), root=root)
    assert done.folder.name == "search-baseline-standard"
    assert [set(one["values"]) for one in done.result["trials"]] == [{"lr"}] * 2
    assert "python -m kdignite baseline --dataset=digits" in (done.folder / "search.md").read_text()


def test_other_settings_need_another_name_also_in_a_database_elsewhere(
    found: Finished, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "distill", forbidden)
    with pytest.raises(UserError, match=r"with other settings: --lr: .* -> 0\.01,0\.3; choose another --name"):
        search(looking(lr=(0.01, 0.3), name=found.folder.name), root=found.folder.parent)
    monkeypatch.undo()
    storage = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    search(looking(trials=1, epochs=1, storage=storage, name="one"), root=root)
    again = root.parent / "again"
    again.mkdir()
    (again / "teacher").symlink_to((root / "teacher").resolve())
    with pytest.raises(UserError, match="has a search 'one' of other settings"):
        search(looking(trials=1, epochs=2, storage=storage, name="one"), root=again)
    with pytest.raises(UserError, match=r"--storage=nonsense cannot be opened"):
        search(looking(trials=1, storage="nonsense", name="two"), root=root)


def test_what_is_refused_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no finished teacher for digits"):
        search(looking(), root=tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []
