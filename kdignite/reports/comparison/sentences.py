"""The sentences of a comparison, and which of its classes are shown."""

from kdignite.comparison.costs import COSTS
from kdignite.comparison.scores import GAINED, LOST, NO_DIFFERENCE, NO_SPREAD, ONE_SEED
from kdignite.comparison.summary import Summary
from kdignite.config import setting_text
from kdignite.errors import counted
from kdignite.metrics import Ranking, best_and_worst
from kdignite.reports.published import OVERALL, Published, published
from kdignite.reports.text import NO_SCORE, p_value_text, per_cent, points

DEFAULTS = {"method": "kd", "cache_dtype": "float32", "teacher_amp": "off"}  # settings that are not named
EQUAL = "equal"
SCALING = (
    "At T: after temperature scaling, which divides all logits of a model by one number, chosen on validation images, "
    "and changes no prediction"
)
FIDELITY_SHARES = {
    "agreement": "agrees with the teacher (%)",
    "agreement_on_errors": "repeats the teacher's errors (%)",
}
OPPOSITE = {"fewer": "more", "smaller": "larger", "faster": "slower"}


def verdict_text(summary: Summary) -> str:
    """What the comparison shows, in a sentence that claims no more than the runs allow."""
    difference, seeds = summary.scores.difference, len(summary.seeds)
    mean, low, high = (points(share, digits=2) for share in (difference.mean, difference.low, difference.high))
    control = f"control {name!r}" if (name := summary.settings.get("control")) else ""
    who, size = f"The {control}" if control else "Distillation", per_cent(abs(difference.mean), digits=2)
    is_mean = f"{control or 'student'} - baseline is {mean} points"
    interval = f"95 % interval {low} to {high}, {seeds} seeds"
    short = "short " if summary.short else ""
    sentence = {
        ONE_SEED: f"One {short}seed proves nothing about distillation: {is_mean}.",
        NO_SPREAD: f"No interval can be given: {is_mean} in each of the {seeds} seeds.",
        GAINED: f"{who} gained {size} points of accuracy ({interval}).",
        LOST: f"{who} cost {size} points of accuracy ({interval}).",
        NO_DIFFERENCE: f"No difference shown: {is_mean} ({interval}).",
    }[difference.verdict]
    return sentence + (" Only part of the images was used: not a result to quote." if summary.partial else "")


def subject(summary: Summary) -> str:
    """What was compared, in one line."""
    archs = {run.role: run.arch for run in reversed(summary.runs)}
    taught = [run.run for run in summary.runs if run.role == "teacher"]
    teacher = archs["teacher"] if len(taught) == 1 else summary.teacher_name
    shown = {name: value for name, value in summary.settings.items() if value is not False}
    changed = {name: value for name, value in shown.items() if value not in (None, DEFAULTS.get(name))}
    settings = ", ".join(f"{name} {setting_text(value)}" for name, value in changed.items())
    epochs = [run.epochs for run in summary.runs if run.role != "teacher" and run.epochs is not None]
    low, high = min(epochs), max(epochs)  # with --patience each may have stopped at another epoch
    seeds = summary.seeds
    parts = [
        f"{summary.dataset}, {summary.scores.num_images:,} test images",
        f"student {archs['student']} distilled from {teacher} ({settings})",
        f"{low} to {high} epochs" if low != high else counted(low, "epoch"),
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
    ]
    return "; ".join(parts)


def compression_text(summary: Summary) -> str:
    """How much of the teacher's accuracy the student keeps, and how much of its cost it saves."""
    models, saved = summary.scores.models, summary.costs.saved
    if "teacher" not in models or not models["teacher"].accuracy.mean:
        return ""
    kept = models["student"].accuracy.mean / models["teacher"].accuracy.mean
    labels = {"num_parameters": "parameters", "multiply_adds": "multiply-adds", "latency_median_ms": "on the CPU"}
    ratios = {label: times(saved[key], key) for key, label in labels.items()}
    parts = [f"{ratio} {label}" for label, ratio in ratios.items() if ratio not in (NO_SCORE, EQUAL)]
    tail = f": {', '.join(parts)}" if parts else ""
    if models["teacher"].accuracy.mean <= models["baseline"].accuracy.mean:  # nothing to praise
        return f"The teacher is no better than the baseline; the student has {per_cent(kept)} % of its accuracy{tail}."
    return f"The student keeps {per_cent(kept)} % of the teacher's accuracy{tail}."


def distance_text(summary: Summary) -> str:
    """How much of the distance from baseline to teacher the student covers; empty where either may be chance."""
    models, difference = summary.scores.models, summary.scores.difference
    if "teacher" not in models or difference.verdict != GAINED:
        return ""
    teacher, baseline = (models[role].accuracy for role in ("teacher", "baseline"))
    if teacher.low is None or teacher.low <= baseline.mean:
        return ""
    distance = teacher.mean - baseline.mean
    share = per_cent(difference.mean / distance)
    return f"Student - baseline is {share} % of teacher - baseline, which is {points(distance, digits=2)} points."


def mcnemar_text(summary: Summary) -> str:
    """The test of one pair of models; empty for several seeds."""
    found = summary.scores.mcnemar
    if found is None:
        return ""
    return (
        f"Exact McNemar test, p-value {p_value_text(found.p_value)}: the student alone is right on "
        f"{found.only_first:,} test images, the baseline alone on {found.only_second:,}. The test is about this "
        "pair of models, not about distillation: another seed gives another pair."
    )


def times(ratio: float | None, cost: str) -> str:
    """How many times cheaper the student is than its teacher."""
    if ratio is None:
        return NO_SCORE
    word = COSTS[cost].smaller
    ratio, word = (ratio, word) if ratio >= 1 else (1 / ratio, OPPOSITE[word])
    shown = f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}"
    return EQUAL if shown == "1.0" else f"{shown} x {word}"


def shown_classes(summary: Summary, *, most: int, each: int) -> Ranking:
    """The classes to show: all in class order, or those with the largest and with the smallest difference."""
    rows = summary.scores.per_class
    if len(rows) <= most:
        return Ranking(best=list(range(len(rows))), worst=[])
    return best_and_worst([row.difference or 0.0 for row in rows], [row.support for row in rows], each=each)


def published_rows(summary: Summary) -> list[Published]:
    """What was published of each class, and last of all images; nothing unless asked for."""
    return [*published([row.name for row in summary.scores.per_class]), OVERALL] if summary.reference else []
