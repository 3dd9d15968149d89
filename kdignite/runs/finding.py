"""Finding finished runs and their checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdignite.console import say
from kdignite.errors import UserError
from kdignite.files import read_json
from kdignite.runs.folders import BEST, CONFIG, EXPORT, MANIFEST, RESULT, Unfinished, unfinished

LISTED_KEYS = {"command", "partial", "finished_at", "dataset", "val_size"}  # of a result that a list can use


class Finished(NamedTuple):
    """A run that has a result."""

    folder: Path
    result: dict[str, Any]


def finished_teachers(root: Path) -> list[Finished]:
    """Finished runs of ``teacher``, newest first; partial runs and adopted models have to be named."""
    return [run for run in _teachers(root) if run.result["command"] == "teacher" and not run.result["partial"]]


def teachers_to_name(root: Path) -> list[Finished]:
    """Adopted models and partial runs of ``teacher``, newest first."""
    return [run for run in _teachers(root) if run.result["command"] == "adopt" or run.result["partial"]]


def _teachers(root: Path) -> list[Finished]:
    found = [run for run in _finished(root) if run.result["command"] in ("teacher", "adopt")]
    return sorted(found, key=lambda run: str(run.result["finished_at"]), reverse=True)


def find_checkpoint(run: str, *, root: Path) -> Path:
    """The checkpoint of a run folder, given by path or by name, or a checkpoint file itself."""
    paths = (Path(run), root / run)
    for path in paths:
        if path.is_file() and not path.with_name(EXPORT).is_file():
            return _told(path)
        if (path / BEST).is_file():
            return _told(path / BEST)
    found = next((path for path in reversed(paths) if path.exists()), None)
    if found is None:
        raise UserError(
            f"there is no run or checkpoint {run!r}; runs in {root}/: {_run_names(root) or 'none'}"
            + (f"; a network has to become one first: adopt FILE --arch={run}, or teacher --arch={run}" * (":" in run))
        )
    raise UserError(_without_checkpoint(found if found.is_dir() else found.parent))


def _told(checkpoint: Path) -> Path:
    """A checkpoint; that its run has not finished is said."""
    if found := unfinished_run(checkpoint):
        say(f"warning   {checkpoint.parent} is unfinished ({found}): this is its best model so far")
    return checkpoint


def unfinished_run(checkpoint: Path) -> Unfinished | None:
    """How far the run of a checkpoint got; None: it has finished, or is not at hand."""
    return unfinished(checkpoint.resolve().parent) if checkpoint.name == BEST else None


def _without_checkpoint(folder: Path) -> str:
    """What a folder is that holds no checkpoint."""
    if (folder / MANIFEST).is_file():
        names = _run_names(folder) or "none yet"
        return f"{folder} is a folder of runs: name one of them, {folder}/NAME with a NAME of {names}"
    if (folder / EXPORT).is_file():
        return f"{folder} is for other programs, as its README.md says; here, name the run that it was made from"
    if (folder / CONFIG).is_file():
        return f"{folder} has no {BEST}: its run did not get to the end of its first epoch"
    return f"{folder} is no folder of a run: it has no {BEST}"


def checkpoint_name(checkpoint: Path) -> str:
    """The name of the run folder, or of the file where it is in none."""
    return checkpoint.resolve().parent.name if checkpoint.name == BEST else checkpoint.stem


def _run_names(root: Path) -> str:
    return ", ".join(sorted(best.parent.name for best in root.glob(f"*/{BEST}")))


def skipped(folder: Path, error: Exception) -> None:
    """Say that a run is left out of a list: its files never keep other runs from being used."""
    say(f"skipped   {folder}: {error}")


def _finished(root: Path) -> Iterator[Finished]:
    for path in sorted([*root.glob(f"*/{RESULT}"), *root.glob(f"*/*/{RESULT}")]):
        if not path.with_name(BEST).is_file():
            continue
        try:
            result = read_json(path)
        except UserError as error:
            skipped(path.parent, error)
        else:
            if set(result) >= LISTED_KEYS:
                yield Finished(path.parent, result)
