"""Processes that are really killed: by -9 at any moment, while a file is being written, and by signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdignite import checkpoints
from kdignite.runs import Finished

from .alike import assert_alike
from .test_command_line import environment

# some seconds of training with a save after every iteration
LONG = ["--dataset=digits", "--epochs=6", "--widths=8,8,8,8,8", "--batch_size=50", "--threads=1", "--save_every_s=0"]
DISTILL = [sys.executable, "-m", "kdignite", "distill", *LONG, "--name=run"]
RESUME = [sys.executable, "-m", "kdignite", "distill", "--resume=run"]


@pytest.fixture(scope="module")
def place(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and a run that was never stopped, ``runs/whole/run``."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "whole" / "runs").mkdir(parents=True)
    (folder / "whole" / "runs" / "teacher").symlink_to(taught.folder)
    subprocess.run(DISTILL, cwd=folder / "whole", env=environment(), check=True, capture_output=True)
    return folder


def started(command: list[str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(process: subprocess.Popen[str], state: Path, *, after: int) -> int:
    """Wait until the run has saved something newer than a time; the time of that, or of the end of the run."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (saved := saved_at(state)) > after:
            return saved
        time.sleep(0.01)
    return after


def saved_at(state: Path) -> int:
    """When a state was written; 0 for the moment between two renames, in which there is none."""
    try:
        return state.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def killed_until_it_ends(cwd: Path, *, whole: Path, kills: int, seed: int) -> int:
    """Kill a run at random moments, then let it end; how often it was hit while it was training."""
    seconds = json.loads((whole / "result.json").read_text())["wall_seconds"]
    latest = min(0.8, 0.6 * seconds / kills)  # so that the run does not end before the last kill, however fast it is
    chance, hits, saved = random.Random(seed), 0, 0
    state = cwd / "runs" / "run" / "last.safetensors"
    for attempt in range(kills):
        process = started(DISTILL if attempt == 0 else RESUME, cwd)
        wait_for(process, state, after=saved)
        time.sleep(chance.uniform(0, latest))
        hits += process.poll() is None
        process.kill()
        process.communicate()
        saved = saved_at(state) or saved
    done = subprocess.run(RESUME, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return hits


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """What a process that has not been waited for has computed: the time on the wall depends on who else computes."""
    _, _, numbers = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")
    user, system = numbers.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ended(process: subprocess.Popen[str], *, within: float) -> tuple[str, str]:
    """What a process printed, which ends within so many seconds of its own, and soon enough for anybody."""
    asked, computed = time.monotonic(), cpu_seconds(process)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # still there to be asked; the pipes hold its last lines
    assert cpu_seconds(process) - computed < within
    assert time.monotonic() - asked < 10 * within
    return process.communicate()


def beside(place: Path, name: str) -> Path:
    (place / name / "runs").mkdir(parents=True)
    (place / name / "runs" / "teacher").symlink_to(place / "whole" / "runs" / "teacher")
    return place / name


def test_killed_at_random_moments_and_resumed_it_ends_bit_equal(place: Path) -> None:
    cwd, whole = beside(place, "killed"), place / "whole" / "runs" / "run"
    assert killed_until_it_ends(cwd, whole=whole, kills=2, seed=int.from_bytes(os.urandom(2), "big")) == 2
    assert_alike(cwd / "runs" / "run", whole)
    resumed = json.loads((cwd / "runs" / "run" / "environment.json").read_text())["resumed"]
    assert len(resumed) == 2
    assert all(entry["changed"] == {} for entry in resumed)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_many_moments_and_resumed_it_ends_bit_equal(place: Path) -> None:
    hits, whole = 0, place / "whole" / "runs" / "run"
    for round_ in range(6):
        cwd = beside(place, f"killed-{round_}")
        hits += killed_until_it_ends(cwd, whole=whole, kills=4, seed=round_)
        assert_alike(cwd / "runs" / "run", whole)
    assert hits >= 20


SAVING = """
import sys
from pathlib import Path
import os, torch
from kdignite import checkpoints
folder, last = Path(sys.argv[1]), Path(sys.argv[1]) / "last.safetensors"
number = 0
print("ready", flush=True)
for _ in sys.stdin:  # a child for each line, so that torch is imported once
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        while True:
            number += 1
            payload = {"number": number, "values": torch.full((1_000_000,), float(number))}
            checkpoints.write(last, payload, previous=folder / "previous.safetensors")
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@contextmanager
def forker(folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SAVING, str(folder)]
    process = subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_killed_while_saving_a_whole_file_is_left(tmp_path: Path) -> None:
    chance, half_written = random.Random(7), 0
    with forker(tmp_path) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(12):
            process.stdin.write("\n")
            child = int(process.stdout.readline())
            time.sleep(chance.uniform(0.15, 0.35))
            os.kill(child, signal.SIGKILL)
            assert process.stdout.readline() == "gone\n"
            present = [
                tmp_path / name for name in ("last.safetensors", "previous.safetensors") if (tmp_path / name).exists()
            ]
            for path in present:  # not one of them is damaged: what is half written has another name
                content = checkpoints.read(path)
                assert content["values"].eq(content["number"]).all()
            assert present
            leftovers = list(tmp_path.glob(".tmp-*"))
            half_written += len(leftovers)
            for path in (*present, *leftovers):
                path.unlink()
    assert half_written  # else no kill has ever met a save


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(taught: Finished, tmp_path: Path, number: int, code: int) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "teacher").symlink_to(taught.folder)
    command = [*DISTILL, "--save_every_s=3600"]
    command.remove("--save_every_s=0")
    process = started(command, tmp_path)
    folder = tmp_path / "runs" / "run"
    saved = wait_for(process, folder / "last.safetensors", after=0)
    process.send_signal(number)
    out, errors = ended(process, within=5)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1] == f"kdignite: {'interrupted' if number == signal.SIGINT else 'terminated'}"
    assert out.splitlines()[-1] == "stopped   resume with: python -m kdignite distill --resume=runs/run"
    assert (folder / "last.safetensors").stat().st_mtime_ns > saved
    assert {path.name for path in folder.iterdir() if path.suffix == ".safetensors"} == {
        "best.safetensors",
        "last.safetensors",
        "previous.safetensors",
    }
    assert not (folder / ".lock").exists()
    assert not (folder / "result.json").exists()
    state = checkpoints.read(folder / "last.safetensors")
    assert len(state["history"]["rows"]) == state["trainer"]["iteration"] // state["trainer"]["epoch_length"]


SLOW_MODEL = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Sequential):
    def forward(self, images):
        if self.training and Path("runs").exists():  # not in the rehearsal
            print("step", flush=True)
            time.sleep(20)
        return super().forward(images)

def slow(num_classes):
    return Slow(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
"""


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SLOW_MODEL)
    command = [sys.executable, "-m", "kdignite", "baseline", "--dataset=digits", "--arch=mine:slow", "--threads=1"]
    process = started(command, tmp_path)
    assert process.stdout is not None
    while process.stdout.readline() != "step\n":
        assert process.poll() is None
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process.poll() is None  # the first one waits for the step
    process.send_signal(signal.SIGINT)
    out, errors = ended(process, within=4)  # a step sleeps for five times this
    assert process.returncode == 130
    assert "stopping after this step; Ctrl-C again stops at once" in errors
    assert "Traceback" not in errors
    assert "stopped   resume with" in out
