"""Metrics against scikit-learn and closed forms."""

import json

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
)

from kdignite import metrics

CLASSES = ("cat", "dog", "owl", "yak")


@pytest.fixture
def predictions() -> tuple[np.ndarray, np.ndarray]:
    """200 images of 4 classes; class 3 has no images, class 2 is never predicted."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, size=200)
    logits = rng.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    logits[:, 2] -= 20
    return logits.astype(np.float32), labels


def test_confusion_and_accuracy_are_those_of_scikit_learn(predictions):
    logits, labels = predictions
    confusion = metrics.confusion_from_logits(logits, labels, num_classes=4)
    predicted = logits.argmax(axis=1)
    assert confusion.dtype == np.int64
    np.testing.assert_array_equal(confusion, confusion_matrix(labels, predicted, labels=range(4)))
    assert metrics.accuracy(confusion) == accuracy_score(labels, predicted)
    assert metrics.num_correct(confusion) == accuracy_score(labels, predicted, normalize=False)


def test_rows_are_true_classes():
    confusion = metrics.confusion_from_logits(np.array([[0.0, 1.0]]), np.array([0]), num_classes=2)
    assert confusion.tolist() == [[0, 1], [0, 0]]


def test_class_scores_are_those_of_scikit_learn(predictions):
    logits, labels = predictions
    scores = metrics.class_scores(metrics.confusion_from_logits(logits, labels, num_classes=4))
    expected = precision_recall_fscore_support(labels, logits.argmax(axis=1), labels=range(4), zero_division=0)
    for ours, theirs in zip(scores, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize(
    ("average", "kind"), [(metrics.macro_average, "macro"), (metrics.weighted_average, "weighted")]
)
def test_averages_are_those_of_scikit_learn(predictions, average, kind):
    logits, labels = predictions
    ours = average(metrics.class_scores(metrics.confusion_from_logits(logits, labels, num_classes=4)))
    theirs = precision_recall_fscore_support(
        labels, logits.argmax(axis=1), labels=np.unique(labels), average=kind, zero_division=0
    )
    np.testing.assert_allclose(ours, theirs[:3], rtol=1e-14)


def test_cross_entropy_is_log_loss_of_scikit_learn(predictions):
    logits, labels = predictions
    expected = log_loss(labels, metrics.softmax(logits), labels=range(4))
    assert metrics.cross_entropy(logits, labels) == pytest.approx(expected, rel=1e-12)


def test_cross_entropy_of_equal_scores_is_log_of_the_number_of_classes():
    assert metrics.cross_entropy(np.zeros((3, 10)), np.array([0, 4, 9])) == pytest.approx(np.log(10), rel=1e-15)


def test_cross_entropy_and_softmax_survive_huge_scores():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype=np.float32)
    assert metrics.cross_entropy(logits, np.array([0, 0])) == pytest.approx(1e4)
    np.testing.assert_array_equal(metrics.softmax(logits), np.eye(2))


def _ece_by_loop(probabilities: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    total = 0.0
    confidence = probabilities.max(axis=1)
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            hits = probabilities[inside].argmax(axis=1) == labels[inside]
            total += inside.mean() * abs(hits.mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_ece_is_its_definition(predictions, num_bins):
    logits, labels = predictions
    ours = metrics.expected_calibration_error(logits, labels, num_bins=num_bins)
    assert ours == pytest.approx(_ece_by_loop(metrics.softmax(logits), labels, num_bins), rel=1e-12)


def test_ece_closed_forms():
    sure = np.array([[1000.0, 0.0]] * 4)
    assert metrics.expected_calibration_error(sure, np.array([0, 0, 0, 0])) == 0
    assert metrics.expected_calibration_error(sure, np.array([1, 1, 1, 1])) == 1
    quarter = np.log([[0.75, 0.25]] * 4)
    assert metrics.expected_calibration_error(quarter, np.array([0, 0, 0, 1])) == pytest.approx(0, abs=1e-15)
    assert metrics.expected_calibration_error(quarter, np.array([0, 0, 1, 1])) == pytest.approx(0.25)


@pytest.mark.parametrize("scale", [0.001, 0.3, 1.0, 7.0])
def test_the_divisor_undoes_a_scale(scale):
    rng = np.random.default_rng(4)
    logits = 3 * rng.normal(size=(500, 4))
    labels = np.array([rng.choice(4, p=row) for row in metrics.softmax(logits / 1.6)])
    own = metrics.fitted_divisor(logits, labels)
    grid = np.geomspace(0.5 * own, 2 * own, 101)
    losses = [metrics.cross_entropy(logits / one, labels) for one in grid]
    assert own == pytest.approx(1.6, rel=0.2)
    assert metrics.cross_entropy(logits / own, labels) <= min(losses)
    assert np.argmin(losses) == 50
    ends = (0.01, 100)
    assert metrics.fitted_divisor(scale * logits, labels) == pytest.approx(np.clip(scale * own, *ends), rel=1e-3)


def test_divisors_in_closed_form():
    # two classes, three of four right: the best probability of the predicted class is 3/4, whatever the margin
    labels = np.array([0, 0, 0, 1])
    for margin in (0.1, 1.0, 50.0):
        assert metrics.fitted_divisor(margin * np.array([[1.0, 0.0]] * 4), labels) == pytest.approx(
            margin / np.log(3), rel=1e-3
        )
    sure = np.array([[5.0, 0.0]] * 4)
    right = np.zeros(4, dtype=int)
    assert metrics.cross_entropy(sure / metrics.fitted_divisor(sure, right), right) < 1e-12
    assert metrics.fitted_divisor(sure, np.ones(4, dtype=int)) == pytest.approx(100, rel=1e-3)
    largest = np.full((4, 2), np.finfo(np.float32).max)
    assert np.isfinite(metrics.fitted_divisor(largest, labels))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_dead_model_has_no_accuracy(broken, dtype):
    logits = np.zeros((5, 2), dtype=dtype)
    logits[1:3] = broken
    labels = np.zeros(5, dtype=np.int64)
    message = r"expected finite logits, got NaN or infinity for 2 of 5 images"
    with pytest.raises(ValueError, match=message):
        metrics.confusion_from_logits(logits, labels, num_classes=2)
    with pytest.raises(ValueError, match=message):
        metrics.cross_entropy(logits, labels)
    with pytest.raises(ValueError, match=message):
        metrics.expected_calibration_error(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels", "num_classes", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), 3, r"expected labels in \[0, 3\), got \[0, 3\]"),
        (np.zeros((2, 3)), np.array([-1, 2]), 3, r"expected labels in \[0, 3\), got \[-1, 2\]"),
        (np.zeros((2, 3)), np.array([0, 1]), 4, r"expected logits of 4 classes, got 3 columns"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), 3, r"expected integer labels, got float64"),
        (np.zeros((2, 3)), np.array([0]), 3, r"got \(2, 3\) and \(1,\)"),
        (np.zeros(3), np.array([0]), 3, r"got \(3,\) and \(1,\)"),
        (np.zeros((0, 3)), np.zeros(0, dtype=np.int64), 3, r"N >= 1, got \(0, 3\) and \(0,\)"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion_from_logits(logits, labels, num_classes=num_classes)


def test_no_images_have_no_accuracy():
    with pytest.raises(ValueError, match="at least one image, got none"):
        metrics.accuracy(np.zeros((2, 2), dtype=np.int64))


def test_balanced_accuracy_leaves_out_classes_without_images():
    scores = metrics.class_scores(np.array([[8, 2, 0], [0, 0, 0], [0, 3, 1]]))
    assert metrics.balanced_accuracy(scores) == pytest.approx((0.8 + 0.25) / 2)


def test_top_confusions():
    confusion = np.array([[5, 0, 3], [7, 0, 0], [3, 1, 96]])
    assert metrics.top_confusions(confusion, limit=3) == [(1, 0, 7, 1.0), (0, 2, 3, 3 / 8), (2, 0, 3, 0.03)]
    assert len(metrics.top_confusions(confusion, limit=9)) == 4
    assert metrics.top_confusions(np.diag([4, 0, 2]), limit=9) == []


def test_best_and_worst():
    f1, support = [0.5, 0.9, 0.0, 0.5, 0.7, 0.0], [1, 1, 0, 1, 1, 1]
    assert metrics.best_and_worst(f1, support, each=2) == ([1, 4], [3, 5])
    assert metrics.best_and_worst(f1, support, each=3) == ([1, 4, 0, 3, 5], [])
    assert metrics.best_and_worst([-0.2, 0.1, -0.3, 0.0], [1] * 4, each=1) == ([1], [2])


def test_summary_is_plain_json_and_agrees_with_its_parts(predictions):
    logits, labels = predictions
    found = metrics.evaluation_summary(logits, labels, classes=CLASSES)
    summary = metrics.recorded(found)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    predicted = logits.argmax(axis=1)
    assert summary["num_images"] == 200
    assert summary["num_correct"] == (predicted == labels).sum()
    assert summary["accuracy"] == accuracy_score(labels, predicted)
    assert summary["loss"] == metrics.cross_entropy(logits, labels)
    assert summary["ece"] == metrics.expected_calibration_error(logits, labels)
    recall = recall_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert summary["balanced_accuracy"] == pytest.approx(recall)
    assert found["confusion"].tolist() == confusion_matrix(labels, predicted, labels=range(4)).tolist()
    listed = [(pair["true"], pair["predicted"], pair["num_images"]) for pair in summary["confusions"]]
    assert listed == [pair[:3] for pair in metrics.top_confusions(found["confusion"], limit=12)]
    assert [row["class"] for row in summary["per_class"]] == list(CLASSES)
    for kind in ("macro", "weighted"):
        found = np.unique(labels)
        expected = precision_recall_fscore_support(labels, predicted, labels=found, average=kind, zero_division=0)
        assert [summary[kind][key] for key in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    columns = precision_recall_fscore_support(labels, predicted, labels=range(4), zero_division=0)
    for key, expected in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[key] for row in summary["per_class"]] == pytest.approx(expected)


def test_summary_wants_a_name_for_every_class(predictions):
    with pytest.raises(ValueError, match="expected logits of 2 classes, got 4 columns"):
        metrics.evaluation_summary(*predictions, classes=("cat", "dog"))
