"""What a model would be, without memory for its numbers."""

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdignite.errors import UserError, brief
from kdignite.models.registry import MODELS, check_model


class _SkipRandomInit(TorchFunctionMode):
    """Normal numbers are not drawn: for a tensor that holds none, torch would load its compiler to do so."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return args[0] if func is Tensor.normal_ else func(*args, **(kwargs or {}))


def meta_state_dict(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The state dict of a model without its numbers, for which no memory is taken however large the model is.

    Args:
        name: as for `kdignite.models.registry.build_model`.
        num_classes: number of outputs C.
        size: side of the input, in pixels.
        options: the options that were set, by name.

    Returns:
        Keys to tensors of the right shape and type that hold nothing; None for a user's function, which may compute
        with them.

    Raises:
        UserError: as `kdignite.models.registry.check_model`, or if no computer could hold such a model.
    """
    check_model(name, size=size, options=options)
    if name not in MODELS:
        return None
    builder = pkgutil.resolve_name(MODELS[name].builder)
    try:
        with torch.device("meta"), _SkipRandomInit():
            model: nn.Module = builder(num_classes=num_classes, size=size, **options)
    except RuntimeError as error:  # more bytes than can be counted
        raise UserError(f"{name} cannot be built as asked: {brief(error)}") from error
    return model.state_dict()
