"""A file that keeps the one before it, and what happens where a disk has no room."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdignite import checkpoints, files

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"
Payload = dict[str, Any]


def numbered(number: int) -> Payload:
    return {"number": number, "w": torch.full((50_000,), float(number))}


def save(folder: Path, payload: Payload) -> None:
    checkpoints.write(folder / LAST, payload, previous=folder / PREVIOUS)


def numbers(folder: Path) -> dict[str, int]:
    """What every file in the folder holds, all of them complete."""
    return {path.name: checkpoints.read(path)["number"] for path in folder.iterdir()}


# --- the file before


def test_the_old_file_takes_the_other_name(tmp_path: Path) -> None:
    seen = []
    for number in (1, 2, 3):
        save(tmp_path, numbered(number))
        seen.append(numbers(tmp_path))
    assert seen == [{LAST: 1}, {LAST: 2, PREVIOUS: 1}, {LAST: 3, PREVIOUS: 2}]


def test_without_another_name_the_old_file_is_dropped_and_the_one_before_it_stays(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, numbered(number))
    checkpoints.write(tmp_path / LAST, numbered(3))
    assert numbers(tmp_path) == {LAST: 3, PREVIOUS: 1}


def test_where_the_old_file_was_removed_the_one_before_it_stays(tmp_path: Path) -> None:
    for number in (1, 2):
        save(tmp_path, numbered(number))
    (tmp_path / LAST).unlink()
    save(tmp_path, numbered(3))
    assert numbers(tmp_path) == {LAST: 3, PREVIOUS: 1}


def test_the_new_file_is_on_the_disk_before_any_name_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        save(tmp_path, numbered(number))
    calls: list[tuple[str, dict[str, int]]] = []
    fsync, replace = os.fsync, os.replace

    def named() -> dict[str, int]:
        return {name: number for name, number in numbers(tmp_path).items() if not name.startswith(".tmp-")}

    monkeypatch.setattr(os, "fsync", lambda at: [calls.append(("sync", named())), fsync(at)])
    monkeypatch.setattr(os, "replace", lambda *paths: [calls.append(("rename", named())), replace(*paths)])
    save(tmp_path, numbered(3))
    assert calls == [
        ("sync", {LAST: 2, PREVIOUS: 1}),
        ("rename", {LAST: 2, PREVIOUS: 1}),
        ("rename", {PREVIOUS: 2}),  # a process that ends here leaves the state before
        ("sync", {LAST: 3, PREVIOUS: 2}),
    ]


# --- without room


def leaves_both(folder: Path, write: Callable[[], None]) -> OSError:
    """The error of a save that leaves both files as they were, and no other."""
    for number in (1, 2):
        save(folder, numbered(number))
    with pytest.raises(OSError) as caught:  # noqa: PT011 - what it says is for the caller to check
        write()
    assert numbers(folder) == {LAST: 2, PREVIOUS: 1}
    save(folder, numbered(3))
    assert numbers(folder) == {LAST: 3, PREVIOUS: 2}
    return caught.value


class Full:
    """A file on a disk that is full after some bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: Any) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self.file.write(data))

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("room", [0, 1, 100, 10_000, 199_999])
def test_a_disk_that_is_full_after_some_bytes_leaves_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    atomically = files.write_atomically

    def full(path: Path, save: Callable[[Any], Any], **given: Any) -> None:
        atomically(path, lambda file: save(Full(file, room)), **given)

    def write() -> None:
        with monkeypatch.context() as limited:
            limited.setattr(checkpoints.files, "write_atomically", full)
            save(tmp_path, numbered(3))

    error = leaves_both(tmp_path, write)
    assert (error.errno, error.strerror) == (errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("room", [0, 1_000, 100_000])
def test_a_disk_that_really_gives_no_more_room_is_told_so(tmp_path: Path, room: int) -> None:
    """In another process, for which no file may grow beyond a limit."""
    hears, says = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)  # those of the parent are not here, and would be waited for
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the signal ends the process

            def write() -> None:
                before = resource.getrlimit(resource.RLIMIT_FSIZE)
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
                try:
                    save(tmp_path, numbered(3))
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, before)

            os.write(says, str(leaves_both(tmp_path, write)).encode())
        finally:
            os._exit(0)
    os.close(says)
    with os.fdopen(hears) as told:
        assert told.read() == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}"
    os.waitpid(child, 0)


def test_a_rename_that_fails_loses_neither_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one: the old file has its other name by then, under which a resumed run finds it."""
    for number in (1, 2):
        save(tmp_path, numbered(number))
    replace, calls = os.replace, []

    def second_fails(*paths: Any) -> None:
        calls.append(paths)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        replace(*paths)

    monkeypatch.setattr(os, "replace", second_fails)
    with pytest.raises(OSError, match="Input/output error"):
        save(tmp_path, numbered(3))
    assert numbers(tmp_path) == {PREVIOUS: 2}
    save(tmp_path, numbered(4))
    assert numbers(tmp_path) == {LAST: 4, PREVIOUS: 2}
