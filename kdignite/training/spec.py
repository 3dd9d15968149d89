"""A run that is ready to start: model, optimiser, step, batches, schedule."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdignite import processes
from kdignite.config import TrainConfig
from kdignite.console import say
from kdignite.data.batches import SMALLEST_BATCH, Batches, num_batches, training_batches
from kdignite.errors import UserError
from kdignite.schedules import LearningRate, build_optimizer, learning_rate
from kdignite.steps import MakeStep
from kdignite.training.capturing import Capture
from kdignite.training.compiling import compiling
from kdignite.training.data import DEV_STEPS, Data, share, training_part
from kdignite.training.device import choose_amp
from kdignite.training.model import Student, build_student

T = TypeVar("T", bound=TrainConfig)


class TeacherRecord(NamedTuple):
    """What a run knows of its teacher, for its records."""

    name: str
    sha256: str
    accuracy: float  # on the validation images, in [0, 1]


class Rehearsal(NamedTuple):
    """How the time of a run is estimated, where its own steps do not tell all of it, or would write something."""

    make_step: MakeStep
    seconds: Callable[[], float]  # that the run takes on top of such steps


class RunSpec(NamedTuple):
    """A run that is ready to start: everything below is a function of (config, data, seed)."""

    config: TrainConfig
    data: Data
    device: torch.device
    student: Student
    optimizer: Optimizer
    scaler: GradScaler
    make_step: MakeStep
    capture: Capture | None  # of its steps, on a GPU
    batches: Batches
    epoch_length: int
    lr_at: LearningRate
    teacher_record: TeacherRecord | None
    rehearsal: Rehearsal


def resolve(config: T, data: Data, *, device: torch.device) -> T:
    """The config with every value that was left open filled in, which is what a run records."""
    source = data.source
    if config.sync_bn and (device.type != "cuda" or processes.world_size() == 1):
        raise UserError(
            "--sync_bn needs several processes, each with a GPU (torchrun --nproc_per_node=N -m kdignite ...): leave "
            "it out"
        )
    if config.image_size not in (None, data.image_size):
        raise UserError(f"the images of {source.name} are {data.image_size} pixels wide: leave out --image_size")
    own_val_size = None if source.val is not None else source.default_val_size
    return dataclasses.replace(
        config,
        dataset=source.name,
        val_size=own_val_size if config.val_size is None else config.val_size,
        image_size=data.image_size,
        augment=config.augment or source.default_augment,
        normalize=config.normalize or ("imagenet" if config.weights == "imagenet" else "data"),
        device=device.type if processes.world_size() > 1 else str(device),
        amp=choose_amp(config.amp, device=device),
        threads=torch.get_num_threads(),
        epochs=1 if config.fast_dev_run else config.epochs,
        warmup_epochs=0.0 if config.fast_dev_run else config.warmup_epochs,
    )


def build_spec(
    config: TrainConfig,
    data: Data,
    *,
    device: torch.device,
    make_step: MakeStep,
    teacher_record: TeacherRecord | None = None,
    rehearsal: Rehearsal | None = None,
) -> RunSpec:
    """Build the model, its optimiser, its step and its batches."""
    _check_shares(config, data)
    student, part = build_student(config, data, device=device), training_part(config, data)
    epoch_length = num_batches(len(part.indices), config.batch_size, world=processes.world_size())
    epoch_length = min(epoch_length, DEV_STEPS) if config.fast_dev_run else epoch_length
    lr_at = _schedule(config, epoch_length)
    optimizer = build_optimizer(
        student.model,
        kind=config.optimizer,
        lr=lr_at(0),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    batches = training_batches(
        part,
        seed=config.seed,
        view_seed=config.view_seed,
        augment=str(config.augment),
        batch_size=config.batch_size,
        views=config.views,
        share=share(),
    )
    rehearsal = rehearsal or Rehearsal(make_step, lambda: 0.0)
    capture = Capture(config.batch_size, say=say) if can_capture(config, device) else None
    faster = partial(_faster, capture=capture, compiled=config.compile)
    return RunSpec(
        config=config,
        data=data,
        device=device,
        student=student,
        optimizer=optimizer,
        scaler=GradScaler(device.type, enabled=config.amp == "fp16"),
        make_step=faster(make_step),
        capture=capture,
        batches=batches,
        epoch_length=epoch_length,
        lr_at=lr_at,
        teacher_record=teacher_record,
        rehearsal=rehearsal._replace(make_step=faster(rehearsal.make_step)),
    )


def _faster(make_step: MakeStep, *, capture: Capture | None, compiled: bool) -> MakeStep:
    """The same steps, compiled or captured or both."""
    make_step = capture(make_step) if capture is not None else make_step
    return compiling(make_step) if compiled else make_step


def can_capture(config: TrainConfig, device: torch.device) -> bool:
    """Whether steps may be captured: not between several processes, nor with a scaler, which decides on the host."""
    return config.graph == "auto" and device.type == "cuda" and processes.world_size() == 1 and config.amp != "fp16"


def _schedule(config: TrainConfig, epoch_length: int) -> LearningRate:
    return learning_rate(
        config.schedule,
        peak=config.lr,
        total_steps=config.epochs * epoch_length,
        warmup_steps=config.warmup_epochs * epoch_length,
    )


def _check_shares(config: TrainConfig, data: Data) -> None:
    """Refuse batches that leave a process without the images that BatchNorm needs."""
    least, num_images = SMALLEST_BATCH * processes.world_size(), len(training_part(config, data).indices)
    for what, number in (("--batch_size", config.batch_size), ("the number of training images", num_images)):
        if number < least:
            raise UserError(f"{what} must be at least {least} in {processes.world_size()} processes, not {number}")
