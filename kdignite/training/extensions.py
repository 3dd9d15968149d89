"""Handlers of the user's own: what they are given of a run."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from ignite.engine import Engine
from torch import nn

from kdignite import handlers, processes
from kdignite.config import TrainConfig
from kdignite.training.state import TrainerState


class RunView(NamedTuple):
    """What a handler may want to know of a run; nothing of it is to be changed."""

    folder: Path
    config: TrainConfig  # resolved
    model: nn.Module  # that is trained, on the device
    device: torch.device
    classes: tuple[str, ...]
    epoch_length: int  # iterations
    rows: list[handlers.Row]  # of metrics.csv: one for each epoch that is over
    is_rank0: bool  # whether this process is the one that writes and prints


Attach = Callable[[Engine, RunView], object]  # attaches what it likes to the events of the training engine


def view_of_run(trainer_state: TrainerState, folder: Path) -> RunView:
    """What handlers are given."""
    run = trainer_state.run
    return RunView(
        folder=folder,
        config=run.config,
        model=run.model.network,
        device=run.device,
        classes=run.data.source.classes,
        epoch_length=run.epoch_length,
        rows=trainer_state.history.rows,
        is_rank0=processes.is_rank0(),
    )
