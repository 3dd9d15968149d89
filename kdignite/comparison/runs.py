"""Finished runs, found by name and read from the files of their folders, checked."""

import csv
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kdignite import checkpoints, files, runs, schema
from kdignite.comparison.costs import COSTS, THREADS
from kdignite.errors import UserError, brief

ROLES = {"teacher": "teacher", "adopt": "teacher", "distill": "student", "baseline": "baseline"}
ARRAYS = ("test_logits", "test_labels", "test_indices")
KEYS = ("command", "name", "partial", "fingerprint", "split", "dataset", "arch", "test")
MACHINE = ("device", "processes", "threads", "cpu", "processor", "cuda", "torch", "kdignite", "commit")
COMPRESSED_SHARE, COMPRESSED_BYTES = 16, 256 * 2**20  # what arrays may come to: so many times the file, or bytes
# of an array of plain numbers: its own length, bytes a number, and the shape
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '[<|][biuf]([1248])', 'fortran_order': (?:True|False), 'shape': \(([0-9, ]*)\), \} *\n",
    re.DOTALL,
)
HEADER_START, LONGEST_HEADER = 10, 1024  # bytes
METRICS = "metrics.csv"  # a row for each epoch
TRAINED_KEYS = ("seed", "epochs", "best_epoch", "teacher")  # of a run that trained
AGAIN = "make the run again, or leave it out"


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
    """A finished run from the files of its folder, each value checked."""
    result, classes = _result(folder)
    logits, labels, indices = _predictions(folder / "predictions.npz", num_classes=len(classes))
    recorded, num_correct = result["test"]["num_correct"], int((logits.argmax(axis=1) == labels).sum())
    if num_correct != recorded:
        raise UserError(
            f"{folder}/{runs.RESULT} says {recorded} test images are right, its predictions.npz {num_correct}: they "
            "are not of one run; make the run again"
        )
    config, environment = _settings(folder / runs.CONFIG), _environment(folder / runs.ENVIRONMENT)
    role = ROLES[result["command"]]
    return RunFiles(folder, label, role, result, config, environment, classes, logits, labels, indices)


def epoch_seconds(run: RunFiles) -> list[float]:
    """How long each epoch took, where the run says so: its training and what it waited for the teacher."""
    path = run.folder / METRICS
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


def _predictions(path: Path, *, num_classes: int) -> list[npt.NDArray[Any]]:
    """Logits, labels and indices of the test images, in this order."""
    if not path.is_file():
        raise UserError(f"{path.parent} has no predictions.npz: make the run again")
    try:
        # opened here: numpy leaves a file open that is no archive
        with path.open("rb") as file:
            _check_arrays(file)
            with np.load(file, allow_pickle=False) as stored:
                arrays = [stored[name] for name in ARRAYS]
    except checkpoints.UNREADABLE as error:
        raise UserError(f"{path} is damaged ({brief(error)}): {AGAIN}") from error
    logits, labels, indices = arrays
    num_images = len(labels) if labels.ndim == 1 else -1
    if logits.shape != (num_images, num_classes) or indices.shape != (num_images,) or not num_images:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(ARRAYS, arrays, strict=True))
        why = f"expected arrays of one length and {num_classes} classes, got {shapes}"
        raise UserError(f"{path} is damaged ({why}): {AGAIN}")
    with schema.checked(path, advice=AGAIN):
        if any(not np.issubdtype(array.dtype, np.integer) for array in (labels, indices)):
            raise ValueError("labels and indices are no whole numbers")
        if logits.dtype != np.float32 or not np.isfinite(logits).all():
            raise ValueError("its scores are not all finite numbers of single precision")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ValueError(f"its labels are not all below {num_classes}")
    return arrays


def _check_arrays(file: IO[bytes]) -> None:
    """Refuse arrays whose headers claim another size than they have, for which numpy would take memory first."""
    num_bytes = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        names = [f"{name}.npy" for name in ARRAYS]  # others are never read
        claimed = sum(archive.getinfo(name).file_size for name in names)
        if claimed > max(COMPRESSED_SHARE * num_bytes, COMPRESSED_BYTES):
            raise ValueError(f"it claims too much for a file of {num_bytes:,} bytes")
        for name in names:
            with archive.open(name) as entry:
                header = HEADER.match(entry.read(LONGEST_HEADER))
            if header is None or header.end() != HEADER_START + int.from_bytes(header[1], "little"):
                raise ValueError(f"{name} is no array of plain numbers")
            shape = [int(length) for length in header[3].replace(b",", b" ").split()]
            if header.end() + int(header[2]) * math.prod(shape) != archive.getinfo(name).file_size:
                raise ValueError(f"{name} claims other numbers than it holds")
    file.seek(0)
