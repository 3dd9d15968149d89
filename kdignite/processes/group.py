"""The process group of a run, and the place of this process in it."""

import gc
import os
import secrets
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from kdignite.errors import RunFailed
from kdignite.processes.launch import Launch, launch

TIMEOUT = timedelta(hours=24)  # one process may download for hours; the end of a process is noticed at once
POLL_S = 0.02


class Group:
    """The group that this process belongs to, at most one."""

    place = Launch()
    control: Any = None  # gloo, for everything but gradients; None: the default group
    gradients: Any = None  # NCCL, between GPUs, for all runs of this process; None: not needed yet
    store: Any = None  # shared by all; kept when a group is closed, since without torchrun the first process serves it
    is_reporter: bool | None = None
    is_left = False  # after an error, with NCCL open


def rank() -> int:
    return Group.place.rank


def world_size() -> int:
    return Group.place.world_size


def local_rank() -> int:
    return Group.place.local_rank


def is_rank0() -> bool:
    """Whether this process names, writes and prints."""
    return rank() == 0


def is_reporter() -> bool:
    """Whether this process prints how a command ended: the first one, or the one that failed first."""
    return launch().rank == 0 if Group.is_reporter is None else Group.is_reporter


@contextmanager
def process_group() -> Iterator[None]:
    """Within the block the processes of torchrun form a group, or use one that exists; nothing where there is one."""
    import torch.distributed as dist

    existing = dist.is_initialized()
    if world_size() > 1 or not (existing or launch().world_size > 1):
        yield
        return
    try:
        _join_existing() if existing else _open()
        yield
    except BaseException as error:
        Group.is_reporter = _claim_report(error)
        Group.is_left = Group.gradients is not None and not existing
        if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "/gloo/" in str(error)):
            raise RunFailed("another process of this run has ended, so this one cannot go on") from error
        raise
    finally:
        _close(existing=existing or Group.is_left)  # NCCL's end waits for processes that may wait for this one


def end_left_group(code: int, error: Exception | None = None) -> None:
    """End this process at once where an error has left a group, which even the end of Python would wait for."""
    if not Group.is_left:
        return
    if error is not None:
        traceback.print_exception(error)
    for one in filter(None, (sys.stdout, sys.stderr)):  # None: closed before the program started
        one.flush()
    os._exit(code)


def free_group_threads() -> None:
    """End the threads of a closed group, which would abort the process if they freed tensors while Python ends."""
    if launch().world_size > 1:
        gc.collect()


def _open() -> None:
    # Not ``idist.initialize``, which takes no store.
    import ignite.distributed as idist
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, number, size = next(rendezvous("env://"))
    Group.store = dist.PrefixStore(_shared_prefix(store, number, size), store)
    dist.init_process_group("gloo", store=Group.store, rank=number, world_size=size, timeout=TIMEOUT)
    Group.place, Group.is_reporter = launch(), None
    # in a job of SLURM Ignite takes the number of the task for the local rank, which all that torchrun starts share
    job = os.environ.pop("SLURM_JOB_ID", None)
    idist.sync()
    if job is not None:
        os.environ["SLURM_JOB_ID"] = job


def _shared_prefix(store: Any, number: int, size: int) -> str:
    """A prefix for keys of the store that only the processes of this attempt have.

    After a restart the store still holds the addresses of the earlier processes, and torch now and then calls those;
    ``TORCHELASTIC_RESTART_COUNT`` differs between machines. The first process publishes a new prefix, each other
    answers with a token of its own, and the first confirms.
    """
    token = secrets.token_hex(8)
    while number == 0:
        store.set("call", token)
        answers = [store.get(f"answer{other}").decode() for other in range(1, size)]
        if all(answer.startswith(token) for answer in answers):
            store.set("met", " ".join(answers))
            return token
        time.sleep(POLL_S)
    while True:
        prefix = store.get("call").decode()
        answer = f"{prefix}:{token}"
        store.set(f"answer{number}", answer)
        if store.check(["met"]) and answer in store.get("met").decode().split():
            return str(prefix)
        time.sleep(POLL_S)


def _join_existing() -> None:
    import ignite.distributed as idist
    import torch.distributed as dist

    Group.place = Launch(idist.get_rank(), idist.get_world_size(), idist.get_local_rank(), idist.get_nproc_per_node())
    Group.control = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=TIMEOUT)


def _close(*, existing: bool) -> None:
    import ignite.distributed as idist

    Group.place, Group.control, Group.gradients = Launch(), None, None
    if not existing:
        idist.finalize()
    free_group_threads()


def _claim_report(error: BaseException) -> bool:
    """Whether this process reports the end: the first to fail, or rank 0 where all were stopped."""
    failed = isinstance(error, Exception)
    try:
        before = Group.store.add("told", int(failed)) - failed
    except (RuntimeError, AttributeError):  # no store: the group was never opened, or the launcher has gone
        return launch().rank == 0
    return before == 0 and (failed or launch().rank == 0)
