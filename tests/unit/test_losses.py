"""The losses in closed forms, at the limits of T, at the limits of the number formats, and their refusals."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from kdignite.errors import UserError
from kdignite.losses import balanced_weights, cross_entropy, kd_divergence, kd_loss

HALF = (torch.float16, torch.bfloat16)


@pytest.fixture
def logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student and teacher (16, 10) float64, labels."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = torch.randn(2, 16, 10, generator=generator, dtype=torch.float64)
    return student, 2 * teacher, torch.randint(10, (16,), generator=generator)


def kd_gradient(student: Tensor, teacher: Tensor, *, T: float) -> Tensor:
    student = student.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(kd_divergence(student, teacher, T=T), student)
    return gradient


def test_two_classes_by_hand() -> None:
    """Logits (ln 9, 0) are 9/10 and 1/10; at T=2 they are 3/4 and 1/4; the student's zeros are 1/2 and 1/2."""
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(9), 0]], dtype=torch.float64)
    soft = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    parts = kd_loss(student, teacher, torch.tensor([1]), alpha=0.3, T=2.0)
    assert parts.ce.item() == pytest.approx(math.log(2), rel=1e-12)
    assert parts.kd.item() == pytest.approx(soft, rel=1e-12)
    assert parts.loss.item() == pytest.approx(0.7 * math.log(2) + 0.3 * soft, rel=1e-12)


def test_teacher_and_student_are_not_interchangeable() -> None:
    student, teacher = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[math.log(9), 0]], dtype=torch.float64)
    other_way = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert kd_divergence(teacher, student, T=1.0).item() == pytest.approx(other_way, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
def test_label_smoothing_is_the_formula(logits: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    student, _, labels = logits
    target = torch.full_like(student, smoothing / 10)
    target[torch.arange(16), labels] += 1 - smoothing
    expected = -(target * (student - student.exp().sum(1, keepdim=True).log())).sum(1).mean()
    torch.testing.assert_close(cross_entropy(student, labels, label_smoothing=smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_are_the_formula(logits: tuple[Tensor, Tensor, Tensor], smoothing: float) -> None:
    student, teacher, labels = logits
    weights = torch.linspace(0.5, 4, 10)
    target = torch.full_like(student, smoothing / 10)
    target[torch.arange(16), labels] += 1 - smoothing
    expected = -(weights * target * student.log_softmax(1)).sum(1).mean()
    settings = {"label_smoothing": smoothing, "class_weights": weights}
    torch.testing.assert_close(cross_entropy(student, labels, **settings), expected)
    parts = kd_loss(student, teacher, labels, alpha=0.3, T=2.0, **settings)
    torch.testing.assert_close(parts.ce, expected)
    torch.testing.assert_close(parts.loss, 0.7 * expected + 0.3 * kd_divergence(student, teacher, T=2.0))


@pytest.mark.parametrize("settings", [{}, {"label_smoothing": 0.1, "class_weights": torch.linspace(0.5, 4, 10)}])
def test_of_shares_of_two_classes_it_is_the_mean_of_both(
    logits: tuple[Tensor, Tensor, Tensor], settings: dict[str, Any]
) -> None:
    student, _, labels = logits
    others, share = labels.roll(1), torch.linspace(0, 1, 16)
    shares = share[:, None] * F.one_hot(labels, 10) + (1 - share[:, None]) * F.one_hot(others, 10)
    each = [[cross_entropy(*pair, **settings) for pair in zip(student.split(1), y.split(1), strict=True)] for y in
            (labels, others)]  # fmt: skip
    expected = torch.stack([lam * a + (1 - lam) * b for lam, a, b in zip(share, *each, strict=True)]).mean()
    torch.testing.assert_close(cross_entropy(student, shares.to(student), **settings), expected)


def test_class_weights_of_one_change_nothing_but_rounding(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, _, labels = logits
    torch.testing.assert_close(
        cross_entropy(student, labels, class_weights=torch.ones(10)), F.cross_entropy(student, labels)
    )


def test_balanced_weights_are_those_of_scikit_learn_and_have_mean_1_over_the_images() -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    weights = balanced_weights(labels, num_classes=3)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1)
    assert [float(weights[labels][labels == c].sum()) for c in range(3)] == pytest.approx([100 / 3] * 3)


def test_a_class_without_training_images_leaves_the_weights_of_the_others() -> None:
    labels = torch.tensor([0, 0, 0, 2])
    assert balanced_weights(labels, num_classes=4).tolist() == pytest.approx([4 / 6, 1, 2, 1])


def test_label_smoothing_leaves_the_teacher_alone(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    plain, smoothed = (kd_loss(*logits, alpha=0.9, T=4.0, label_smoothing=one) for one in (0.0, 0.2))
    assert torch.equal(plain.kd, smoothed.kd)
    assert not torch.equal(plain.ce, smoothed.ce)


@pytest.mark.parametrize(("alpha", "T"), [(0.0, 4.0), (0.1, 0.7), (0.9, 4.0), (1.0, 20.0)])
def test_gradcheck(logits: tuple[Tensor, Tensor, Tensor], alpha: float, T: float) -> None:
    student, teacher, labels = logits

    def loss(student: Tensor) -> Tensor:
        return kd_loss(student, teacher, labels, alpha=alpha, T=T, label_smoothing=0.1).loss

    assert torch.autograd.gradcheck(loss, student.clone().requires_grad_())


def test_high_temperature_matches_centred_logits(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    """The gradient tends to ((z_s - mean z_s) - (z_t - mean z_t)) / (N C): Hinton et al. 2015, equation 4."""
    student, teacher, _ = logits
    limit = ((student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))) / student.numel()
    assert (kd_gradient(student, teacher, T=1e4) - limit).norm() < 1e-3 * limit.norm()


def test_gradient_keeps_its_size_at_every_temperature(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, _ = logits
    sizes = [kd_gradient(student, teacher, T=T).norm().item() for T in (2.0, 4.0, 8.0, 20.0, 100.0)]
    assert max(sizes) < 2 * min(sizes)  # 1 / T^2 of it, if T^2 were left out: 2,500 times


def test_a_teacher_of_inference_mode_is_taken(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = logits
    with torch.inference_mode():
        inferred = teacher * 1.0
    assert inferred.is_inference()
    for T in (1.0, 3.0):
        ours, plain = student.clone().requires_grad_(), student.clone().requires_grad_()
        kd_loss(ours, inferred, labels, alpha=0.8, T=T).loss.backward()
        kd_loss(plain, teacher, labels, alpha=0.8, T=T).loss.backward()
        assert ours.grad is not None
        assert plain.grad is not None
        assert torch.equal(ours.grad, plain.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("T", [0.5, 4.0, 20.0])
def test_finite_for_enormous_logits(dtype: torch.dtype, alpha: float, T: float) -> None:
    signs = torch.Generator().manual_seed(1)
    student, teacher = (1e4 * (2 * torch.randint(0, 2, (8, 10), generator=signs) - 1) for _ in range(2))
    student[0], teacher[0] = -teacher[0], teacher[0].clone()
    student = student.to(dtype).requires_grad_()
    parts = kd_loss(student, teacher.to(dtype), torch.arange(8), alpha=alpha, T=T)
    parts.loss.backward()
    assert all(torch.isfinite(part) for part in parts)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_promoted(logits: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype) -> None:
    student, teacher, labels = logits[0].to(dtype), logits[1].to(dtype), logits[2]
    parts = kd_loss(student, teacher, labels, alpha=0.8, T=3.0)
    promoted = kd_loss(student.float(), teacher.float(), labels, alpha=0.8, T=3.0)
    assert [part.dtype for part in parts] == [torch.float32] * 3
    assert all(torch.equal(*pair) for pair in zip(parts, promoted, strict=True))


def test_double_precision_is_kept(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    parts = kd_loss(*logits, alpha=0.8, T=3.0)
    assert [part.dtype for part in parts] == [torch.float64] * 3


def test_a_half_precision_teacher_teaches_a_float32_student(logits: tuple[Tensor, Tensor, Tensor]) -> None:
    student, teacher, labels = logits[0].float().requires_grad_(), logits[1].half(), logits[2]
    parts = kd_loss(student, teacher, labels, alpha=0.8, T=3.0)
    parts.loss.backward()
    assert parts.kd.dtype == torch.float32
    assert student.grad is not None
    assert student.grad.dtype == torch.float32


@pytest.mark.parametrize("shape", [(16, 9), (15, 10), (1, 10), (16, 1)])
def test_shapes_must_agree(logits: tuple[Tensor, Tensor, Tensor], shape: tuple[int, int]) -> None:
    student, _, labels = logits
    text = rf"same shape \(N, C\), not \(16, 10\) and \({shape[0]}, {shape[1]}\)"
    with pytest.raises(UserError, match=text):
        kd_loss(student, torch.zeros(shape), labels, alpha=0.9, T=4.0)
    with pytest.raises(UserError, match=text):
        kd_divergence(student, torch.zeros(shape), T=4.0)


@pytest.mark.parametrize("T", [0.0, -1.0, math.nan, -math.inf, math.inf])
def test_temperature_must_be_a_positive_number(logits: tuple[Tensor, Tensor, Tensor], T: float) -> None:
    student, teacher, labels = logits
    for refused in (partial(kd_divergence, student, teacher), partial(kd_loss, student, teacher, labels, alpha=0.9)):
        with pytest.raises(UserError, match=rf"^T must be above 0 and finite, not {T}$"):
            refused(T=T)


@pytest.mark.parametrize("alpha", [-1e-9, 1 + 1e-9, 2.0, math.nan, math.inf])
def test_alpha_must_be_a_share(logits: tuple[Tensor, Tensor, Tensor], alpha: float) -> None:
    with pytest.raises(UserError, match=rf"^alpha must be in \[0, 1\], not {alpha}$"):
        kd_loss(*logits, alpha=alpha, T=4.0)
