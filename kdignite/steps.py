"""One training step, as a closure for an engine: ``step(engine, batch) -> named parts``.

The parts are detached tensors; nothing is copied to the host here, so that a GPU is never waited for.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.losses import DistillationLoss, cross_entropy, kd_loss

Step = Callable[[Any, Batch], dict[str, Tensor]]
Teacher = Callable[[Batch], Tensor]


class MakeStep(Protocol):
    """A step function of this module whose settings are filled in (``functools.partial``)."""

    def __call__(
        self, model: nn.Module, optimizer: Optimizer, /, *, prepare: Prepare, scaler: GradScaler | None = None
    ) -> Step:
        """The step of one model."""
        ...


def supervised_step(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    prepare: Prepare,
    label_smoothing: float = 0.0,
    grad_clip: float | None = None,
    amp: torch.dtype | None = None,
    scaler: GradScaler | None = None,
) -> Step:
    """A step of training on the labels: ``loss = ce``.

    Args:
        model: from prepared images to logits.
        optimizer: over its parameters.
        prepare: from uint8 images to the model's input.
        label_smoothing: in [0, 1).
        grad_clip: largest norm of the gradient; None: no clipping.
        amp: type in which the model multiplies (autocast); weights, loss and update stay float32. None: no autocast.
        scaler: of the loss, so that small gradients survive in float16; an update whose gradients overflow is left
            out. None: no scaling.

    Returns:
        The step; its output holds ``loss`` and ``ce`` (means over the batch) and ``correct`` (a count).
    """

    def step(engine: Any, batch: Batch) -> dict[str, Tensor]:
        del engine
        model.train()  # at every step: an evaluation in between can never leave the model in eval mode
        logits = _forward(model, prepare(batch.images), amp=amp)
        loss = cross_entropy(logits, batch.labels, label_smoothing=label_smoothing)
        _update(model, optimizer, _weighted(loss, batch), grad_clip=grad_clip, scaler=scaler)
        return _detached(loss=loss, ce=loss, correct=_num_correct(logits, batch.labels))

    return step


def distill_step(
    student: nn.Module,
    optimizer: Optimizer,
    teacher: Teacher,
    *,
    prepare: Prepare,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    loss: DistillationLoss = kd_loss,
    grad_clip: float | None = None,
    amp: torch.dtype | None = None,
    scaler: GradScaler | None = None,
) -> Step:
    """A step of distillation: ``loss = (1 - alpha) * ce + alpha * T**2 * KL(teacher/T || student/T)``.

    Args:
        student: from prepared images to logits.
        optimizer: over its parameters.
        teacher: from a batch to logits, whatever computes or stores them.
        prepare: from uint8 images to the student's input.
        alpha: in [0, 1], weight of the teacher's term.
        T: temperature, above 0.
        label_smoothing: in [0, 1), of the labels.
        loss: another function of the same arguments, instead of the one above; under amp it gets float32.
        grad_clip: largest norm of the gradient; None: no clipping.
        amp: type in which the student multiplies (autocast); the teacher, whose answers have to be the same for every
            student, is not affected. None: no autocast.
        scaler: as for `supervised_step`.

    Returns:
        The step; its output holds ``loss``, ``ce``, ``kd`` (means over the batch) and ``correct`` (a count).
    """

    def step(engine: Any, batch: Batch) -> dict[str, Tensor]:
        del engine
        student.train()
        teacher_logits = teacher(batch)
        logits = _forward(student, prepare(batch.images), amp=amp)
        parts = loss(logits, teacher_logits, batch.labels, alpha=alpha, T=T, label_smoothing=label_smoothing)
        _update(student, optimizer, _weighted(parts.loss, batch), grad_clip=grad_clip, scaler=scaler)
        return _detached(**parts._asdict(), correct=_num_correct(logits, batch.labels))

    return step


def _forward(model: nn.Module, images: Tensor, *, amp: torch.dtype | None) -> Tensor:
    with torch.autocast(images.device.type, dtype=amp, enabled=amp is not None):
        logits: Tensor = model(images)
    return logits if amp is None else logits.float()


def _weighted(loss: Tensor, batch: Batch) -> Tensor:
    """What the gradients come from; with even shares, as in one process, the loss itself."""
    return loss if batch.weight == 1.0 else loss * batch.weight


def _update(
    model: nn.Module, optimizer: Optimizer, loss: Tensor, *, grad_clip: float | None, scaler: GradScaler | None
) -> None:
    scaler = scaler or GradScaler(enabled=False)  # which does nothing but pass on
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    if grad_clip is not None:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
    scaler.step(optimizer)
    scaler.update()


def _num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).sum()


def _detached(**parts: Tensor) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in parts.items()}
