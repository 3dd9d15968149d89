"""What pages read beside the files of a run: its history, the runs of its teachers, those of a comparison."""

import csv
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdignite import files, runs
from kdignite.comparison.pairing import PairedRuns, pair_runs
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.comparison.summary import RunSummary
from kdignite.comparison.teachers import in_order, taught_by
from kdignite.errors import UserError, listed

FIRST, LAST = "loss", "accuracy_train"  # columns between which the parts of the loss are

Row = dict[str, float | None]


class FoundRuns(NamedTuple):
    """The runs of a comparison whose folders are still there, paired; else a sentence that says which are not."""

    paired: PairedRuns | None
    missing: str


class Exported(NamedTuple):
    """An exported file of a model; the latency is that of one image on one thread, where it was measured."""

    name: str  # with its folder
    num_bytes: int
    latency_ms: float | None
    accuracy: float


def find_exports(run: RunFiles) -> list[Exported]:
    """The exported files of a run, from the folders beside it; records that cannot be read are passed over."""
    best, found = run.folder / runs.BEST, list[Exported]()
    paths = sorted(run.folder.parent.glob(f"*/{runs.EXPORT}"))
    sha256 = files.sha256(best) if paths and best.is_file() else ""
    for path in paths:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            record = files.read_json(path)
            if record["run"]["sha256"] == sha256:
                found += _exported(path.parent.name, record)
    return found


def _exported(folder: str, record: Mapping[str, Any]) -> list[Exported]:
    return [
        Exported(
            f"{folder}/{name}",
            int(use["num_bytes"]),
            None if use.get("latency_ms") is None else float(use["latency_ms"]),
            float((record["int8"] if "int8" in name else record)["test"]["accuracy"]),
        )
        for name, use in record["files"].items()
    ]


def read_history(folder: Path) -> list[Row]:
    """The rows of ``metrics.csv``; empty where there is none or it cannot be read, as of an adopted model."""
    try:
        with (folder / runs.METRICS).open(encoding="utf-8", newline="") as file:
            return [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error):
        return []


def parts_of(rows: Sequence[Row]) -> list[str]:
    """The parts of the loss, as the method named them."""
    columns = list(rows[0]) if rows else []
    return columns[columns.index(FIRST) + 1 : columns.index(LAST)] if {FIRST, LAST} <= {*columns} else []


def find_teachers(student: RunFiles) -> tuple[RunFiles, ...]:
    """The runs of a student's teachers, by the recorded path or beside the student; none unless all are found."""
    if student.result["command"] != "distill":
        return ()
    named = str(student.config.get("teacher") or "").split(",")
    beside = [student.folder.parent / name for name, _ in taught_by(student).members.values()]
    found: dict[Path, RunFiles] = {}
    for folder in (*(Path(one).parent for one in named), *beside):
        if (folder / runs.RESULT).is_file() and folder.resolve() not in found:
            try:
                teacher = read_run(folder, label=folder.name)
                in_order([teacher], student) if len(beside) == 1 else None
            except UserError:
                continue
            if np.array_equal(teacher.indices, student.indices) and np.array_equal(teacher.labels, student.labels):
                found[folder.resolve()] = teacher
    try:
        return in_order(list(found.values())[: len(beside)], student)
    except UserError:
        return ()


def find_runs(recorded: Sequence[RunSummary], *places: Path) -> FoundRuns:
    """The runs of a comparison in some folders of runs, with the predictions that it is of; teachers also elsewhere."""
    found = [_find_run(one, places) for one in recorded]
    students = [run for one, run in zip(recorded, found, strict=True) if one.role == "student" and run is not None]
    taught = find_teachers(students[0]) if students and None in found else ()
    found = [run or _named(one.run, taught) for one, run in zip(recorded, found, strict=True)]
    lost = [one.run for one, run in zip(recorded, found, strict=True) if run is None]
    if lost:
        return FoundRuns(None, f"These runs are not here: {listed(lost)}. Curves, matrices and pictures need them.")
    try:
        return FoundRuns(pair_runs([run for run in found if run is not None]), "")
    except UserError as error:
        return FoundRuns(None, f"The runs are not those that were compared: {error}")


def _find_run(recorded: RunSummary, places: Sequence[Path]) -> RunFiles | None:
    for place in (one / name for one in places for name in (recorded.run, Path(recorded.run).name)):
        if (place / runs.RESULT).is_file():
            try:
                run = read_run(place, label=recorded.run)
            except UserError:
                continue
            if run.result["test"]["num_correct"] == recorded.num_correct:
                return run
    return None


def _named(label: str, taught: Sequence[RunFiles]) -> RunFiles | None:
    """The teacher that a comparison called so."""
    called = (run._replace(label=label) for run in taught if run.folder.resolve().as_posix().endswith(f"/{label}"))
    return next(called, None)
