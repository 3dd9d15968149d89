"""Which settings fit the user's results: an accuracy, accuracies by class, or predictions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from kdignite.doctor.settings import SettingLogits
from kdignite.teachers.outputs import SOFTMAX, activation_of

LEVEL = 0.99  # confidence of a list of candidates
EXACT_DISTANCE = 0.03  # of features, up to which a setting without randomness counts as found
GAP_FACTOR = 1.5  # times the largest gap between its draws, up to which a random setting counts as found
TIE_FACTOR = 3  # times the distance of the nearest setting, up to which others are tied
ROUNDING_DISTANCE = 0.01  # of features, which rounding can cause in the predictions of a few images
Proportions = npt.NDArray[np.floating[Any]]
Counts = npt.NDArray[np.integer[Any]]
Classes = npt.NDArray[np.integer[Any]]


class GoodnessOfFit(NamedTuple):
    """A test of K observed numbers against a setting: the sum of their z^2, and its critical value."""

    statistic: float
    critical_value: float
    neg_log_likelihood: float  # up to a constant: the smaller, the better the setting explains the numbers

    @property
    def fits(self) -> bool:
        """Whether the setting is not rejected."""
        return self.statistic <= self.critical_value


class SettingMatch(NamedTuple):
    """The setting that explains predictions best, and how well."""

    name: str  # the nearest setting
    found: bool  # whether it is near enough
    agreement: float  # share of equal predictions, in its best draw
    second: str  # the nearest setting that is not tied with it; empty: none
    second_agreement: float
    tied: list[str]  # cannot be distinguished from it


def proportion_fit(observed: Proportions, num_observed: Counts, correct: Counts, num_images: Counts) -> GoodnessOfFit:
    """Compare observed accuracies with those of a setting, both of finite numbers of images.

    With one success and one failure added to every count, ``q = (observed m + 1) / (m + 2)``,
    ``p_d = (correct_d + 1) / (n + 2)`` and p their mean over the draws:
    ``z^2 = (p - q)^2 / (p (1 - p) / (n + 2) + q (1 - q) / (m + 2) + (1 + 1/D) s^2)``
    with s^2 the variance of the p_d, the mean of those of the K shares: the class that random predictions prefer is
    random too (0 where D = 1: nothing is random). The sum over K shares fits up to the quantile of chi-square with K
    degrees of freedom, or, where s is estimated, of ``K F(K, D - 1)``.

    Source: added counts: Agresti & Caffo 2000, doi:10.1080/00031305.2000.10474560.
    """
    scored = (correct + 1) / (num_images + 2)
    seen = (observed * num_observed + 1) / (num_observed + 2)
    mean = scored.mean(axis=0)
    noise = mean * (1 - mean) / (num_images + 2) + seen * (1 - seen) / (num_observed + 2)
    return _fit(seen, scored, noise=noise)


def accuracy_fit(results: SettingLogits, labels: Classes, *, observed: float, num_observed: int) -> GoodnessOfFit:
    """Compare an observed accuracy with that of a setting."""
    correct = (results.predicted.numpy() == labels).sum(axis=1)[:, None]
    return proportion_fit(np.array([observed]), np.array([num_observed]), correct, np.array([len(labels)]))


def per_class_fit(
    results: SettingLogits, labels: Classes, *, observed: Proportions, num_observed: Counts
) -> GoodnessOfFit:
    """Compare observed accuracies by class with those of a setting."""
    num_classes = len(observed)
    right = results.predicted.numpy() == labels
    correct = np.stack([np.bincount(labels[row], minlength=num_classes) for row in right])
    return proportion_fit(observed, num_observed, correct, np.bincount(labels, minlength=num_classes))


def match_predictions(
    results: Sequence[SettingLogits], given: Classes, *, logits: npt.NDArray[np.floating[Any]] | None = None
) -> SettingMatch:
    """The setting whose predictions were given.

    Every draw of every setting has `prediction_features`; the setting of the nearest is the match. Settings with a draw
    at most three times as far (and those that differ by rounding) are tied; logits or probabilities, if given, decide
    among those of them in which nothing is random. The match is found if it is within 0.03, or, where it is random,
    within 1.5 times the largest distance of one of its draws from the one next to it.
    """
    num_classes = results[0].logits.shape[2]
    fixed = np.stack([one.predicted[0].numpy() for one in results if not one.setting.random])
    seen = prediction_features(given, fixed, num_classes=num_classes)
    drawn = {
        one.setting.name: np.stack(
            [prediction_features(row, fixed, num_classes=num_classes) for row in one.predicted.numpy()]
        )
        for one in results
    }
    far = {name: float(_distances(seen, points).min()) for name, points in drawn.items()}
    first, *others = sorted(far, key=far.__getitem__)
    near = max(TIE_FACTOR * far[first], ROUNDING_DISTANCE)
    tied, apart = [name for name in others if far[name] <= near], [name for name in others if far[name] > near]
    if logits is not None:
        first, *tied = _sorted_by_logits([first, *tied], results, logits)
    agreed = {one.setting.name: float((one.predicted.numpy() == given).mean(axis=1).max()) for one in results}
    second = apart[0] if apart else ""
    found = far[first] <= max(EXACT_DISTANCE, GAP_FACTOR * _largest_gap(drawn[first]))
    return SettingMatch(first, found, agreed[first], second, agreed.get(second, 0.0), tied)


def prediction_features(given: Classes, fixed: Classes, *, num_classes: int) -> npt.NDArray[np.float64]:
    """Features in [0, 1] of predictions, also of unknown weights: agreement, assignment, information, class shares."""
    joint = _confusion(given, fixed[0], num_classes) / len(given)
    one, other = joint.sum(axis=1), joint.sum(axis=0)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / np.outer(one, other)[there])).sum()
    assigned = joint[linear_sum_assignment(joint, maximize=True)].sum()
    relative = information / math.log(max(num_classes, 2))
    return np.array([*(fixed == given).mean(axis=1), assigned, relative, other.max(), np.abs(one - other).sum() / 2])


def best_permutation(given: Classes, recorded: Classes, *, num_classes: int) -> list[int]:
    """For each class of the recorded predictions the class that stands for it in the given ones."""
    columns = linear_sum_assignment(_confusion(given, recorded, num_classes), maximize=True)[1]
    return [int(column) for column in columns]


def _confusion(given: Classes, recorded: Classes, num_classes: int) -> Counts:
    """(C, C): how often each class is given where another is recorded."""
    return np.bincount(recorded * num_classes + given, minlength=num_classes**2).reshape(num_classes, num_classes)


def _fit(seen: Proportions, scored: Proportions, *, noise: Proportions) -> GoodnessOfFit:
    """`GoodnessOfFit` of K numbers to D draws of them, each number with its own noise."""
    draws, count = scored.shape
    spread = scored.var(axis=0, ddof=1).mean() * (1 + 1 / draws) if draws > 1 else 0.0
    variance = noise + spread
    squares = (scored.mean(axis=0) - seen) ** 2 / variance
    limit = count * stats.f.ppf(LEVEL, count, draws - 1) if draws > 1 else stats.chi2.ppf(LEVEL, count)
    return GoodnessOfFit(float(squares.sum()), float(limit), float((squares + np.log(variance)).sum() / 2))


def _distances(point: Proportions, points: Proportions) -> Proportions:
    return np.asarray(np.linalg.norm(points - point, axis=1))


def _largest_gap(points: Proportions) -> float:
    """The largest distance of one of D points from the one next to it; 0 where there is one."""
    gaps = [_distances(point, np.delete(points, place, axis=0)) for place, point in enumerate(points)]
    return max((float(gap.min()) for gap in gaps if len(gap)), default=0.0)


def _sorted_by_logits(
    names: list[str], results: Sequence[SettingLogits], logits: npt.NDArray[np.floating[Any]]
) -> list[str]:
    """The names, those without randomness first and by distance of logits; unchanged where a random one is first."""
    is_softmax = activation_of(torch.from_numpy(logits)) == SOFTMAX
    fixed = {
        one.setting.name: (_probabilities(one.logits[0]) if is_softmax else one.logits[0]).numpy()
        for one in results
        if not one.setting.random
    }
    if names[0] not in fixed:
        return names
    ordered = sorted((name for name in names if name in fixed), key=lambda name: _rms_difference(fixed[name], logits))
    return [*ordered, *(name for name in names if name not in fixed)]


def _probabilities(outputs: Tensor) -> Tensor:
    return outputs if activation_of(outputs) == SOFTMAX else outputs.softmax(1)


def _rms_difference(one: npt.NDArray[np.floating[Any]], other: npt.NDArray[np.floating[Any]]) -> float:
    """Root mean square difference of outputs up to a constant in each row, which no softmax sees."""
    difference = one - other
    square = float(((difference - difference.mean(axis=1, keepdims=True)) ** 2).mean())
    return math.sqrt(square) if math.isfinite(square) else math.inf
