"""Processes that work on one run, started as torchrun starts them, or by torchrun itself."""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from .test_command_line import environment

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


class Ended(NamedTuple):
    """How one process ended."""

    code: int
    out: str
    errors: str


def started(words: list[str], cwd: Path, *, world: int = 2, **more: str) -> list[subprocess.Popen[str]]:
    """``python WORDS`` in each process of a group, in the order of their ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd,
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **{key: str(shared[key]) for key in shared}, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def ended(group: list[subprocess.Popen[str]]) -> list[Ended]:
    """How the processes of a group ended."""
    told = [one.communicate(timeout=60) for one in group]
    return [Ended(one.returncode, *texts) for one, texts in zip(group, told, strict=True)]


def ended_by_torchrun(group: list[subprocess.Popen[str]], *, seconds: float = 120) -> list[Ended]:
    """The same; where one fails, the others get SIGTERM, as from torchrun."""
    deadline = time.monotonic() + seconds
    while not any(one.poll() for one in group) and any(one.poll() is None for one in group):
        assert time.monotonic() < deadline, "they wait for ever"
        time.sleep(0.05)
    for one in group:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    return ended(group)
