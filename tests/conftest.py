"""What all tests share."""

import signal

import pytest


def pytest_configure() -> None:
    """Ctrl-C ends things, also where a shell started the tests in the background with that signal ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_was_said() -> None:
    """Each test is as a process of its own: what is printed once is printed again."""
    from kdignite.console import say_once

    say_once.cache_clear()
