"""One process at a time works in a run folder, or on a part of one."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdignite.errors import UserError

LOCK = ".lock"
HELD = (errno.EACCES, errno.EAGAIN)  # either, by POSIX, if another process holds the lock


@contextmanager
def locked(folder: Path, *, file: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Hold a lock of a folder: POSIX, so that ``kill -9`` releases it and forked workers do not inherit it."""
    path = folder / file
    descriptor = _acquire(path, wait=wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that no other process locks a file about to vanish
        os.close(descriptor)


def check_idle(folder: Path) -> None:
    """Refuse a folder in which another process is at work."""
    if (folder / LOCK).is_file():  # perhaps of a process that was killed
        with locked(folder):
            pass


def _acquire(path: Path, *, wait: bool) -> int:
    """A descriptor of the lock file, which this process has locked."""
    while True:
        try:
            # O_NOFOLLOW: a link here would let a run folder from elsewhere write to any file
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UserError(f"{path.parent} cannot be written to: {error.strerror}") from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno not in HELD:
                raise UserError(f"{path} cannot be locked: {error.strerror}") from error
            raise UserError(
                f"{path.parent} is in progress in another process (pid {holder or 'unknown'}): wait for it, or stop it"
            ) from None
        if _is_same_file(path, descriptor):
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # its holder removed the file in between


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
