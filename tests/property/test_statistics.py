"""Intervals, tests and agreement against other ways to compute them, and against what they promise."""

import math
import statistics as plain

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from kdignite.metrics import statistics

QUANTILE = 1.959963984540054  # of the standard normal distribution at 0.975
VALUES = st.floats(-1e3, 1e3, allow_subnormal=False)


# --- Wilson's interval


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    num_images = draw(st.integers(1, 20_000))
    return draw(st.integers(0, num_images)), num_images


@settings(deadline=None)
@given(counts())
def test_the_ends_of_wilsons_interval_are_where_the_score_test_turns(counted):
    """``|p - end| = z sqrt(end (1 - end) / n)`` defines it, without the closed form."""
    num_correct, num_images = counted
    low, high = statistics.wilson_interval(num_correct, num_images)
    share = num_correct / num_images
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    for end in (low, high):
        reach = QUANTILE * math.sqrt(end * (1 - end) / num_images)
        assert abs(share - end) == pytest.approx(reach, rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(counts())
def test_errors_have_the_mirrored_interval(counted):
    num_correct, num_images = counted
    low, high = statistics.wilson_interval(num_correct, num_images)
    mirrored = statistics.wilson_interval(num_images - num_correct, num_images)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilsons_interval_holds_the_true_accuracy_95_times_of_100():
    """Its coverage, computed exactly from the binomial distribution and averaged over the accuracy."""
    num_images = 60
    intervals = np.array([statistics.wilson_interval(k, num_images) for k in range(num_images + 1)])
    covered = []
    for truth in np.linspace(0.02, 0.98, 193):
        weights = [math.comb(num_images, k) * truth**k * (1 - truth) ** (num_images - k) for k in range(num_images + 1)]
        covered.append(np.sum(weights, where=(intervals[:, 0] <= truth) & (truth <= intervals[:, 1])))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.85


# --- McNemar's test


def answers(only_first: int, only_second: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([True] * only_first + [False] * only_second + [True] * both + [False] * 3)
    second = np.array([False] * only_first + [True] * only_second + [True] * both + [False] * 3)
    return first, second


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 100))
def test_mcnemar_sums_the_binomial_tail(only_first, only_second, both):
    found = statistics.mcnemar(*answers(only_first, only_second, both))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    total = only_first + only_second
    tail = sum(math.comb(total, i) for i in range(min(only_first, only_second) + 1))
    assert found.p_value == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_takes_no_side(only_first, only_second):
    first, second = answers(only_first, only_second, 5)
    there, back = statistics.mcnemar(first, second), statistics.mcnemar(second, first)
    assert there.p_value == back.p_value
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)


def test_mcnemar_raises_no_more_false_alarms_than_it_says():
    for total in (5, 20, 51):
        p_values = np.array([statistics.mcnemar(*answers(k, total - k, 0)).p_value for k in range(total + 1)])
        chances = np.array([math.comb(total, k) / 2**total for k in range(total + 1)])
        for level in (0.01, 0.05, 0.2):
            assert chances[p_values <= level].sum() <= level


def test_models_that_differ_nowhere_are_not_told_apart():
    assert statistics.mcnemar(*answers(0, 0, 7)) == (0, 0, 1.0)


# --- seeds


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=12))
def test_spread_is_that_of_the_standard_library(values):
    mean, std = statistics.spread(values)
    assert mean == pytest.approx(plain.fmean(values), rel=1e-9, abs=1e-9)
    if len(values) == 1:
        assert std is None
    else:
        assert std == pytest.approx(plain.stdev(values), rel=1e-9, abs=1e-9)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_t_test_rejects_exactly_beyond_the_ends_of_the_interval(values, level):
    assume(np.std(values) > 1e-3)
    for end in statistics.mean_interval(values, level=level):
        assert stats.ttest_1samp(values, end).pvalue == pytest.approx(1 - level, rel=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=12))
def test_the_paired_interval_is_that_of_the_paired_t_test(pairs):
    first, second = zip(*pairs, strict=True)
    differences = np.subtract(first, second)
    assume(np.std(differences) > 1e-3)
    found = statistics.paired_difference(first, second)
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-6, abs=1e-6)
    assert (found.mean, found.std) == pytest.approx((differences.mean(), plain.stdev(differences)), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=2, max_size=12))
def test_what_a_seed_does_to_both_cancels(triples):
    first, second, shared = (np.array(column) for column in zip(*triples, strict=True))
    plainly = statistics.paired_difference(first.tolist(), second.tolist())
    shifted = statistics.paired_difference((first + shared).tolist(), (second + shared).tolist())
    assert shifted == pytest.approx(plainly, rel=1e-6, abs=1e-6)
    mirrored = statistics.paired_difference(second.tolist(), first.tolist())
    assert mirrored == pytest.approx((-plainly.mean, plainly.std, -plainly.high, -plainly.low), rel=1e-9, abs=1e-9)


def test_the_t_interval_holds_the_true_mean_95_times_of_100():
    """Of 4,000 experiments with five seeds each; two standard errors of such a share are 0.7 points."""
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 5)).tolist()
    held = [low <= 3.0 <= high for low, high in map(statistics.mean_interval, values)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("values", [[7, 7], [0, 0, 0], [0.1] * 10, [1e-300] * 3])
def test_equal_values_give_an_interval_without_width(values):
    low, high = statistics.mean_interval(values)
    assert (low, high) == pytest.approx((values[0], values[0]), rel=1e-12)
    assert statistics.paired_difference(values, values) == (0, 0, 0, 0)


def test_an_interval_needs_two_seeds_and_every_seed_a_partner():
    with pytest.raises(ValueError, match=r"^expected at least two values, got 1$"):
        statistics.mean_interval([0.5])
    with pytest.raises(ValueError, match="zip"):
        statistics.paired_difference([1.0, 2.0], [1.0])


@settings(deadline=None)
@given(st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))))
def test_the_error_of_a_difference_of_two_shares_is_that_of_independent_images(counted):
    num_images, first, second = counted
    answers = [np.repeat([1.0, 0.0], [right, num_images - right]) for right in (first, second)]
    expected = math.sqrt(sum(right.var() for right in answers) / num_images)
    found = statistics.difference_error(first / num_images, second / num_images, num_images=num_images)
    assert found == pytest.approx(expected, abs=1e-12)


# --- fidelity


@st.composite
def guesses(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    num_images = draw(st.integers(1, 40))
    column = st.lists(st.integers(0, 3), min_size=num_images, max_size=num_images).map(np.array)
    return draw(column), draw(column), draw(column)


@given(guesses())
def test_agreement_counts_image_by_image(guessed):
    predicted, teacher, labels = guessed
    triples = list(zip(*guessed, strict=True))
    wrong = [(mine, its) for mine, its, true in triples if its != true]
    found = statistics.agreement(predicted, teacher, labels)
    assert found.overall == pytest.approx(sum(mine == its for mine, its, _ in triples) / len(triples))
    if wrong:
        assert found.on_errors == pytest.approx(sum(mine == its for mine, its in wrong) / len(wrong))
    else:
        assert found.on_errors is None


@st.composite
def scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, scale = (draw(st.integers(1, 20)), draw(st.integers(2, 8))), draw(st.sampled_from([0.1, 1.0, 8.0]))
    return rng.normal(scale=scale, size=shape).astype(np.float32), rng.normal(scale=scale, size=shape)


@settings(deadline=None)
@given(scores())
def test_kl_is_the_mean_relative_entropy_of_the_probabilities(both):
    teacher, student = (np.exp(z.astype(np.float64)) for z in both)
    p, q = teacher / teacher.sum(1, keepdims=True), student / student.sum(1, keepdims=True)
    assert statistics.mean_kl(*both) == pytest.approx(stats.entropy(p, q, axis=1).mean(), rel=1e-6, abs=1e-9)
    assert statistics.mean_kl(both[0], both[0]) == 0
    assert statistics.mean_kl(*both) >= -1e-12


def test_kl_of_sure_models_is_finite():
    sure = 1e4 * np.eye(3)
    assert statistics.mean_kl(sure, -sure) == pytest.approx(1e4 + math.log(2))
