"""The folder of a run: its name and what it is called inside. Nothing in it is ever overwritten."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from kdignite.config import DistillConfig, TrainConfig
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, short_name

ROOT = Path("runs")
BEST, LAST, PREVIOUS = "best.safetensors", "last.safetensors", "previous.safetensors"
CONFIG, ENVIRONMENT, RESULT = "config.json", "environment.json", "result.json"
MANIFEST = "manifest.json"  # of a study, a folder of runs
CACHE = ".teacher_cache"  # in the folder of all runs


def default_name(config: TrainConfig) -> str:
    """The name of a run that was given none: ``teacher``, ``distill-a0.5-T1``, ``distill-dkd-a1-b8-T4-seed1-dev``."""
    name = config.command
    if isinstance(config, DistillConfig):
        name += "" if config.method == DEFAULT else f"-{short_name(config.method)}"
        name += "".join(f"-{letter}{config.parameters[key]:g}" for key, letter in _letters(config.parameters).items())
    if config.seed:
        name += f"-seed{config.seed}"
    return name + ("-dev" if config.fast_dev_run else "")


def _letters(names: Iterable[str]) -> dict[str, str]:
    """What the name of a run calls each parameter: its first letter, or the whole of it where two share that."""
    begun = Counter(name[0] for name in names)
    return {name: name[0] if begun[name[0]] == 1 else name for name in names}


def cache_folder(root: Path) -> Path:
    """Where the answers of teachers are kept: one place for all runs, those of studies included."""
    return (root.parent if (root / MANIFEST).is_file() else root) / CACHE


def create(root: Path, *, name: str | None, default: str) -> Path:
    """Make a new folder for a run."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            return _make(root / name)
        return next(folder for folder in map(_make_if_free, _candidates(root, default)) if folder is not None)
    except OSError as error:
        if name is not None and isinstance(error, FileExistsError) and root.is_dir():
            raise UserError(f"{root / name} exists and is never overwritten: choose another --name") from error
        raise UserError(f"no run folder can be made in {root}: {error.strerror}") from error


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
