"""Worker processes that decode images, and the error message when one of them fails."""

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
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# the usual cause of a signal
SIGNAL_CAUSES: dict[int, str] = {
    signal.SIGKILL: "as the system does when memory runs out: end other programs, or try a smaller --batch_size",
    signal.SIGBUS: "as when shared memory runs out: make /dev/shm larger, or try a smaller --batch_size",
}


class Failure(NamedTuple):
    """What a worker returns instead of an image that it cannot decode."""

    text: str
    trace: str = ""  # of the worker, for callers from Python


class WorkerLog:
    """The image that each worker is decoding, in memory that the main process can read after a worker has died."""

    def __init__(self, num_workers: int) -> None:
        self._cells = RawArray(c_int64, 2 * num_workers + 1)  # a pid and an index for each worker; whether it is closed

    def record(self, worker: int, index: int) -> None:
        """Called in a worker, by its number, before it decodes an image."""
        self._cells[2 * worker], self._cells[2 * worker + 1] = os.getpid(), index

    def index_of(self, pid: int | None) -> int | None:
        """The index of the last image of a worker; None: it had none."""
        cells = list(self._cells)
        return dict(zip(cells[:-1:2], cells[1:-1:2], strict=True)).get(pid or -1)

    @property
    def closed(self) -> bool:
        """Whether the main process needs no more images."""
        return bool(self._cells[-1])

    def close(self) -> None:
        """Called in the main process when it needs no more images."""
        self._cells[-1] = 1


class LoggedDataset(Dataset[Tensor | Failure]):
    """Images, with a log of which worker decodes which."""

    def __init__(self, images: StreamedImages, log: WorkerLog) -> None:
        self.images, self.log = images, log

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | Failure:
        """One image, uint8 (3, S, S), or why there is none."""
        info = get_worker_info()
        self.log.record(info.id if info else 0, index)
        if self.log.closed:  # the rest of this batch is not needed
            return Failure("")
        try:
            return self.images[index]
        except UserError as error:  # every image could be decoded when the set was loaded: this one has changed
            return Failure(str(error))
        except Exception as error:  # noqa: BLE001 - a data set of the user's own may raise anything
            text = f"worker {os.getpid()} failed to decode {_image_name(self.images, index)}: {_describe(error)}"
            return Failure(text, traceback.format_exc())


def decode_batches(images: StreamedImages, wanted: Sequence[Tensor], *, pin_memory: bool) -> Iterator[Tensor]:
    """The pixels of each wanted batch, decoded by worker processes that live as long as the iteration."""
    if not wanted:
        return
    num_workers = min(_num_cores(), MAX_WORKERS, len(wanted))
    log = WorkerLog(num_workers)
    loader = DataLoader(
        LoggedDataset(images, log),
        batch_sampler=[indices.tolist() for indices in wanted],
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=stream("workers"),  # else each pass over the images draws a seed from the default generator
        collate_fn=_collate,
        worker_init_fn=_init_worker,
    )
    with _signals_blocked(), _sigchld_handler_kept():
        batches = iter(loader)
    # torch's own list: one that has died by now is no active child of this process any more
    workers: list[BaseProcess] = list(batches._workers)  # type: ignore[attr-defined]
    try:
        for indices in wanted:
            try:
                pixels = next(batches)
            except (RuntimeError, OSError, EOFError):
                pixels = _worker_failure(workers, images, log, awaited=indices)
                if pixels is None:
                    raise
            if isinstance(pixels, Failure):  # torch's own error is gone by now: it would keep the workers
                raise RunFailed(pixels.text) from (RuntimeError(pixels.trace) if pixels.trace else None)
            yield pixels
    finally:
        log.close()
        del batches  # ends the workers now, though a traceback may keep this frame


def _collate(items: list[Tensor | Failure]) -> Tensor | Failure:
    """One tensor, or the first failure."""
    failure = next((item for item in items if isinstance(item, Failure)), None)
    return failure or torch.utils.data.default_collate(items)


def _init_worker(_number: int) -> None:
    """Ignore Ctrl-C and a scheduler's SIGTERM, which the main process handles; only its own SIGTERM ends a worker."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    if hasattr(signal, "sigwaitinfo"):  # macOS does not say which process sent a signal
        threading.Thread(target=_exit_on_sigterm_of_parent, daemon=True).start()
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _exit_on_sigterm_of_parent() -> None:
    main = multiprocessing.parent_process()
    while main is not None and signal.sigwaitinfo([signal.SIGTERM]).si_pid != main.pid:
        pass
    os._exit(0)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Within the block signals are pending, and processes that it starts block them from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigchld_handler_kept() -> Iterator[None]:
    """Undo torch's handler of SIGCHLD, which raises anywhere: the next batch that is awaited raises the error."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before)


def _worker_failure(
    workers: list[BaseProcess], images: StreamedImages, log: WorkerLog, *, awaited: Tensor
) -> Failure | None:
    """Which worker died, how, and at which image; None: none did."""
    ended = wait([one.sentinel for one in workers], timeout=1)  # a worker may end a moment after its pipe breaks
    dead = next((one for one in workers if one.sentinel in ended), None)
    if dead is None:
        return None
    dead.join()  # its exit code may come a moment after its end
    at = log.index_of(dead.pid)
    image = f"one of the images {int(awaited.min())} to {int(awaited.max())}" if at is None else _image_name(images, at)
    code = dead.exitcode or 0
    names = {number.value: number.name for number in signal.Signals}
    how = f"was killed by {names.get(-code, f'signal {-code}')}" if code < 0 else f"ended with exit code {code}"
    cause = f", {SIGNAL_CAUSES[-code]}" if -code in SIGNAL_CAUSES else ""
    return Failure(f"worker {dead.pid} {how} while it decoded {image}{cause}")


def _image_name(images: StreamedImages, index: int) -> str:
    """An image by its file, or by its number where items are no paths (indexing them could fail again)."""
    item = images.items[index] if isinstance(images.items, tuple) else None
    return str(item) if isinstance(item, Path) else f"image {index}, counted from 0"


def _describe(error: Exception) -> str:
    """An exception and where it was raised, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = brief(error)
    return f"{type(error).__name__}{': ' if text else ''}{text} (at {frame.filename}:{frame.lineno})"


def _num_cores() -> int:
    """Cores for this process: a container or a scheduler may allow fewer, other processes of the run share them."""
    allowed = getattr(os, "sched_getaffinity", None)  # Linux only
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    return max(1, cores // launch().local_world_size)
