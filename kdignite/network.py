"""Time limits of connections."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_SECONDS = 15.0


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Within the block new connections have a time limit: the only one that torch's downloads take."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
