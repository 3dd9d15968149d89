"""Properties of the losses, on logits of a seeded generator and a few rows that are hard on purpose."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdignite.losses import LossParts, cross_entropy, kd_divergence, kd_loss

Array = npt.NDArray[np.float64]

EXAMPLES = settings(deadline=None, max_examples=60)
ALPHAS = st.one_of(st.sampled_from([0.0, 1.0, 0.1, 0.9]), st.floats(0, 1, allow_subnormal=False))
TEMPERATURES = st.floats(0.5, 20)
SMOOTHINGS = st.sampled_from([0.0, 0.1, 0.7])


class Case(NamedTuple):
    """Logits (N, C) float64 and labels (N,)."""

    student: Tensor
    teacher: Tensor
    labels: Tensor


@st.composite
def cases(draw: st.DrawFn, *, min_images: int = 1, min_classes: int = 2) -> Case:
    n, c = draw(st.integers(min_images, 8)), draw(st.integers(min_classes, 12))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    student, teacher = scale * torch.randn(2, n, c, generator=generator, dtype=torch.float64)
    labels = torch.randint(c, (n,), generator=generator)
    row = draw(st.sampled_from(["as drawn", "flat student", "flat teacher", "sure student", "sure teacher"]))
    if row != "as drawn":
        logits = student if row.endswith("student") else teacher
        logits[0] = 3.0 if row.startswith("flat") else logits[0]
        logits[0, -1] += 1e4 if row.startswith("sure") else 0
    return Case(student, teacher, labels)


def log_softmax(logits: Array) -> Array:
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


def targets(labels: Tensor, num_classes: int, smoothing: float) -> Array:
    return (1 - smoothing) * np.eye(num_classes)[labels.numpy()] + smoothing / num_classes


def reference(case: Case, *, alpha: float, T: float, smoothing: float) -> tuple[float, float, float]:
    """Loss, ce and kd in NumPy: -sum t log q and T^2 sum p log(p / q), averaged over the images."""
    student, teacher = case.student.numpy(), case.teacher.numpy()
    target = targets(case.labels, student.shape[1], smoothing)
    ce = float(np.mean(np.sum(-target * log_softmax(student), axis=1)))
    log_p, log_q = log_softmax(teacher / T), log_softmax(student / T)
    kd = float(T**2 * np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))
    return (1 - alpha) * ce + alpha * kd, ce, kd


def value_and_gradient(case: Case, *, alpha: float, T: float, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    student = case.student.clone().requires_grad_()
    loss = kd_loss(student, case.teacher, case.labels, alpha=alpha, T=T, label_smoothing=smoothing).loss
    (gradient,) = torch.autograd.grad(loss, student)
    return loss.detach(), gradient


def assert_close(actual: Tensor | float, expected: Tensor | float, *, atol: float = 1e-10) -> None:
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=torch.float64),
        torch.as_tensor(expected, dtype=torch.float64),
        rtol=1e-10,
        atol=atol,
    )


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES, SMOOTHINGS)
def test_value_is_that_of_numpy(case: Case, alpha: float, T: float, smoothing: float) -> None:
    parts = kd_loss(*case, alpha=alpha, T=T, label_smoothing=smoothing)
    assert isinstance(parts, LossParts)
    for actual, expected in zip(parts, reference(case, alpha=alpha, T=T, smoothing=smoothing), strict=True):
        assert actual.shape == ()
        assert_close(actual, expected)
    assert_close(cross_entropy(case.student, case.labels, label_smoothing=smoothing), parts.ce)
    assert_close(kd_divergence(case.student, case.teacher, T=T), parts.kd)


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES, SMOOTHINGS)
def test_gradient_is_the_closed_form(case: Case, alpha: float, T: float, smoothing: float) -> None:
    """d loss / d student = ((1 - alpha) (q - y) + alpha T (q_T - p_T)) / N."""
    student, teacher = case.student.numpy(), case.teacher.numpy()
    hard = np.exp(log_softmax(student)) - targets(case.labels, student.shape[1], smoothing)
    soft = T * (np.exp(log_softmax(student / T)) - np.exp(log_softmax(teacher / T)))
    expected = torch.from_numpy(((1 - alpha) * hard + alpha * soft) / len(student))
    _, gradient = value_and_gradient(case, alpha=alpha, T=T, smoothing=smoothing)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


@EXAMPLES
@given(cases(), TEMPERATURES)
def test_divergence_is_zero_at_equality_alone(case: Case, T: float) -> None:
    assert kd_divergence(case.teacher, case.teacher, T=T) == 0
    apart = (torch.softmax(case.student / T, 1) - torch.softmax(case.teacher / T, 1)).abs().sum(1)  # (N,)
    # Pinsker: KL >= (sum |p - q|)^2 / 2
    assert kd_divergence(case.student, case.teacher, T=T) >= T**2 * (apart**2).mean() / 2 - 1e-10


@EXAMPLES
@given(cases(), TEMPERATURES)
def test_no_gradient_at_equality(case: Case, T: float) -> None:
    _, gradient = value_and_gradient(case._replace(student=case.teacher), alpha=1.0, T=T)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-13)


@EXAMPLES
@given(cases(min_images=2), ALPHAS, TEMPERATURES, st.data())
def test_loss_of_a_batch_is_the_weighted_mean_of_its_pieces(
    case: Case, alpha: float, T: float, data: st.DataObject
) -> None:
    n = len(case.labels)
    cut = data.draw(st.integers(1, n - 1))
    whole = kd_loss(*case, alpha=alpha, T=T)
    first = kd_loss(*(tensor[:cut] for tensor in case), alpha=alpha, T=T)
    second = kd_loss(*(tensor[cut:] for tensor in case), alpha=alpha, T=T)
    for one, left, right in zip(whole, first, second, strict=True):
        assert_close(one, (cut * left + (n - cut) * right) / n)


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES, st.floats(-100, 100), st.floats(-100, 100))
def test_a_constant_added_to_a_row_changes_nothing(case: Case, alpha: float, T: float, one: float, two: float) -> None:
    step = torch.arange(1, len(case.labels) + 1, dtype=torch.float64)[:, None]  # another constant for each row
    moved = case._replace(student=case.student + one * step, teacher=case.teacher + two * step)
    for actual, expected in zip(kd_loss(*moved, alpha=alpha, T=T), kd_loss(*case, alpha=alpha, T=T), strict=True):
        assert_close(actual, expected, atol=1e-8)


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES, SMOOTHINGS, st.randoms(use_true_random=False))
def test_permuted_classes_permute_the_gradient(case: Case, alpha: float, T: float, smoothing: float, random) -> None:
    order = torch.tensor(random.sample(range(case.student.shape[1]), case.student.shape[1]))
    permuted = Case(case.student[:, order], case.teacher[:, order], torch.argsort(order)[case.labels])
    loss, gradient = value_and_gradient(case, alpha=alpha, T=T, smoothing=smoothing)
    other_loss, other_gradient = value_and_gradient(permuted, alpha=alpha, T=T, smoothing=smoothing)
    assert_close(other_loss, loss)
    assert_close(other_gradient, gradient[:, order])


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES, st.randoms(use_true_random=False))
def test_the_order_of_the_batch_changes_nothing(case: Case, alpha: float, T: float, random) -> None:
    order = torch.tensor(random.sample(range(len(case.labels)), len(case.labels)))
    loss, gradient = value_and_gradient(case, alpha=alpha, T=T)
    other_loss, other_gradient = value_and_gradient(Case(*(one[order] for one in case)), alpha=alpha, T=T)
    assert_close(other_loss, loss)
    assert_close(other_gradient, gradient[order])


@EXAMPLES
@given(cases(), TEMPERATURES, SMOOTHINGS)
def test_alpha_0_is_cross_entropy_to_the_last_bit(case: Case, T: float, smoothing: float) -> None:
    student = case.student.clone().requires_grad_()
    expected = F.cross_entropy(student, case.labels, label_smoothing=smoothing)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    loss, gradient = value_and_gradient(case, alpha=0.0, T=T, smoothing=smoothing)
    assert torch.equal(loss, expected.detach())
    assert torch.equal(gradient, expected_gradient)


@EXAMPLES
@given(cases(), TEMPERATURES, SMOOTHINGS)
def test_alpha_1_ignores_the_labels(case: Case, T: float, smoothing: float) -> None:
    others = case._replace(labels=(case.labels + 1) % case.student.shape[1])
    loss, gradient = value_and_gradient(case, alpha=1.0, T=T, smoothing=smoothing)
    other_loss, other_gradient = value_and_gradient(others, alpha=1.0, T=T, smoothing=smoothing)
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other_gradient)
    assert torch.equal(loss, kd_divergence(case.student, case.teacher, T=T))


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES)
def test_affine_in_alpha(case: Case, alpha: float, T: float) -> None:
    (start, start_gradient), (end, end_gradient) = (value_and_gradient(case, alpha=one, T=T) for one in (0.0, 1.0))
    loss, gradient = value_and_gradient(case, alpha=alpha, T=T)
    assert_close(loss, (1 - alpha) * start + alpha * end)
    assert_close(gradient, (1 - alpha) * start_gradient + alpha * end_gradient)


@EXAMPLES
@given(cases(), st.sampled_from([0.5, 2.0, 4.0, 20.0]))
def test_continuous_at_both_ends(case: Case, T: float) -> None:
    ends = {end: value_and_gradient(case, alpha=end, T=T) for end in (0.0, 1.0)}
    size = 1 + ends[0.0][0].abs() + ends[1.0][0].abs()
    for end, near in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        loss, gradient = value_and_gradient(case, alpha=near, T=T)
        assert (loss - ends[end][0]).abs() <= 2e-6 * size
        assert (gradient - ends[end][1]).abs().max() <= 2e-6 * (1 + T)


@EXAMPLES
@given(cases(), ALPHAS, TEMPERATURES)
def test_no_gradient_reaches_the_teacher(case: Case, alpha: float, T: float) -> None:
    student, teacher = case.student.clone().requires_grad_(), case.teacher.clone().requires_grad_()
    parts = kd_loss(student, teacher, case.labels, alpha=alpha, T=T)
    parts.loss.backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert parts.kd.requires_grad
