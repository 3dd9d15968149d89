"""A comparison as typed values: everything that its report says is read from here."""

from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from kdignite.comparison.caveats import SHORT, caveats, fewest_epochs
from kdignite.comparison.costs import CostSummary, cost_summary, together
from kdignite.comparison.pairing import LOSS_FLAGS, PairedRuns, own_parameters, same_processor
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.scores import Scores, compare_logits
from kdignite.comparison.teachers import as_taught, taught_by, teacher_logits
from kdignite.config import DistillConfig, parameter_names, with_role
from kdignite.data.registry import PATHS

_IDENTITY = with_role(DistillConfig, "identity")
LOSS_SETTINGS = [one.name for one in fields(DistillConfig) if one.name in LOSS_FLAGS & _IDENTITY]


class RunSummary(NamedTuple):
    """One run of a comparison; an adopted model has no seed and no epochs."""

    role: str
    run: str
    arch: str
    seed: int | None
    epochs: int | None
    best_epoch: int | None
    num_correct: int
    accuracy: float
    partial: bool


class Summary(NamedTuple):
    """What was compared, what came out, and what weakens it."""

    scores: Scores
    costs: CostSummary
    dataset: str
    settings: dict[str, Any]  # of the students' loss
    seeds: list[int]
    runs: list[RunSummary]
    teacher_name: str
    reference: str | None  # published figures to show beside
    short: bool
    notes: list[str]

    @property
    def partial(self) -> bool:
        """Whether a run used only part of its images."""
        return any(run.partial for run in self.runs)


def summarize(runs: PairedRuns, *, reference: str | None = None) -> Summary:
    """Compare the runs by their predictions, costs and settings."""
    student = runs.students[0]
    groups = {"teacher": as_taught(runs.teachers, student), "student": runs.students, "baseline": runs.baselines}
    scores = compare_logits(
        [run.logits for run in runs.students],
        [run.logits for run in runs.baselines],
        student.labels,
        teacher=teacher_logits(runs.teachers, student),
        classes=student.classes,
        divisors={role: [run.divisor() for run in group] for role, group in groups.items()},
    )
    measured = {role: [run.result.get("cost") for run in group] for role, group in groups.items()}
    measured["teacher"] = together(measured["teacher"])
    costs = cost_summary(measured, same_processor=same_processor(runs.all))
    return Summary(
        scores=scores,
        costs=costs,
        dataset=dataset_name(student),
        settings=_method_settings(student),
        seeds=[run.seed for run in runs.students],
        runs=[_run_summary(run) for run in runs.all],
        teacher_name=taught_by(student).name,
        reference=reference,
        short=fewest_epochs(runs) < SHORT,
        notes=caveats(runs, scores, costs),
    )


def _method_settings(student: RunFiles) -> dict[str, Any]:
    """The method of a student, its parameters, and what changes the teacher's logits."""
    first = ["method", *parameter_names(DistillConfig), *sorted(own_parameters(student.config))]
    return {name: student.config.get(name) for name in dict.fromkeys([*first, *LOSS_SETTINGS])}


def _run_summary(run: RunFiles) -> RunSummary:
    result, correct = run.result, run.result["test"]["num_correct"]
    seed, epochs, best_epoch = (result.get(name) for name in ("seed", "epochs", "best_epoch"))
    share = correct / len(run.labels)
    return RunSummary(run.role, run.label, result["arch"], seed, epochs, best_epoch, correct, share, result["partial"])


def dataset_name(run: RunFiles) -> str:
    """Its name; of pictures without the path, which tells of this machine."""
    name = str(run.result["dataset"])
    prefix = next((one for one in PATHS if name.startswith(one)), "")
    return prefix + Path(name.removeprefix(prefix)).name if prefix else name
