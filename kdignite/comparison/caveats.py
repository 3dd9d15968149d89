"""What weakens the result of a comparison, as notes of its report."""

from kdignite.comparison.costs import THREADS, CostSummary
from kdignite.comparison.pairing import PairedRuns, machine_notes, same_processor
from kdignite.comparison.scores import Scores

SHORT = 5  # epochs; the preset quick has fewer


def caveats(runs: PairedRuns, scores: Scores, costs: CostSummary) -> list[str]:
    """Everything that weakens the comparison."""
    return [
        *_training_notes(runs),
        *_seed_notes(runs, scores),
        *_teacher_notes(runs, scores),
        *machine_notes(runs.all),
        *_cost_notes(runs, costs),
    ]


def is_short(runs: PairedRuns) -> bool:
    """Whether a student or baseline was trained for fewer than `SHORT` epochs."""
    return _fewest_epochs(runs) < SHORT


def _fewest_epochs(runs: PairedRuns) -> int:
    return min(int(run.result["epochs"]) for run in (*runs.students, *runs.baselines))


def _training_notes(runs: PairedRuns) -> list[str]:
    notes = []
    partial = [run.label for run in runs.all if run.result["partial"]]
    if partial:
        notes.append(
            f"{', '.join(partial)} saw only part of {'its' if len(partial) == 1 else 'their'} images: nothing to quote"
        )
    if is_short(runs):
        epochs = _fewest_epochs(runs)
        notes.append(
            f"trained for {epochs} epoch{'s' * (epochs > 1)} only: a longer training may turn the result round"
        )
    return notes


def _seed_notes(runs: PairedRuns, scores: Scores) -> list[str]:
    seeds = [run.seed for run in runs.students]
    if len(seeds) == 1:
        short = "short " if is_short(runs) else ""
        others = " and ".join(f"--seed={seeds[0] + step}" for step in (1, 2))
        return [
            f"one {short}seed proves nothing about distillation: repeat distill and baseline with {others}, ...; "
            "in a study: reproduce ... --seeds=3"
        ]
    notes = []
    if scores.difference.std == 0:
        notes.append("the difference is the same for every seed, which gives no interval: chance, or equal models")
    accuracies = [scores.models[role].accuracy for role in ("student", "baseline")]
    if any(accuracy.low < 0 or accuracy.high > 1 for accuracy in accuracies):
        notes.append(f"an interval reaches beyond what an accuracy can be: {len(seeds)} seeds are too few for it")
    return notes


def _teacher_notes(runs: PairedRuns, scores: Scores) -> list[str]:
    if runs.teacher is None:
        name = runs.students[0].result["teacher"]["name"]
        return [f"the teacher, {name!r}, is not shown: name its run too to see it beside its student"]
    notes = []
    if runs.teacher.result["command"] == "adopt":
        notes.append("the teacher was adopted: whether it was trained on these test images, its run cannot say")
    if scores.models["teacher"].accuracy.mean <= scores.models["baseline"].accuracy.mean:
        notes.append("the teacher is no better than the baseline: there was little to learn from it")
    return notes


def _cost_notes(runs: PairedRuns, costs: CostSummary) -> list[str]:
    unmeasured = [run.label for run in runs.all if not run.result.get("cost")]
    if unmeasured:
        return [f"no cost was measured for {', '.join(unmeasured)}"]
    notes = []
    compared = ("teacher", "student") if runs.teacher else ("student",)
    if len({costs.models[role][THREADS] for role in compared}) > 1:
        notes.append("latencies were measured with different numbers of threads")
    if not same_processor(runs.all):
        notes.append("latencies were measured on different processors: they cannot be compared")
    return notes
