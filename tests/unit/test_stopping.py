"""A wish to stop: where it is heeded, where it is not taken, and that none outlives the block that listens."""

import signal
from collections.abc import Iterator

import pytest

from kdignite import stopping
from kdignite.stopping import Stopped

NUMBERS = (signal.SIGINT, signal.SIGTERM)


def refused_to_wait() -> bool:
    """Whether a signal that came now would have to stop the process at once."""
    return not stopping.ask(signal.SIGINT)


def test_where_nobody_listens_a_wish_is_not_taken() -> None:
    assert refused_to_wait()
    stopping.check()
    assert list(stopping.interruptible([1, 2])) == [1, 2]


@pytest.mark.parametrize("number", NUMBERS)
def test_the_next_check_heeds_a_wish_and_says_which_signal_it_was(number: int) -> None:
    reached: list[str] = []

    def work() -> None:
        with stopping.listening():
            stopping.check()
            assert stopping.ask(number)
            reached.append("before the check")
            stopping.check()
            reached.append("after it")

    with pytest.raises(Stopped) as caught:
        work()
    assert reached == ["before the check"]
    assert caught.value.number == number
    assert caught.value.args == (number,)


def test_whoever_asks_twice_is_not_made_to_wait() -> None:
    def insist() -> None:
        with stopping.listening():
            assert stopping.ask(signal.SIGTERM)
            assert not stopping.ask(signal.SIGINT)
            assert not stopping.ask(signal.SIGTERM)
            stopping.check()

    with pytest.raises(Stopped) as caught:
        insist()
    assert caught.value.number == signal.SIGTERM  # the first one counts


def test_a_handler_of_errors_does_not_take_it_for_one() -> None:
    assert not issubclass(Stopped, Exception)


def test_a_wish_after_the_last_check_is_heeded_at_the_end() -> None:
    reached: list[str] = []

    def work() -> None:
        with stopping.listening():
            stopping.check()
            assert stopping.ask(signal.SIGINT)
            reached.append("end of the block")
        reached.append("what comes after")

    with pytest.raises(Stopped):
        work()
    assert reached == ["end of the block"]


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    def work() -> None:
        with stopping.listening():
            assert stopping.ask(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert refused_to_wait()


@pytest.mark.parametrize("error", [None, Stopped(2), ZeroDivisionError()])
def test_nothing_lingers_after_the_block(error: BaseException | None) -> None:
    def work() -> None:
        with stopping.listening():
            if error is not None:
                stopping.ask(signal.SIGTERM)
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    stopping.check()
    assert refused_to_wait()
    with stopping.listening():
        stopping.check()  # the next block knows of no earlier wish


def test_a_process_with_fewer_items_checks_as_often_as_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[None] = []
    monkeypatch.setattr(stopping, "check", lambda: checks.append(None))
    for items, expected in ((2, 3), (3, 3), (4, 4)):
        assert list(stopping.interruptible(range(items), checks=3)) == list(range(items))
        assert len(checks) == expected
        checks.clear()


def test_the_wish_of_another_process_is_heeded() -> None:
    def work(wish: int) -> None:
        with stopping.listening():
            stopping.check(lambda own: max(own, wish))

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
        with stopping.listening():
            for item in stopping.interruptible(items()):
                if item == 2:
                    assert stopping.ask(signal.SIGINT)
                used.append(item)  # what is begun is finished

    with pytest.raises(Stopped):
        work()
    assert used == [0, 1, 2]
    assert given == [0, 1, 2, 3]
