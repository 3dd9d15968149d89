"""A small, real set-up: digits, and a student eight channels wide."""

from pathlib import Path

import pytest
import torch

from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, configure
from kdignite.pipelines.teacher import teacher
from kdignite.runs import Finished

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


def student(**given: object) -> DistillConfig:
    """A distillation that takes a second."""
    return configure(DistillConfig, **{**NARROW, "alpha": 0.7, "T": 3.0, **given})


def alone(**given: object) -> BaselineConfig:
    """The same student without a teacher."""
    return configure(BaselineConfig, **{**NARROW, **given})


def learner(**given: object) -> TeacherConfig:
    """The same network as a teacher."""
    return configure(TeacherConfig, **{**NARROW, "arch": "cnn5", **given})
