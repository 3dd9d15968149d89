"""The one evaluation: validation while training, ``evaluate``, and the check of a teacher are this function."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from ignite.engine import Engine
from ignite.handlers import EpochOutputStore
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdignite import processes
from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.losses import cross_entropy
from kdignite.memory import oom_as_failure
from kdignite.precision import tf32
from kdignite.steps import forward

Predictor = Callable[[Tensor], Tensor]  # uint8 images (N, 3, S, S) -> logits (N, C)


class Outcome(NamedTuple):
    """What a model answered on some images."""

    logits: Tensor  # (N, C) float32, CPU
    labels: Tensor  # (N,) int64, CPU
    indices: Tensor  # (N,) int64, CPU: which images of the source
    confusion: Tensor  # (C, C) int64, rows = true class
    loss: float  # mean cross-entropy in nats

    @property
    def num_correct(self) -> int:
        """How many images were classified correctly; 0 where any logit is not finite."""
        return int(self.confusion.diag().sum()) if self.is_finite else 0

    @property
    def is_finite(self) -> bool:
        """Whether every logit is a number; a dead model must not score the share of class 0."""
        return bool(torch.isfinite(self.logits).all())


def predictor(model: nn.Module, *, prepare: Prepare, order: Tensor | None = None, amp: str = "off") -> Predictor:
    """A model together with its own preprocessing and class order: from uint8 images to logits."""

    def logits_of(images: Tensor) -> Tensor:
        model.eval()
        with torch.inference_mode(), tf32(amp):
            logits = forward(model, prepare(images), amp=amp).logits
            return logits if order is None else logits.index_select(1, order)

    return logits_of


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The layers that keep a moving average of the statistics of the batches they are trained on."""
    return [
        layer
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer.momentum is not None
    ]


def measure_batch_norms(model: nn.Module, inputs: Iterable[Tensor]) -> None:
    """Replace the running statistics of BatchNorm by their mean over some inputs, under the weights as they are.

    After n steps a moving average still holds ``(1 - momentum)^n`` of its initial value: half of it after 6 steps. All
    other layers are in eval mode meanwhile, and a layer that the model keeps in eval mode in training is left alone.

    Args:
        model: what is going to be evaluated; it is left in eval mode.
        inputs: prepared images (N, 3, S, S), N at least 2.
    """
    model.train()
    layers = [layer for layer in batch_norms(model) if layer.training]
    momenta = [layer.momentum for layer in layers]
    model.eval()
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
    with torch.no_grad():
        for number, images in enumerate(inputs, start=1):
            for layer in layers:
                layer.momentum = 1 / number  # the mean of all batches; with None a GPU would be waited for
            model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def evaluate(logits_of: Predictor, batches: Iterable[Batch], *, num_classes: int) -> Outcome:
    """Run a model over some images, counting by class."""
    return tally(lambda batch: logits_of(batch.images), batches, num_classes=num_classes)


@oom_as_failure("end other programs that use it")
def tally(logits_of: Callable[[Batch], Tensor], batches: Iterable[Batch], *, num_classes: int) -> Outcome:
    """Count predictions by class, from logits that are computed or cached."""
    engine, store = Engine(_evaluation_step(logits_of)), EpochOutputStore()
    engine.logger.disabled = True  # the caller reports errors
    store.attach(engine, "outputs")
    state = engine.run(batches, max_epochs=1)
    own = [torch.cat(column).cpu() for column in zip(*state.outputs, strict=True)] or [torch.empty(0)] * 3
    logits, labels, indices = map(processes.all_gather, own)
    confusion = _confusion(logits, labels, num_classes=num_classes)
    return Outcome(logits.float(), labels, indices, confusion, float(cross_entropy(logits.double(), labels)))


def _confusion(logits: Tensor, labels: Tensor, *, num_classes: int) -> Tensor:
    """(C, C) int64. Not Ignite's metric, which counts on a GPU wherever there is one, whatever ``--device`` says."""
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise AssertionError(f"labels from {int(labels.min())} to {int(labels.max())}, of {num_classes} classes")
    cells = labels * num_classes + logits.argmax(1)
    return torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)


def _evaluation_step(logits_of: Callable[[Batch], Tensor]) -> Callable[[Engine, Batch], tuple[Tensor, Tensor, Tensor]]:
    def step(_: Engine, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return logits_of(batch), batch.labels, batch.indices  # on the device, which is waited for once, at the end

    return step
