"""The outline of a model: the shapes and types of its weights, without memory, whatever a file says of it."""

import pkgutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdignite.errors import UserError, brief
from kdignite.models import libraries
from kdignite.models.registry import MODELS, check_model
from kdignite.plugins import is_library

MOST_CALLS = 50_000  # of torch's functions; the largest models of the libraries need 33,000
COUNTS = (torch.arange, torch.tensor)  # make the few numbers from which RegNet of torchvision computes its widths
MOST_COUNTS = 1_000
MOST_BUFFERS = 2**30  # bytes of what a model holds beside its weights, which no file has to bring


class Outlining(TorchFunctionMode):
    """Without `Tensor.normal_`, for which torch imports its compiler on the meta device; an end to endless models."""

    def __init__(self, name: str, *, counting: bool) -> None:
        super().__init__()
        self.name, self.counting, self.calls = name, counting, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise UserError(f"{self.name} has too many layers with these options: take fewer")
        if func is torch.Tensor.normal_:
            return args[0]
        made = func(*args, **(kwargs or {}))
        if self.counting and func in COUNTS and made.numel() <= MOST_COUNTS:
            return func(*args, **{**(kwargs or {}), "device": "cpu"})
        return made


def meta_state_dict(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The state dict of a model on the meta device: shapes and types without memory; None of a user's function.

    Raises:
        UserError: as `build_model`, or if the model has more layers or bytes than can be.
    """
    check_model(name, size=size, options=options)
    if name not in MODELS and not is_library(name):
        return None
    build = pkgutil.resolve_name(MODELS[name].builder) if name in MODELS else partial(libraries.create, name)
    given = dict(options) if name in MODELS else {"options": options}
    build = partial(build, num_classes=num_classes, size=size, **given)
    try:
        return _outlined(build, Outlining(name, counting=False))
    except RuntimeError as error:  # more bytes than can be counted
        raise UserError(f"{name} cannot be built with these options: {brief(error)}") from error
    except UserError as error:
        if not isinstance(error.__cause__, NotImplementedError):  # of numbers that the meta device has not
            raise
        return _outlined(build, Outlining(name, counting=True))


def _outlined(build: Callable[[], nn.Module], mode: Outlining) -> dict[str, Tensor]:
    with torch.device("meta"), mode:
        model = build()
    own: dict[str, Tensor] = model.state_dict()
    beside = sum(one.numel() * one.element_size() for key, one in model.named_buffers() if key not in own)
    if beside > MOST_BUFFERS:
        raise UserError(f"{mode.name} needs {beside:,} bytes beside its weights with these options: take smaller ones")
    return own
