"""Metrics as pure functions of logits and labels: NumPy arrays in, numbers out."""

from kdignite.metrics.confusion import (
    Confused,
    Ranking,
    accuracy,
    balanced_accuracy,
    best_and_worst,
    class_scores,
    confusion_from_logits,
    macro_average,
    num_correct,
    top_confusions,
    weighted_average,
)
from kdignite.metrics.probabilities import (
    CalibrationBins,
    Ints,
    Labels,
    Logits,
    calibration_bins,
    cross_entropy,
    expected_calibration_error,
    fitted_divisor,
    softmax,
)
from kdignite.metrics.summary import evaluation_summary, recorded
