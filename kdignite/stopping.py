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
    """Raised at a safe point after a signal; like KeyboardInterrupt no Exception, so that no handler takes it for one.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        """Keep the number of the signal."""
        super().__init__(number)
        self.number = number


class _Wish:
    """What has been asked of this process; signals are sent to processes, so there is one."""

    listening = False
    number: int | None = None


@contextmanager
def listening() -> Iterator[None]:
    """Within the block a first signal waits for the next `check`; the end of the block is one too.

    Raises:
        Stopped: where a signal came after the last check.
    """
    _Wish.listening, _Wish.number = True, None
    try:
        yield
    finally:
        _Wish.listening = False
    _heed(processes.largest)


def ask(number: int) -> bool:
    """Note that a signal wants the process to stop.

    Args:
        number: of the signal.

    Returns:
        True if a `check` will come to it; False if nobody listens or it was asked before: stop at once then.
    """
    if not _Wish.listening or _Wish.number is not None:
        return False
    _Wish.number = number
    return True


def check(agree: Callable[[int], int] = processes.largest) -> None:
    """Stop here, if that was asked for.

    Args:
        agree: from the wish of this process, 0 for none, to that which all processes heed.

    Raises:
        Stopped: with the number of the signal.
    """
    if _Wish.listening:
        _heed(agree)


def heeding(items: Iterable[T], *, checks: int = 0) -> Iterator[T]:
    """The items, with a `check` before each.

    Args:
        items: such as the batches of an evaluation.
        checks: how many there are at least: as many as in a process that has more items.

    Returns:
        An iterator over them.

    Raises:
        Stopped: as `check`.
    """
    for item in items:
        check()
        checks -= 1
        yield item
    for _ in range(checks):
        check()


def _heed(agree: Callable[[int], int]) -> None:
    number = agree(_Wish.number or 0)
    if number:
        raise Stopped(number)
