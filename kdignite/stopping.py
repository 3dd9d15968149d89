"""A wish to stop: noted when a signal arrives, heeded where nothing is half done, by all processes of a run together.

Training listens; what else runs is stopped at once. Only the command line installs signal handlers, so a notebook's
interrupt stays what it is there.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from kdignite import processes

T = TypeVar("T")


class Stopped(BaseException):
    """Raised at a safe point after a signal; like KeyboardInterrupt it is no Exception, which a handler could catch."""

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


class StopRequest:
    """What has been asked of this process; signals are sent to processes, so there is one."""

    listening = False
    number: int | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Within the block a first signal waits for the next `check`; the end of the block is one too."""
    StopRequest.listening, StopRequest.number = True, None
    try:
        yield
    finally:
        StopRequest.listening = False
    _interruptible(processes.all_reduce_max)


def ask(number: int) -> bool:
    """Note that a signal wants the process to stop."""
    if not StopRequest.listening or StopRequest.number is not None:
        return False
    StopRequest.number = number
    return True


def check(agree: Callable[[int], int] = processes.all_reduce_max) -> None:
    """Stop here, if that was asked for."""
    if StopRequest.listening:
        _interruptible(agree)


def interruptible(items: Iterable[T], *, checks: int = 0) -> Iterator[T]:
    """The items, with a `check` before each."""
    for item in items:
        check()
        checks -= 1
        yield item
    for _ in range(checks):
        check()


def _interruptible(agree: Callable[[int], int]) -> None:
    number = agree(StopRequest.number or 0)
    if number:
        raise Stopped(number)
