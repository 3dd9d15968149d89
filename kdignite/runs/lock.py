"""One process at a time works in a run folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdignite.errors import UserError

LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)  # what POSIX allows a system to answer if another process has the lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder within the block.

    The system gives the lock back when its process ends, however it ends: a lock file that ``kill -9`` left behind is
    simply taken over. It is a lock of the process (POSIX), which the workers that it forks do not share: they may
    live for some seconds longer.
    """
    path = folder / LOCK
    descriptor = _held(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go, so that nobody locks a file that is about to vanish
        os.close(descriptor)


def _held(path: Path) -> int:
    """A descriptor of the lock file that this process holds the lock of."""
    while True:
        try:
            # O_NOFOLLOW: a link here would let a run folder from elsewhere write to any file
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written to: {error.strerror}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in HELD:
                raise UserError(f"{path} cannot be locked: {error.strerror}") from error
            raise UserError(
                f"{path.parent} is in progress in another process (pid {holder or 'unknown'}): wait for it, or stop it"
            ) from None
        if _is_still(path, descriptor):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed the file in between: a new one has to be made


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
