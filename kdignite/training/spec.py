"""A config with every value filled in, and what it stands for: model, optimiser, step, batches, schedule."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdignite import processes
from kdignite.config import TrainConfig
from kdignite.console import say
from kdignite.data.batches import SMALLEST_BATCH, Batches, num_batches, training_batches
from kdignite.errors import UserError
from kdignite.evaluation import batch_norms
from kdignite.methods.taps import FeatureExtractor
from kdignite.schedules import LearningRate, build_optimizer, learning_rate
from kdignite.steps import MakeStep, Teacher
from kdignite.training.capturing import Capture
from kdignite.training.compiling import compiling
from kdignite.training.data import DEV_STEPS, Data, mixing_of, share
from kdignite.training.device import choose_amp
from kdignite.training.initial_weights import content_of
from kdignite.training.model import PreparedModel, prepare_model, usual_statistics

FEW_STEPS = 50  # after as many, 0.9**50 = 0.5 % of the initial statistics of a BatchNorm with momentum 0.1 are left
T = TypeVar("T", bound=TrainConfig)


class Member(NamedTuple):
    """What a run records of a network that its teacher is made of."""

    name: str
    sha256: str  # of its file
    accuracy: float  # on the validation images, in [0, 1]
    weight: float  # in the mean, of a sum of 1


class TeacherRecord(NamedTuple):
    """What a run records of its teacher."""

    name: str
    sha256: str  # of its file; of several teachers, or an untrained one, of what determines it
    accuracy: float  # on the validation images, in [0, 1]
    control: str | None = None
    members: tuple[Member, ...] = ()  # of several teachers, and of a control

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON; of one teacher as it is only the first three."""
        members = [one._asdict() for one in self.members]
        return {**self._asdict(), "members": members} if members else dict(zip(self._fields, self[:3], strict=False))


class RunSpec(NamedTuple):
    """What will be done, resolved once: a function of (config, data, seed)."""

    config: TrainConfig  # resolved
    data: Data
    device: torch.device
    model: PreparedModel
    weights: str  # that it started from, by content
    optimizer: Optimizer
    scaler: GradScaler
    make_step: MakeStep
    capture: Capture | None  # of its steps, on a GPU
    batches: Batches
    epoch_length: int  # iterations
    lr_at: LearningRate
    teacher: Teacher | None
    teacher_record: TeacherRecord | None
    trained: nn.Module  # what the optimiser sees: the network, or one that also has what a method learns beside it

    @property
    def projector(self) -> nn.Module | None:
        """What is learnt beside the network, and is in no checkpoint of it."""
        return self.trained.projector if isinstance(self.trained, FeatureExtractor) else None

    def is_early(self, iteration: int) -> bool:
        """Whether an evaluation comes so early that the statistics of BatchNorm are measured anew before it.

        It depends on the iteration alone, so that a run that is made longer has the numbers of one made at once.
        """
        early = iteration < FEW_STEPS and not self.is_frozen(iteration)
        return early and bool(batch_norms(self.model.network))

    def is_frozen(self, iteration: int) -> bool:
        """Whether only the head learns in an iteration, counted from 1."""
        return iteration <= self.config.freeze_epochs * self.epoch_length


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
        mix_alpha=1.0 if config.mix and config.mix_alpha is None else config.mix_alpha,
        normalize=config.normalize or usual_statistics(config),
        device=device.type if processes.world_size() > 1 else str(device),
        amp=choose_amp(config.amp, device=device),
        threads=torch.get_num_threads(),
        epochs=_epochs(config, data),
        warmup_epochs=0.0 if config.fast_dev_run else config.warmup_epochs,
        freeze_epochs=0 if config.fast_dev_run else config.freeze_epochs,
    )


def build_spec(
    config: TrainConfig,
    data: Data,
    *,
    device: torch.device,
    make_step: MakeStep,
    teacher: Teacher | None = None,
    teacher_record: TeacherRecord | None = None,
    extended: Callable[[PreparedModel], nn.Module] | None = None,
) -> RunSpec:
    """Everything that a resolved config stands for; a teacher is part of ``make_step`` already.

    What is trained is the network, or what ``extended`` makes of it.
    """
    _check_shares(config, data)
    model, epoch_length = prepare_model(config, data, device=device), _epoch_length(config, data)
    lr_at, trained = _schedule(config, epoch_length), model.network if extended is None else extended(model)
    capture = Capture(config.batch_size, say=say) if can_capture(config, device) else None
    return RunSpec(
        config=config,
        data=data,
        device=device,
        model=model,
        weights=content_of(config.weights),
        optimizer=_optimizer(trained, config, lr=lr_at(0), backbone=model.backbone),
        scaler=GradScaler(device.type, enabled=config.amp == "fp16"),
        make_step=_faster(make_step, capture=capture, compiled=config.compile),
        capture=capture,
        batches=_batches(config, data),
        epoch_length=epoch_length,
        lr_at=lr_at,
        teacher=teacher,
        teacher_record=teacher_record,
        trained=trained,
    )


def can_capture(config: TrainConfig, device: torch.device) -> bool:
    """Whether steps may be captured: not between several processes, nor with a scaler, which decides on the host."""
    return config.graph == "auto" and device.type == "cuda" and processes.world_size() == 1 and config.amp != "fp16"


def _faster(make_step: MakeStep, *, capture: Capture | None, compiled: bool) -> MakeStep:
    make_step = capture(make_step) if capture is not None else make_step
    return compiling(make_step) if compiled else make_step


def _epochs(config: TrainConfig, data: Data) -> int:
    """How many epochs a run has: as many more than stated as the fewest steps of its preset need."""
    if config.fast_dev_run:
        return 1
    steps = _epoch_length(config, data)
    epochs = max(config.epochs, math.ceil(config.min_steps / steps))
    if epochs > config.epochs:
        say(
            f"epochs    {epochs}, not {config.epochs}: {len(data.train.indices):,} training images are {steps} steps "
            f"an epoch, and preset {config.preset} needs {config.min_steps:,} steps or more"
        )
    return epochs


def _epoch_length(config: TrainConfig, data: Data) -> int:
    length = num_batches(len(data.train.indices), config.batch_size, world=processes.world_size())
    return min(length, DEV_STEPS) if config.fast_dev_run else length


def _schedule(config: TrainConfig, epoch_length: int) -> LearningRate:
    return learning_rate(
        config.schedule,
        peak=config.lr,
        total_steps=config.epochs * epoch_length,
        warmup_steps=config.warmup_epochs * epoch_length,
    )


def _optimizer(model: nn.Module, config: TrainConfig, *, lr: float, backbone: tuple[nn.Parameter, ...]) -> Optimizer:
    return build_optimizer(
        model,
        kind=config.optimizer,
        lr=lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        backbone=backbone,
        backbone_lr_mult=config.backbone_lr_mult,
    )


def _batches(config: TrainConfig, data: Data) -> Batches:
    return training_batches(
        data.train,
        seed=config.seed,
        view_seed=config.view_seed,
        augment=str(config.augment),
        batch_size=config.batch_size,
        views=config.views,
        mixing=mixing_of(config, data),
        share=share(),
    )


def _check_shares(config: TrainConfig, data: Data) -> None:
    """Refuse batches that leave a process without the images that BatchNorm needs."""
    least, num_images = SMALLEST_BATCH * processes.world_size(), len(data.train.indices)
    for what, number in (("--batch_size", config.batch_size), ("the number of training images", num_images)):
        if number < least:
            raise UserError(f"{what} must be at least {least} in {processes.world_size()} processes, not {number}")
