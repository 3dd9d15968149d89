"""All metrics of one split."""

from collections.abc import Sequence
from typing import Any

from kdignite.metrics.confusion import (
    accuracy,
    class_scores,
    confusion_from_logits,
    macro_average,
    num_correct,
    weighted_average,
)
from kdignite.metrics.probabilities import Labels, Logits, cross_entropy, expected_calibration_error


def evaluation_summary(logits: Logits, labels: Labels, *, classes: Sequence[str]) -> dict[str, Any]:
    """All metrics of one split, as plain JSON values.

    Args:
        logits: (N, C) scores, N at least 1.
        labels: (N,) integers in [0, C).
        classes: C names, in the order of the columns of the logits.

    Returns:
        ``num_images``, ``num_correct``, ``accuracy`` in [0, 1], ``loss`` (cross-entropy in nats), ``ece`` in [0, 1];
        ``macro`` and ``weighted``: precision, recall, f1; ``per_class``: a list of class, support, precision, recall,
        f1; ``confusion``: C lists of C counts, rows = true class.
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
