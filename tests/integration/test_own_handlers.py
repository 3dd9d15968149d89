"""Handlers of the user's own, from Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

import kdignite as kd
from kdignite import stopping

from .alike import table, weights
from .conftest import alone, learner, student
from .test_resume import asked_to_stop

EPOCH = 26  # iterations


class Notes:
    """What a handler is told, and when."""

    def __init__(self) -> None:
        self.views: list[kd.RunView] = []
        self.losses: list[float] = []
        self.epochs: list[tuple[int, int, bool]] = []

    def __call__(self, engine: Engine, run: kd.RunView) -> None:
        self.views.append(run)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch, run)

    def step(self, engine: Engine) -> None:
        self.losses.append(float(engine.state.output["loss"]))

    def epoch(self, engine: Engine, run: kd.RunView) -> None:
        torch.rand(3)  # no run depends on who draws beside it
        run.model.eval()
        saved = (run.folder / "last.safetensors").exists()
        self.epochs.append((engine.state.epoch, len(run.rows), saved))


COMMANDS: dict[str, tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = {
    "teacher": (kd.teacher, learner, {}),
    "baseline": (kd.baseline, alone, {}),
    "distill": (kd.distill, student, {"teacher": "teacher"}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_handler_sees_the_run_and_changes_nothing(root: Path, name: str) -> None:
    command, config, given = COMMANDS[name]
    notes = Notes()
    watched = command(config(**given, name="watched"), root=root, handlers=[notes])
    plain = command(config(**given, name="plain"), root=root)
    (view,) = notes.views
    assert (view.folder, view.config.command, len(view.classes)) == (watched.folder, name, 10)
    assert (view.epoch_length, view.is_rank0, view.device.type) == (EPOCH, True, "cpu")
    assert notes.epochs == [(1, 1, False), (2, 2, True)]  # the row is there, the epoch not saved yet
    assert len(notes.losses) == 2 * EPOCH
    mean = sum(loss * size for loss, size in zip(notes.losses, ([50] * (EPOCH - 1) + [47]) * 2, strict=True)) / 1297 / 2
    assert mean == pytest.approx(sum(float(row["loss"]) for row in table(watched.folder)) / 2, rel=1e-5)
    assert table(watched.folder) == table(plain.folder)
    assert all(torch.equal(one, weights(plain.folder)[key]) for key, one in weights(watched.folder).items())


def test_a_run_that_goes_on_calls_them_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_to_stop(monkeypatch, EPOCH + 3)
    notes, again = Notes(), Notes()
    with pytest.raises(stopping.Stopped):
        kd.baseline(alone(name="run"), root=root, handlers=[notes])
    kd.baseline(kd.configure(kd.BaselineConfig, resume="run"), root=root, handlers=[again])
    assert len(notes.losses) + len(again.losses) == 2 * EPOCH
    assert again.epochs == [(2, 2, True)]


def test_a_handler_that_fails_keeps_its_own_error(root: Path) -> None:
    def broken(engine: Engine, run: kd.RunView) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        kd.baseline(alone(name="run"), root=root, handlers=[broken])
