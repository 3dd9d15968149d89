"""What weakens the result of a comparison, as notes of its report."""

from kdignite.comparison.costs import THREADS, CostSummary
from kdignite.comparison.pairing import PairedRuns, machine_notes, same_processor
from kdignite.comparison.scores import Scores
from kdignite.comparison.teachers import adopted_note, control_note, taught_by
from kdignite.errors import counted
from kdignite.teachers.controls import RANDOM

SHORT = 5  # epochs; the preset quick has fewer


def caveats(runs: PairedRuns, scores: Scores, costs: CostSummary) -> list[str]:
    """Everything that weakens the comparison."""
    return [
        *training_notes(runs),
        *_seed_notes(runs, scores),
        *_teacher_notes(runs, scores),
        *machine_notes(runs.all),
        *_cost_notes(runs, costs),
    ]


def fewest_epochs(runs: PairedRuns) -> int:
    """Of all students and baselines."""
    return min(int(run.result["epochs"]) for run in (*runs.students, *runs.baselines))


def training_notes(runs: PairedRuns) -> list[str]:
    """What was too little: images, or epochs."""
    notes, epochs = [], fewest_epochs(runs)
    partial = [run.label for run in runs.all if run.result["partial"]]
    if partial:
        whose = "its" if len(partial) == 1 else "their"
        notes.append(f"{', '.join(partial)} used only part of {whose} images: not a result to quote")
    if epochs < SHORT:
        notes.append(f"trained for {counted(epochs, 'epoch')} only: longer training may reverse the result")
    return notes


def _seed_notes(runs: PairedRuns, scores: Scores) -> list[str]:
    seeds = [run.seed for run in runs.students]
    if len(seeds) == 1:
        short = "short " if fewest_epochs(runs) < SHORT else ""
        return [
            f"one {short}seed proves nothing about distillation: repeat distill and baseline with "
            f"--seed={seeds[0] + 1} and --seed={seeds[0] + 2}, ...; in a study: reproduce ... --seeds=3"
        ]
    notes = []
    if scores.difference.std == 0:
        notes.append("the difference is the same for every seed, which gives no interval: chance, or equal models")
    ends = [end for role in ("student", "baseline") for end in scores.models[role].accuracy[2:4] if end is not None]
    if any(not 0 <= end <= 1 for end in ends):
        notes.append(f"an interval reaches beyond what an accuracy can be: {len(seeds)} seeds are too few for it")
    return notes


def _teacher_notes(runs: PairedRuns, scores: Scores) -> list[str]:
    notes, record = control_note(runs.students[0]), taught_by(runs.students[0])
    if not runs.teachers:
        several = "their runs" if len(record.members) > 1 else "its run"
        hidden = f"the teacher, {record.name!r}, is not shown: name {several} too"
        return notes if record.control == RANDOM else [*notes, hidden]
    if record.control is not None:
        notes.append("the teacher is shown as it is, not as the control changed it")
    notes += adopted_note(runs.teachers)
    if scores.models["teacher"].accuracy.mean <= scores.models["baseline"].accuracy.mean:
        notes.append("the teacher is no better than the baseline: there was little to learn from it")
    return notes


def _cost_notes(runs: PairedRuns, costs: CostSummary) -> list[str]:
    unmeasured = [run.label for run in runs.all if not run.result.get("cost")]
    if unmeasured:
        return [f"no cost was measured for {', '.join(unmeasured)}"]
    notes = []
    if runs.teachers and costs.models["teacher"][THREADS] != costs.models["student"][THREADS]:
        notes.append("latencies were measured with different numbers of threads")
    if not same_processor(runs.all):
        notes.append("latencies were measured on different processors: they cannot be compared")
    return notes
