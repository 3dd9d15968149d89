"""What all tests share."""

import signal


def pytest_configure() -> None:
    """Ctrl-C ends things, also where a shell started the tests in the background with that signal ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
