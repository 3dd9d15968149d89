"""A wish to stop: noted when a signal arrives, heeded where nothing is half done.

Training listens; what else runs is stopped at once. Only the command line installs signal handlers, so a notebook's
interrupt stays what it is there.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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
    if _Wish.number is not None:
        raise Stopped(_Wish.number)


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


def check() -> None:
    """Stop here, if that was asked for.

    Raises:
        Stopped: with the number of the signal.
    """
    if _Wish.listening and _Wish.number is not None:
        raise Stopped(_Wish.number)


def heeding(items: Iterable[T]) -> Iterator[T]:
    """The items, with a `check` before each.

    Args:
        items: such as the batches of an evaluation.

    Returns:
        An iterator over them.

    Raises:
        Stopped: as `check`.
    """
    for item in items:
        check()
        yield item
