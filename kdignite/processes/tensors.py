"""Tensors and gradients of all processes."""

from typing import TYPE_CHECKING

from kdignite.processes.collectives import all_gather_object
from kdignite.processes.group import TIMEOUT, Group, world_size

if TYPE_CHECKING:  # the command line imports this package before it needs torch
    import torch
    from torch import Tensor, nn


def all_reduce_sum(values: "Tensor") -> "Tensor":
    """The sum over all processes of each of some numbers."""
    if world_size() == 1:
        return values
    import torch.distributed as dist

    sums = values.clone()
    dist.all_reduce(sums, group=Group.control)
    return sums


def all_gather(rows: "Tensor") -> "Tensor":
    """The rows of all processes on the CPU, by rank; as objects, since their numbers differ and may be 0."""
    if world_size() == 1:
        return rows
    import torch

    return torch.cat([part for part in all_gather_object(rows.cpu().clone()) if len(part)])


def parallel(model: "nn.Module", *, device: "torch.device", sync_bn: bool) -> "nn.Module":
    """A model whose gradients are means over all processes; ``idist.auto_model`` would override ``--device=cpu``."""
    if world_size() == 1:
        return model
    import torch.distributed as dist
    from torch.nn import SyncBatchNorm
    from torch.nn.parallel import DistributedDataParallel

    on_gpu = device.type == "cuda"
    if on_gpu and Group.gradients is None:
        Group.gradients = dist.new_group(backend="nccl", timeout=TIMEOUT)
    group = Group.gradients if on_gpu else Group.control
    if sync_bn:
        model = SyncBatchNorm.convert_sync_batchnorm(model, process_group=group)
    return DistributedDataParallel(model, device_ids=[device.index] if on_gpu else None, process_group=group)


def broadcast_buffers(model: "nn.Module") -> None:
    """Give every process the first one's buffers, such as the statistics of BatchNorm."""
    if world_size() == 1:
        return
    import torch.distributed as dist

    for buffer in model.buffers():
        shared = buffer.cpu().contiguous()
        dist.broadcast(shared, src=0, group=Group.control)
        buffer.copy_(shared)
