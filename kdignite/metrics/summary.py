"""All metrics of one split."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdignite.metrics.confusion import (
    accuracy,
    balanced_accuracy,
    class_scores,
    confusion_from_logits,
    macro_average,
    num_correct,
    top_confusions,
    weighted_average,
)
from kdignite.metrics.probabilities import Labels, Logits, cross_entropy, expected_calibration_error

NUM_CONFUSIONS = 20  # that a summary lists


def recorded(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a file records of a summary: all but the matrix, which grows with the square of the classes."""
    return {key: value for key, value in summary.items() if key != "confusion"}


def evaluation_summary(logits: Logits, labels: Labels, *, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics of one split, as plain JSON values but for the confusion matrix.

    Args:
        logits: (N, C) scores, N at least 1.
        labels: (N,) integers in [0, C).
        classes: C names, in the order of the columns of the logits.

    Returns:
        ``num_images``, ``num_correct``, ``accuracy`` and ``balanced_accuracy`` in [0, 1], ``loss`` (cross-entropy in
        nats), ``ece`` in [0, 1]; ``macro`` and ``weighted``: precision, recall, f1; ``per_class``: a list of class,
        support, precision, recall, f1; ``confusions``: the most frequent mistakes, each with the class indices true and
        predicted, num_images and share; ``confusion``: an array (C, C) int64, rows = true class.
    """
    confusion = confusion_from_logits(logits, labels, num_classes=len(classes))
    scores = class_scores(confusion)
    columns = zip(*(column.tolist() for column in scores), strict=True)
    return {
        "num_images": len(labels),
        "num_correct": num_correct(confusion),
        "accuracy": accuracy(confusion),
        "balanced_accuracy": balanced_accuracy(scores),
        "loss": cross_entropy(logits, labels),
        "ece": expected_calibration_error(logits, labels),
        "macro": macro_average(scores)._asdict(),
        "weighted": weighted_average(scores)._asdict(),
        "per_class": [
            {"class": name, "support": support, "precision": precision, "recall": recall, "f1": f1}
            for name, (precision, recall, f1, support) in zip(classes, columns, strict=True)
        ],
        "confusions": [pair._asdict() for pair in top_confusions(confusion, limit=NUM_CONFUSIONS)],
        "confusion": confusion,
    }
