"""What must hold for the metrics of any model on any data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdignite import metrics


@st.composite
def evaluations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Logits, labels and a generator for what else a test draws; some classes may have no images, some scores tie."""
    num_images, num_classes = draw(st.integers(1, 60)), draw(st.integers(1, 8))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0, 1e4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, num_classes)), size=num_images)
    logits = (scale * rng.normal(size=(num_images, num_classes))).astype(np.float32)
    logits[rng.random(num_images) < 0.1] = 0
    return logits, labels, rng


def _confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return metrics.confusion_from_logits(logits, labels, num_classes=logits.shape[1])


@settings(deadline=None)
@given(evaluations())
def test_confusion_counts_every_image_once_in_its_row(evaluation):
    logits, labels, _ = evaluation
    confusion = _confusion(logits, labels)
    assert confusion.sum() == len(labels)
    np.testing.assert_array_equal(confusion.sum(axis=1), np.bincount(labels, minlength=logits.shape[1]))


@settings(deadline=None)
@given(evaluations())
def test_scores_lie_in_0_1_and_weighted_recall_is_accuracy(evaluation):
    logits, labels, _ = evaluation
    confusion = _confusion(logits, labels)
    scores = metrics.class_scores(confusion)
    for score in scores[:3]:
        assert score.min() >= 0
        assert score.max() <= 1
    assert metrics.weighted_average(scores).recall == pytest.approx(metrics.accuracy(confusion), abs=1e-12)


@settings(deadline=None)
@given(evaluations())
def test_f1_is_the_harmonic_mean(evaluation):
    logits, labels, _ = evaluation
    precision, recall, f1, _ = metrics.class_scores(_confusion(logits, labels))
    both = precision + recall
    np.testing.assert_allclose(f1 * both, 2 * precision * recall, atol=1e-12)
    assert (f1[both == 0] == 0).all()


@settings(deadline=None)
@given(evaluations())
def test_permuting_classes_permutes_everything(evaluation):
    _, labels, rng = evaluation
    num_classes = evaluation[0].shape[1]
    logits = rng.normal(size=evaluation[0].shape)  # without ties: of equal scores the first class counts
    order = rng.permutation(num_classes)
    names = [f"class {c}" for c in range(num_classes)]
    before = metrics.evaluation_summary(logits, labels, classes=names)
    after = metrics.evaluation_summary(logits[:, order], np.argsort(order)[labels], classes=[names[c] for c in order])
    assert after["per_class"] == [before["per_class"][c] for c in order]
    assert after["confusion"].tolist() == before["confusion"][np.ix_(order, order)].tolist()
    for key in ("accuracy", "loss", "ece"):
        assert after[key] == pytest.approx(before[key], abs=1e-12)
    for key in ("macro", "weighted"):
        assert after[key] == pytest.approx(before[key], abs=1e-12)


@settings(deadline=None)
@given(evaluations())
def test_the_order_of_the_images_changes_nothing(evaluation):
    logits, labels, rng = evaluation
    order = rng.permutation(len(labels))
    np.testing.assert_array_equal(_confusion(logits[order], labels[order]), _confusion(logits, labels))
    for measure in (metrics.cross_entropy, metrics.expected_calibration_error):
        assert measure(logits[order], labels[order]) == pytest.approx(measure(logits, labels), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(evaluations(), st.integers(1, 20))
def test_calibration_error_lies_in_0_1_and_is_0_for_the_sure_and_right(evaluation, num_bins):
    logits, labels, _ = evaluation
    assert 0 <= metrics.expected_calibration_error(logits, labels, num_bins=num_bins) <= 1 + 1e-12
    right = 1e4 * np.eye(logits.shape[1])[labels]
    assert metrics.expected_calibration_error(right, labels, num_bins=num_bins) == 0


@settings(deadline=None)
@given(evaluations(), st.floats(-1e3, 1e3))
def test_a_constant_added_to_the_scores_of_an_image_changes_no_probability(evaluation, constant):
    logits = evaluation[0].astype(np.float64)
    probabilities = metrics.softmax(logits + constant)
    np.testing.assert_allclose(probabilities, metrics.softmax(logits), atol=1e-9)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


@settings(deadline=None)
@given(evaluations())
def test_cross_entropy_is_the_size_weighted_mean_of_its_parts(evaluation):
    logits, labels, rng = evaluation
    cut = int(rng.integers(0, len(labels) + 1))
    parts = [(logits[:cut], labels[:cut]), (logits[cut:], labels[cut:])]
    total = sum(len(y) * metrics.cross_entropy(z, y) for z, y in parts if len(y))
    assert total / len(labels) == pytest.approx(metrics.cross_entropy(logits, labels), rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(evaluations(), st.integers(1, 70))
def test_top_confusions_are_the_largest_mistakes(evaluation, limit):
    logits, labels, _ = evaluation
    confusion = _confusion(logits, labels)
    pairs = metrics.top_confusions(confusion, limit=limit)
    mistakes = sorted((n for (t, p), n in np.ndenumerate(confusion) if t != p and n > 0), reverse=True)
    assert [pair.num_images for pair in pairs] == mistakes[:limit]
    assert all(confusion[pair.true, pair.predicted] == pair.num_images for pair in pairs)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=30), st.integers(1, 10))
def test_best_and_worst_are_disjoint_ends_of_one_order(scores, each):
    f1, support = [score for score, _ in scores], [images for _, images in scores]
    best, worst = metrics.best_and_worst(f1, support, each=each)
    shown = best + worst
    assert len(set(shown)) == len(shown) == min(2 * each, sum(images > 0 for images in support))
    assert all(support[c] > 0 for c in shown)
    assert [f1[c] for c in shown] == sorted((f1[c] for c in shown), reverse=True)
