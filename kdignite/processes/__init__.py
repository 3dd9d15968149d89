"""Several processes that work on one run: who is who, and what they agree on. The only place that knows groups.

With one process every function here does nothing and costs nothing. With several, each of them has to call the same
functions in the same order: a process that leaves one out lets the others wait. What they agree on goes over the
processors (gloo), so that a GPU is never waited for; gradients go between GPUs (NCCL) where there are any.
"""

from kdignite.processes.agreeing import Agreement, everyones, largest, local_first, on_first, together
from kdignite.processes.group import end_threads, is_first, joined, local_rank, rank, tells, world
from kdignite.processes.launch import Launch, launch
from kdignite.processes.tensors import gathered, parallel, share_buffers, summed

__all__ = [
    "Agreement",
    "Launch",
    "end_threads",
    "everyones",
    "gathered",
    "is_first",
    "joined",
    "largest",
    "launch",
    "local_first",
    "local_rank",
    "on_first",
    "parallel",
    "rank",
    "share_buffers",
    "summed",
    "tells",
    "together",
    "world",
]
