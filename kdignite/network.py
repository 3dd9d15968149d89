"""How long a server may be silent."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

ANSWER_SECONDS = 15.0


@contextmanager
def socket_timeout(seconds: float) -> Iterator[None]:
    """Within the block new connections may be silent for so long: the one limit that torch's downloads can be given."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
