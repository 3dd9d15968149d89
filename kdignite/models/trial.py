"""A network of the user's own, run on images of zeros as soon as it is built."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdignite.errors import UserError
from kdignite.plugins import TRACEBACK, own_error

if TYPE_CHECKING:
    from torch import nn

SIZES = (224, 32, 64, 96, 128, 256, 299, 384, 28)  # of images that many networks are made for, in pixels


def try_forward(model: "nn.Module", *, name: str, num_classes: int, size: int) -> None:
    """Check the logits of two images and of one, in eval mode; lazy parameters are made, and nothing else is changed.

    Raises:
        UserError: with the network's own error, and a size that it takes; or with what it returned instead of logits.
    """
    with unchanged(model):
        try:
            outputs = [_run(model, number, size) for number in (2, 1)]
        except Exception as error:
            why = f"{own_error(error)} ({TRACEBACK})"
            fits = next((other for other in SIZES if other != size and _runs(model, other)), None)
            raise UserError(
                f"{name} does not take two images of shape (3, {size}, {size}), or one: {why}"
                + (f"; it takes --size={fits}" if fits else "")
            ) from error
    check_shapes([_shape(output, name) for output in outputs], name=name, num_classes=num_classes, size=size)


def check_shapes(shapes: "list[tuple[int, ...]]", *, name: str, num_classes: int, size: int, when: str = "") -> None:
    """Refuse outputs for two images, and for one, that are not logits (N, C)."""
    for number, came in zip((2, 1), shapes, strict=False):
        if came != (number, num_classes):
            raise UserError(
                f"{name} must turn images (N, 3, {size}, {size}) into logits of shape (N, num_classes) = "
                f"({number}, {num_classes}) for N = {number}, not {came}{when}"
            )


def _run(model: "nn.Module", number: int, size: int) -> object:
    import torch

    return model(torch.zeros(number, 3, size, size))


def _runs(model: "nn.Module", size: int) -> bool:
    try:
        _run(model, 2, size)
    except Exception:  # noqa: BLE001  # whatever a network raises for a size that it does not take
        return False
    return True


def _shape(output: object, name: str) -> tuple[int, ...]:
    from kdignite.outputs import logits_in

    try:
        return tuple(logits_in(output).shape)
    except TypeError as error:
        raise UserError(f"{name}: {error}") from None


@contextmanager
def unchanged(model: "nn.Module") -> Iterator[None]:
    """Within the block a model is in eval mode without gradient; afterwards buffers, modes and generators are back."""
    import torch

    from kdignite.streams import unchanged_generators

    modes = [(module, module.training) for module in model.modules()]
    # a network may write to its buffers in eval mode too; those of lazy modules do not exist yet
    buffers = [
        (module, key, buffer, buffer.clone())
        for module in model.modules()
        for key, buffer in module.named_buffers(recurse=False)
        if not torch.nn.parameter.is_lazy(buffer)
    ]
    model.eval()
    try:
        # no_grad, not inference_mode: the parameters of lazy modules must be trainable
        # and no warnings: what the network warns of comes again when it is used
        with unchanged_generators(), torch.no_grad(), warnings.catch_warnings(action="ignore"):
            yield
            for module, key, buffer, value in buffers:
                if buffer.shape != value.shape:
                    buffer.resize_(value.shape)
                buffer.copy_(value)
                if getattr(module, key) is not buffer:
                    setattr(module, key, buffer)
    finally:
        for module, mode in modes:
            module.training = mode
