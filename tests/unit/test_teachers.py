"""Who may teach: models that are above chance, and the ones their checkpoints say they are."""

import math

import pytest
import torch
from torch import Tensor

from kdignite.checkpoints import Validation
from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.evaluation import Outcome, predictor
from kdignite.teachers import chance_level, check_accuracy, live_teacher, tolerance


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
        check_accuracy(found, recorded, who="runs/teacher/best.pt")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_live_teacher_is_asked_about_the_images_of_the_batch() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    asked: list[Tensor] = []

    def logits_of(seen: Tensor) -> Tensor:
        asked.append(seen)
        return torch.arange(6.0).reshape(2, 3)

    answer = live_teacher(logits_of)(Batch(images, torch.tensor([0, 1]), torch.tensor([5, 9]), 3))
    assert asked[0] is images
    assert torch.equal(answer.logits, torch.arange(6.0).reshape(2, 3))


def test_a_loss_may_multiply_with_the_answers_of_a_live_teacher() -> None:
    """They come from inference mode, whose tensors no gradient may go through."""
    model = torch.nn.Flatten()
    batch = Batch(torch.ones(2, 3, 1, 1, dtype=torch.uint8), torch.tensor([0, 1]), torch.tensor([5, 9]), 3)
    answer = live_teacher(predictor(model, prepare=lambda images: images.float()))(batch).logits
    student_logits = torch.zeros(2, 3, requires_grad=True)
    torch.nn.functional.mse_loss(student_logits, answer, reduction="sum").backward()
    (student_logits * answer).sum().backward()
    assert torch.equal(student_logits.grad, torch.full((2, 3), -1.0))


@pytest.mark.parametrize(("num_images", "allowed"), [(1, 2), (200, 2), (2999, 2), (3000, 3), (5000, 5), (10_000, 10)])
def test_one_in_a_thousand_may_differ_and_at_least_two(num_images: int, allowed: int) -> None:
    assert tolerance(num_images) == allowed


@pytest.mark.parametrize(
    ("sizes", "level"),
    [
        ((500,) * 10, 0.1 + 0.05 * 0.9),  # many images: the margin counts
        ((20,) * 10, 0.1 + 3 * math.sqrt(0.1 * 0.9 / 200)),  # few: the noise
        ((90, 10), 0.9 + 3 * math.sqrt(0.9 * 0.1 / 100)),  # the most frequent class, not 1 / C
        ((50,) * 100, 0.01 + 0.05 * 0.99),
        ((7,), 1.0),
    ],
)
def test_the_level_of_chance_is_the_larger_of_margin_and_noise(sizes: tuple[int, ...], level: float) -> None:
    assert chance_level(outcome(0, sizes)) == pytest.approx(level, rel=1e-12)


def test_ten_equal_classes_and_5000_images_need_more_than_14_5_per_cent() -> None:
    assert chance_level(outcome(0, (500,) * 10)) == pytest.approx(0.145)


def test_chance_does_not_depend_on_the_answers() -> None:
    assert chance_level(outcome(0, (20,) * 10)) == chance_level(outcome(200, (20,) * 10))


@pytest.mark.parametrize("correct", [4000, 3995, 4005])
def test_a_teacher_that_scores_what_was_recorded_passes(correct: int) -> None:
    check_accuracy(outcome(correct, (500,) * 10), Validation(4000, 5000, 3), who="x")


@pytest.mark.parametrize("correct", [3994, 4006, 5000, 500])
def test_a_teacher_that_scores_something_else_is_refused(correct: int) -> None:
    assert refused(outcome(correct, (500,) * 10), Validation(4000, 5000, 3)) == (
        f"runs/teacher/best.pt scores {correct / 5000:.2%} on validation, its checkpoint recorded 80.00%: "
        "it is not the model that was saved, or its preprocessing differs (--allow_weak_teacher goes on anyway)"
    )


def test_a_teacher_that_was_recorded_on_another_number_of_images_is_refused() -> None:
    """The same count of correct ones does not make them the same images."""
    assert "its checkpoint recorded 64.00%" in refused(outcome(160, (20,) * 10), Validation(160, 250, 3))


@pytest.mark.parametrize("recorded", [None, Validation(725, 5000, 3)])
def test_a_teacher_at_the_level_of_chance_is_refused(recorded: Validation | None) -> None:
    assert refused(outcome(725, (500,) * 10), recorded) == (
        "runs/teacher/best.pt scores 14.50% on validation, which is near chance: a student would learn nothing from it "
        "(--allow_weak_teacher goes on anyway)"
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
