"""What a handler of the user's own gets of a run."""

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
    """A run as a handler sees it; nothing of it is to be changed."""

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
    """What a user's handler gets of a run; its rows grow with the run."""
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
