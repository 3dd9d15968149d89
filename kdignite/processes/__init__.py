"""Several processes that work on one run. The only place that knows process groups.

With one process every function here does nothing and costs nothing. With several, each of them has to call the same
functions in the same order. Objects and metrics go over the CPUs (gloo), so that a GPU is never waited for; gradients
go between GPUs (NCCL) where there are any.
"""

from kdignite.processes.collectives import (
    ThrottledMax,
    all_gather_object,
    all_reduce_max,
    local_rank0_first,
    on_all_ranks,
    on_rank0,
)
from kdignite.processes.group import (
    end_left_group,
    free_group_threads,
    is_rank0,
    is_reporter,
    local_rank,
    process_group,
    rank,
    world_size,
)
from kdignite.processes.launch import Launch, launch
from kdignite.processes.tensors import all_gather, all_reduce_sum, broadcast_buffers, parallel
