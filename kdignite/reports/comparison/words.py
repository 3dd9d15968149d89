"""What a comparison says in sentences, and which of its values are shown."""

from collections.abc import Mapping
from typing import Any

from kdignite.comparison.numbers import COSTS, GAINED, LOST, NO_DIFFERENCE, NO_SPREAD, ONE_SEED
from kdignite.metrics import Ranking, best_and_worst
from kdignite.reports.published import Published
from kdignite.reports.text import NO_SCORE, per_cent, points

MODELS = ("teacher", "student", "baseline")

FIDELITY = {
    "agreement": "agrees with the teacher (%)",
    "agreement_on_errors": "gives the teacher's wrong answer where it errs (%)",
    "kl": "KL from the teacher at T=1 (nats)",
}
USUAL = {"method": "kd", "cache_dtype": "float32", "teacher_amp": "off"}  # not worth a word
EQUAL = "equal"
OPPOSITE = {"fewer": "more", "smaller": "larger", "faster": "slower"}
Summary = Mapping[str, Any]


def verdict_text(summary: Summary, *, kind: str) -> str:
    """What the comparison shows, in a sentence that claims no more than the runs allow."""
    difference, seeds = summary["difference"], len(summary["seeds"])
    mean, low, high = (points(difference[key], digits=2) for key in ("mean", "low", "high"))
    is_mean, size = f"student - baseline is {mean} points", per_cent(abs(difference["mean"]), digits=2)
    interval = f"95 % interval {low} to {high}, {seeds} seeds"
    short = "short " if summary["short"] else ""
    said = {
        ONE_SEED: f"One {short}seed proves nothing about distillation: {is_mean}.",
        NO_SPREAD: f"No interval can be given: {is_mean} in each of the {seeds} seeds.",
        GAINED: f"Distillation gained {size} points of accuracy ({interval}).",
        LOST: f"Distillation cost {size} points of accuracy ({interval}).",
        NO_DIFFERENCE: f"No difference shown: {is_mean} ({interval}).",
    }[kind]
    return said + (" Only part of the images was seen: nothing to quote." if summary["partial"] else "")


def subject(summary: Summary) -> str:
    """What was compared, in one line."""
    of = {run["role"]: run for run in reversed(summary["runs"])}
    taught = of["teacher"]["arch"] if "teacher" in of else summary["taught_by"]
    told = {name: value for name, value in summary["settings"].items() if value not in (None, USUAL.get(name))}
    settings = ", ".join(f"{name} {plain(value)}" for name, value in told.items())
    seeds = summary["seeds"]
    parts = [
        f"{summary['dataset']}, {summary['num_images']:,} test images",
        f"student {of['student']['arch']} taught by {taught} ({settings})",
        _epochs(summary),
        f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
    ]
    return "; ".join(parts)


def _epochs(summary: Summary) -> str:
    """Of all students and baselines: with ``--patience`` each may have stopped at another epoch."""
    trained = [run["epochs"] for run in summary["runs"] if run["role"] != "teacher"]
    low, high = min(trained), max(trained)
    return f"{low} to {high} epochs" if low != high else f"{low} epoch{'s' * (low != 1)}"


def kept_line(summary: Summary) -> str:
    """How much of the teacher's accuracy the student keeps, and how much of its cost it saves."""
    if summary["teacher"] is None or not summary["teacher"]["accuracy"]["mean"]:
        return ""
    kept = summary["student"]["accuracy"]["mean"] / summary["teacher"]["accuracy"]["mean"]
    saved = summary["cost"]["saved"]
    named = {"num_parameters": "parameters", "multiply_adds": "multiply-adds", "latency_median_ms": "on the CPU"}
    ratios = {what: times(saved[key], key) for key, what in named.items()}
    parts = [f"{ratio} {what}" for what, ratio in ratios.items() if ratio not in (NO_SCORE, EQUAL)]
    tail = f": {', '.join(parts)}" if parts else ""
    return f"The student keeps {per_cent(kept)} % of the teacher's accuracy{tail}."


def times(ratio: float | None, cost: str) -> str:
    """How many times cheaper the student is than its teacher."""
    if ratio is None:
        return NO_SCORE
    word = COSTS[cost].saved
    ratio, word = (ratio, word) if ratio >= 1 else (1 / ratio, OPPOSITE[word])
    shown = f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}"
    return EQUAL if shown == "1.0" else f"{shown} x {word}"


def class_choice(summary: Summary, *, most: int, each: int) -> Ranking:
    """The classes to show: all in class order, or those with the largest and with the smallest difference."""
    rows = summary["per_class"]
    if len(rows) <= most:
        return Ranking(best=list(range(len(rows))), worst=[])
    gains = [row["difference"] or 0.0 for row in rows]
    return best_and_worst(gains, [row["support"] for row in rows], each=each)


def overall_row(summary: Summary) -> dict[str, Any]:
    """All images, in the form of an entry of ``per_class``."""
    found: dict[str, Any] = {"class": "overall", "support": summary["num_images"]}
    for role in MODELS:
        accuracy = (summary[role] or {}).get("accuracy", {"mean": None, "std": None})
        found |= {role: accuracy["mean"], f"{role}_std": accuracy["std"]}
    difference = summary["difference"]
    return found | {"difference": difference["mean"], "difference_std": difference["std"]}


def published_rows(summary: Summary) -> list[Published]:
    """What was published of each class, and last of all images."""
    found = summary["published"]
    return [Published(*(row[role] for role in MODELS)) for row in [*found["per_class"], found]]


def plain(value: Any) -> str:
    """A value of a config or result as it is typed."""
    if value is None:
        return NO_SCORE
    return f"{value:g}" if isinstance(value, float) else str(value)
