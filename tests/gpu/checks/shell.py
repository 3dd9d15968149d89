"""Processes that cannot outlive their time, in a folder that is removed at the end."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

GPU_TESTS = Path(__file__).resolve().parents[1]
ROOT = GPU_TESTS.parents[1]  # of the project
MARK = "KDCHECK "  # before a line of JSON that a process tells
SHORTEST_S = 5.0  # a process that has less time is not started
Process = subprocess.Popen[bytes]
Poke = Callable[[Process], bool]  # looks after a process while it runs; True: it need not be called again


class Done(NamedTuple):
    """What a process did."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def told(self) -> list[dict[str, Any]]:
        """What it told in lines of JSON."""
        return [json.loads(line.removeprefix(MARK)) for line in self.out.splitlines() if line.startswith(MARK)]

    @property
    def problem(self) -> str:
        """How it ended, and its last words."""
        return f"exit code {self.code} after {self.seconds:.0f} s\n{(self.err or self.out)[-3000:]}"


class Shell:
    """Starts processes.

    Args:
        device: that they compute on.
        tiny: whether they do as little as possible.
        budget: seconds for all of them.
        jobs: how many at once, where there are many; 0: as suits the device.
    """

    def __init__(self, device: str, *, tiny: bool, budget: float, jobs: int) -> None:
        self.device, self.tiny, self.cuda = device, tiny, device == "cuda"
        self.jobs = jobs or (6 if self.cuda else 1)
        self.place = Path(tempfile.mkdtemp(prefix="kdignite-check-"))
        self.runs = self.place / "runs"
        self.deadline = time.monotonic() + budget
        paths = (str(ROOT), str(GPU_TESTS), os.environ.get("PYTHONPATH", ""))
        self.env = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "MPLBACKEND": "Agg",
            "TMPDIR": str(self.place),  # what processes leave behind goes with it
        }
        if not self.cuda:
            self.env |= {"OMP_NUM_THREADS": "1"}

    def stop(self) -> None:
        """Have every process end now."""
        self.deadline = 0.0

    def left(self) -> float:
        """Seconds of the budget."""
        return self.deadline - time.monotonic()

    def child(self, name: str, *, limit: float) -> Done:
        """A part that is one process."""
        words = [f"--child={name}", f"--device={self.device}", *["--tiny"] * self.tiny]
        return self.run([sys.executable, str(GPU_TESTS / "check.py"), *words], limit=limit)

    def cli(self, *words: str, limit: float = 100, poke: Poke | None = None, streamed: bool = False) -> Done:
        """The command line; streamed: images are decoded by workers, however few there are."""
        module = "checks.streamed" if streamed else "kdignite"
        return self.run([sys.executable, "-m", module, *words], limit=limit, poke=poke)

    def run(
        self, command: Sequence[str], *, limit: float, env: Mapping[str, str] | None = None, poke: Poke | None = None
    ) -> Done:
        """Run to the end, or to the limit; then the process is killed with all that it started."""
        limit = min(limit, self.left())
        if limit < SHORTEST_S:
            return Done(-1, "", "no time was left", 0.0)
        number, began = time.monotonic_ns(), time.monotonic()
        out, err = self.place / f"out-{number}", self.place / f"err-{number}"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                command,
                cwd=self.place,
                env=self.env | dict(env or {}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            code = self._awaited(process, until=began + limit, poke=poke)
        seconds = time.monotonic() - began
        told, error = (one.read_text(encoding="utf-8", errors="replace") for one in (out, err))
        if code is None:
            return Done(-signal.SIGKILL, told, f"{error}\nkilled after {seconds:.0f} s", seconds)
        return Done(code, told, error, seconds)

    def _awaited(self, process: Process, *, until: float, poke: Poke | None) -> int | None:
        """The exit code; None: it had to be killed."""
        try:
            while process.poll() is None and time.monotonic() < min(until, self.deadline):
                if poke is not None and poke(process):
                    poke = None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.2 if poke is None else 0.02)
            return process.poll()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # a group of its own: the process and what it started
                process.wait()
