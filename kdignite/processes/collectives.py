"""What processes do in turn, tell one another, and decide together."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from kdignite.errors import RunFailed, UserError
from kdignite.processes.group import Group, is_rank0, rank, world

T = TypeVar("T")
AGREE_SECONDS = 0.5  # between two questions whether any process wants to stop, or to save


def on_rank0(make: Callable[[], T]) -> T:
    """Call a function in the first process only; every process gets what it returns, or the mistake that it raises."""
    if world() == 1:
        return make()
    import torch.distributed as dist

    if not is_rank0():
        received: list[Any] = [None, None]
        dist.broadcast_object_list(received, src=0, group=Group.control)
        value, error = received
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]
    try:
        value = make()
    except Exception as error:
        dist.broadcast_object_list([None, _portable(error)], src=0, group=Group.control)
        raise
    dist.broadcast_object_list([value, None], src=0, group=Group.control)
    return value


def together(make: Callable[[], T]) -> T:
    """Call a function in every process; if it fails in one of them, it has failed in all."""
    if world() == 1:
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


def local_first(make: Callable[[], T]) -> T:
    """Call a function in one process of each machine, then in the others, which find what that one has fetched."""
    if Group.me.local_rank == 0:
        value = together(make)
        together(_nothing)
    else:
        together(_nothing)
        value = together(make)
    return value


def all_gather_object(value: Any) -> list[Any]:
    """What each process has."""
    if world() == 1:
        return [value]
    import torch.distributed as dist

    values = [None] * world()
    dist.all_gather_object(values, value, group=Group.control)
    return values


def all_reduce_max(number: int) -> int:
    """The largest of the numbers of all processes."""
    return number if world() == 1 else _max_of_each(number)[0]


class Agreement:
    """A question that is asked after every iteration, and put to the other processes about twice a second.

    Each question makes the processes wait for one another. All count the same calls, so all know when the next is due.
    """

    def __init__(self) -> None:
        """The first call asks."""
        self.calls, self.every = 0, 1
        self.asked_at = time.monotonic()

    def __call__(self, wish: int) -> int:
        """The largest wish of all processes; 0 between two questions."""
        if world() == 1:
            return wish
        self.calls += 1
        if self.calls < self.every:
            return 0
        now = time.monotonic()
        granted, microseconds = _max_of_each(wish, int((now - self.asked_at) * 1e6))
        soon = int(self.calls * AGREE_SECONDS * 1e6 / max(microseconds, 1))
        self.calls, self.every, self.asked_at = 0, max(1, min(soon, 2 * self.every)), now
        return granted


def _nothing() -> None:
    """For a process whose turn it is not."""


def _max_of_each(*numbers: int) -> list[int]:
    import torch
    import torch.distributed as dist

    values = torch.tensor(numbers, dtype=torch.int64)
    dist.all_reduce(values, dist.ReduceOp.MAX, group=Group.control)
    return [int(value) for value in values]


def _portable(error: Exception) -> Exception:
    """What other processes are told of an error: mistakes and failures as they are, a bug only that there was one."""
    return error if isinstance(error, UserError | RunFailed) else RunFailed(f"process {rank()} has failed ({error!r})")
