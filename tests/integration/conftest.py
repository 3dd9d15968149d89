"""A small, real set-up: digits, and a student eight channels wide."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from kdignite import stopping
from kdignite.commands import compare, doctor, sweep
from kdignite.commands.teacher import teacher
from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, configure
from kdignite.metrics import cost
from kdignite.runs import Finished
from kdignite.training import results

SMALL = {"dataset": "digits", "epochs": 2, "batch_size": 50, "threads": 1}
NARROW = {**SMALL, "widths": (8, 8, 8, 8, 8)}


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A teacher that was really trained on digits; its folder is ``<root>/teacher``."""
    config = configure(TeacherConfig, **{**SMALL, "arch": "cnn5", "widths": (16,) * 5, "epochs": 6})
    return teacher(config, root=tmp_path_factory.mktemp("taught"))


@pytest.fixture
def root(taught: Finished, tmp_path: Path) -> Path:
    """A folder for runs that has the teacher in it."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "teacher").symlink_to(taught.folder)
    return runs


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal that an earlier test was stopped by is no request to this one."""
    monkeypatch.setattr(stopping.StopRequest, "number", None)


@pytest.fixture(autouse=True, scope="module")
def few_pixels() -> Iterator[None]:
    """Figures of one pixel, and latencies of a few calls: they take two thirds of the time of a small run.

    Commands in processes of their own, such as in ``test_command_line.py``, draw and measure as they are.
    """
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(results, "confusion_figure", lambda summary, *, title: None)
        quick.setattr(results, "classification_figure", lambda summary, *, title: None)
        quick.setattr(results, "save_figure", lambda _, path: Image.new("RGB", (1, 1)).save(path))
        quick.setattr(cost, "TIMED_SECONDS", 0.0)
        yield


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports that one test makes have no figures; those that tests of a module share, made before this, have them."""
    for command in (compare, doctor, sweep):
        monkeypatch.setattr(command, "save_figure", lambda _, path: path.touch())
    monkeypatch.setattr(compare, "comparison_figure", lambda summary: None)
    monkeypatch.setattr(doctor, "doctor_figure", lambda summary: None)
    monkeypatch.setattr(sweep, "sweep_figure", lambda summary: None)


def student(**given: object) -> DistillConfig:
    """A distillation that takes a second."""
    return configure(DistillConfig, **{**NARROW, "alpha": 0.7, "T": 3.0, **given})


def alone(**given: object) -> BaselineConfig:
    """The same student without a teacher."""
    return configure(BaselineConfig, **{**NARROW, **given})


def learner(**given: object) -> TeacherConfig:
    """The same network as a teacher."""
    return configure(TeacherConfig, **{**NARROW, "arch": "cnn5", **given})


def signalled(tried: list[str], error: Exception) -> Callable[..., Finished]:
    """A training in which a signal is noted, and that ends in an error; the names of those begun are listed."""

    def train(config: Any, **given: Any) -> Finished:
        tried.append(config.name)
        with stopping.graceful_stop():
            assert stopping.request_stop(signal.SIGTERM)
            raise error

    return train
