"""The memory layout in which a network computes: channels_last, which is faster, unless it needs contiguous maps."""

from typing import Any

import torch
from torch import nn


class ContiguousInput:
    """A forward pre-hook that marks a network and makes its input contiguous, so that its maps are too."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The same arguments, contiguous."""
        del module
        return tuple(one.contiguous() if isinstance(one, torch.Tensor) else one for one in args)


def require_contiguous(model: nn.Module) -> None:
    """Have a network compute in contiguous memory from now on, wherever it is placed."""
    model.register_forward_pre_hook(ContiguousInput())
    model.to(memory_format=torch.contiguous_format)


def memory_format(model: nn.Module) -> str:
    """``channels_last`` or ``contiguous``."""
    hooks = model._forward_pre_hooks.values()
    return "contiguous" if any(isinstance(hook, ContiguousInput) for hook in hooks) else "channels_last"


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to the device that computes, in its memory layout."""
    layout = torch.channels_last if memory_format(model) == "channels_last" else torch.contiguous_format
    return model.to(device=device, memory_format=layout)  # type: ignore[call-overload, no-any-return]


def place_like(model: nn.Module, other: nn.Module) -> nn.Module:
    """Another network of the same function, on the device and in the memory layout of a placed one."""
    if memory_format(model) == "contiguous":
        require_contiguous(other)
    tensors = (*model.parameters(), *model.buffers())
    return place(other, tensors[0].device if tensors else torch.device("cpu"))
