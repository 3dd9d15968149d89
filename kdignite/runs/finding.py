"""How a finished run is found again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdignite.errors import UserError
from kdignite.files import read_json
from kdignite.runs.folders import BEST, MANIFEST, RESULT


class Finished(NamedTuple):
    """A run that has a result."""

    folder: Path
    result: dict[str, Any]


def finished_teachers(root: Path) -> list[Finished]:
    """Finished runs of ``teacher``, the newest first by the time in their result.

    Partial runs are left out, and adopted models, of which nobody knows what they were trained on: those have to be
    asked for.
    """
    found = [run for run in _finished(root) if run.result["command"] == "teacher" and not run.result["partial"]]
    return sorted(found, key=lambda run: str(run.result["finished_at"]), reverse=True)


def find_checkpoint(run: str, *, root: Path) -> Path:
    """The checkpoint that a RUN or FILE on the command line means."""
    paths = (Path(run), root / run)
    for path in paths:
        if path.is_file():
            return path
        if (path / BEST).is_file():
            return path / BEST
    early = [path for path in reversed(paths) if path.is_dir()]
    if early and (early[0] / MANIFEST).is_file():
        inside = ", ".join(sorted(folder.parent.name for folder in early[0].glob(f"*/{BEST}"))) or "none yet"
        raise UserError(f"{early[0]} is a folder of runs: name one of them, {early[0]}/NAME with a NAME of {inside}")
    if early:
        raise UserError(f"{early[0]} has no {BEST}: its run did not get to the end of its first epoch")
    have = ", ".join(sorted(folder.parent.name for folder in root.glob(f"*/{BEST}"))) or "none"
    raise UserError(f"there is no run or checkpoint {run!r}; runs in {root}/: {have}")


def name_of(checkpoint: Path) -> str:
    """What a checkpoint is called: by its run folder, or by its file where it stands alone."""
    return checkpoint.resolve().parent.name if checkpoint.name == BEST else checkpoint.stem


def _finished(root: Path) -> Iterator[Finished]:
    for path in sorted([*root.glob(f"*/{RESULT}"), *root.glob(f"*/*/{RESULT}")]):
        result = read_json(path) if path.with_name(BEST).is_file() else {}
        if {"command", "partial", "finished_at"} <= set(result):
            yield Finished(path.parent, result)
