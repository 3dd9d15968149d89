"""The runs beside a run that its card compares it with: its teacher, and the same student without one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from kdignite import files, runs
from kdignite.comparison.pairing import pair_runs
from kdignite.comparison.runs import RunFiles, read_runs
from kdignite.comparison.summary import summarize
from kdignite.comparison.teachers import taught_by
from kdignite.errors import UserError
from kdignite.reports.comparison import verdict_text


class Relatives(NamedTuple):
    """A finished run and those it is compared with; None: not known, or not beside it."""

    run: RunFiles | None
    teacher: RunFiles | None = None
    baseline: RunFiles | None = None
    verdict: str = ""  # on student and baseline

    @property
    def teacher_record(self) -> dict[str, Any] | None:
        """The teacher as the student recorded it, with its test score where its run is known."""
        recorded = self.run.result["teacher"] if self.run and self.run.role == "student" else None
        if recorded is None:
            return None
        return {"name": recorded["name"], "val_accuracy": recorded.get("accuracy"), **_score(self.teacher)}

    @property
    def baseline_record(self) -> dict[str, Any] | None:
        return {"name": self.baseline.folder.name, **_score(self.baseline)} if self.baseline else None


def find_relatives(checkpoint: Path) -> Relatives:
    """The run of a checkpoint, the teacher by its file, and the first baseline with which a comparison is fair."""
    folder = checkpoint.resolve().parent
    if checkpoint.name != runs.BEST or not (folder / runs.RESULT).is_file():
        return Relatives(None)
    try:
        run = _read(folder)[0]
    except UserError as error:
        runs.skipped(folder, error)
        return Relatives(None)
    if run.role != "student":
        return Relatives(run)
    found = Relatives(run, next(_teachers(run), None))
    for path in _beside(folder):
        try:
            paired = pair_runs(_read(folder, path))
        except UserError:
            continue
        return found._replace(baseline=paired.baselines[0], verdict=verdict_text(summarize(paired)))
    return found


def _score(run: RunFiles | None) -> dict[str, Any]:
    if run is None:
        return {}
    return {"num_correct": run.result["test"]["num_correct"], "num_images": len(run.labels)}


def _teachers(student: RunFiles) -> Iterator[RunFiles]:
    """A single teacher whose file lies beside its student."""
    members = taught_by(student).members
    for path in _beside(student.folder):
        if len(members) == 1 and (path / runs.BEST).is_file() and files.sha256(path / runs.BEST) in members:
            try:
                yield from _read(path)
            except UserError:
                continue


def _beside(folder: Path) -> list[Path]:
    return [path.parent for path in sorted(folder.parent.glob(f"*/{runs.RESULT}")) if path.parent != folder]


def _read(*folders: Path) -> list[RunFiles]:
    return read_runs([str(folder) for folder in folders], root=folders[0].parent)
