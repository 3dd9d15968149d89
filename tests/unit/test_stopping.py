"""Graceful stop: where a signal waits for the next check, where it does not, and that no request outlives its block."""

import signal
from collections.abc import Iterator
from contextlib import nullcontext, suppress

import pytest

from kdignite import stopping
from kdignite.stopping import Stopped

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping.StopRequest, "number", None)


def stops_at_once() -> bool:
    """Whether a signal that came now would have to stop the process at once."""
    return not stopping.request_stop(signal.SIGINT)


def test_outside_the_block_a_signal_does_not_wait() -> None:
    assert stops_at_once()
    stopping.raise_if_requested()
    assert list(stopping.interruptible([1, 2])) == [1, 2]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_next_check_stops_and_says_which_signal_it_was(number: int) -> None:
    reached: list[str] = []

    def work() -> None:
        with stopping.graceful_stop():
            stopping.raise_if_requested()
            assert stopping.request_stop(number)
            reached.append("before the check")
            stopping.raise_if_requested()
            reached.append("after it")

    with pytest.raises(Stopped) as caught:
        work()
    assert reached == ["before the check"]
    assert caught.value.number == number
    assert caught.value.args == (number,)


def test_a_second_signal_does_not_wait() -> None:
    def twice() -> None:
        with stopping.graceful_stop():
            assert stopping.request_stop(signal.SIGTERM)
            assert not stopping.request_stop(signal.SIGINT)
            assert not stopping.request_stop(signal.SIGTERM)
            stopping.raise_if_requested()

    with pytest.raises(Stopped) as caught:
        twice()
    assert caught.value.number == signal.SIGTERM  # the first one counts


def test_an_error_handler_does_not_catch_it() -> None:
    assert not issubclass(Stopped, Exception)


def test_the_end_of_the_block_is_a_check() -> None:
    reached: list[str] = []

    def work() -> None:
        with stopping.graceful_stop():
            stopping.raise_if_requested()
            assert stopping.request_stop(signal.SIGINT)
            reached.append("end of the block")
        reached.append("what comes after")

    with pytest.raises(Stopped):
        work()
    assert reached == ["end of the block"]


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    def work() -> None:
        with stopping.graceful_stop():
            assert stopping.request_stop(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert stops_at_once()


@pytest.mark.parametrize("number", [None, *NUMBERS])
def test_who_catches_an_error_can_stop_after_it(number: int | None) -> None:
    with suppress(ZeroDivisionError), stopping.graceful_stop():
        if number is not None:
            assert stopping.request_stop(number)
        raise ZeroDivisionError
    with pytest.raises(Stopped) if number is not None else nullcontext():
        stopping.raise_if_noted()


@pytest.mark.parametrize("error", [None, Stopped(2), ZeroDivisionError()])
def test_no_request_outlives_its_block(error: BaseException | None) -> None:
    def work() -> None:
        with stopping.graceful_stop():
            if error is not None:
                stopping.request_stop(signal.SIGTERM)
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    stopping.raise_if_requested()
    assert stops_at_once()
    with stopping.graceful_stop():
        stopping.raise_if_requested()  # the request of an earlier block is gone


def test_a_process_with_fewer_items_checks_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[None] = []
    monkeypatch.setattr(stopping, "raise_if_requested", lambda: checks.append(None))
    for items, expected in ((2, 3), (3, 3), (4, 4)):
        assert list(stopping.interruptible(range(items), checks=3)) == list(range(items))
        assert len(checks) == expected
        checks.clear()


def test_the_signal_of_another_process_stops_too() -> None:
    def work(number: int) -> None:
        with stopping.graceful_stop():
            stopping.raise_if_requested(lambda own: max(own, number))

    work(0)
    with pytest.raises(Stopped) as caught:
        work(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_items_are_given_up_between_two_of_them() -> None:
    given: list[int] = []

    def items() -> Iterator[int]:
        for number in range(5):
            given.append(number)
            yield number

    used: list[int] = []

    def work() -> None:
        with stopping.graceful_stop():
            for item in stopping.interruptible(items()):
                if item == 2:
                    assert stopping.request_stop(signal.SIGINT)
                used.append(item)  # what is begun is finished

    with pytest.raises(Stopped):
        work()
    assert used == [0, 1, 2]
    assert given == [0, 1, 2, 3]
