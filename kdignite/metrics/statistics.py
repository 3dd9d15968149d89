"""Statistics of a comparison of models: intervals, tests and agreement, as pure functions of NumPy arrays."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from kdignite.metrics.probabilities import Labels, Logits

Bools = npt.NDArray[np.bool_]


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


class McNemar(NamedTuple):
    """Images that only one of two models got right, and how likely so uneven a share is if neither is better."""

    only_first: int
    only_second: int
    p_value: float


class Spread(NamedTuple):
    """Mean and standard deviation of some runs; one run has no standard deviation."""

    mean: float
    std: float | None


class PairedDifference(NamedTuple):
    """Difference ``first - second`` over pairs: mean, standard deviation, ends of the interval of the mean."""

    mean: float
    std: float
    low: float
    high: float


class TeacherAgreement(NamedTuple):
    """Share of equal predictions: of all images, and of those that the teacher gets wrong."""

    overall: float
    on_errors: float | None


def wilson_interval(num_correct: int, num_images: int, *, level: float = 0.95) -> Interval:
    """Interval of an accuracy over the images that could have been drawn; of one trained model, not of its recipe.

    With ``p = num_correct / n`` and z the quantile of the normal distribution at ``(1 + level) / 2``:
    ``(p + z^2/2n -+ z sqrt(p (1 - p) / n + z^2/4n^2)) / (1 + z^2/n)``, which stays in [0, 1].

    Args:
        num_correct: correctly classified images.
        num_images: n, at least 1.
        level: share of such intervals that hold the true accuracy.

    Returns:
        Ends in [0, 1].

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.
    """
    test = stats.binomtest(num_correct, num_images)
    low, high = test.proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(low), float(high))


def mcnemar(first_right: Bools, second_right: Bools) -> McNemar:
    """Exact McNemar test of two models on the same images, two-sided.

    Images that both get right or both get wrong do not count. Of the b + c others, where b are right
    in the first alone: ``p = min(1, 2 * P(X <= min(b, c)))``, X binomial with b + c trials and probability 1/2.
    It is about this pair of trained models; another seed gives another pair.

    Args:
        first_right: (N,) whether the first model is right.
        second_right: (N,) whether the second model is, for the same images.

    Returns:
        Both counts and p, in (0, 1]; p is 1 where the models differ nowhere.

    Source: McNemar 1947, doi:10.1007/BF02295996.
    """
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    if only_first + only_second == 0:
        return McNemar(0, 0, 1.0)
    test = stats.binomtest(only_first, only_first + only_second, 0.5)
    return McNemar(only_first, only_second, float(test.pvalue))


def spread(values: Sequence[float]) -> Spread:
    """Mean of runs that differ in their seed, and ``sqrt(sum (x - mean)^2 / (n - 1))``; None for one run."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), std)


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student's t interval of a mean over runs that differ in their seed.

    ``mean -+ t * std / sqrt(n)`` with t the quantile at ``(1 + level) / 2`` of n - 1 degrees of freedom. Equal values
    give an interval without width. It may reach beyond what the values themselves can be.

    Args:
        values: one of each run, at least two.
        level: share of such intervals that hold the true mean, for normally distributed values.

    Returns:
        Its ends.

    Raises:
        ValueError: for fewer than two values.

    Source: Student 1908, doi:10.1093/biomet/6.1.1.
    """
    if len(values) < 2:
        raise ValueError(f"expected at least two values, got {len(values)}")
    # not ttest_1samp, which gives NaN for equal values
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    mean = float(np.mean(values))
    return Interval(mean - half, mean + half)


def paired_difference(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> PairedDifference:
    """The difference of two recipes, from runs that share a seed pair by pair.

    What a seed does to both (initial weights, order) cancels in ``d_i = first_i - second_i``; the interval is
    `mean_interval` of the d_i.

    Args:
        first: one value of each seed, at least two.
        second: of the same seeds in the same order.
        level: as in `mean_interval`.

    Returns:
        Mean, standard deviation and interval of the d_i.

    Raises:
        ValueError: for fewer than two pairs, or values without a partner.
    """
    differences = [one - other for one, other in zip(first, second, strict=True)]
    low, high = mean_interval(differences, level=level)
    return PairedDifference(float(np.mean(differences)), float(np.std(differences, ddof=1)), low, high)


def paired_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Two-sided paired t test: how likely so large a mean difference is between recipes that are equally good.

    ``p = 2 P(t > |mean d| / (std d / sqrt n))``, d as in `paired_difference`, t with n - 1 degrees of freedom: p is
    below ``1 - level`` where the interval of that level leaves 0 out.

    Args:
        first: one value of each seed, at least two.
        second: of the same seeds in the same order.

    Returns:
        p in [0, 1]; None where all pairs differ by the same, which no t test can judge.

    Raises:
        ValueError: as `paired_difference`.
    """
    mean, std, *_ = paired_difference(first, second)
    return float(2 * stats.t.sf(abs(mean) / (std / math.sqrt(len(first))), len(first) - 1)) if std else None


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number, so that one below 0.05 is wrong in 5 % of such families at most.

    Of m values the i-th smallest becomes ``max_{j <= i} min(1, (m - j + 1) p_(j))``, whatever depends on what.

    Args:
        p_values: of a family of tests, in [0, 1].

    Returns:
        The adjusted ones in the same order, none smaller than it was.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(steps)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(one) for one in adjusted]


def difference_error(first: float, second: float, *, num_images: int) -> float:
    """Standard error of the difference of two shares p and q in [0, 1], each of n images: a share.

    ``sqrt((p (1 - p) + q (1 - q)) / n)``: as if each share had its own images. Two models on the same images are often
    right or wrong together, and then their difference varies less.
    """
    return math.sqrt((first * (1 - first) + second * (1 - second)) / num_images)


def agreement(predicted: Labels, teacher_predicted: Labels, labels: Labels) -> TeacherAgreement:
    """How often a model predicts what the teacher predicts.

    A good model agrees with a good teacher because both are right. Images that the teacher gets wrong show more: equal
    errors come from distillation, or from similar models.

    Args:
        predicted: (N,) classes.
        teacher_predicted: (N,) classes, for the same images.
        labels: (N,) true classes.

    Returns:
        ``overall``: share of all N; ``on_errors``: share of the images that the teacher gets wrong where the model
        predicts the same wrong class, None where there are none.

    Source: Stanton, Izmailov, Kirichenko, Alemi & Wilson 2021, arXiv:2106.05945.
    """
    same, errors = predicted == teacher_predicted, teacher_predicted != labels
    on_errors = float(same[errors].mean()) if errors.any() else None
    return TeacherAgreement(float(same.mean()), on_errors)


def mean_kl(teacher_logits: Logits, logits: Logits) -> float:
    """Kullback-Leibler divergence of a model's probabilities from the teacher's, at temperature 1.

    ``mean_n sum_c p_nc (log p_nc - log q_nc)``, p the teacher's softmax and q the model's, in float64 in log space.

    Args:
        teacher_logits: (N, C) finite scores.
        logits: (N, C) finite scores, for the same images.

    Returns:
        The mean over N, in nats, at least 0.
    """
    log_p, log_q = (special.log_softmax(z.astype(np.float64), axis=1) for z in (teacher_logits, logits))
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean())
