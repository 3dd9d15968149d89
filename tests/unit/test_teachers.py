"""Who may teach: models that are above chance, and the ones their checkpoints say they are."""

import math
import warnings

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from kdignite.checkpoints import Validation
from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.evaluation import Outcome, predictor
from kdignite.methods.terms import Outputs
from kdignite.teachers import chance_level, check_accuracy, live_teacher, tolerance
from kdignite.teachers.checks import balanced_accuracy, chance_p_value


def outcome(correct: int, sizes: tuple[int, ...], *, finite: bool = True) -> Outcome:
    """An evaluation of ``sizes[c]`` images of class c, the first ``correct`` of which are right."""
    num_classes = len(sizes)
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(sizes))
    predicted = torch.where(torch.arange(len(labels)) < correct, labels, (labels + 1) % num_classes)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    confusion.index_put_((labels, predicted), torch.tensor(1), accumulate=True)
    logits = torch.eye(num_classes)[predicted] if finite else torch.full((len(labels), num_classes), math.nan)
    return Outcome(logits, labels, torch.arange(len(labels)), confusion, 1.0)


def refused(found: Outcome, recorded: Validation | None) -> str:
    with pytest.raises(UserError) as caught:
        check_accuracy(found, recorded, who="runs/teacher/best.safetensors")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_live_teacher_is_asked_about_the_images_of_the_batch() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    asked: list[Tensor] = []

    def outputs_of(seen: Tensor) -> Outputs:
        asked.append(seen)
        return Outputs(torch.arange(6.0).reshape(2, 3))

    answer = live_teacher(outputs_of)(Batch(images, torch.tensor([0, 1]), torch.tensor([5, 9]), 3))
    assert asked[0] is images
    assert torch.equal(answer.logits, torch.arange(6.0).reshape(2, 3))


def test_a_loss_may_multiply_with_the_answers_of_a_live_teacher() -> None:
    """They come from inference mode, whose tensors no gradient may go through."""
    model = torch.nn.Flatten()
    batch = Batch(torch.ones(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([5, 9]), 3)
    logits_of = predictor(model, prepare=lambda images: images.float())
    answer = live_teacher(lambda images: Outputs(logits_of(images)))(batch).logits
    student_logits = torch.zeros(2, 3, requires_grad=True)
    torch.nn.functional.mse_loss(student_logits, answer, reduction="sum").backward()
    (student_logits * answer).sum().backward()
    assert torch.equal(student_logits.grad, torch.full((2, 3), -1.0))


@pytest.mark.parametrize(("num_images", "allowed"), [(1, 2), (200, 2), (2999, 2), (3000, 3), (5000, 5), (10_000, 10)])
def test_one_in_a_thousand_may_differ_and_at_least_two(num_images: int, allowed: int) -> None:
    assert tolerance(num_images) == allowed


def counted(*rows: tuple[int, ...]) -> Outcome:
    """An evaluation with this confusion matrix."""
    confusion = torch.tensor(rows)
    cells = torch.repeat_interleave(torch.arange(confusion.numel()), confusion.flatten())
    labels, predicted = cells // len(rows), cells % len(rows)
    return Outcome(torch.eye(len(rows))[predicted], labels, torch.arange(len(labels)), confusion, 1.0)


@pytest.mark.parametrize(
    ("sizes", "level"),
    [
        ((500,) * 10, 0.1 + 0.05 * 0.9),
        ((90, 10), 0.5 + 0.05 * 0.5),  # whatever the shares of the classes
        ((90, 0, 10), 0.5 + 0.05 * 0.5),  # of the classes that have images
        ((50,) * 100, 0.01 + 0.05 * 0.99),
        ((7,), 1.0),
    ],
)
def test_the_level_of_chance_is_that_of_a_constant_answer_and_a_margin(sizes: tuple[int, ...], level: float) -> None:
    for correct in (0, sum(sizes)):  # whatever the answers
        assert chance_level(outcome(correct, sizes)) == pytest.approx(level, rel=1e-12)


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
def test_the_balanced_accuracy_is_that_of_scikit_learn(rows: list[list[int]]) -> None:
    assume(sum(map(sum, rows)))
    found = counted(*map(tuple, rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and have no images
        theirs = balanced_accuracy_score(found.labels, found.logits.argmax(1))
    assert balanced_accuracy(found) == pytest.approx(theirs)


@settings(max_examples=10, deadline=None)
@given(*[st.integers(1, 15)] * 4)
def test_of_two_classes_the_chance_is_that_of_fishers_exact_test(a: int, b: int, c: int, d: int) -> None:
    exact = fisher_exact([[a, b], [c, d]], alternative="greater").pvalue
    p = chance_p_value(torch.tensor([[a, b], [c, d]]))
    assert abs(p - exact) < 5 * math.sqrt(exact * (1 - exact) / 9_999) + 1e-3


def test_predictions_that_do_not_depend_on_the_image_pass_as_rarely_as_the_level_says() -> None:
    generator = torch.Generator().manual_seed(1)
    labels, passed = torch.arange(12) % 3, 0
    for _ in range(40):
        cells = labels * 3 + torch.randint(0, 3, (12,), generator=generator)
        passed += chance_p_value(torch.bincount(cells, minlength=9).view(3, 3)) <= 0.05
    assert passed <= 6  # of 40; more have a probability of 1 in 300


@pytest.mark.parametrize(
    "rows",
    [
        [(3, 0), (0, 4)],  # 7 of 7
        [(85, 0), (0, 5)],  # 90 of 90 on 95:5
        [(1, 0), (0, 1)],  # right everywhere is never refused
        [(7, 0), (0, 0)],
        [(7, 2), (1, 8)],  # 15 of 18, p = 0.0076
        [(80, 5), (1, 4)],  # recalls 94 % and 80 %, less accurate than a constant answer
    ],
)
def test_a_teacher_that_chance_does_not_explain_passes(rows: list[tuple[int, ...]]) -> None:
    check_accuracy(counted(*rows), None, who="x")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([(85, 0), (5, 0)], "94.44% on validation, which is near chance: a student would learn nothing from it"),
        ([(5, 0), (2, 0)], "71.43% on validation, which is near chance: a student would learn nothing from it"),
        ([(40, 45), (2, 3)], "47.78% on validation, too few validation images to tell: chance alone does as well in "),
        ([(3, 0), (2, 2)], "71.43% on validation, too few validation images to tell: chance alone does as well in 28."),
    ],
)
def test_a_teacher_that_chance_explains_is_refused(rows: list[tuple[int, ...]], told: str) -> None:
    found = refused(counted(*rows), None)
    assert f"runs/teacher/best.safetensors scores {told}" in found
    assert ("--val_size=N (now " in found) == ("too few" in told)
    with pytest.raises(UserError, match=r"train it longer.* \(--allow_weak_teacher goes on anyway\)$"):
        check_accuracy(counted(*rows), None, who="x", advice="train it longer")


@pytest.mark.parametrize("correct", [4000, 3995, 4005])
def test_a_teacher_that_scores_what_was_recorded_passes(correct: int) -> None:
    check_accuracy(outcome(correct, (500,) * 10), Validation(4000, 5000, 3), who="x")


@pytest.mark.parametrize("correct", [3994, 4006, 5000, 500])
def test_a_teacher_that_scores_something_else_is_refused(correct: int) -> None:
    assert refused(outcome(correct, (500,) * 10), Validation(4000, 5000, 3)) == (
        f"runs/teacher/best.safetensors scores {correct / 5000:.2%} on validation, its checkpoint recorded 80.00%: "
        "it is not the model that was saved, or its preprocessing differs (--allow_weak_teacher goes on anyway)"
    )


def test_a_teacher_that_was_recorded_on_another_number_of_images_is_refused() -> None:
    """The same count of correct ones does not make them the same images."""
    assert "its checkpoint recorded 64.00%" in refused(outcome(160, (20,) * 10), Validation(160, 250, 3))


@pytest.mark.parametrize("recorded", [None, Validation(725, 5000, 3)])
def test_a_teacher_at_the_level_of_chance_is_refused(recorded: Validation | None) -> None:
    assert refused(outcome(725, (500,) * 10), recorded) == (
        "runs/teacher/best.safetensors scores 14.50% on validation, which is near chance: a student would learn "
        "nothing from it (--allow_weak_teacher goes on anyway)"
    )
    check_accuracy(outcome(726, (500,) * 10), recorded, who="x")


def test_a_constant_answer_never_passes() -> None:
    """It scores the share of one class: 60 % here, far above 1 / C."""
    found = outcome(60, (60, 20, 20))
    assert "60.00% on validation, which is near chance" in refused(found, None)


def test_a_dead_teacher_is_refused_whatever_was_recorded() -> None:
    dead = outcome(5000, (500,) * 10, finite=False)
    assert "scores 0.00% on validation, its checkpoint recorded 80.00%" in refused(dead, Validation(4000, 5000, 3))
    assert "scores 0.00% on validation, which is near chance" in refused(dead, Validation(0, 5000, 3))
    assert "scores 0.00% on validation, which is near chance" in refused(dead, None)
