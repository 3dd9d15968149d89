"""Logits of student, baseline and teacher for the same images, compared: accuracy, fidelity, calibration, classes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kdignite import metrics
from kdignite.metrics import Ints, Labels, Logits, statistics
from kdignite.metrics.statistics import McNemar, Spread

ROLES = ("teacher", "student", "baseline")
FIDELITY = ("agreement", "agreement_on_errors", "kl")  # scores against the teacher's logits
DIVIDED = ("divisor", "divided_loss", "divided_ece")  # scores after temperature scaling
GAINED, LOST, NO_DIFFERENCE = "gained", "lost", "no difference"
ONE_SEED, NO_SPREAD = "one seed", "no spread"  # nothing to make an interval of


class Accuracy(NamedTuple):
    """Shares in [0, 1]; the 95 % interval is over images (Wilson) for one run, over seeds (t) for several.

    Seeds of one accuracy have none: it would be without width, which claims certainty.
    """

    mean: float
    std: float | None
    low: float | None
    high: float | None
    over: str


class Difference(NamedTuple):
    """Student - baseline; one seed, and seeds that differ by the same, give no interval."""

    mean: float
    std: float | None = None
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """What the interval allows to say."""
        if self.low is None or self.high is None:
            return ONE_SEED if self.std is None else NO_SPREAD
        return GAINED if self.low > 0 else LOST if self.high < 0 else NO_DIFFERENCE


class ModelScores(NamedTuple):
    """Scores of the runs of one role; those of `FIDELITY` are None without a teacher, and of the teacher itself."""

    num_correct: list[int]  # of each seed
    accuracy: Accuracy
    loss: Spread  # cross-entropy, nats
    ece: Spread  # share
    agreement: Spread | None  # share
    agreement_on_errors: Spread | None  # share
    kl: Spread | None  # nats
    # after the logits of each run were divided by the number that its validation images choose; None without them
    divisor: Spread | None = None
    divided_loss: Spread | None = None
    divided_ece: Spread | None = None


class ClassNoise(NamedTuple):
    """Two standard errors of the difference of a class of median size, a share."""

    num_images: int
    equal_classes: bool
    two_errors: float


class ClassRow(NamedTuple):
    """Recalls of a class, means over the seeds; None without images or teacher."""

    name: str
    support: int
    teacher: float | None
    student: float | None
    student_std: float | None
    baseline: float | None
    baseline_std: float | None
    difference: float | None
    difference_std: float | None

    @property
    def recalls(self) -> dict[str, float]:
        """Those that are known, by role."""
        values = zip(ROLES, (self.teacher, self.student, self.baseline), strict=True)
        return {role: value for role, value in values if value is not None}


class Scores(NamedTuple):
    """Everything that follows from the logits."""

    num_images: int
    models: dict[str, ModelScores]  # by role; the teacher may be missing
    difference: Difference
    mcnemar: McNemar | None  # of one seed, as is the noise
    class_noise: ClassNoise | None
    per_class: list[ClassRow]

    @property
    def overall(self) -> ClassRow:
        """All images, in the form of a class."""
        student, baseline = (self.models[role].accuracy[:2] for role in ROLES[1:])
        teacher = self.models["teacher"].accuracy.mean if "teacher" in self.models else None
        return ClassRow("overall", self.num_images, teacher, *student, *baseline, *self.difference[:2])


def compare_logits(
    students: Sequence[Logits],
    baselines: Sequence[Logits],
    labels: Labels,
    *,
    teacher: Logits | None,
    classes: Sequence[str],
    divisors: Mapping[str, Sequence[float | None]] | None = None,
) -> Scores:
    """Compare the runs of each role; students and baselines are pairs of a seed, the divisors those of their logits."""
    groups = {"teacher": [] if teacher is None else [teacher], "student": students, "baseline": baselines}
    confusions = {role: [_confusion(logits, labels) for logits in group] for role, group in groups.items()}
    models = {
        role: model_scores(
            group, labels, teacher=None if role == "teacher" else teacher, divisors=(divisors or {}).get(role, ())
        )
        for role, group in groups.items()
        if group
    }
    right = [group[0].argmax(axis=1) == labels for group in (students, baselines)]
    one_seed = len(students) == 1
    return Scores(
        num_images=len(labels),
        models=models,
        difference=difference(models["student"].num_correct, models["baseline"].num_correct, len(labels)),
        mcnemar=statistics.mcnemar(*right) if one_seed else None,
        class_noise=_class_noise(confusions["student"][0], confusions["baseline"][0]) if one_seed else None,
        per_class=_per_class(confusions, classes),
    )


def _confusion(logits: Logits, labels: Labels) -> Ints:
    return metrics.confusion_from_logits(logits, labels, num_classes=logits.shape[1])


def model_scores(
    group: Sequence[Logits], labels: Labels, *, teacher: Logits | None, divisors: Sequence[float | None] = ()
) -> ModelScores:
    """Scores of runs that differ in their seed; without a teacher none of `FIDELITY`, without divisors no `DIVIDED`."""
    num_images = len(labels)
    correct = [int((logits.argmax(axis=1) == labels).sum()) for logits in group]
    mean, std = statistics.spread(correct)  # of counts, which are exact
    low, high = _interval(correct, num_images)
    over = "images" if len(group) == 1 else "seeds"
    return ModelScores(
        correct,
        Accuracy(mean / num_images, None if std is None else std / num_images, low, high, over),
        statistics.spread([metrics.cross_entropy(logits, labels) for logits in group]),
        statistics.spread([metrics.expected_calibration_error(logits, labels) for logits in group]),
        *([None] * len(FIDELITY) if teacher is None else _fidelity(group, labels, teacher)),
        *_divided(group, labels, [one for one in divisors if one is not None]),
    )


def _interval(correct: Sequence[int], num_images: int) -> tuple[float, float] | tuple[None, None]:
    if len(correct) == 1:
        return statistics.wilson_interval(correct[0], num_images)
    if len(set(correct)) == 1:
        return None, None
    low, high = statistics.mean_interval(correct)
    return low / num_images, high / num_images


def _divided(group: Sequence[Logits], labels: Labels, divisors: Sequence[float]) -> list[Spread | None]:
    """Divisor, cross-entropy and calibration error of divided logits, in the order of `DIVIDED`."""
    if len(divisors) != len(group):  # means of all runs or of none
        return [None] * len(DIVIDED)
    divided = [logits / number for logits, number in zip(group, divisors, strict=True)]
    scores = (metrics.cross_entropy, metrics.expected_calibration_error)
    return [statistics.spread(divisors), *(statistics.spread([one(z, labels) for z in divided]) for one in scores)]


def _fidelity(group: Sequence[Logits], labels: Labels, teacher: Logits) -> list[Spread | None]:
    """How close the predictions are to the teacher's, in the order of `FIDELITY`."""
    predicted = teacher.argmax(axis=1)
    agreed = [statistics.agreement(logits.argmax(axis=1), predicted, labels) for logits in group]
    on_errors = [one.on_errors for one in agreed if one.on_errors is not None]
    kl = [statistics.mean_kl(teacher, logits) for logits in group]
    return [statistics.spread(values) if values else None for values in ([a.overall for a in agreed], on_errors, kl)]


def difference(students: Sequence[int], baselines: Sequence[int], num_images: int) -> Difference:
    """Of the accuracies; computed from counts, so that equal runs differ by exactly 0.

    Seeds that happen to differ by the same have no interval, as those of one accuracy have none.
    """
    if len(students) == 1:
        return Difference((students[0] - baselines[0]) / num_images)
    mean, std, low, high = (value / num_images for value in statistics.paired_difference(students, baselines))
    return Difference(mean, std, low, high) if std else Difference(mean, std)


def _class_noise(student: Ints, baseline: Ints) -> ClassNoise:
    supports = sorted(int(number) for number in student.sum(axis=1) if number > 0)
    median = supports[len(supports) // 2]
    error = statistics.difference_error(metrics.accuracy(student), metrics.accuracy(baseline), num_images=median)
    return ClassNoise(median, len(set(supports)) == 1, 2 * error)


def _per_class(confusions: Mapping[str, Sequence[Ints]], classes: Sequence[str]) -> list[ClassRow]:
    support = metrics.class_scores(confusions["student"][0]).support.tolist()
    recalls = {role: np.array([metrics.class_scores(one).recall for one in ones]) for role, ones in confusions.items()}
    recalls["difference"] = recalls["student"] - recalls["baseline"]
    rows = []
    for c, name in enumerate(classes):
        (teacher, _), *others = (
            statistics.spread(values[:, c].tolist()) if len(values) and support[c] else (None, None)
            for values in recalls.values()
        )
        rows.append(ClassRow(name, support[c], teacher, *(value for pair in others for value in pair)))
    return rows
