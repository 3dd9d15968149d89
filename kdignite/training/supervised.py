"""Training on the labels alone, which is what ``teacher`` and ``baseline`` share."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kdignite import runs
from kdignite.config import TrainConfig
from kdignite.steps import supervised_step
from kdignite.training.data import class_weights, open_training_data
from kdignite.training.device import check_amp, set_up_device
from kdignite.training.extensions import Attach
from kdignite.training.spec import build_spec, resolve
from kdignite.training.trainer import execute


def train_supervised(config: TrainConfig, *, root: Path, handlers: Sequence[Attach]) -> runs.Finished:
    """Train a model without a teacher and evaluate it on the test images."""
    device = set_up_device(config.device, threads=config.threads)
    check_amp(config, device=device)
    data = open_training_data(config, device=device)
    config = resolve(config, data, device=device)
    make_step = partial(
        supervised_step,
        label_smoothing=config.label_smoothing,
        class_weights=class_weights(config, data),
        grad_clip=config.grad_clip,
        amp=config.amp,
    )
    return execute(build_spec(config, data, device=device, make_step=make_step), root=root, own=handlers)
