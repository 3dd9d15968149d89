"""The folder of a run, and the names of its files. Nothing in it is ever overwritten."""

import errno
import os
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kdignite.config import COMMANDS, Config, DistillConfig, TrainConfig, command_line
from kdignite.errors import UserError
from kdignite.files import read_json
from kdignite.methods.registry import DEFAULT, find_method, short_name
from kdignite.runs.lock import check_idle

ROOT = Path("runs")
BEST, LAST, PREVIOUS = "best.safetensors", "last.safetensors", "previous.safetensors"
CONFIG, ENVIRONMENT, RESULT = "config.json", "environment.json", "result.json"
METRICS, PREDICTIONS = "metrics.csv", "predictions.npz"  # a row for each epoch; logits of the saved model
MANIFEST = "manifest.json"  # of a study, a folder of runs
EXPORT = "export.json"  # of a model written for other programs
CACHE = ".teacher_cache"  # in the folder of all runs


def default_name(config: TrainConfig) -> str:
    """The name of a run that was given none: ``distill-a0.5-T1``, ``distill-dkd-2teachers-a1-b2-T4-seed1-dev``."""
    name = config.command
    if isinstance(config, DistillConfig):
        name += "" if config.method == DEFAULT else f"-{short_name(config.method)}"
        name += f"-{len(config.teachers)}teachers" if len(config.teachers) > 1 else ""
        name += f"-{config.control}" if config.control else ""
        name += "".join(f"-{words}" for words in _parameter_words(config))
    if config.seed:
        name += f"-seed{config.seed}"
    return name + ("-dev" if config.fast_dev_run else "")


def _parameter_words(config: DistillConfig) -> list[str]:
    """``a0.5`` and ``T1``, ``standardize`` and ``no_standardize``; minor parameters at their defaults are left out."""
    rows = find_method(config.method).parameters
    shown = {
        key: value for key, value in config.parameters.items() if not rows[key].minor or value != rows[key].default
    }
    letters = _letters([key for key, value in shown.items() if not isinstance(value, bool)])
    return [f"{letters[key]}{v:g}" if key in letters else f"{'' if v else 'no_'}{key}" for key, v in shown.items()]


def _letters(names: Collection[str]) -> dict[str, str]:
    """What the name of a run calls each parameter: its first letter, or the whole of it where two share that."""
    begun = Counter(name[0] for name in names)
    return {name: name[0] if begun[name[0]] == 1 else name for name in names}


def cache_folder(root: Path) -> Path:
    """The folder of cached teacher logits: one for all runs, those of studies included, and of studies in studies."""
    while (root / MANIFEST).is_file():
        root = root.parent
    return root / CACHE


class Unfinished(NamedTuple):
    """A training that has no result yet: stopped, or in progress."""

    command: str
    epoch: int  # the last whole one
    epochs: int

    def __str__(self) -> str:
        return f"epoch {self.epoch} of {self.epochs}"


def unfinished(folder: Path) -> Unfinished | None:
    """How far the training in a folder got; None: it has finished, or there is none."""
    if (folder / RESULT).exists() or not (folder / CONFIG).is_file():
        return None
    with suppress(UserError):  # of a damaged file; who reads it for more says so
        config = read_json(folder / CONFIG)
        command, epochs = str(config.get("command")), config.get("epochs")
        if issubclass(COMMANDS.get(command, Config), TrainConfig) and isinstance(epochs, int):
            return Unfinished(command, num_epochs(folder), epochs)
    return None


def num_epochs(folder: Path) -> int:
    """How many whole epochs ``metrics.csv`` has; it has one if the run ended within its first save."""
    table = folder / METRICS
    lines = table.read_text(encoding="utf-8").splitlines() if table.is_file() else []
    return max(0, sum(not line.endswith(",") for line in lines) - 1)  # cells are empty where the loss was no number


def check_name(root: Path, name: str | None) -> None:
    """Refuse a name that is taken, before hours are spent on what it was to be given to."""
    if name is None or not os.path.lexists(root / name):
        return
    check_idle(root / name)
    instead = "choose another --name"
    if found := unfinished(root / name):
        again = command_line(found.command, resume=root / name)
        instead = f"it is unfinished ({found}): go on with {again}, or {instead}"
    raise UserError(f"{root / name} exists and is never overwritten: {instead}")


def create(root: Path, *, name: str | None, default: str) -> Path:
    make_root(root)
    try:
        return _make_numbered(root, default) if name is None else _make(root / name)
    except OSError as error:
        check_name(root, name)
        advice = ": choose a short --name" if error.errno == errno.ENAMETOOLONG else ""
        raise UserError(f"no run folder can be made in {root}: {error.strerror}{advice}") from error


def make_root(root: Path) -> None:
    """The folder of all runs."""
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"no run folder can be made in {root}: {error.strerror}") from error


def _make_numbered(root: Path, default: str) -> Path:
    """The first of ``run``, ``run-2``, ``run-3``, ... that does not exist yet."""
    number = 1
    while True:
        with suppress(FileExistsError):
            return _make(root / (default if number == 1 else f"{default}-{number}"))
        number += 1


def _make(folder: Path) -> Path:
    folder.mkdir(exist_ok=False)
    return folder
