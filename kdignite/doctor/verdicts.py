"""Which settings fit what somebody saw: an accuracy, accuracies by class, or the answers themselves."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import linear_sum_assignment

from kdignite.doctor.mistakes import Answers

LEVEL = 0.99  # share of true causes that a list of candidates keeps
EXACT = 0.03  # distance of fingerprints up to which a setting without chance is taken for the right one
LOOSE = 1.5  # times the largest gap between its draws, up to which a random setting is taken for the right one
TIED = 3  # times the distance of the nearest setting, up to which others are as good
ROUNDING = 0.01  # distance of fingerprints that means nothing: a few images, called otherwise by rounding
Shares = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.integer[Any]]
Classes = npt.NDArray[np.integer[Any]]


class Fit(NamedTuple):
    """How far K observed numbers are from a setting: the sum of their z^2, and the most that still fits."""

    distance: float
    limit: float
    surprise: float  # minus log density up to a constant: the smaller, the better the setting explains the numbers

    @property
    def fits(self) -> bool:
        """Whether the setting is not rejected."""
        return self.distance <= self.limit


class Named(NamedTuple):
    """The setting that explains answers best, and how well."""

    name: str  # the nearest setting
    found: bool  # whether it is near enough to be the one
    agreement: float  # share of the answers that are the setting's, in its best draw
    second: str  # the nearest setting that is told apart from it; empty: none
    second_agreement: float
    tied: list[str]  # cannot be told apart from it


def share_fit(observed: Shares, num_observed: Counts, correct: Counts, num_images: Counts) -> Fit:
    """Compare observed shares with what a setting scored, both of finite numbers of images.

    With one success and one failure added to every count, ``q = (observed m + 1) / (m + 2)``,
    ``p_d = (correct_d + 1) / (n + 2)`` and p their mean over the draws:
    ``z^2 = (p - q)^2 / (p (1 - p) / (n + 2) + q (1 - q) / (m + 2) + (1 + 1/D) s^2)``
    with s^2 the variance of the p_d, the mean of those of the K shares: which class a random answer prefers is chance
    too (0 where D = 1: nothing is random). The sum over K shares fits up to the quantile of chi-square with K degrees
    of freedom, or, where s is estimated, of ``K F(K, D - 1)``.

    Source: added counts: Agresti & Caffo 2000, doi:10.1080/00031305.2000.10474560.
    """
    scored = (correct + 1) / (num_images + 2)
    seen = (observed * num_observed + 1) / (num_observed + 2)
    mean = scored.mean(axis=0)
    noise = mean * (1 - mean) / (num_images + 2) + seen * (1 - seen) / (num_observed + 2)
    return _fit(seen, scored, noise=noise)


def accuracy_fit(answers: Answers, labels: Classes, *, observed: float, num_observed: int) -> Fit:
    """Compare an observed accuracy with what a setting scores."""
    correct = (answers.predicted.numpy() == labels).sum(axis=1)[:, None]
    return share_fit(np.array([observed]), np.array([num_observed]), correct, np.array([len(labels)]))


def class_fit(answers: Answers, labels: Classes, *, observed: Shares, num_observed: Counts) -> Fit:
    """Compare observed accuracies by class with those of a setting."""
    num_classes = len(observed)
    right = answers.predicted.numpy() == labels
    correct = np.stack([np.bincount(labels[row], minlength=num_classes) for row in right])
    return share_fit(observed, num_observed, correct, np.bincount(labels, minlength=num_classes))


def name_answers(
    answers: Sequence[Answers], given: Classes, *, logits: npt.NDArray[np.floating[Any]] | None = None
) -> Named:
    """The setting whose answers somebody has.

    Every draw of every setting has a `fingerprint`; the nearest one names the setting. Settings with a draw at most
    three times as far (and those that differ by rounding) are tied; logits, where there are any, decide among those of
    them in which nothing is random. The nearest setting is found if it is within 0.03, or, where it is random, within
    1.5 times the largest distance of one of its draws from the one next to it.
    """
    num_classes = answers[0].logits.shape[2]
    fixed = np.stack([one.predicted[0].numpy() for one in answers if not one.setting.random])
    seen = fingerprint(given, fixed, num_classes=num_classes)
    drawn = {
        one.setting.name: np.stack([fingerprint(row, fixed, num_classes=num_classes) for row in one.predicted.numpy()])
        for one in answers
    }
    far = {name: float(_distances(seen, points).min()) for name, points in drawn.items()}
    first, *others = sorted(far, key=far.__getitem__)
    near = max(TIED * far[first], ROUNDING)
    tied, apart = [name for name in others if far[name] <= near], [name for name in others if far[name] > near]
    if logits is not None:
        first, *tied = _by_logits([first, *tied], answers, logits)
    agreed = {one.setting.name: float((one.predicted.numpy() == given).mean(axis=1).max()) for one in answers}
    second = apart[0] if apart else ""
    found = far[first] <= max(EXACT, LOOSE * _looseness(drawn[first]))
    return Named(first, found, agreed[first], second, agreed.get(second, 0.0), tied)


def fingerprint(given: Classes, fixed: Classes, *, num_classes: int) -> npt.NDArray[np.float64]:
    """What can be said of answers, whether or not the weights are known that gave them; every number is in [0, 1]."""
    joint = _counts(given, fixed[0], num_classes) / len(given)
    one, other = joint.sum(axis=1), joint.sum(axis=0)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / np.outer(one, other)[there])).sum()
    assigned = joint[linear_sum_assignment(joint, maximize=True)].sum()
    relative = information / math.log(max(num_classes, 2))
    return np.array([*(fixed == given).mean(axis=1), assigned, relative, other.max(), np.abs(one - other).sum() / 2])


def best_permutation(given: Classes, recorded: Classes, *, num_classes: int) -> list[int]:
    """For each class of the recorded answers the class that stands for it in others."""
    columns = linear_sum_assignment(_counts(given, recorded, num_classes), maximize=True)[1]
    return [int(column) for column in columns]


def _counts(given: Classes, recorded: Classes, num_classes: int) -> Counts:
    """(C, C): how often each class stands in the place of each recorded one."""
    return np.bincount(recorded * num_classes + given, minlength=num_classes**2).reshape(num_classes, num_classes)


def _fit(seen: Shares, scored: Shares, *, noise: Shares) -> Fit:
    """`Fit` of K numbers to D draws of them, each number with its own noise."""
    draws, count = scored.shape
    spread = scored.var(axis=0, ddof=1).mean() * (1 + 1 / draws) if draws > 1 else 0.0
    variance = noise + spread
    squares = (scored.mean(axis=0) - seen) ** 2 / variance
    limit = count * stats.f.ppf(LEVEL, count, draws - 1) if draws > 1 else stats.chi2.ppf(LEVEL, count)
    return Fit(float(squares.sum()), float(limit), float((squares + np.log(variance)).sum() / 2))


def _distances(point: Shares, points: Shares) -> Shares:
    return np.asarray(np.linalg.norm(points - point, axis=1))


def _looseness(points: Shares) -> float:
    """The largest distance of one of D points from the one next to it; 0 where there is one."""
    gaps = [_distances(point, np.delete(points, place, axis=0)) for place, point in enumerate(points)]
    return max((float(gap.min()) for gap in gaps if len(gap)), default=0.0)


def _by_logits(names: list[str], answers: Sequence[Answers], logits: npt.NDArray[np.floating[Any]]) -> list[str]:
    """The names again, the settings without chance by the distance of their logits; after a random one as they were."""
    fixed = {one.setting.name: one.logits[0].numpy() for one in answers if not one.setting.random}
    if names[0] not in fixed:
        return names
    ordered = sorted((name for name in names if name in fixed), key=lambda name: _logit_distance(fixed[name], logits))
    return [*ordered, *(name for name in names if name not in fixed)]


def _logit_distance(one: npt.NDArray[np.floating[Any]], other: npt.NDArray[np.floating[Any]]) -> float:
    """Root mean square difference of logits up to a constant in each row, which no softmax sees."""
    difference = one - other
    square = float(((difference - difference.mean(axis=1, keepdims=True)) ** 2).mean())
    return math.sqrt(square) if math.isfinite(square) else math.inf
