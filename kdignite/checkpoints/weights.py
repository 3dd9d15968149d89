"""State dicts: loaded completely or not at all."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from kdignite import schema
from kdignite.errors import UserError, listed

DTYPES = (  # that files hold
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)

COUNTER = "num_batches_tracked"  # of BatchNorm; torch before 0.4.1 had none


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> None:
    """Load weights into a model completely, or raise before the first one is touched."""
    check_fit(model.state_dict(), weights, source=source)
    model.load_state_dict(dict(weights), strict=True)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, source: str) -> None:
    """Refuse weights that are not those of a model, key by key."""
    missing, unexpected = sorted(set(own) - set(weights)), sorted(set(weights) - set(own))
    if missing or unexpected:
        raise UserError(
            f"the weights of {source} do not fit the model: missing {listed(missing)}; unexpected {listed(unexpected)}"
            f"{_prefix_hint(own, weights)}"
        )
    shapes = {key: (_shape(weights[key]), _shape(own[key])) for key in own}
    wrong = [f"{key} {given} for {needed}" for key, (given, needed) in shapes.items() if given != needed]
    if wrong:
        raise UserError(f"the weights of {source} do not fit the model: {listed(wrong)}")
    if broken := not_finite(weights):
        raise UserError(f"the weights of {source} are not finite numbers: {listed(broken)}")


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of tensors that hold NaN or infinity."""
    return [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]


def check_storable(weights: Mapping[str, Any], *, source: str) -> None:
    """Refuse a state dict that no checkpoint can hold, before it is trained."""
    odd = [str(key) for key, value in weights.items() if not (schema.is_name(key) and _is_storable(value))]
    if odd:
        raise UserError(
            f"{source} cannot be saved in a checkpoint, which holds dense tensors of real numbers (or complex64) under "
            f"names of up to {schema.LONGEST_NAME} characters: change {listed(odd)}"
        )


def prefixes(key: str) -> Iterator[str]:
    """What a key begins with, up to each of its dots: ``a.`` and ``a.b.`` of ``a.b.c``."""
    return (key[: index + 1] for index, letter in enumerate(key) if letter == ".")


def is_state_dict(value: Any) -> bool:
    """Whether a value is a dict of names to tensors that hold their numbers, and not an empty one."""
    if not isinstance(value, dict) or not value:
        return False
    return all(map(schema.is_name, value)) and all(map(is_plain, value.values()))


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor that a file holds whole: one that is expanded may claim any amount of memory."""
    return _is_storable(value) and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _is_storable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in DTYPES and not value.is_meta


def _shape(value: Tensor) -> str:
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _prefix_hint(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """What to strip, where stripping one prefix would make the keys match."""
    for prefix in prefixes(min(weights, key=len, default="")):
        if {key.removeprefix(prefix) for key in weights if key.startswith(prefix)} == set(own):
            return f"; they match without their prefix: --strip_prefix={prefix}"
    return ""
