"""Metrics of the logits themselves: probabilities, loss, calibration."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Logits = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]


NUM_BINS = 15  # of confidences
DIVISORS = (1e-2, 1e2)  # the search of `fitted_divisor`: its ends, and the precision of its logarithm
PRECISION = 1e-4


class CalibrationBins(NamedTuple):
    """What a reliability diagram shows: B bins of equal width on the largest probability."""

    num_images: list[int]
    confidence: list[float]  # mean largest probability; 0 in an empty bin, as is the accuracy
    accuracy: list[float]  # share of the images that are classified correctly


def softmax(logits: Logits) -> Floats:
    """Probabilities of the classes.

    ``p = exp(z - max z) / sum exp(z - max z)``; subtracting the largest score changes nothing but prevents overflow.

    Args:
        logits: (N, C) finite scores.

    Returns:
        (N, C) float64, rows sum to 1.
    """
    # not special.softmax, whose last bits differ from those of the recorded calibration errors
    return np.exp(_log_softmax(logits))


def _log_softmax(logits: Logits) -> Floats:
    return np.asarray(special.log_softmax(np.asarray(logits, dtype=np.float64), axis=1))


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
    check_logits(logits, labels)
    return float(-np.mean(_log_softmax(logits)[np.arange(len(labels)), labels]))


def expected_calibration_error(logits: Logits, labels: Labels, *, num_bins: int = NUM_BINS) -> float:
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
    check_logits(logits, labels)
    bins, confidence, hit = _binned(logits, labels, num_bins=num_bins)
    gaps = np.bincount(bins, weights=hit - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def fitted_divisor(logits: Logits, labels: Labels) -> float:
    """The number by which logits are best divided: temperature scaling, which changes no prediction.

    ``T = argmin_T cross_entropy(logits / T, labels)``. The cross-entropy is convex in 1 / T, so one minimum is searched
    in log T, between 0.01 and 100, to 1e-4. Fit it on validation images and apply it to others.

    Args:
        logits: (N, C) finite scores, N at least 1.
        labels: (N,) integers in [0, C).

    Returns:
        T; above 1 where a model is too confident. An end of the search where no minimum lies within: predictions worse
        than chance want an infinite T. Some small T where all predictions are right, which want T = 0.

    Raises:
        ValueError: as `confusion_from_logits`.

    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, section 4.2.
    """
    check_logits(logits, labels)
    logits, ends = logits.astype(np.float64), np.log(DIVISORS)
    found = optimize.minimize_scalar(
        lambda log_t: cross_entropy(logits / np.exp(log_t), labels),
        bounds=ends,
        method="bounded",
        options={"xatol": PRECISION},
    )
    return float(np.exp(found.x))


def calibration_bins(logits: Logits, labels: Labels, *, num_bins: int = NUM_BINS) -> CalibrationBins:
    """How often a model is right at each confidence, over the bins of `expected_calibration_error`.

    Args:
        logits: (N, C) finite scores, N at least 1.
        labels: (N,) integers in [0, C).
        num_bins: B, at least 1.

    Returns:
        `CalibrationBins`, lists of B; ``sum_b n_b / N * |accuracy_b - confidence_b|`` is the calibration error.

    Raises:
        ValueError: as `confusion_from_logits`.

    Source: Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599.
    """
    check_logits(logits, labels)
    bins, *values = _binned(logits, labels, num_bins=num_bins)
    counts = np.bincount(bins, minlength=num_bins)
    means = (np.bincount(bins, weights=one, minlength=num_bins) / np.maximum(counts, 1) for one in values)
    return CalibrationBins(counts.tolist(), *(one.tolist() for one in means))


def _binned(logits: Logits, labels: Labels, *, num_bins: int) -> tuple[Ints, Floats, npt.NDArray[np.bool_]]:
    """Of each image: the bin of its confidence, the confidence, and whether the prediction is right."""
    confidence = softmax(logits).max(axis=1)
    return np.ceil(confidence * num_bins).astype(np.int64) - 1, confidence, logits.argmax(axis=1) == labels


def check_logits(logits: Logits, labels: Labels) -> None:
    """Raise a `ValueError` unless logits (N, C) are finite, and labels (N,) integers in [0, C)."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(f"expected logits (N, C) and labels (N,), N >= 1, got {logits.shape} and {labels.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"expected integer labels, got {labels.dtype}")
    num_broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if num_broken:
        raise ValueError(f"expected finite logits, got NaN or infinity for {num_broken} of {len(labels)} images")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(f"expected labels in [0, {logits.shape[1]}), got [{labels.min()}, {labels.max()}]")
