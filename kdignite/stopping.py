"""Graceful stop: a signal is noted when it arrives, and stops all processes of a run together at the next check.

Only the command line installs signal handlers, so that an interrupt in a notebook stays what it is there.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kdignite import processes

T = TypeVar("T")


class Stopped(BaseException):
    """Raised at a safe point after a signal; like KeyboardInterrupt no Exception, which error handlers would catch."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopRequest:
    """The signal that this process has received; signals are sent to processes, so there is one."""

    accepted = False
    number: int | None = None


@contextmanager
def graceful_stop() -> Iterator[None]:
    """Within the block a first signal waits for the next `raise_if_requested`; the end of the block is one too."""
    StopRequest.accepted, StopRequest.number = True, None
    try:
        yield
    finally:
        StopRequest.accepted = False
    _raise_if_requested(processes.all_reduce_max)


def request_stop(number: int) -> bool:
    """Note a signal; False where it has to stop the process at once: outside the block, and if it is the second."""
    if not StopRequest.accepted or StopRequest.number is not None:
        return False
    StopRequest.number = number
    return True


def raise_if_requested(largest: Callable[[int], int] = processes.all_reduce_max) -> None:
    """Stop here, if a signal arrived in any process."""
    if StopRequest.accepted:
        _raise_if_requested(largest)


def raise_if_noted() -> None:
    """Stop here, if a signal had arrived in a block that ended in an error, which was caught since."""
    _raise_if_requested(processes.all_reduce_max)


def interruptible(items: Iterable[T], *, checks: int = 0) -> Iterator[T]:
    """The items, with a check before each, and as many checks in all as other processes make."""
    for item in items:
        raise_if_requested()
        checks -= 1
        yield item
    for _ in range(checks):
        raise_if_requested()


def _raise_if_requested(largest: Callable[[int], int]) -> None:
    number = largest(StopRequest.number or 0)
    if number:
        raise Stopped(number)
