"""The one evaluation: validation while training, ``evaluate``, and the check of a teacher are this function."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine
from ignite.handlers import EpochOutputStore
from ignite.metrics import ConfusionMatrix
from torch import Tensor, nn

from kdignite import processes
from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.losses import cross_entropy
from kdignite.memory import shortage_told

Logits = Callable[[Tensor], Tensor]


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


def fed(model: nn.Module, *, prepare: Prepare, order: Tensor | None = None) -> Logits:
    """A model together with its own preprocessing and class order: from uint8 images to logits.

    Args:
        model: from prepared images to logits; put into eval mode at every call.
        prepare: from uint8 images to its input.
        order: (C,) int64, for each class of the data set the output that stands for it; None: the same order.

    Returns:
        A function from uint8 (N, 3, S, S) to logits (N, C) without gradient.
    """

    def logits_of(images: Tensor) -> Tensor:
        model.eval()
        with torch.inference_mode():
            logits: Tensor = model(prepare(images))
            return logits if order is None else logits[:, order]

    return logits_of


def evaluate(logits_of: Logits, batches: Iterable[Batch], *, num_classes: int) -> Outcome:
    """Run a model over some images, counting by class.

    Args:
        logits_of: from uint8 images to logits, as `fed` makes it.
        batches: the images, each once; where several processes work on a run, the share of this one.
        num_classes: C.

    Returns:
        The `Outcome` on the images of all processes, the same in each.

    Raises:
        RunFailed: if memory runs out.
    """
    return tally(lambda batch: logits_of(batch.images), batches, num_classes=num_classes)


@shortage_told("end other programs that use it")
def tally(answer: Callable[[Batch], Tensor], batches: Iterable[Batch], *, num_classes: int) -> Outcome:
    """Count answers by class, whatever computes or stores them.

    Args:
        answer: from a batch to logits.
        batches: the images, each once; where several processes work on a run, the share of this one.
        num_classes: C.

    Returns:
        The `Outcome` on the images of all processes, the same in each.

    Raises:
        RunFailed: if memory runs out.
    """
    engine, store = Engine(_kept(answer)), EpochOutputStore()
    engine.logger.disabled = True  # errors are raised and told once, by whoever called
    ConfusionMatrix(num_classes, output_transform=lambda output: output[:2]).attach(engine, "confusion")
    store.attach(engine, "answers")
    state = engine.run(batches, max_epochs=1)
    own = [torch.cat(column) for column in zip(*state.answers, strict=True)] or [torch.empty(0)] * 3
    logits, labels, indices = map(processes.gathered, own)
    confusion = state.metrics["confusion"].to(torch.int64).cpu()  # over all processes, which Ignite sees to
    if int(confusion.sum()) != len(labels):
        raise AssertionError(f"the confusion matrix counts {int(confusion.sum())} of {len(labels)} images")
    return Outcome(logits.float(), labels, indices, confusion, float(cross_entropy(logits.double(), labels)))


def _kept(answer: Callable[[Batch], Tensor]) -> Callable[[Engine, Batch], tuple[Tensor, Tensor, Tensor]]:
    def keep(engine: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        del engine
        return answer(batch).cpu(), batch.labels.cpu(), batch.indices

    return keep
