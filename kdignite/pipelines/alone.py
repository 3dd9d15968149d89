"""Training on the labels alone, which is what ``teacher`` and ``baseline`` share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kdignite import runs
from kdignite.config import TrainConfig
from kdignite.pipelines.extending import Attach
from kdignite.pipelines.preparing import prepare_run
from kdignite.pipelines.setup import check_amp, choose_device, open_training_data, settle
from kdignite.pipelines.training import execute
from kdignite.steps import supervised_step


def train_alone(config: TrainConfig, *, root: Path, handlers: Sequence[Attach]) -> runs.Finished:
    """Train a model without a teacher and evaluate it on the test images.

    Args:
        config: of the run; its architecture has been checked.
        root: the folder of all runs.
        handlers: of the user's own.

    Returns:
        The run folder and its result.
    """
    device = choose_device(config.device, threads=config.threads)
    check_amp(config, device=device)
    data = open_training_data(config, device=device)
    config = settle(config, data, device=device)
    make_step = partial(
        supervised_step, label_smoothing=config.label_smoothing, grad_clip=config.grad_clip, amp=config.amp
    )
    return execute(prepare_run(config, data, device=device, make_step=make_step), root=root, own=handlers)
