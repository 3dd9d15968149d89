"""The confusion matrix (rows = true class, columns = predicted class) and what follows from it.

Not by scikit-learn, whose scores take labels rather than a matrix, and which takes a second to import.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kdignite.metrics.probabilities import Floats, Ints, Labels, Logits, check_logits


class ClassScores(NamedTuple):
    """Scores of every class, each (C,): float64 in [0, 1], and the number of images (int64)."""

    precision: Floats
    recall: Floats
    f1: Floats
    support: Ints


class AverageScores(NamedTuple):
    """Scores averaged over the classes, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


class Confused(NamedTuple):
    """One kind of mistake: ``num_images`` of class ``true`` predicted as ``predicted``, a ``share`` of its images."""

    true: int
    predicted: int
    num_images: int
    share: float


class Ranking(NamedTuple):
    """Class indices in descending order of a score."""

    best: list[int]
    worst: list[int]


def confusion_from_logits(logits: Logits, labels: Labels, *, num_classes: int) -> Ints:
    """Count predictions by class: ``confusion[t, p]`` images of class t have their largest score at p.

    Of equal scores the first counts. NaN is refused: ``argmax`` would predict class 0 for every such image.

    Args:
        logits: (N, C) scores, N at least 1.
        labels: (N,) integers in [0, C).
        num_classes: C.

    Returns:
        (C, C) int64 with sum N; rows = true class, columns = predicted class.

    Raises:
        ValueError: for scores that are not finite, labels outside [0, C), or shapes that do not fit.
    """
    check_logits(logits, labels)
    if logits.shape[1] != num_classes:
        raise ValueError(f"expected logits of {num_classes} classes, got {logits.shape[1]} columns")
    cells = labels.astype(np.int64) * num_classes + logits.argmax(axis=1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)
    assert int(confusion.sum()) == len(labels)
    return confusion


def num_correct(confusion: Ints) -> int:
    """The number of images on the diagonal: ``sum_c confusion[c, c]``."""
    return int(np.trace(confusion))


def accuracy(confusion: Ints) -> float:
    """``sum_c confusion[c, c] / N``, in [0, 1]; a `ValueError` if the matrix counts no image."""
    if not confusion.sum():
        raise ValueError("expected a confusion matrix of at least one image, got none")
    return num_correct(confusion) / int(confusion.sum())


def class_scores(confusion: Ints) -> ClassScores:
    """Precision, recall and F1 of each class.

    With ``hits = confusion[c, c]``: ``precision = hits / sum_t confusion[t, c]``,
    ``recall = hits / sum_p confusion[c, p]`` (the accuracy on the images of that class) and their harmonic mean
    ``f1 = 2 hits / (sum of both denominators)``.
    ``0 / 0 := 0``: a class never predicted has precision 0, a class without images has recall 0.

    Args:
        confusion: (C, C) counts, rows = true class.

    Returns:
        ClassScores of (C,) arrays; ``support`` is the number of images of each class.
    """
    hits, predicted, support = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return ClassScores(
        precision=_ratio(hits, predicted),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, predicted + support),
        support=support,
    )


def balanced_accuracy(scores: ClassScores) -> float:
    """Mean recall of the classes that have images: ``sum_c recall_c / |{c : support_c > 0}|``, in [0, 1].

    Source: Brodersen, Ong, Stephan & Buhmann 2010, "The balanced accuracy and its posterior distribution".
    """
    return float(scores.recall[scores.support > 0].mean())


def macro_average(scores: ClassScores) -> AverageScores:
    """Mean over the K classes with images: ``sum_c score_c / K`` (the mean of the F1s, not the F1 of the means)."""
    return _average(scores, weights=(scores.support > 0).astype(np.int64))


def weighted_average(scores: ClassScores) -> AverageScores:
    """Mean weighted by images: ``sum_c support_c * score_c / sum_c support_c``; the weighted recall is the accuracy."""
    return _average(scores, weights=scores.support)


def _average(scores: ClassScores, *, weights: Ints) -> AverageScores:
    return AverageScores(*(float(np.average(column, weights=weights)) for column in scores[:3]))


def top_confusions(confusion: Ints, *, limit: int) -> list[Confused]:
    """The most frequent mistakes, at most ``limit``: most images first, then in class order."""
    cells = np.argwhere(confusion)
    mistakes = cells[cells[:, 0] != cells[:, 1]]
    counts, support = confusion[tuple(mistakes.T)], confusion.sum(axis=1)
    order = np.argsort(-counts, kind="stable")[:limit]
    return [
        Confused(true=t, predicted=p, num_images=count, share=count / int(support[t]))
        for (t, p), count in zip(mistakes[order].tolist(), counts[order].tolist(), strict=True)
    ]


def best_and_worst(scores: Sequence[float], support: Sequence[int], *, each: int) -> Ranking:
    """The classes with the highest and the lowest score, ``each`` at either end; classes without images are left out.

    Both lists are in descending order of the score, equals in class order. Where at most ``2 * each`` classes have
    images, all of them are in ``best`` and none in ``worst``.
    """
    ranked = sorted((c for c in range(len(scores)) if support[c] > 0), key=lambda c: -scores[c])
    if len(ranked) <= 2 * each:
        return Ranking(best=ranked, worst=[])
    return Ranking(best=ranked[:each], worst=ranked[-each:])


def _ratio(numerator: Ints, denominator: Ints) -> Floats:
    """Quotient with ``0 / 0 := 0``; here the numerator is 0 wherever the denominator is."""
    return numerator / np.maximum(denominator, 1)
