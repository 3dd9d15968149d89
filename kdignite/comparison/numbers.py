"""The numbers of a comparison: answers of student, baseline and teacher to the same images in, plain values out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdignite import metrics
from kdignite.metrics import Floats, Ints, Labels, Logits, statistics


class Unit(NamedTuple):
    """How a cost is called and shown, and what a smaller one is."""

    name: str
    unit: str
    divisor: float
    saved: str


# of a run and, but for the first and the file, of one image
COSTS = {
    "num_parameters": Unit("parameters", "", 1, "fewer"),
    "multiply_adds": Unit("multiply-adds of an image", "million", 1e6, "fewer"),
    "file_bytes": Unit("file", "MiB", 2**20, "smaller"),
    "latency_median_ms": Unit("CPU latency of an image, median", "ms", 1, "faster"),
    "latency_p95_ms": Unit("CPU latency of an image, p95", "ms", 1, "faster"),
    "peak_memory_bytes": Unit("peak memory of an image", "MiB", 2**20, "smaller"),
}
LATENCIES = ("latency_median_ms", "latency_p95_ms")
THREADS = "latency_threads"
GAINED, LOST, NO_DIFFERENCE = "gained", "lost", "no difference"
ONE_SEED, NO_SPREAD = "one seed", "no spread"  # nothing to make an interval of
Costs = Mapping[str, Any] | None


def comparison_summary(
    students: Sequence[Logits],
    baselines: Sequence[Logits],
    labels: Labels,
    *,
    teacher: Logits | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Everything that a comparison says of the answers, as plain JSON values."""
    groups = {"teacher": [] if teacher is None else [teacher], "student": students, "baseline": baselines}
    counted = {role: [_confusion(logits, labels) for logits in group] for role, group in groups.items()}
    right = [[logits.argmax(axis=1) == labels for logits in group] for group in (students, baselines)]
    one_seed = len(students) == 1
    confusions = [counted["student"][0], counted["baseline"][0]]
    return {
        "num_images": len(labels),
        "teacher": None if teacher is None else _scores([teacher], labels),
        "student": _scores(students, labels) | _fidelity(students, labels, teacher=teacher),
        "baseline": _scores(baselines, labels) | _fidelity(baselines, labels, teacher=teacher),
        "difference": _difference(right, len(labels)),
        "mcnemar": statistics.mcnemar(right[0][0], right[1][0])._asdict() if one_seed else None,
        "class_noise": _class_noise(*confusions) if one_seed else None,
        "per_class": _per_class(counted, classes),
    }


def cost_summary(costs: Mapping[str, Sequence[Costs]], *, same_processor: bool = True) -> dict[str, Any]:
    """What the models cost, and what the student saves."""
    found = {role: _middle_costs(group) for role, group in costs.items()}
    teacher, student = found["teacher"], found["student"]
    alike = same_processor and teacher[THREADS] == student[THREADS]
    comparable = [key for key in COSTS if alike or key not in LATENCIES]
    saved = {key: _ratio(teacher[key], student[key]) if key in comparable else None for key in COSTS}
    return {**found, "saved": saved}


def verdict(difference: Mapping[str, float | None]) -> str:
    """What an interval of ``student - baseline`` allows to say."""
    low, high = difference["low"], difference["high"]
    if low is None or high is None:
        return ONE_SEED if difference["std"] is None else NO_SPREAD
    return GAINED if low > 0 else LOST if high < 0 else NO_DIFFERENCE


def _confusion(logits: Logits, labels: Labels) -> Ints:
    return metrics.confusion_from_logits(logits, labels, num_classes=logits.shape[1])


def _scores(group: Sequence[Logits], labels: Labels) -> dict[str, Any]:
    num_images = len(labels)
    correct = [metrics.num_correct(_confusion(logits, labels)) for logits in group]
    mean, std = statistics.spread(correct)  # of counts, which are exact
    if len(group) == 1:
        interval = statistics.wilson_interval(correct[0], num_images)
    else:
        interval = statistics.Interval(*(end / num_images for end in statistics.mean_interval(correct)))
    return {
        "num_correct": correct,
        "accuracy": {
            "mean": mean / num_images,
            "std": None if std is None else std / num_images,
            **interval._asdict(),
            "over": "images" if len(group) == 1 else "seeds",
        },
        "loss": statistics.spread([metrics.cross_entropy(logits, labels) for logits in group])._asdict(),
        "ece": statistics.spread([metrics.expected_calibration_error(logits, labels) for logits in group])._asdict(),
    }


def _fidelity(group: Sequence[Logits], labels: Labels, *, teacher: Logits | None) -> dict[str, Any]:
    """How far the answers are the teacher's."""
    if teacher is None:
        return {"agreement": None, "agreement_on_errors": None, "kl": None}
    predicted = teacher.argmax(axis=1)
    agreed = [statistics.agreement(logits.argmax(axis=1), predicted, labels) for logits in group]
    on_errors = [one.on_errors for one in agreed if one.on_errors is not None]
    return {
        "agreement": statistics.spread([one.overall for one in agreed])._asdict(),
        "agreement_on_errors": statistics.spread(on_errors)._asdict() if on_errors else None,
        "kl": statistics.spread([statistics.mean_kl(teacher, logits) for logits in group])._asdict(),
    }


def _difference(right: Sequence[Sequence[Any]], num_images: int) -> dict[str, float | None]:
    """Of the accuracies of students and baselines; computed from counts, so that equal runs differ by exactly 0."""
    students, baselines = ([int(one.sum()) for one in group] for group in right)
    if len(students) == 1:
        return {"mean": (students[0] - baselines[0]) / num_images, "std": None, "low": None, "high": None}
    found = statistics.paired_difference(students, baselines)
    shares = {name: value / num_images for name, value in found._asdict().items()}
    # seeds that happen to differ by the same would give an interval without width, which claims certainty
    return shares | ({"low": None, "high": None} if found.std == 0 else {})


def _class_noise(student: Ints, baseline: Ints) -> dict[str, Any]:
    """What the difference of a class of usual size and accuracy may be by chance: two standard errors, a share."""
    supports = [int(number) for number in student.sum(axis=1) if number > 0]
    usual = sorted(supports)[len(supports) // 2]
    error = statistics.difference_error(metrics.accuracy(student), metrics.accuracy(baseline), num_images=usual)
    return {"num_images": usual, "equal_classes": len(set(supports)) == 1, "two_errors": 2 * error}


def _per_class(counted: Mapping[str, Sequence[Ints]], classes: Sequence[str]) -> list[dict[str, Any]]:
    support = metrics.class_scores(counted["student"][0]).support.tolist()
    recalls = {role: np.array([metrics.class_scores(one).recall for one in group]) for role, group in counted.items()}
    recalls["difference"] = recalls["student"] - recalls["baseline"]
    return [
        {"class": name, "support": support[c], **_recalls(recalls, c, empty=not support[c])}
        for c, name in enumerate(classes)
    ]


def _recalls(recalls: Mapping[str, Floats], column: int, *, empty: bool) -> dict[str, float | None]:
    """Mean and standard deviation of each role's recall of one class; None without images or runs."""
    found: dict[str, float | None] = {}
    for role, values in recalls.items():
        known = len(values) > 0 and not empty
        mean, std = statistics.spread(values[:, column].tolist()) if known else (None, None)
        found |= {role: mean} if role == "teacher" else {role: mean, f"{role}_std": std}
    return found


def _middle_costs(group: Sequence[Costs]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for key in COSTS:
        values = sorted(value for cost in group if (value := (cost or {}).get(key)) is not None)
        found[key] = values[len(values) // 2] if values else None
    threads = {cost.get(THREADS) for cost in group if cost}
    return {**found, THREADS: threads.pop() if len(threads) == 1 else None}


def _ratio(teacher: float | None, student: float | None) -> float | None:
    return teacher / student if teacher and student else None
