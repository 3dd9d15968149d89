"""What an evaluation says, as pure functions of logits and labels: NumPy arrays in, numbers out.

Almost everything follows from one confusion matrix (rows = true class, columns = predicted class); loss and calibration
need the logits themselves.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Logits = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]


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
    """One kind of mistake: ``num_images`` of class ``true`` called ``predicted``, a ``share`` of all its images."""

    true: int
    predicted: int
    num_images: int
    share: float


class Ranking(NamedTuple):
    """Class indices in descending order of a score: the head and the tail of the list."""

    best: list[int]
    worst: list[int]


def softmax(logits: Logits) -> Floats:
    """Probabilities of the classes.

    ``p = exp(z - max z) / sum exp(z - max z)``; subtracting the largest score changes nothing but prevents overflow.

    Args:
        logits: (N, C) finite scores.

    Returns:
        (N, C) float64, rows sum to 1.
    """
    return np.exp(_log_softmax(logits))


def confusion_from_logits(logits: Logits, labels: Labels, *, num_classes: int) -> Ints:
    """Count what was called what: ``confusion[t, p]`` images of class t have their largest score at p.

    Of equal scores the first counts. A score that is no number is refused: ``argmax`` would call every such image class
    0, and a dead model would score the share of class 0.

    Args:
        logits: (N, C) scores, N at least 1.
        labels: (N,) integers in [0, C).
        num_classes: C.

    Returns:
        (C, C) int64 with sum N; rows = true class, columns = predicted class.

    Raises:
        ValueError: for scores that are not finite, labels outside [0, C), or shapes that do not fit.
    """
    _check(logits, labels)
    if logits.shape[1] != num_classes:
        raise ValueError(f"expected logits of {num_classes} classes, got {logits.shape[1]} columns")
    cells = labels.astype(np.int64) * num_classes + logits.argmax(axis=1)
    confusion = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)
    assert int(confusion.sum()) == len(labels)
    return confusion


def num_correct(confusion: Ints) -> int:
    """Number of images on the diagonal.

    Args:
        confusion: (C, C) counts, rows = true class.

    Returns:
        ``sum_c confusion[c, c]``.
    """
    return int(np.trace(confusion))


def accuracy(confusion: Ints) -> float:
    """Share of the images that were called what they are.

    Args:
        confusion: (C, C) counts, rows = true class.

    Returns:
        ``sum_c confusion[c, c] / N``, in [0, 1].

    Raises:
        ValueError: if the matrix counts no image.
    """
    return num_correct(confusion) / _num_images(confusion)


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


def macro_average(scores: ClassScores) -> AverageScores:
    """Plain mean over all classes, whether they have images or not.

    Args:
        scores: of C classes.

    Returns:
        ``sum_c score_c / C`` of precision, recall and F1 (the mean of the F1s, not the F1 of the means).
    """
    return AverageScores(*(float(np.mean(score)) for score in (scores.precision, scores.recall, scores.f1)))


def weighted_average(scores: ClassScores) -> AverageScores:
    """Mean over the classes, each weighted by its number of images; the weighted recall is the accuracy.

    Args:
        scores: of C classes with at least one image among them.

    Returns:
        ``sum_c support_c * score_c / sum_c support_c`` of precision, recall and F1.
    """
    weights = scores.support
    return AverageScores(
        *(float(np.average(score, weights=weights)) for score in (scores.precision, scores.recall, scores.f1))
    )


def cross_entropy(logits: Logits, labels: Labels) -> float:
    """Mean negative log-probability of the true class.

    ``ce = -mean_n log softmax(z_n)[label_n]``, computed in float64 in log space, so that no probability underflows.

    Args:
        logits: (N, C) finite scores, N at least 1.
        labels: (N,) integers in [0, C).

    Returns:
        The mean over N, in nats.

    Raises:
        ValueError: as `confusion_from_logits`.
    """
    _check(logits, labels)
    return float(-np.mean(_log_softmax(logits)[np.arange(len(labels)), labels]))


def expected_calibration_error(logits: Logits, labels: Labels, *, num_bins: int = 15) -> float:
    """How far the model's confidence is from its accuracy.

    ``ECE = sum_b n_b / N * |accuracy_b - confidence_b|`` over ``num_bins`` bins ``((b-1)/B, b/B]`` of equal width on
    the largest probability. As coded ``n_b`` cancels: ``sum_b |hits_b - sum of confidences_b| / N``.

    Args:
        logits: (N, C) finite scores, N at least 1.
        labels: (N,) integers in [0, C).
        num_bins: B, at least 1.

    Returns:
        A number in [0, 1]; 0 is perfectly calibrated.

    Raises:
        ValueError: as `confusion_from_logits`.

    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, equation 3.
    """
    _check(logits, labels)
    confidence = softmax(logits).max(axis=1)
    hit = logits.argmax(axis=1) == labels
    bins = np.ceil(confidence * num_bins).astype(np.int64) - 1
    gaps = np.bincount(bins, weights=hit - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def top_confusions(confusion: Ints, *, limit: int) -> list[Confused]:
    """The most frequent mistakes.

    Args:
        confusion: (C, C) counts, rows = true class.
        limit: how many at most.

    Returns:
        Pairs of different classes with at least one image, most images first, then in class order.
    """
    mistakes = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-mistakes, axis=None, kind="stable")[:limit]
    pairs = [(int(cell) // len(confusion), int(cell) % len(confusion)) for cell in order]
    support = confusion.sum(axis=1)
    return [
        Confused(true=t, predicted=p, num_images=int(mistakes[t, p]), share=float(mistakes[t, p] / support[t]))
        for t, p in pairs
        if mistakes[t, p] > 0
    ]


def best_and_worst(scores: Sequence[float], support: Sequence[int], *, each: int) -> Ranking:
    """The classes with the highest and the lowest score, such as F1 or what one model has more than another.

    A class without images has no score and is left out.

    Args:
        scores: of C classes.
        support: images of each class.
        each: how many at either end.

    Returns:
        Ranking, both lists in descending order of the score, equals in class order; where at most ``2 * each`` classes
        have images, all of them are in ``best`` and none in ``worst``.
    """
    ranked = sorted((c for c in range(len(scores)) if support[c] > 0), key=lambda c: -scores[c])
    if len(ranked) <= 2 * each:
        return Ranking(best=ranked, worst=[])
    return Ranking(best=ranked[:each], worst=ranked[-each:])


def evaluation_summary(logits: Logits, labels: Labels, *, classes: Sequence[str]) -> dict[str, Any]:
    """Everything that a result file holds of one split, as plain JSON values.

    Args:
        logits: (N, C) scores, N at least 1.
        labels: (N,) integers in [0, C).
        classes: C names, in the order of the columns of the logits.

    Returns:
        ``num_images``, ``num_correct``, ``accuracy`` in [0, 1], ``loss`` (cross-entropy in nats), ``ece`` in [0, 1];
        ``macro`` and ``weighted``: precision, recall, f1; ``per_class``: a list of class, support, precision, recall,
        f1; ``confusion``: C lists of C counts, rows = true class.

    Raises:
        ValueError: as `confusion_from_logits`.
    """
    confusion = confusion_from_logits(logits, labels, num_classes=len(classes))
    scores = class_scores(confusion)
    columns = zip(*(column.tolist() for column in scores), strict=True)
    return {
        "num_images": len(labels),
        "num_correct": num_correct(confusion),
        "accuracy": accuracy(confusion),
        "loss": cross_entropy(logits, labels),
        "ece": expected_calibration_error(logits, labels),
        "macro": macro_average(scores)._asdict(),
        "weighted": weighted_average(scores)._asdict(),
        "per_class": [
            {"class": name, "support": support, "precision": precision, "recall": recall, "f1": f1}
            for name, (precision, recall, f1, support) in zip(classes, columns, strict=True)
        ],
        "confusion": confusion.tolist(),
    }


def _log_softmax(logits: Logits) -> Floats:
    scores = np.asarray(logits, dtype=np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probabilities: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_probabilities


def _ratio(numerator: Ints, denominator: Ints) -> Floats:
    """Quotient with ``0 / 0 := 0``; here the numerator is 0 wherever the denominator is."""
    return numerator / np.maximum(denominator, 1)


def _num_images(confusion: Ints) -> int:
    total = int(confusion.sum())
    if total == 0:
        raise ValueError("expected a confusion matrix of at least one image, got none")
    return total


def _check(logits: Logits, labels: Labels) -> None:
    """Refuse what would otherwise become a plausible number."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(f"expected logits (N, C) and labels (N,), N >= 1, got {logits.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels, got {labels.dtype}")
    num_broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if num_broken:
        raise ValueError(f"expected finite logits, got NaN or infinity for {num_broken} of {len(labels)} images")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"expected labels in [0, {logits.shape[1]}), got [{labels.min()}, {labels.max()}]")
