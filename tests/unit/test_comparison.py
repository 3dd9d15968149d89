"""The numbers of a comparison against scikit-learn, scipy and counting by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss, recall_score

from kdignite.comparison.costs import COSTS, LATENCIES, cost_summary
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.scores import (
    FIDELITY,
    GAINED,
    LOST,
    NO_DIFFERENCE,
    NO_SPREAD,
    ONE_SEED,
    Difference,
    compare_logits,
)
from kdignite.comparison.teachers import as_taught, teacher_logits
from kdignite.metrics import fitted_divisor
from kdignite.teachers import mean_logits

CLASSES = ("cat", "dog", "frog", "owl")
LABELS = np.array([0, 1, 2] * 50)  # no owls


def answers(seed: int, *, skill: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(len(LABELS), 4)) + skill * np.eye(4)[LABELS]).astype(np.float32)


STUDENTS, BASELINES = [answers(seed) for seed in (1, 2, 3)], [answers(seed, skill=1.2) for seed in (4, 5, 6)]
TEACHER = answers(0, skill=3.0)
SEVERAL = compare_logits(STUDENTS, BASELINES, LABELS, teacher=TEACHER, classes=CLASSES)
ONE = compare_logits(STUDENTS[:1], BASELINES[:1], LABELS, teacher=TEACHER, classes=CLASSES)
ALONE = compare_logits(STUDENTS[:1], BASELINES[:1], LABELS, teacher=None, classes=CLASSES)


def accuracies(group: list[np.ndarray]) -> list[float]:
    return [accuracy_score(LABELS, logits.argmax(1)) for logits in group]


@pytest.mark.parametrize(("role", "group"), [("student", STUDENTS), ("baseline", BASELINES)])
def test_scores_of_several_seeds_are_mean_and_spread(role: str, group: list[np.ndarray]) -> None:
    found, expected = SEVERAL.models[role].accuracy, accuracies(group)
    assert (found.mean, found.std) == pytest.approx((np.mean(expected), np.std(expected, ddof=1)))
    assert found.over == "seeds"
    interval = stats.ttest_1samp(expected, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    losses = [log_loss(LABELS, np.exp(z.astype(float)) / np.exp(z.astype(float)).sum(1, keepdims=True),
                       labels=range(4)) for z in group]  # fmt: skip
    assert SEVERAL.models[role].loss == pytest.approx((np.mean(losses), np.std(losses, ddof=1)))


def test_scores_of_divided_logits() -> None:
    divisors = {"student": [2.0, 3.0, 0.5], "baseline": [1.0, None, 1.0], "teacher": [1.5]}
    found = compare_logits(STUDENTS, BASELINES, LABELS, teacher=TEACHER, classes=CLASSES, divisors=divisors).models
    divided = [logits / number for logits, number in zip(STUDENTS, divisors["student"], strict=True)]
    plain = compare_logits(divided, BASELINES, LABELS, teacher=TEACHER, classes=CLASSES).models["student"]
    assert found["student"].divisor == pytest.approx((np.mean([2, 3, 0.5]), np.std([2, 3, 0.5], ddof=1)))
    assert (found["student"].divided_loss, found["student"].divided_ece) == (plain.loss, plain.ece)
    assert found["student"].loss == SEVERAL.models["student"].loss  # these stay as they are
    assert found["baseline"] == SEVERAL.models["baseline"]  # one run has none: there is no mean of all
    assert found["teacher"].divisor == (1.5, None)


def test_the_difference_is_taken_seed_by_seed() -> None:
    test = stats.ttest_rel(accuracies(STUDENTS), accuracies(BASELINES)).confidence_interval(0.95)
    gains = np.subtract(accuracies(STUDENTS), accuracies(BASELINES))
    assert SEVERAL.difference == pytest.approx((gains.mean(), gains.std(ddof=1), test.low, test.high))
    assert SEVERAL.mcnemar is None


def test_one_seed_has_no_spread_and_a_test_of_the_pair() -> None:
    student, baseline = (logits.argmax(1) == LABELS for logits in (STUDENTS[0], BASELINES[0]))
    only = int((student & ~baseline).sum()), int((baseline & ~student).sum())
    tail = sum(math.comb(sum(only), i) for i in range(min(only) + 1))
    assert ONE.mcnemar == (*only, pytest.approx(2 * tail / 2 ** sum(only)))
    assert ONE.difference == ((only[0] - only[1]) / 150, None, None, None)
    interval = stats.binomtest(int(student.sum()), 150).proportion_ci(0.95, "wilson")
    found = ONE.models["student"].accuracy
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.over == "images"
    assert found.std is ONE.models["student"].ece.std is None


def test_the_teacher_is_one_run_whatever_the_seeds() -> None:
    assert SEVERAL.models["teacher"] == ONE.models["teacher"]
    assert SEVERAL.models["teacher"].accuracy.over == "images"


def test_recall_by_class() -> None:
    for summary, students, baselines in ((SEVERAL, STUDENTS, BASELINES), (ONE, STUDENTS[:1], BASELINES[:1])):

        def recalls(group: list[np.ndarray]) -> np.ndarray:
            scored = [recall_score(LABELS, z.argmax(1), labels=range(4), average=None, zero_division=0) for z in group]
            return np.array(scored)

        gains = recalls(students) - recalls(baselines)
        for c, row in enumerate(summary.per_class[:3]):
            assert (row.name, row.support) == (CLASSES[c], 50)
            assert row.teacher == pytest.approx(recalls([TEACHER])[0, c])
            assert row.student == pytest.approx(recalls(students)[:, c].mean())
            assert row.difference == pytest.approx(gains[:, c].mean())
            if summary is SEVERAL:
                assert row.difference_std == pytest.approx(gains[:, c].std(ddof=1))
            else:
                assert row.student_std is row.baseline_std is row.difference_std is None


def test_a_class_without_images_has_no_recall() -> None:
    name, support, *recalls = SEVERAL.per_class[3]
    assert (name, support) == ("owl", 0)
    assert set(recalls) == {None}
    assert SEVERAL.per_class[3].recalls == {}


def test_fidelity_is_measured_for_student_and_baseline() -> None:
    predicted = TEACHER.argmax(1)
    wrong = predicted != LABELS
    for role, group in (("student", STUDENTS), ("baseline", BASELINES)):
        agreed = [(z.argmax(1) == predicted).mean() for z in group]
        on_errors = [(z.argmax(1) == predicted)[wrong].mean() for z in group]
        found = SEVERAL.models[role]
        assert found.agreement == pytest.approx((np.mean(agreed), np.std(agreed, ddof=1)))
        assert found.agreement_on_errors.mean == pytest.approx(np.mean(on_errors))
        assert found.kl.mean > 0


def test_a_teacher_without_errors_has_none_to_agree_on() -> None:
    summary = compare_logits(STUDENTS, BASELINES, LABELS, teacher=9 * np.eye(4)[LABELS], classes=CLASSES)
    student = summary.models["student"]
    assert student.agreement_on_errors is None
    assert student.agreement.mean == pytest.approx(student.accuracy.mean)


@pytest.mark.parametrize("outputs", ["probabilities", None])
def test_a_teacher_of_probabilities_is_compared_by_their_logarithm(outputs: str | None) -> None:
    odds = np.exp(TEACHER)
    shares = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
    student = cast(RunFiles, SimpleNamespace(config={"teacher_outputs": outputs}))
    indices = np.arange(len(LABELS))
    teacher = RunFiles(Path(), "", "teacher", {}, {}, {}, (), shares, LABELS, indices, (shares, LABELS))
    logits = teacher_logits([teacher], student)
    assert logits is not None
    np.testing.assert_allclose(np.exp(logits) if outputs else logits, shares, rtol=1e-5)
    (one,) = as_taught([teacher], student)
    np.testing.assert_array_equal(one.logits, logits)
    fitted = fitted_divisor(TEACHER if outputs else shares, LABELS)  # of validation: the same kind of numbers
    assert one.divisor() == pytest.approx(fitted, rel=1e-3)


@pytest.mark.parametrize("standardize", [True, False, None])
def test_several_teachers_are_shown_as_the_mean_that_taught(standardize: bool | None) -> None:
    members = [{"name": name, "sha256": name, "weight": 0.5} for name in "ab"]
    record = {"name": "a+b", "sha256": "", "members": members}
    config = {"method": "kd", "T": 2.0, "standardize": standardize}
    student = cast(RunFiles, SimpleNamespace(folder=Path(), config=config, result={"teacher": record}))
    outputs = TEACHER.astype(np.float32), 100 * np.roll(TEACHER, 1, axis=1).astype(np.float32)
    teachers = [cast(RunFiles, SimpleNamespace(logits=one)) for one in outputs]
    expected = mean_logits([*map(torch.from_numpy, outputs)], (0.5, 0.5), T=2.0, standardize=bool(standardize))
    np.testing.assert_array_equal(teacher_logits(teachers, student), expected)


def test_without_a_teacher() -> None:
    assert list(ALONE.models) == ["student", "baseline"]
    for role, model in ALONE.models.items():
        assert {getattr(model, score) for score in FIDELITY} == {None}
        assert model.accuracy == ONE.models[role].accuracy
    assert {row.teacher for row in (*ALONE.per_class, ALONE.overall)} == {None}


def test_equal_runs_differ_by_exactly_nothing() -> None:
    summary = compare_logits(STUDENTS, STUDENTS, LABELS, teacher=TEACHER, classes=CLASSES)
    assert summary.difference == (0.0, 0.0, None, None)
    assert {row.difference for row in summary.per_class} == {0.0, None}
    one = compare_logits(STUDENTS[:1], STUDENTS[:1], LABELS, teacher=TEACHER, classes=CLASSES)
    assert one.mcnemar == (0, 0, 1.0)


def test_seeds_that_differ_by_the_same_give_no_interval() -> None:
    sure = 9.0 * np.eye(4)[LABELS]
    worse = sure.copy()
    worse[:3] = np.roll(worse[:3], 1, axis=1)
    summary = compare_logits([sure] * 2, [worse] * 2, LABELS, teacher=None, classes=CLASSES)
    assert summary.difference == (3 / 150, 0.0, None, None)
    assert summary.difference.verdict == NO_SPREAD
    for role, mean in (("student", 1.0), ("baseline", 147 / 150)):  # nor do seeds of one accuracy
        assert summary.models[role].accuracy == (mean, 0.0, None, None, "seeds")


def test_what_a_class_differs_by_for_no_reason() -> None:
    p, q = accuracies(STUDENTS[:1])[0], accuracies(BASELINES[:1])[0]
    expected = 2 * math.sqrt(stats.bernoulli(p).var() / 50 + stats.bernoulli(q).var() / 50)
    assert ONE.class_noise == (50, True, pytest.approx(expected))
    assert SEVERAL.class_noise is None
    keep = np.r_[0:75, 75:150:3]  # 50 cats, but fewer of the others
    students, baselines = [STUDENTS[0][keep]], [BASELINES[0][keep]]
    found = compare_logits(students, baselines, LABELS[keep], teacher=None, classes=CLASSES).class_noise
    assert found.num_images == sorted(np.bincount(LABELS[keep]))[1]
    assert not found.equal_classes


@pytest.mark.parametrize(
    ("std", "low", "high", "kind"),
    [
        (0.1, 0.001, 0.02, GAINED),
        (0.1, -0.02, -0.001, LOST),
        (0.1, -0.01, 0.01, NO_DIFFERENCE),
        (0.1, 0.0, 0.1, NO_DIFFERENCE),
        (0.1, -0.1, 0.0, NO_DIFFERENCE),
        (None, None, None, ONE_SEED),
        (0.0, None, None, NO_SPREAD),
    ],
)
def test_the_verdict_follows_from_where_the_interval_lies(
    std: float | None, low: float | None, high: float | None, kind: str
) -> None:
    assert Difference(0.5, std, low, high).verdict == kind


# --- costs


def cost(scale: float, **given: Any) -> dict[str, Any]:
    return {**{key: scale * (1 + i) for i, key in enumerate(COSTS)}, "latency_threads": 1, **given}


def test_of_one_network_no_latency_is_saved() -> None:
    one, other = cost(2.0), cost(2.0) | {"latency_median_ms": 2.4, "latency_p95_ms": 518.0}
    saved = cost_summary({"teacher": [other], "student": [one], "baseline": [one]}).saved
    assert saved == {**dict.fromkeys(COSTS, 1.0), **dict.fromkeys(LATENCIES)}


def test_what_is_saved_is_teacher_by_student() -> None:
    costs = cost_summary({"teacher": [cost(21.0)], "student": [cost(2.0)], "baseline": [cost(2.0)]})
    assert costs.saved == dict.fromkeys(COSTS, 10.5)
    assert costs.models["teacher"] == cost(21.0)


def test_of_several_runs_the_median_counts() -> None:
    students = [cost(2.0, latency_median_ms=time) for time in (9.0, 1.0, 4.0)]
    costs = cost_summary({"teacher": [cost(4.0)], "student": students, "baseline": students[:2]})
    assert costs.models["student"]["latency_median_ms"] == 4.0
    assert costs.models["baseline"]["latency_median_ms"] == 5.0
    twice = cost_summary({"teacher": [], "student": [cost(2)] * 2, "baseline": []}).models["student"]
    assert [type(twice[key]) for key in COSTS] == [int] * len(COSTS)


def test_costs_that_nobody_measured() -> None:
    costs = cost_summary({"teacher": [], "student": [None, cost(2.0)], "baseline": [None]})
    assert costs.models["teacher"] == costs.models["baseline"] == dict.fromkeys([*COSTS, "latency_threads"])
    assert costs.models["student"]["multiply_adds"] == cost(2.0)["multiply_adds"]
    assert costs.saved == dict.fromkeys(COSTS)


def test_latencies_of_different_threads_have_no_ratio() -> None:
    teachers, students = [cost(4.0, latency_threads=2)], [cost(2.0), cost(2.0)]
    saved = cost_summary({"teacher": teachers, "student": students, "baseline": students}).saved
    assert saved["latency_median_ms"] is saved["latency_p95_ms"] is None
    assert saved["peak_memory_bytes"] == saved["num_parameters"] == 2
    mixed = cost_summary({"teacher": teachers, "student": [*students, *teachers], "baseline": students})
    assert mixed.models["student"]["latency_threads"] is None


def test_a_cost_of_nothing_has_no_ratio() -> None:
    free, paid = [cost(4.0, multiply_adds=0)], [cost(2.0)]
    for teachers, students in ((free, paid), (paid, free), (free, free)):
        saved = cost_summary({"teacher": teachers, "student": students, "baseline": students}).saved
        assert saved["multiply_adds"] is None
        assert saved["num_parameters"] == teachers[0]["num_parameters"] / students[0]["num_parameters"]


def test_latencies_of_different_processors_have_no_ratio() -> None:
    costs = {"teacher": [cost(4.0)], "student": [cost(2.0)], "baseline": [cost(2.0)]}
    saved = cost_summary(costs, same_processor=False).saved
    assert saved == {key: None if key in LATENCIES else 2 for key in COSTS}
