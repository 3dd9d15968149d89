"""Finished runs, found by name and read from the files of their folders, checked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite import checkpoints, files, runs, schema
from kdignite.comparison.costs import COSTS, THREADS
from kdignite.errors import UserError, brief

ROLES = {"teacher": "teacher", "adopt": "teacher", "distill": "student", "baseline": "baseline"}
ARRAYS = ("test_logits", "test_labels", "test_indices")
KEYS = ("command", "name", "partial", "fingerprint", "split", "dataset", "arch", "test")
MACHINE = ("device", "processes", "threads", "cpu", "processor", "cuda", "torch", "kdignite", "commit")
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

    @property
    def seed(self) -> int:
        """The seed of a run that trained."""
        return int(self.result["seed"])

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
    """Read a run folder."""
    result, classes = _result(folder)
    logits, labels, indices = _predictions(folder / "predictions.npz", num_classes=len(classes)).values()
    num_correct = int((logits.argmax(axis=1) == labels).sum())
    if num_correct != result["test"]["num_correct"]:
        raise UserError(
            f"{folder}/{runs.RESULT} says {result['test']['num_correct']} test images are right, its predictions.npz "
            f"{num_correct}: they are not of one run; make the run again"
        )
    return RunFiles(
        folder=folder,
        label=label,
        role=ROLES[result["command"]],
        result=result,
        config=_settings(folder / "config.json"),
        environment=_environment(folder / "environment.json"),
        classes=classes,
        logits=logits,
        labels=labels,
        indices=indices,
    )


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
    path = folder / runs.RESULT
    if not path.is_file():
        raise UserError(f"{folder} is not a finished run: it has no {runs.RESULT}; let the run end, or leave it out")
    result = files.read_json(path)
    command = result.get("command")
    if not isinstance(command, str) or command not in ROLES:
        raise UserError(f"{folder} is no run of {', '.join(ROLES)}: leave it out")
    trained = TRAINED_KEYS if command != "adopt" else ()
    missing = [key for key in (*KEYS, *trained) if key not in result]
    if missing:
        raise _damaged(path, f"it has no {', '.join(missing)}")
    try:
        _check_result(result)
        return result, _classes(schema.mapping(result, "test"))
    except ValueError as error:
        raise _damaged(path, brief(error)) from error


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
        taught = schema.mapping(result, "teacher")
        schema.name(taught, "name")
        schema.name(taught, "sha256")
    cost = schema.mapping(result, "cost") if result.get("cost") else {}
    for key in cost:
        if cost[key] is not None and schema.number(cost, key) < 0 and key in (*COSTS, THREADS):
            raise ValueError(f"{key} must not be negative")


def _classes(scores: Mapping[str, Any]) -> tuple[str, ...]:
    schema.count(scores, "num_correct")
    rows = schema.sequence(scores, "per_class")
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("per_class must be a list of scores")
    return tuple(schema.name(row, "class") for row in rows)


def _settings(path: Path) -> dict[str, Any]:
    config = files.read_json(path)
    strange = [key for key, value in config.items() if not (schema.is_name(key) and schema.is_setting(value))]
    if strange:
        raise _damaged(path, f"{brief(strange[0])} is no setting")
    return config


def _environment(path: Path) -> dict[str, Any]:
    found = files.read_json(path)
    values = _flat(found)
    strange = [key for key in (*MACHINE, "weights") if not schema.is_setting(values.get(key))]
    if strange:
        raise _damaged(path, f"{strange[0]} is no plain value")
    try:
        _check_moves(schema.sequence(found, "resumed") if "resumed" in found else [])
    except ValueError as error:
        raise _damaged(path, brief(error)) from error
    return found


def _check_moves(entries: list[Any]) -> None:
    for entry in entries:
        changed = schema.mapping(entry if isinstance(entry, dict) else {}, "changed")
        values = _flat(changed)
        if not all(schema.is_setting(values.get(key)) for key in MACHINE):
            raise ValueError("resumed holds no plain values")


def _flat(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """An environment with the versions of its packages beside its other parts."""
    packages = environment.get("packages")
    return {**environment, **packages} if isinstance(packages, dict) else environment


def _predictions(path: Path, *, num_classes: int) -> dict[str, npt.NDArray[Any]]:
    """Logits, labels and indices of the test images, in this order."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no predictions.npz: make the run again")
    try:
        # opened here: numpy leaves a file open that is no archive
        with path.open("rb") as file:
            checkpoints.check_arrays(file)
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in ARRAYS}
    except checkpoints.UNREADABLE as error:
        raise _damaged(path, brief(error)) from error
    logits, labels, indices = arrays.values()
    num_images = len(labels) if labels.ndim == 1 else -1
    if logits.shape != (num_images, num_classes) or indices.shape != (num_images,) or not num_images:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise _damaged(path, f"expected arrays of one length and {num_classes} classes, got {shapes}")
    if any(not np.issubdtype(array.dtype, np.integer) for array in (labels, indices)):
        raise _damaged(path, "labels and indices are no whole numbers")
    if logits.dtype != np.float32 or not np.isfinite(logits).all():
        raise _damaged(path, "its scores are not all finite numbers of single precision")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise _damaged(path, f"its labels are not all below {num_classes}")
    return arrays


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): make the run again, or leave it out")
