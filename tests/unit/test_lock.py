"""One process at a time in a run folder: real processes, killed ones among them."""

import errno
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from kdignite import runs
from kdignite.errors import UserError
from kdignite.runs.lock import LOCK


class Other:
    """The other process, as seen from here."""

    def __init__(self, pid: int, hears: int, lets_go: int) -> None:
        self.pid, self.hears, self.lets_go, self.is_there = pid, hears, lets_go, True

    def told(self) -> str:
        """What it says next."""
        return os.read(self.hears, 1000).decode()

    def end(self) -> None:
        """Let it go on to its end."""
        if self.is_there:
            os.close(self.lets_go)
            os.waitpid(self.pid, 0)
            self.is_there = False

    def kill(self) -> None:
        """As ``kill -9`` does."""
        if self.is_there:
            os.kill(self.pid, signal.SIGKILL)
            self.end()


Say = Callable[[str], object]


@contextmanager
def elsewhere(work: Callable[[Say, int], object]) -> Iterator[Other]:
    """Another process that does the work; killed at the end if it is still there."""
    (hears, says), (waits, lets_go) = os.pipe(), os.pipe()
    pid = os.fork()  # no new interpreter: importing torch would take longer than the test
    if pid == 0:
        try:
            os.close(lets_go)
            work(lambda text: os.write(says, text.encode()), waits)
        finally:
            os._exit(0)
    os.close(says)
    os.close(waits)
    other = Other(pid, hears, lets_go)
    try:
        yield other
    finally:
        other.kill()
        os.close(hears)


def holder(folder: Path, *, with_worker: bool = False) -> Callable[[Say, int], None]:
    """Hold the lock until the other end of a pipe is closed; a worker that is forked meanwhile lives for longer."""

    def hold(say: Say, waits: int) -> None:
        with runs.locked(folder):
            worker = os.fork() if with_worker else None
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            say(f"held {worker}")
            os.read(waits, 1)

    return hold


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught, runs.locked(folder):
        pass
    assert "\n" not in str(caught.value)
    return str(caught.value)


def taken(folder: Path) -> str:
    """What the lock file says while this process holds it."""
    with runs.locked(folder):
        return (folder / LOCK).read_text()


def test_the_lock_file_names_its_holder_and_is_gone_afterwards(tmp_path: Path) -> None:
    assert taken(tmp_path) == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []
    assert taken(tmp_path) == f"{os.getpid()}\n"


def test_the_lock_file_is_gone_after_an_error_too(tmp_path: Path) -> None:
    def fail() -> None:
        with runs.locked(tmp_path):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_refused_until_the_first_one_is_done(tmp_path: Path) -> None:
    with elsewhere(holder(tmp_path)) as process:
        assert process.told() == "held None"
        assert refused(tmp_path) == (
            f"{tmp_path} is in progress in another process (pid {process.pid}): wait for it, or stop it"
        )
        assert (tmp_path / LOCK).read_text() == f"{process.pid}\n"  # the attempt changed nothing
        process.end()
    assert list(tmp_path.iterdir()) == []
    assert taken(tmp_path) == f"{os.getpid()}\n"


def test_a_holder_that_did_not_get_to_write_its_pid_is_a_holder(tmp_path: Path) -> None:
    with elsewhere(holder(tmp_path)) as process:
        assert process.told() == "held None"
        os.truncate(tmp_path / LOCK, 0)
        assert "in another process (pid unknown)" in refused(tmp_path)


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    with elsewhere(holder(tmp_path)) as process:
        assert process.told() == "held None"
        process.kill()
    assert (tmp_path / LOCK).read_text() == f"{process.pid}\n"
    assert taken(tmp_path) == f"{os.getpid()}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_pid_that_is_longer_than_ours_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("9" * 40)
    assert taken(tmp_path) == f"{os.getpid()}\n"


def test_the_workers_of_a_killed_process_do_not_hold_its_lock(tmp_path: Path) -> None:
    with elsewhere(holder(tmp_path, with_worker=True)) as process:
        worker = int(process.told().removeprefix("held "))
        try:
            assert f"(pid {process.pid})" in refused(tmp_path)
            process.kill()
            os.kill(worker, 0)  # it is alive, with every file that its parent had open
            assert taken(tmp_path) == f"{os.getpid()}\n"
        finally:
            os.kill(worker, signal.SIGKILL)


def test_a_lock_file_that_vanishes_while_it_is_taken_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removes the file before it lets the lock go: who waited has the lock of a file that nobody sees."""
    lockf, vanished = fcntl.lockf, []

    def after_the_holder(descriptor: int, how: int) -> None:
        lockf(descriptor, how)
        if not vanished:
            vanished.append(descriptor)
            (tmp_path / LOCK).unlink()

    monkeypatch.setattr(fcntl, "lockf", after_the_holder)
    with runs.locked(tmp_path):
        with elsewhere(lambda say, _: say(refused(tmp_path))) as process:
            assert f"in another process (pid {os.getpid()})" in process.told()
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    assert vanished
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_its_place_is_refused_and_not_followed(tmp_path: Path, there: bool) -> None:
    folder, victim = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    if there:
        victim.write_text("precious")
    (folder / LOCK).symlink_to(victim)
    assert re.fullmatch(rf"{folder} cannot be written to: Too many .*symbolic links.*", refused(folder))
    assert victim.read_text() == "precious" if there else not victim.exists()
    assert (folder / LOCK).is_symlink()


def test_a_folder_that_is_gone_or_no_folder_is_told(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone") == f"{tmp_path / 'gone'} cannot be written to: No such file or directory"
    (tmp_path / "file").write_text("")
    assert refused(tmp_path / "file") == f"{tmp_path / 'file'} cannot be written to: Not a directory"


def failing(error: OSError) -> Callable[..., NoReturn]:
    def call(*_: object) -> NoReturn:
        raise error

    return call


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", failing(PermissionError(errno.EACCES, "Permission denied")))
    assert refused(tmp_path) == f"{tmp_path} cannot be written to: Permission denied"


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", failing(OSError(errno.ENOLCK, "No locks available")))
    assert refused(tmp_path) == f"{tmp_path / LOCK} cannot be locked: No locks available"


def test_the_name_of_a_run_in_progress_is_refused_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with elsewhere(holder(folder)) as process:
        assert process.told() == "held None"
        with pytest.raises(UserError, match=rf"mine is in progress in another process \(pid {process.pid}\)"):
            runs.check_name(tmp_path, "mine")
        process.kill()
    with pytest.raises(UserError, match="choose another --name"):
        runs.check_name(tmp_path, "mine")
