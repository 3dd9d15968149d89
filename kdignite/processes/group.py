"""Who this process is among those that work on a run, and the group that they form."""

import gc
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from kdignite.errors import RunFailed
from kdignite.processes.launch import Launch, launch

LONGEST_WAIT = timedelta(hours=24)  # for one that downloads, say; one that has died is noticed at once
MEETING_SECONDS = 0.02  # between two looks whether all are there


class Group:
    """What this process belongs to; a process is in one group at most."""

    me = Launch()
    control: Any = None  # where they agree; None: the default group
    gradients: Any = None  # between GPUs, for all runs of this process; None: not needed yet
    store: Any = None  # shared by all; kept when a group is closed, since without torchrun the first process serves it
    is_reporter: bool | None = None


def rank() -> int:
    """The number of this process among those that work on the run, from 0."""
    return Group.me.rank


def world() -> int:
    """How many processes work on the run."""
    return Group.me.world


def local_rank() -> int:
    """The number of this process among those on its machine, from 0."""
    return Group.me.local_rank


def is_rank0() -> bool:
    """Whether this process is the one that names, writes and prints."""
    return Group.me.rank == 0


@contextmanager
def joined() -> Iterator[None]:
    """Within the block the processes that torchrun started work together; nothing where it started one.

    A group that is there already, such as that of ``idist.Parallel``, is used and left as it is.
    """
    import torch.distributed as dist

    if world() > 1 or not (dist.is_initialized() or launch().world > 1):
        yield
        return
    theirs = dist.is_initialized()
    try:
        _adopt() if theirs else _open()
        yield
    except BaseException as error:
        Group.is_reporter = _may_tell(error)
        if isinstance(error, RuntimeError) and _is_of_a_lost_process(error):
            raise RunFailed("another process of this run has ended, so this one cannot go on") from error
        raise
    finally:
        _close(theirs=theirs)


def is_reporter() -> bool:
    """Whether this process is the one that says how a command ended: the first one, or the one that alone failed."""
    return launch().rank == 0 if Group.is_reporter is None else Group.is_reporter


def end_threads() -> None:
    """End the threads of a group that was closed: models that nobody can reach any more keep them alive.

    A thread that still gives tensors back while Python ends would abort the process. Called when a group is closed, and
    once more where an error held such models until it was told.
    """
    if launch().world > 1:
        gc.collect()


def _open() -> None:
    import ignite.distributed as idist
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, number, size = next(rendezvous("env://"))
    Group.store = dist.PrefixStore(_meet(store, number, size), store)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=Group.store, rank=number, world_size=size, timeout=LONGEST_WAIT)
    Group.me, Group.is_reporter = launch(), None
    # in a job of SLURM Ignite takes the number of the task for the local rank, which all that torchrun starts share
    job = os.environ.pop("SLURM_JOB_ID", None)
    idist.sync()
    if job is not None:
        os.environ["SLURM_JOB_ID"] = job


def _meet(store: Any, number: int, size: int) -> str:
    """A word that only the processes of this attempt share.

    After a restart torch finds the addresses of the processes before in the store, and now and then calls those. Here
    the first process calls with a new word, each answers it with one of its own, and goes on when that is confirmed.
    """
    mine = secrets.token_hex(8)
    if number == 0:
        store.set("call", mine)
        while True:
            answers = [store.get(f"answer{other}").decode() for other in range(1, size)]
            if all(answer.startswith(mine) for answer in answers):
                store.set("met", " ".join(answers))
                return mine
            time.sleep(MEETING_SECONDS)
    while True:
        call = store.get("call").decode()
        answer = f"{call}:{mine}"
        store.set(f"answer{number}", answer)
        if store.check(["met"]) and answer in store.get("met").decode().split():
            return str(call)
        time.sleep(MEETING_SECONDS)


def _adopt() -> None:
    import ignite.distributed as idist
    import torch.distributed as dist

    Group.me = Launch(idist.get_rank(), idist.get_world_size(), idist.get_local_rank(), idist.get_nproc_per_node())
    Group.control = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def _close(*, theirs: bool) -> None:
    import ignite.distributed as idist

    Group.me, Group.control, Group.gradients = Launch(), None, None
    if not theirs:
        idist.finalize()
    end_threads()


def _may_tell(error: BaseException) -> bool:
    """Whether this process tells how it ended: of those that fail the first to come, of those that are stopped one."""
    failed = isinstance(error, Exception)
    try:
        before = Group.store.add("told", int(failed)) - failed
    except (RuntimeError, AttributeError):  # no store: the group was never opened, or the launcher has gone
        return launch().rank == 0
    return before == 0 and (failed or launch().rank == 0)


def _is_of_a_lost_process(error: RuntimeError) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "/gloo/" in str(error)
