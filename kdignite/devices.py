"""Reproducible kernels, and copies from and to an accelerator."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


def is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"


def compute_exactly() -> None:
    """Have cuDNN take deterministic kernels, and multiply float32 in float32.

    Otherwise weight gradients may be summed in another order each time, and ``float32`` convolutions have the 10 bits
    of TF32. Not ``torch.use_deterministic_algorithms``: it refuses layers that are deterministic here, such as the
    backward pass of adaptive pooling to one pixel. Everything else in a training step is deterministic by construction.
    """
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the CPU to a device; to a GPU from pinned memory, so that the host does not wait."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def to_host(values: Any) -> Any:
    """Nested containers with every tensor on the CPU: one copy from the device, however many tensors there are."""
    leaves, structure = tree_flatten(values)
    places: dict[torch.device, list[int]] = defaultdict(list)
    for place, leaf in enumerate(leaves):
        if isinstance(leaf, Tensor) and is_accelerator(leaf.device):
            places[leaf.device].append(place)
    for found in places.values():
        found.sort(key=lambda place: -leaves[place].element_size())  # every type begins at a multiple of its size
        for place, host_copy in zip(found, _copied([leaves[place] for place in found]), strict=True):
            leaves[place] = host_copy
    return tree_unflatten(leaves, structure)


def as_bytes(tensor: Tensor) -> Tensor:
    """The values of a tensor, bit for bit, in the order of its indices."""
    return tensor.detach().reshape(-1).view(torch.uint8)


def _copied(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors of one device on the CPU, as one block of bytes on the way."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors]
    block = torch.cat([as_bytes(tensor) for tensor in tensors]).cpu()
    return [
        part.view(tensor.dtype).reshape(tensor.shape).clone()
        for part, tensor in zip(block.split(sizes), tensors, strict=True)
    ]
