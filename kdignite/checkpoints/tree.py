"""Nested values as what JSON holds and a flat dict of tensors, and back to the last bit.

JSON has no tensors, no tuples and no dicts with numbers as keys: each is written as a dict whose only key is one of the
words below.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

TENSOR, TUPLE, ITEMS = "$tensor", "$tuple", "$items"
WEIGHTS = "weights"  # in a checkpoint; these tensors keep the names that they have in the state dict
RESERVED = "__metadata__"  # of the format
LARGEST_KEY = 2**31  # hashes of larger numbers can be made to collide


def flatten(value: Any, tensors: dict[str, Tensor], path: tuple[str, ...] = ()) -> Any:
    """The value with each tensor replaced by its name; the tensors, contiguous, go into a dict."""
    if isinstance(value, Tensor):
        name = ".".join(path[1:] if path[0] == WEIGHTS else path)
        while name in tensors or name == RESERVED:
            name += "'"
        tensors[name] = value.detach().resolve_conj().resolve_neg().contiguous()
        return {TENSOR: name}
    if isinstance(value, Mapping):
        items = [(key, flatten(item, tensors, (*path, str(key)))) for key, item in value.items()]
        plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
        return dict(items) if plain else {ITEMS: [[_key(key), item] for key, item in items]}
    if isinstance(value, list | tuple):
        held = [flatten(item, tensors, (*path, str(index))) for index, item in enumerate(value)]
        return {TUPLE: held} if isinstance(value, tuple) else held
    return value


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `flatten` was given; ValueError, TypeError or LookupError where it gave something else."""
    if isinstance(value, list):
        return [unflatten(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    undo: dict[str, Callable[[Any], Any]] = {
        TENSOR: lambda name: tensors[name],
        TUPLE: lambda items: tuple(unflatten(items, tensors)),
        ITEMS: lambda items: {_key(key): unflatten(item, tensors) for key, item in items},
    }
    tag = next(iter(value), "")
    return undo[tag](value[tag]) if tag in undo else {key: unflatten(item, tensors) for key, item in value.items()}


def _key(key: Any) -> str | int:
    if not isinstance(key, str) and not (type(key) is int and abs(key) < LARGEST_KEY):
        raise TypeError("a dict whose keys are no words or numbers")
    return key
