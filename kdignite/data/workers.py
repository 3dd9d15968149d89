"""Worker processes that decode images, and what is told when one of them fails."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_int64
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from kdignite.data.source import StreamedImages
from kdignite.errors import RunFailed, UserError, brief
from kdignite.processes.launch import launch
from kdignite.streams import stream

MAX_WORKERS = 8
STOPPING = (signal.SIGINT, signal.SIGTERM)

# what usually sends a signal that nobody sent on purpose
CAUSES: dict[int, str] = {
    signal.SIGKILL: "as the system does when memory runs out: end other programs, or try a smaller --batch_size",
    signal.SIGBUS: "as when shared memory runs out: make /dev/shm larger, or try a smaller --batch_size",
}


class Failure(NamedTuple):
    """What comes instead of images."""

    kind: type[Exception]  # UserError or RunFailed
    text: str
    trace: str = ""  # of the worker, for those who call from Python


class WorkerLog:
    """What the workers are at, in memory that the main process can read after they have died."""

    def __init__(self, num_workers: int) -> None:
        """Nobody has begun."""
        self._cells = RawArray(c_int64, 2 * num_workers + 1)  # a pid and an index for each; whether it is over

    def note(self, worker: int, index: int) -> None:
        """A worker, by its number, begins with an image."""
        self._cells[2 * worker], self._cells[2 * worker + 1] = os.getpid(), index

    def image_of(self, pid: int | None) -> int | None:
        """The index of the image that a worker was at; None: it had not begun."""
        cells = list(self._cells)
        return dict(zip(cells[:-1:2], cells[1:-1:2], strict=True)).get(pid or -1)

    @property
    def over(self) -> bool:
        """Whether nobody waits for images any more."""
        return bool(self._cells[-1])

    def close(self) -> None:
        """Nobody waits any more."""
        self._cells[-1] = 1


class LoggedDataset(Dataset[Tensor | Failure]):
    """Images whose workers note what they are at."""

    def __init__(self, store: StreamedImages, diary: WorkerLog) -> None:
        self.store = store
        self.diary = diary

    def __len__(self) -> int:
        """The number of images."""
        return len(self.store)

    def __getitem__(self, index: int) -> Tensor | Failure:
        """One image, uint8 (3, S, S), or why there is none."""
        info = get_worker_info()
        self.diary.note(info.id if info else 0, index)
        if self.diary.over:  # nobody waits for the rest of this batch
            return Failure(RunFailed, "")
        try:
            return self.store[index]
        except UserError as error:
            return Failure(UserError, str(error))
        except Exception as error:  # noqa: BLE001 - a data set of the user's own may raise anything
            text = f"worker {os.getpid()} failed to decode {_name_of(self.store, index)}: {_described(error)}"
            return Failure(RunFailed, text, traceback.format_exc())


def decoded(store: StreamedImages, wanted: Sequence[Tensor], *, pin_memory: bool) -> Iterator[Tensor]:
    """The pixels of each wanted batch, decoded by worker processes that live as long as the iteration."""
    if not wanted:
        return
    num_workers = min(_num_cores(), MAX_WORKERS, len(wanted))
    diary = WorkerLog(num_workers)
    loader = DataLoader(
        LoggedDataset(store, diary),
        batch_sampler=[indices.tolist() for indices in wanted],
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=stream("workers"),  # else each pass over the images draws a seed from the default generator
        collate_fn=_collated,
        worker_init_fn=_ignore_all_but_main_process,
    )
    with _no_signals(), _same_handler_of_children():
        batches = iter(loader)
    # torch's own list: one that has died by now is no active child of this process any more
    workers: list[BaseProcess] = list(batches._workers)  # type: ignore[attr-defined]
    try:
        for indices in wanted:
            try:
                pixels = next(batches)
            except (RuntimeError, OSError, EOFError):
                pixels = _worker_failure(workers, store, diary, awaited=indices)
                if pixels is None:
                    raise
            if isinstance(pixels, Failure):  # torch's own error is gone by now: it would keep the workers
                raise pixels.kind(pixels.text) from (RuntimeError(pixels.trace) if pixels.trace else None)
            yield pixels
    finally:
        diary.close()
        del batches  # ends the workers now, though a traceback may keep this frame


def _collated(items: list[Tensor | Failure]) -> Tensor | Failure:
    """One tensor, or the first failure."""
    images = []
    for item in items:
        if isinstance(item, Failure):
            return item
        images.append(item)
    return torch.utils.data.default_collate(images)  # type: ignore[no-any-return]


def _ignore_all_but_main_process(_number: int) -> None:
    """Ctrl-C in a terminal and a scheduler's SIGTERM reach every process of a run; when to stop, the main one decides.

    SIGTERM is also how that process ends a worker, even while Python exits: ignored altogether, it would wait for ever.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    if hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sent a signal
        threading.Thread(target=_end_when_told, daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _end_when_told() -> None:
    main = multiprocessing.parent_process()
    while main is not None and signal.sigwaitinfo([signal.SIGTERM]).si_pid != main.pid:
        pass
    os._exit(0)


@contextmanager
def _no_signals() -> Iterator[None]:
    """Within the block signals wait: the processes that it starts are born deaf to them, with no gap in between."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _same_handler_of_children() -> Iterator[None]:
    """Undo what torch's first DataLoader installs: that a worker's death raises wherever the program happens to be.

    That may be in the middle of a step or a save. Without its handler the error comes where the next batch is awaited.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _worker_failure(
    workers: list[BaseProcess], store: StreamedImages, diary: WorkerLog, *, awaited: Tensor
) -> Failure | None:
    """Which worker died, how, and over which image; None: none did."""
    ended = wait([one.sentinel for one in workers], timeout=1)  # its end may show a moment after its silence
    dead = next((one for one in workers if one.sentinel in ended), None)
    if dead is None:
        return None
    dead.join()  # its exit code may come a moment after its end
    at = diary.image_of(dead.pid)
    image = f"one of the images {int(awaited.min())} to {int(awaited.max())}" if at is None else _name_of(store, at)
    code = dead.exitcode or 0
    names = {number.value: number.name for number in signal.Signals}
    how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
    cause = f", {CAUSES[-code]}" if -code in CAUSES else ""
    return Failure(RunFailed, f"worker {dead.pid} {how} while it decoded {image}{cause}")


def _name_of(store: StreamedImages, index: int) -> str:
    """An image by its file; where items may be anything, indexing them could fail again: by its number."""
    item = store.items[index] if isinstance(store.items, tuple) else None
    return str(item) if isinstance(item, Path) else f"image {index}, counted from 0"


def _described(error: Exception) -> str:
    """An exception and where it was raised, in a line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    said = brief(error)
    return f"{type(error).__name__}{': ' if said else ''}{said} (at {frame.filename}:{frame.lineno})"


def _num_cores() -> int:
    """Cores for this process: a container or a scheduler may allow fewer than there are, others may share them."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // launch().local_world_size)
