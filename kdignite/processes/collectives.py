"""Python objects and errors that all processes share."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from kdignite.errors import RunFailed, UserError
from kdignite.processes.group import Group, is_rank0, local_rank, rank, world_size

T = TypeVar("T")
INTERVAL_S = 0.5  # between two exchanges of `ThrottledMax`


def on_rank0(make: Callable[[], T]) -> T:
    """Call in the first process; all get its value or error, which ``idist.one_rank_only`` does not give them."""
    values = [on_all_ranks(make if is_rank0() else _nothing)]
    if world_size() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(values, src=0, group=Group.control)
    return values[0]  # type: ignore[return-value]


def on_all_ranks(make: Callable[[], T]) -> T:
    """Call a function in every process; an error in one of them is raised in all."""
    if world_size() == 1:
        return make()
    try:
        value = make()
    except Exception as error:
        all_gather_object(_portable(error))
        raise
    failed = next((error for error in all_gather_object(None) if error is not None), None)
    if failed is not None:
        raise failed
    return value


def local_rank0_first(make: Callable[[], T]) -> T:
    """Call in one process of each machine, then in the others; ``idist.one_rank_first`` hangs after an error."""
    first = local_rank() == 0
    early = on_all_ranks(make if first else _nothing)
    late = on_all_ranks(_nothing if first else make)
    return early if first else late  # type: ignore[return-value]


def all_gather_object(value: Any) -> list[Any]:
    """The values of all processes, by rank."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world_size()
    dist.all_gather_object(values, value, group=Group.control)
    return values


def all_reduce_max(number: int) -> int:
    """The largest of the numbers of all processes."""
    return number if world_size() == 1 else _max_of_each(number)[0]


class ThrottledMax:
    """`all_reduce_max` of one number at every iteration, exchanged about twice a second, since each exchange waits."""

    def __init__(self) -> None:
        self.calls, self.every = 0, 1
        self.exchanged_at = time.monotonic()

    def __call__(self, number: int) -> int:
        """The largest number of all processes; 0 between two exchanges."""
        if world_size() == 1:
            return number
        self.calls += 1
        if self.calls < self.every:
            return 0
        now = time.monotonic()
        largest, microseconds = _max_of_each(number, int((now - self.exchanged_at) * 1e6))
        due = int(self.calls * INTERVAL_S * 1e6 / max(microseconds, 1))
        self.calls, self.every, self.exchanged_at = 0, max(1, min(due, 2 * self.every)), now
        return largest


def _nothing() -> None: ...


def _max_of_each(*numbers: int) -> list[int]:
    import torch
    import torch.distributed as dist

    values = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(values, dist.ReduceOp.MAX, group=Group.control)
    return [int(value) for value in values]


def _portable(error: Exception) -> Exception:
    """An error for the other processes: a bug may not be picklable, and its traceback is printed where it happened."""
    return error if isinstance(error, UserError | RunFailed) else RunFailed(f"process {rank()} has failed ({error!r})")
