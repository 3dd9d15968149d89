"""The layers of a library's model that methods on features compare where none are named."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdignite.models.trial import unchanged

NUM_LAYERS = 4  # as in a row of `MODELS`
DEEPEST = 3  # levels of modules within which the ends of stages are looked for


def default_layers(model: nn.Module, *, size: int) -> tuple[str, ...]:
    """Three layers from large to small maps, then the last one before the head pools; empty if there are none.

    They are the last four stages that timm's ``feature_info`` names. A model without it is run once on zeros: a stage
    is the outermost module that returns the last map of its size, at the first depth that has as many sizes as there
    are. Where all stages have one size, as in transformers, four are taken at equal distances.

    Args:
        model: on the CPU; left as it was.
        size: side of its images, in pixels.

    Returns:
        Four names in ``named_modules()``; the last one is repeated where there are fewer stages.
    """
    there = dict(model.named_modules())
    stages = [stage for stage in _of_timm(model) if stage[0] in there] or _found(model, size)
    by_size = {side: name for name, side in stages}  # of each size the last one
    names = [*by_size.values()] if len(by_size) > 1 else [name for name, _ in stages]
    if len(by_size) == 1 and len(names) > NUM_LAYERS:
        names = [names[len(names) * (i + 1) // NUM_LAYERS - 1] for i in range(NUM_LAYERS)]
    names = names[-NUM_LAYERS:]
    return tuple(names + names[-1:] * (NUM_LAYERS - len(names)))


def _of_timm(model: nn.Module) -> list[tuple[str, Any]]:
    """Names and reductions of the stages that timm describes."""
    info: Any = getattr(model, "feature_info", ())
    rows: Sequence[dict[str, Any]] = getattr(info, "info", info) or ()
    return [(row["module"], row.get("reduction")) for row in rows if isinstance(row, dict) and row.get("module")]


def _found(model: nn.Module, size: int) -> list[tuple[str, Any]]:
    """Names of modules in the order in which they return, with the sides of their maps; None: tokens."""
    returned = _returned(model, size)
    head = next((name for name, _ in reversed(returned) if "." not in name), "")
    body = [(name, shape) for name, shape in returned if name.partition(".")[0] != head]
    maps = [(name, _side(shape)) for name, shape in body if len(shape) == 4 and _side(shape) > 1]
    tokens = [name for name, shape in body if len(shape) == 3]
    if tokens and len({side for _, side in maps}) < 2:  # a transformer: the only maps are its patches
        return [(name, None) for name in _siblings(tokens)]
    # the inner layers of a stage may still have the size of the stage before
    outer = [[(name, side) for name, side in maps if name.count(".") <= depth] for depth in range(DEEPEST)]
    return max([*outer, maps], key=lambda some: min(NUM_LAYERS, len({side for _, side in some})))


def _returned(model: nn.Module, size: int) -> list[tuple[str, torch.Size]]:
    """The modules that return tensors, in their order, with the shapes; not those that pool to a size."""
    returned: list[tuple[str, torch.Size]] = []

    def listen(name: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not isinstance(module, nn.AdaptiveAvgPool2d):
                returned.append((name, output.shape))

        return module.register_forward_hook(hook)

    with ExitStack() as handles, unchanged(model):
        for name, module in model.named_modules():
            if name:
                handles.enter_context(listen(name, module))
        model(torch.zeros(2, 3, size, size))
    return returned


def _side(shape: torch.Size) -> int:
    """Of a square map, whose channels may be last."""
    return int(shape[1] if shape[1] == shape[2] != shape[3] else shape[2])


def _siblings(names: list[str]) -> list[str]:
    """The largest group of modules in one parent: the blocks."""
    parents = [name.rpartition(".")[0] for name in names]
    shallow = max(dict.fromkeys(parents), key=lambda parent: (parents.count(parent), -parent.count(".")))
    return [name for name, parent in zip(names, parents, strict=True) if parent == shallow]
