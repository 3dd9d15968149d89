"""One training step, as a closure for an engine: ``step(engine, batch) -> named parts``.

Inside it, ``update(images, labels[, teacher logits, *teacher features])`` is all that the device computes, as a
function of tensors alone: what a CUDA graph can capture. The parts are detached tensors; nothing is copied to the host
here, so that a GPU is never waited for.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.losses import cross_entropy
from kdignite.methods.terms import Loss, Outputs, Terms
from kdignite.outputs import logits_in
from kdignite.precision import AUTOCAST, autocast, tf32

Parts = dict[str, Tensor]
Step = Callable[[Any, Batch], Parts]
Teacher = Callable[[Batch], Outputs]
Around = Callable[["Update"], "Update"]  # another way to run an update, such as from a graph


class Update(Protocol):
    """What the device does in a step: forward pass, loss, backward pass, new weights."""

    def __call__(self, *inputs: Tensor, weight: float = 1.0) -> Parts:
        """From images, labels and, where there is a teacher, its logits and features; weight: as in `Batch`."""
        ...


def as_it_is(update: Update) -> Update:
    """An update that is run by calling it."""
    return update


class MakeStep(Protocol):
    """A step function of this module whose settings are filled in (``functools.partial``)."""

    def __call__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        /,
        *,
        prepare: Prepare,
        scaler: GradScaler | None = None,
        around: Around = as_it_is,
    ) -> Step:
        """The step of one model."""
        ...


def supervised_step(
    model: nn.Module,
    optimizer: Optimizer,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    **settings: Any,
) -> Step:
    """A step of training on the labels: ``loss = ce``.

    Args:
        model: from prepared images to logits.
        optimizer: over its parameters.
        label_smoothing: in [0, 1).
        class_weights: (C,) of the classes in the loss; None: all 1.
        settings: of `training_step`.

    Returns:
        The step; its output holds ``loss`` and ``ce`` (means over the batch) and ``correct`` (a count).
    """

    def terms(student: Outputs, labels: Tensor) -> Terms:
        ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
        return Terms(ce, {"ce": ce})

    return training_step(model, optimizer, terms, **settings)


def distill_step(student: nn.Module, optimizer: Optimizer, teacher: Teacher, *, method: Loss, **settings: Any) -> Step:
    """A step of distillation: ``loss`` is that of the method.

    Args:
        student: from prepared images to logits.
        optimizer: over its parameters.
        teacher: from a batch to outputs, whatever computes or stores them; it is run before the update, and amp does
            not affect it: its outputs have to be the same for every student.
        method: from the outputs of student and teacher, and the labels, to its terms; under amp it gets float32.
        settings: of `training_step`.

    Returns:
        The step; its output holds ``loss``, every part of the method (means over the batch) and ``correct`` (a count).
    """
    return training_step(student, optimizer, method, teacher=teacher, **settings)


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    terms_of: Callable[..., Terms],
    *,
    prepare: Prepare,
    teacher: Teacher | None = None,
    grad_clip: float | None = None,
    amp: str = "off",
    scaler: GradScaler | None = None,
    around: Around = as_it_is,
) -> Step:
    """A step: forward pass, terms, backward pass, new weights.

    Args:
        model: from prepared images to logits, or to `Outputs` with features.
        optimizer: over its parameters.
        terms_of: from the outputs of the model, those of the teacher if there is one, and the labels.
        prepare: from uint8 images to the model's input.
        teacher: from a batch to outputs.
        grad_clip: largest norm of the gradient; None: no clipping.
        amp: ``off``, ``bf16``, ``fp16`` or ``tf32``: in which type the model multiplies; weights, loss and update stay
            float32.
        scaler: of the loss, so that small gradients survive in float16; an update whose gradients overflow is left
            out. None: no scaling.
        around: how the update is run.

    Returns:
        The step.
    """
    apply = _updater(model, optimizer, grad_clip=grad_clip, scaler=scaler)
    layers: list[str] = []  # of the teacher's features, the same in every batch

    def update(*inputs: Tensor, weight: float = 1.0) -> Parts:
        images, labels, *of_teacher = inputs
        with tf32(amp):
            student = forward(model, prepare(images), amp=amp)
        fixed = [Outputs(of_teacher[0], dict(zip(layers, of_teacher[1:], strict=True)))] if of_teacher else []
        terms = terms_of(student, *fixed, labels)
        with tf32(amp):
            apply(_weighted(terms.loss, weight))
        return _detached(loss=terms.loss, **terms.parts, correct=_num_correct(student.logits, labels))

    train, run = _trainer(model), around(update)

    def step(engine: Any, batch: Batch) -> Parts:
        del engine
        train()
        inputs: list[Tensor] = []
        if teacher is not None:
            logits, features = teacher(batch)
            layers[:], inputs = features, [logits, *features.values()]
        return run(batch.images, batch.labels, *inputs, weight=batch.weight)

    return step


def _trainer(model: nn.Module) -> Callable[[], None]:
    """Puts a model into training mode before the first step, and where a module is not in it.

    The first is for networks whose ``train`` does more than that, such as keeping some layers in eval mode; the second
    for wrappers, which do not know that their model was evaluated.
    """
    modules, begun = list(model.modules()), False

    def train() -> None:
        nonlocal begun
        if not begun or not all(module.training for module in modules):
            model.train()
        begun = True

    return train


def forward(model: nn.Module, images: Tensor, *, amp: str) -> Outputs:
    """The outputs of prepared images, in float32 under amp."""
    with autocast(images.device.type, amp):
        found = model(images)
        outputs = found if isinstance(found, Outputs) else Outputs(logits_in(found))
    if AUTOCAST[amp] is None:
        return outputs
    return Outputs(outputs.logits.float(), {name: one.float() for name, one in outputs.features.items()})


def _weighted(loss: Tensor, weight: float) -> Tensor:
    """What the gradients come from; with even shares, as in one process, the loss itself."""
    return loss if weight == 1.0 else loss * weight


def _updater(
    model: nn.Module, optimizer: Optimizer, *, grad_clip: float | None, scaler: GradScaler | None
) -> Callable[[Tensor], None]:
    """From a loss to new weights."""
    scaling = scaler or GradScaler(enabled=False)  # which does nothing but pass on

    def apply(loss: Tensor) -> None:
        optimizer.zero_grad()
        scaling.scale(loss).backward()
        if grad_clip is not None:
            scaling.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
        scaling.step(optimizer)
        scaling.update()

    return apply


def _num_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are given their class; of a mixed image it is that of the larger share."""
    dominant = labels.argmax(1) if labels.is_floating_point() else labels
    return (logits.argmax(1) == dominant).sum()


def _detached(**parts: Tensor) -> dict[str, Tensor]:
    return {name: part.detach() for name, part in parts.items()}
