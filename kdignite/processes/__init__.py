"""Several processes that work on one run: who is who, and what they agree on. The only place that knows groups.

With one process every function here does nothing and costs nothing. With several, each of them has to call the same
functions in the same order: a process that leaves one out lets the others wait. What they agree on goes over the
processors (gloo), so that a GPU is never waited for; gradients go between GPUs (NCCL) where there are any.
"""

from kdignite.processes.collectives import Agreement, all_gather_object, all_reduce_max, local_first, on_rank0, together
from kdignite.processes.group import end_threads, is_rank0, is_reporter, joined, local_rank, rank, world
from kdignite.processes.launch import Launch, launch
from kdignite.processes.tensors import all_gather, all_reduce_sum, parallel, share_buffers

__all__ = [
    "Agreement",
    "Launch",
    "all_gather",
    "all_gather_object",
    "all_reduce_max",
    "all_reduce_sum",
    "end_threads",
    "is_rank0",
    "is_reporter",
    "joined",
    "launch",
    "local_first",
    "local_rank",
    "on_rank0",
    "parallel",
    "rank",
    "share_buffers",
    "together",
    "world",
]
