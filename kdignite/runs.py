"""The run folder: its name, its files, and how a finished run is found again. Nothing in it is ever overwritten."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

import kdignite
from kdignite.checkpoints import replace
from kdignite.config import DistillConfig, TrainConfig
from kdignite.errors import UserError

ROOT = Path("runs")
PACKAGES = (
    *("torch", "torchvision", "pytorch-ignite", "tensorboard"),
    *("numpy", "scipy", "scikit-learn", "matplotlib", "fire"),
)
CPUINFO = Path("/proc/cpuinfo")  # of Linux
BEST, RESULT = "best.pt", "result.json"


class Finished(NamedTuple):
    """A run that has a result."""

    folder: Path
    result: dict[str, Any]


def default_name(config: TrainConfig) -> str:
    """The name of a run that was given none: short, and telling in the list of TensorBoard.

    Args:
        config: of the run.

    Returns:
        ``teacher``, ``baseline`` or ``distill-a0.5-T1``; with ``-seed1`` for any seed but 0, and ``-dev`` where the
        run is a dry one.
    """
    name = config.command
    if isinstance(config, DistillConfig):
        name += f"-a{config.alpha:g}-T{config.T:g}"
    if config.seed:
        name += f"-seed{config.seed}"
    return name + ("-dev" if config.fast_dev_run else "")


def create(root: Path, *, name: str | None, default: str) -> Path:
    """Make a new folder for a run.

    Args:
        root: the folder of all runs.
        name: the name that was asked for; it must be free.
        default: the name otherwise, with -2, -3, ... where it is taken.

    Returns:
        The new, empty folder.

    Raises:
        UserError: if the name is taken, or the folder cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            return _make(root / name)
        return next(folder for folder in map(_make_if_free, _candidates(root, default)) if folder is not None)
    except OSError as error:
        if name is not None and isinstance(error, FileExistsError) and root.is_dir():
            raise UserError(f"{root / name} exists and is never overwritten: choose another --name") from error
        raise UserError(f"no run folder can be made in {root}: {error.strerror}") from error


def write_json(path: Path, values: Any) -> None:
    """Write a JSON file that is complete or absent.

    Args:
        path: the file.
        values: plain values.
    """
    text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    replace(path, lambda file: file.write(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote.

    Args:
        path: the file.

    Returns:
        Plain values.

    Raises:
        UserError: if the file cannot be read, or holds no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): mend or remove it") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged (it holds no JSON object): mend or remove it")
    return values


def sha256(path: Path) -> str:
    """The SHA-256 of a file, which is how a run names the teacher that taught it.

    Args:
        path: the file.

    Returns:
        64 hexadecimal digits.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """What a run was computed with: versions, commit, threads, processor, device. No host name, no path.

    Args:
        device: that computes.

    Returns:
        Plain values.
    """
    return {
        "kdignite": kdignite.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }


def now() -> str:
    """The time as UTC text that sorts by time."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def finished_teachers(root: Path) -> list[Finished]:
    """Finished runs of ``teacher``, the newest first by the time in their result.

    Partial runs are left out, and adopted models, of which nobody knows what they were trained on: those have to be
    asked for.

    Args:
        root: the folder of all runs; studies inside it are searched too.

    Returns:
        The runs.
    """
    found = [run for run in _finished(root) if run.result["command"] == "teacher" and not run.result["partial"]]
    return sorted(found, key=lambda run: str(run.result["finished_at"]), reverse=True)


def find_checkpoint(run: str, *, root: Path) -> Path:
    """The checkpoint that a RUN or FILE on the command line means.

    Args:
        run: a path of a file or a run folder, or the name of a run in ``root``.
        root: the folder of all runs.

    Returns:
        The file.

    Raises:
        UserError: if there is none.
    """
    paths = (Path(run), root / run)
    for path in paths:
        if path.is_file():
            return path
        if (path / BEST).is_file():
            return path / BEST
    early = [path for path in reversed(paths) if path.is_dir()]
    if early:
        raise UserError(f"{early[0]} has no best.pt: its run did not get to the end of its first epoch")
    have = ", ".join(sorted(folder.parent.name for folder in root.glob(f"*/{BEST}"))) or "none"
    raise UserError(f"there is no run or checkpoint {run!r}; runs in {root}/: {have}")


def name_of(checkpoint: Path) -> str:
    """What a checkpoint is called: by its run folder, or by its file where it stands alone.

    Args:
        checkpoint: the file.

    Returns:
        A name that can be part of the name of a folder.
    """
    return checkpoint.resolve().parent.name if checkpoint.name == BEST else checkpoint.stem


def _finished(root: Path) -> Iterator[Finished]:
    for path in sorted([*root.glob(f"*/{RESULT}"), *root.glob(f"*/*/{RESULT}")]):
        result = read_json(path) if path.with_name(BEST).is_file() else {}
        if {"command", "partial", "finished_at"} <= set(result):
            yield Finished(path.parent, result)


def _candidates(root: Path, default: str) -> Iterator[Path]:
    yield root / default
    number = 2
    while True:
        yield root / f"{default}-{number}"
        number += 1


def _make(folder: Path) -> Path:
    folder.mkdir(exist_ok=False)
    return folder


def _make_if_free(folder: Path) -> Path | None:
    try:
        return _make(folder)
    except FileExistsError:
        return None


def _processor() -> str | None:
    """The model of the processor, where the system tells it: latencies are comparable on the same model only."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (value.strip() for key, _, value in (line.partition(":") for line in lines) if key.strip() == "model name")
    return next(names, "") or platform.processor() or None


def _commit() -> str | None:
    """The commit of the code that runs, where it runs from a git checkout."""
    checkout = Path(kdignite.__file__).parents[1]
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's checkout
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
