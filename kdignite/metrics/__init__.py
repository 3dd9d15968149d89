"""Metrics as pure functions of logits and labels: NumPy arrays in, numbers out."""

from kdignite.metrics.confusion import (
    Confused,
    Ranking,
    accuracy,
    best_and_worst,
    class_scores,
    confusion_from_logits,
    macro_average,
    num_correct,
    top_confusions,
    weighted_average,
)
from kdignite.metrics.probabilities import (
    Floats,
    Ints,
    Labels,
    Logits,
    cross_entropy,
    expected_calibration_error,
    softmax,
)
from kdignite.metrics.summary import evaluation_summary

__all__ = [
    "Confused",
    "Floats",
    "Ints",
    "Labels",
    "Logits",
    "Ranking",
    "accuracy",
    "best_and_worst",
    "class_scores",
    "confusion_from_logits",
    "cross_entropy",
    "evaluation_summary",
    "expected_calibration_error",
    "macro_average",
    "num_correct",
    "softmax",
    "top_confusions",
    "weighted_average",
]
