"""Finished runs, found by name and read from the files of their folders, checked."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite import files, runs, schema
from kdignite.comparison.costs import COSTS, THREADS
from kdignite.comparison.predictions import AGAIN, read_predictions
from kdignite.errors import UserError, brief
from kdignite.metrics import Labels, Logits, fitted_divisor

ROLES = {"teacher": "teacher", "adopt": "teacher", "distill": "student", "baseline": "baseline"}
KEYS = ("command", "name", "partial", "fingerprint", "split", "dataset", "arch", "test")
MACHINE = ("device", "processes", "threads", "cpu", "processor", "cuda", "torch", "kdignite", "commit")
FITTED = 5_000_000  # logits that the choice of one number reads: a few seconds
TRAINED_KEYS = ("seed", "epochs", "best_epoch", "teacher")  # of a run that trained


class RunFiles(NamedTuple):
    """What the files of a finished run hold; the arrays are of its N test images and C classes."""

    folder: Path
    label: str  # how reports call the run: free of absolute paths
    role: str  # teacher, student or baseline
    result: dict[str, Any]
    config: dict[str, Any]
    environment: dict[str, Any]
    classes: tuple[str, ...]
    logits: npt.NDArray[np.float32]  # (N, C)
    labels: npt.NDArray[np.int64]  # (N,)
    indices: npt.NDArray[np.int64]  # (N,) positions in the data set
    validation: tuple[Logits, Labels] | None = None  # logits (V, C) and labels (V,), where the run has them

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    def divisor(self) -> float | None:
        """What its logits are best divided by, chosen on the validation images, or on every n-th of many."""
        if self.validation is None:
            return None
        logits, labels = self.validation
        step = math.ceil(logits.size / FITTED)
        return fitted_divisor(logits[::step], labels[::step])

    def computed_with(self, part: str) -> list[Any]:
        """A part of the machine, None where it is not recorded, and its other values where the run was resumed."""
        values = [_flat(self.environment).get(part)]
        for entry in self.environment.get("resumed", []):
            value = _flat(entry["changed"]).get(part)
            values += [value] if value not in (None, *values) else []
        return values


def read_runs(words: Sequence[str], *, root: Path) -> list[RunFiles]:
    """The runs that some words name, each a path or a name in ``root``; a run named twice is refused."""
    folders = [_find(word, root=root) for word in words]
    for i, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:i]]:
            raise UserError(f"{folder} is named twice: name every run once")
    return [read_run(folder, label=_label(folder, root=root)) for folder in folders]


def read_run(folder: Path, *, label: str) -> RunFiles:
    """A finished run from the files of its folder, each value checked."""
    result, classes = _result(folder)
    (logits, labels, indices), *validation = read_predictions(folder / runs.PREDICTIONS, num_classes=len(classes))
    recorded, num_correct = result["test"]["num_correct"], int((logits.argmax(axis=1) == labels).sum())
    if num_correct != recorded:
        raise UserError(
            f"{folder}/{runs.RESULT} says {recorded} test images are right, its {runs.PREDICTIONS} {num_correct}: they "
            "are not of one run; make the run again"
        )
    config, environment = _settings(folder / runs.CONFIG), _environment(folder / runs.ENVIRONMENT)
    role = ROLES[result["command"]]
    found = RunFiles(folder, label, role, result, config, environment, classes, logits, labels, indices)
    return found._replace(validation=(validation[0][0], validation[0][1])) if validation else found


def epoch_seconds(run: RunFiles) -> list[float]:
    """How long each epoch took, where the run says so: its training and what it waited for the teacher."""
    path = run.folder / runs.METRICS
    if not path.is_file():
        return []
    with schema.checked(path, advice=AGAIN), path.open(encoding="utf-8", newline="") as file:
        texts = [row.get("seconds") for row in csv.DictReader(file)]
        seconds = [float(text) for text in texts if text]
        if not all(0 <= one < math.inf for one in seconds):
            raise ValueError("seconds are no finite numbers")
    return seconds


def _find(word: str, *, root: Path) -> Path:
    candidates = (Path(word), root / word)
    finished = [folder for folder in candidates if (folder / runs.RESULT).is_file()]
    folders = finished or [folder for folder in candidates if folder.is_dir()]
    if not folders:
        if any(path.exists() for path in candidates):
            raise UserError(f"{word} is a file: compare takes run folders, as runs/NAME or NAME")
        have = ", ".join(sorted(path.parent.name for path in root.glob(f"*/{runs.RESULT}"))) or "none"
        raise UserError(f"there is no run {word!r}; finished runs in {root}/: {have}")
    inside = sorted(path.parent.name for path in folders[0].glob(f"*/{runs.RESULT}"))
    if inside and not finished:
        raise UserError(f"{folders[0]} is a folder of runs: name those to compare, as {folders[0]}/{inside[0]}")
    return folders[0]


def _label(folder: Path, *, root: Path) -> str:
    """A name for reports: no path of this machine."""
    if folder.absolute().is_relative_to(root.absolute()):
        return folder.absolute().relative_to(root.absolute()).as_posix()
    return "/".join(folder.resolve().parts[-2:])


def _result(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The result, and the names of the classes."""
    path = folder / runs.RESULT
    if not path.is_file():
        raise UserError(f"{folder} is not a finished run: it has no {runs.RESULT}; let the run end, or leave it out")
    result = files.read_json(path)
    command = result.get("command")
    if not isinstance(command, str) or command not in ROLES:
        raise UserError(f"{folder} is no run of {', '.join(ROLES)}: leave it out")
    with schema.checked(path, advice=AGAIN):
        missing = [key for key in (*KEYS, *(TRAINED_KEYS if command != "adopt" else ())) if key not in result]
        if missing:
            raise ValueError(f"it has no {', '.join(missing)}")
        _check_result(result)
        test = schema.mapping(result, "test")
        schema.count(test, "num_correct")
        rows = schema.sequence(test, "per_class")
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("per_class must be a list of scores")
        return result, tuple(schema.name(row, "class") for row in rows)


def _check_result(result: dict[str, Any]) -> None:
    for key in ("name", "arch", "fingerprint", "split"):
        schema.name(result, key)
    if not schema.is_word(result["dataset"]):  # a folder's path may be longer than a name
        raise ValueError(f"dataset must be a word, not {brief(result['dataset'])}")
    schema.flag(result, "partial")
    if result["command"] != "adopt":
        for key in ("seed", "epochs", "best_epoch"):
            schema.count(result, key)
    if result["command"] == "distill":
        _check_teacher(schema.mapping(result, "teacher"))
    cost = schema.mapping(result, "cost") if result.get("cost") else {}
    for key in cost:
        if cost[key] is not None and schema.number(cost, key) < 0 and key in (*COSTS, THREADS):
            raise ValueError(f"{key} must not be negative")


def _check_teacher(record: Mapping[str, Any]) -> None:
    members = schema.sequence(record, "members") if record.get("members") else []
    if not all(isinstance(one, dict) for one in members):
        raise ValueError("members must be a list of teachers")
    for one in (record, *members):
        for key in ("name", "sha256"):
            schema.name(one, key)
    for one in members:
        schema.number(one, "weight", above=0)
    if record.get("control") is not None:
        schema.name(record, "control")


def _settings(path: Path) -> dict[str, Any]:
    config = files.read_json(path)
    with schema.checked(path, advice=AGAIN):
        for key, value in config.items():
            if not (schema.is_name(key) and schema.is_setting(value)):
                raise ValueError(f"{brief(key)} is no setting")
    return config


def _environment(path: Path) -> dict[str, Any]:
    found = files.read_json(path)
    with schema.checked(path, advice=AGAIN):
        values = _flat(found)
        for key in (*MACHINE, "weights"):
            if not schema.is_setting(values.get(key)):
                raise ValueError(f"{key} is no plain value")
        for entry in schema.sequence(found, "resumed") if "resumed" in found else []:
            values = _flat(schema.mapping(entry if isinstance(entry, dict) else {}, "changed"))
            if not all(schema.is_setting(values.get(key)) for key in MACHINE):
                raise ValueError("resumed holds no plain values")
    return found


def _flat(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """An environment with the versions of its packages beside its other parts."""
    packages = environment.get("packages")
    return {**environment, **packages} if isinstance(packages, dict) else environment
