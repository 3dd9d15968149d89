"""What a reader has to know before believing a comparison."""

from collections.abc import Mapping
from typing import Any

from kdignite.comparison.match import Matched, machine_notes, same_processor
from kdignite.comparison.numbers import THREADS

SHORT = 5  # epochs; the preset quick has fewer


def caveats(matched: Matched, summary: Mapping[str, Any]) -> list[str]:
    """Everything that weakens a comparison, in plain words."""
    return [
        *_of_what_was_run(matched),
        *_of_seeds(matched, summary),
        *_of_teacher(matched, summary),
        *machine_notes(matched.all),
        *_of_costs(matched, summary),
    ]


def is_short(matched: Matched) -> bool:
    """Whether student and baseline trained for a few epochs only."""
    return any(run.result["epochs"] < SHORT for run in (*matched.students, *matched.baselines))


def _of_what_was_run(matched: Matched) -> list[str]:
    notes = []
    partial = [run.label for run in matched.all if run.result["partial"]]
    if partial:
        notes.append(
            f"{', '.join(partial)} saw only part of {'its' if len(partial) == 1 else 'their'} images: nothing to quote"
        )
    if is_short(matched):
        epochs = min(run.result["epochs"] for run in (*matched.students, *matched.baselines))
        notes.append(
            f"trained for {epochs} epoch{'s' * (epochs > 1)} only: a longer training may turn the result round"
        )
    return notes


def _of_seeds(matched: Matched, summary: Mapping[str, Any]) -> list[str]:
    seeds = summary["seeds"]
    if len(seeds) == 1:
        short = "short " if is_short(matched) else ""
        others = " and ".join(f"--seed={seeds[0] + step}" for step in (1, 2))
        return [
            f"one {short}seed proves nothing about distillation: repeat distill and baseline with {others}, ...; "
            "in a study: reproduce ... --seeds=3"
        ]
    notes = []
    if summary["difference"]["std"] == 0:
        notes.append("the difference is the same for every seed, which gives no interval: chance, or equal models")
    accuracies = [summary[role]["accuracy"] for role in ("student", "baseline")]
    if any(found["low"] < 0 or found["high"] > 1 for found in accuracies):
        notes.append(f"an interval reaches beyond what an accuracy can be: {len(seeds)} seeds are too few for it")
    return notes


def _of_teacher(matched: Matched, summary: Mapping[str, Any]) -> list[str]:
    if matched.teacher is None:
        return [f"the teacher, {summary['taught_by']!r}, is not shown: name its run too to see it beside its student"]
    notes = []
    if matched.teacher.result["command"] == "adopt":
        notes.append("the teacher was adopted: whether it was trained on these test images, its run cannot say")
    if summary["teacher"]["accuracy"]["mean"] <= summary["baseline"]["accuracy"]["mean"]:
        notes.append("the teacher is no better than the baseline: there was little to learn from it")
    return notes


def _of_costs(matched: Matched, summary: Mapping[str, Any]) -> list[str]:
    unmeasured = [run.label for run in matched.all if not run.result.get("cost")]
    if unmeasured:
        return [f"no cost was measured for {', '.join(unmeasured)}"]
    notes = []
    threads = {summary["cost"][role][THREADS] for role in ("teacher", "student") if summary[role] is not None}
    if len(threads) > 1:
        notes.append("latencies were measured with different numbers of threads")
    if not same_processor(matched.all):
        notes.append("latencies were measured on different processors: they cannot be compared")
    return notes
