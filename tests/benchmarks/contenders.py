"""Contenders as functions: from a seed to what was measured, each in a process of its own."""

import csv
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from job import PilImages, accuracy

from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.training.model import load_model

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
# What makes kdignite's job that of the rivals: plain SGD in float32, views of the same kind, and the last weights kept.
SAME_JOB = {
    **{"optimizer": "sgd", "schedule": "constant", "weight_decay": 0, "augment": "crop+flip", "amp": "off"},
    "keep_last": "true",
}

Flags = Mapping[str, Any]  # None: left out
Record = dict[str, Any]
Measure = Callable[[int], Record]


class Bench(NamedTuple):
    """What every measurement needs."""

    recipe: Flags  # told to all contenders alike
    checkpoint: Checkpoint  # of the teacher
    num_train: int
    test: PilImages
    folder: Path  # of everything that is written; it holds the state dicts of teacher and initial student

    @property
    def teacher(self) -> Path:
        """The file with the teacher's state dict."""
        return self.folder / "teacher.pt"

    @property
    def student(self) -> Path:
        """The file with the student's initial state dict."""
        return self.folder / "student.pt"


class Rival(NamedTuple):
    """Another way of doing the job: a script, and an interpreter that has what it needs."""

    name: str
    script: str
    python: str


def kdignite_run(bench: Bench, *, name: str, flags: Flags) -> Measure:
    """kdignite's ``distill`` from the command line.

    Args:
        bench: of all.
        name: of the row.
        flags: of this row, over those of the job.

    Returns:
        The measurement.
    """

    def measure(seed: int) -> Record:
        run = f"{name}-{seed}"
        given = {"teacher": bench.checkpoint.path, "weights": bench.student, "name": run, "seed": seed}
        command = [sys.executable, "-m", "kdignite", "distill", *_typed({**bench.recipe, **SAME_JOB, **given, **flags})]
        seconds = _timed(command, bench.folder, name=run)
        return _kdignite_record(bench, bench.folder / "runs" / run) | {"wall_seconds": seconds}

    return measure


def rival_run(bench: Bench, rival: Rival, *, workers: int) -> Measure:
    """A rival's script.

    Args:
        bench: of all.
        rival: whose script it is.
        workers: processes that make its batches.

    Returns:
        The measurement.
    """
    description = bench.checkpoint.description
    mean, std = (",".join(map(str, one)) for one in (description.preprocessing.mean, description.preprocessing.std))
    fixed = {"weights": bench.student, "teacher": bench.teacher, "teacher_arch": description.architecture.name}

    def measure(seed: int) -> Record:
        name = f"{rival.name}-{workers}-workers-{seed}"
        output = bench.folder / "logs" / f"{name}.json"
        given = {**fixed, "mean": mean, "std": std, "seed": seed, "workers": workers, "output": output}
        command = [rival.python, str(HERE / rival.script), *_typed({**bench.recipe, **given})]
        seconds = _timed(command, bench.folder, name=name)
        return json.loads(output.read_text(encoding="utf-8")) | {"wall_seconds": seconds}

    return measure


def _kdignite_record(bench: Bench, run: Path) -> Record:
    """What a run folder says, in the words of the rivals' records; they are tested with their last weights."""
    best = checkpoints.load_checkpoint(run / runs.BEST)
    if best.description.preprocessing != bench.checkpoint.description.preprocessing:
        raise SystemExit("the student's input is normalized in another way than the teacher's, which is another job")
    student = load_model(best)
    checkpoints.load_weights(student, checkpoints.read(run / runs.LAST)["model"], source=str(run))
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images_per_s = [float(row["images_per_s"]) for row in rows]
    environment = files.read_json(run / "environment.json")
    return {
        "images_per_s": images_per_s,
        "median_images_per_s": statistics.median(images_per_s),
        "train_seconds": sum(float(row["seconds"]) for row in rows),
        "accuracy": accuracy(student, bench.test),
        "threads": environment["threads"],
        "versions": {"python": environment["python"], "kdignite": environment["kdignite"], **environment["packages"]},
    }


def _typed(flags: Flags) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items() if value is not None]


def _timed(command: Sequence[str], folder: Path, *, name: str) -> float:
    """Seconds that a command takes from start to exit; what it prints goes into a log."""
    log = folder / "logs" / f"{name}.txt"
    # the checkout that is measured, whatever else is installed
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}: see {log}")
    return time.perf_counter() - start
