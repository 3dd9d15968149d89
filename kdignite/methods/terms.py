"""What a method is given, and what it gives back."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from kdignite.errors import UserError, brief
from kdignite.plugins import own_errors

Features = Mapping[str, Tensor]  # by layer name


class Outputs(NamedTuple):
    """What a network computes from a batch of B images."""

    logits: Tensor  # (B, C), in at least float32
    features: Mapping[str, Tensor] = {}  # by layer name; empty unless the method asked for them


OutputsOf = Callable[[Tensor], Outputs]  # from uint8 images (B, 3, S, S)


class Terms(NamedTuple):
    """What a method computes from the outputs of student and teacher."""

    loss: Tensor  # scalar, mean over the batch: what is minimised
    parts: dict[str, Tensor]  # scalars, unweighted; each becomes a column of metrics.csv and the tag loss/NAME


class Loss(Protocol):
    """A method whose parameters are bound."""

    def __call__(self, student: Outputs, teacher: Outputs, labels: Tensor, /) -> Terms:
        """The terms of a batch; gradients flow through the student's outputs alone."""
        ...


def check_terms(
    method: Loss,
    name: str,
    *,
    num_classes: int,
    reserved: Collection[str],
    mixed: bool = False,
    features: tuple[Features, Features] = ({}, {}),
) -> list[str]:
    """Refuse a method whose terms a training could not use, before it begins: tried on two images.

    Args:
        method: with its parameters bound.
        name: of the method, for the message.
        num_classes: C.
        reserved: names that no part may have.
        mixed: whether labels will be shares of classes (B, C).
        features: of two images, of student and teacher.

    Returns:
        The names of its parts.

    Raises:
        UserError: saying what a method has to return.
    """
    generator = torch.Generator().manual_seed(0)
    logits, teacher_logits = torch.randn(2, 2, num_classes, generator=generator)
    device = next((one.device for one in features[1].values()), logits.device)
    student = Outputs(_learnt(logits.to(device)), {name: _learnt(one) for name, one in features[0].items()})
    teacher, labels = Outputs(teacher_logits.to(device), features[1]), (torch.arange(2) % num_classes).to(device)
    with own_errors("method", name):
        found: Any = method(student, teacher, labels)
    why = _misfit(found, reserved=reserved)
    if why:
        raise UserError(f"--method={name} must return Terms(loss, parts), scalars that depend on the student: {why}")
    if mixed:
        try:
            method(student, teacher, one_hot(labels, num_classes).float())
        except Exception as error:
            raise UserError(
                f"--method={name} fails where labels are shares of classes (B, C) float32, as those of mixed images "
                f"are: leave out --mix ({brief(error)})"
            ) from error
    return list(found.parts)


def _learnt(value: Tensor) -> Tensor:
    """The same as of a network in training: with a gradient, and no leaf, which may not be changed in place."""
    return value.detach().requires_grad_(value.is_floating_point()).clone()


def _misfit(found: Any, *, reserved: Collection[str]) -> str:
    if not isinstance(found, Terms) or not isinstance(found.parts, dict):
        return f"it returned {brief(found)}"
    for name, value in {"loss": found.loss, **found.parts}.items():
        if not isinstance(value, Tensor) or value.shape:
            return f"{brief(name)} is not a scalar tensor"
    strange = [name for name in found.parts if name in reserved or not str(name).isidentifier()]
    if strange:
        return f"a part cannot be called {brief(strange[0])!r}"
    return "" if found.loss.requires_grad else "its loss has no gradient"
