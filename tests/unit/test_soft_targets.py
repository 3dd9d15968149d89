"""How much targets say: closed forms, and the gradient against automatic differentiation of the loss itself."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdignite.errors import UserError
from kdignite.losses import kd_loss
from kdignite.methods.rows import Temperature
from kdignite.teachers.soft_targets import (
    SoftTargets,
    TargetStatistics,
    label_smoothing_warning,
    soft_target_lines,
    soft_target_statistics,
    underconfidence_warning,
)

EXAMPLES = settings(deadline=None, max_examples=60)
MESSAGE = "the teacher was trained with label smoothing 0.1, which blurs its logits of the other classes: a T near 1"


def drawn(seed: int, *, num_images: int = 6, num_classes: int = 5, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(num_images, num_classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(num_classes, (num_images,), generator=generator)


def gradient_norm(logits: Tensor, labels: Tensor, *, alpha: float, T: float, part: str) -> float:
    """Mean over the images of the norm of the gradient of a weighted part of the loss, by differentiation."""
    student = torch.zeros_like(logits).requires_grad_()
    parts = kd_loss(student, logits, labels, alpha=alpha, T=T)
    weighted = alpha * parts.kd if part == "kd" else (1 - alpha) * parts.ce
    (gradient,) = torch.autograd.grad(weighted, student)
    return len(logits) * gradient.norm(dim=1).mean().item()  # the loss is a mean over the images


@pytest.mark.parametrize("num_classes", [2, 10, 100])
@pytest.mark.parametrize("T", [0.5, 1.0, 4.0])
def test_a_uniform_teacher(num_classes: int, T: float) -> None:
    logits, labels = torch.full((3, num_classes), 7.0), torch.tensor([0, 1, 1])
    found = soft_target_statistics(logits, labels, alpha=0.9, T=T)
    assert found.soft == pytest.approx((1 / num_classes, math.log(num_classes), 1, 1 / num_classes), rel=1e-12)
    assert found.plain == found.soft
    assert found.kd_share == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize(("alpha", "T"), [(0.5, 1.0), (0.9, 4.0), (0.2, 20.0)])
def test_a_teacher_of_one_class(num_classes: int, alpha: float, T: float) -> None:
    """p is one-hot like y: both gradients have the length sqrt(1 - 1/C), times alpha T and 1 - alpha."""
    labels = torch.tensor([1, 0, 1])
    logits = 1e6 * torch.nn.functional.one_hot(torch.tensor([1, 1, 1]), num_classes)  # right, wrong, right
    found = soft_target_statistics(logits, labels, alpha=alpha, T=T)
    assert found.soft == pytest.approx((1, 0, 0, 2 / 3), abs=1e-12)
    assert found.kd_share == pytest.approx(alpha * T / (alpha * T + 1 - alpha), rel=1e-12)
    assert found.dark == 0


def test_two_classes_by_hand() -> None:
    """Logits (ln 9, 0) are 9/10 and 1/10; at T=2 they are 3/4 and 1/4."""
    found = soft_target_statistics(
        torch.tensor([[math.log(9), 0]], dtype=torch.float64), torch.tensor([1]), alpha=0.3, T=2.0
    )
    soft = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    plain = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    assert found.soft == pytest.approx((0.75, soft, soft / math.log(2), 0.25), rel=1e-12)
    assert found.plain == pytest.approx((0.9, plain, plain / math.log(2), 0.1), rel=1e-12)
    kd, ce = 0.3 * 2 * math.sqrt(2) * 0.25, 0.7 * math.sqrt(0.5)
    assert found.kd_share == pytest.approx(kd / (kd + ce), rel=1e-12)


def test_means_are_over_the_images() -> None:
    """One image of equal scores, one of a single class: the mean of both, not the value of a mean image."""
    logits = torch.tensor([[0.0, 0, 0, 0], [1e5, 0, 0, 0]])
    found = soft_target_statistics(logits, torch.tensor([0, 0]), alpha=0.5, T=1.0)
    assert found.soft == pytest.approx((0.625, math.log(4) / 2, 0.5, 0.625), rel=1e-12)
    assert found.kd_share == pytest.approx(1 / 3, rel=1e-12)


@EXAMPLES
@given(seed=st.integers(0, 2**31), alpha=st.floats(0.01, 0.99), T=st.floats(0.5, 20), num_classes=st.integers(2, 12))
def test_the_share_is_that_of_the_loss(seed: int, alpha: float, T: float, num_classes: int) -> None:
    logits, labels = drawn(seed, num_classes=num_classes)
    kd, ce = (gradient_norm(logits, labels, alpha=alpha, T=T, part=part) for part in ("kd", "ce"))
    assert soft_target_statistics(logits, labels, alpha=alpha, T=T).kd_share == pytest.approx(kd / (kd + ce), rel=1e-9)


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_of_alpha(alpha: float, share: float) -> None:
    assert soft_target_statistics(*drawn(1), alpha=alpha, T=4.0).kd_share == share


def test_no_gradient_at_all_has_no_share() -> None:
    found = soft_target_statistics(torch.zeros(2, 4), torch.tensor([0, 1]), alpha=1.0, T=4.0)
    assert (found.kd_share, found.dark) == (0, 0)


# --- what no smoothed label says


@pytest.mark.parametrize("top", [0.3, 0.6, 0.999999])
def test_a_smoothed_label_is_no_news(top: float) -> None:
    p = torch.full((4, 5), (1 - top) / 4, dtype=torch.float64)
    p[torch.arange(4), torch.tensor([0, 2, 4, 4])] = top
    assert soft_target_statistics(p.log(), torch.zeros(4, dtype=torch.int64), alpha=0.5, T=1.0).dark == pytest.approx(
        0, abs=1e-12
    )


def test_two_classes_leave_no_room_for_news() -> None:
    assert soft_target_statistics(*drawn(2, num_classes=2), alpha=0.5, T=3.0).dark == pytest.approx(0, abs=1e-12)


def test_news_by_hand() -> None:
    """p = (.5, .3, .2): q = (.5, .25, .25), |q - p|^2 = 2 * .05^2; |u - p|^2 = (1/6)^2 + (1/30)^2 + (2/15)^2."""
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    far = math.sqrt((1 / 6) ** 2 + (1 / 30) ** 2 + (2 / 15) ** 2)
    found = soft_target_statistics(logits, torch.tensor([0]), alpha=0.5, T=1.0)
    assert found.dark == pytest.approx(math.sqrt(2) * 0.05 / far, rel=1e-12)


@EXAMPLES
@given(seed=st.integers(0, 2**31), num_classes=st.integers(3, 8))
def test_news_is_the_distance_to_the_nearest_smoothing(seed: int, num_classes: int) -> None:
    """Against a search over all amounts of smoothing of the label that the teacher would give."""
    logits, labels = drawn(seed, num_images=1, num_classes=num_classes, scale=1.0)
    p = logits.softmax(dim=1)
    amounts = torch.linspace(0, 1, 4001, dtype=torch.float64)[:, None]
    smoothed = (1 - amounts) * torch.eye(num_classes)[p.argmax()] + amounts / num_classes
    nearest = (smoothed - p).norm(dim=1).min()
    away = (p - 1 / num_classes).norm()
    assert soft_target_statistics(logits, labels, alpha=0.5, T=1.0).dark == pytest.approx(
        (nearest / away).item(), abs=1e-3
    )


def test_a_sure_teacher_keeps_its_news() -> None:
    """Both wrong classes have about 1e-20: 1 - top is 0 in float64, their difference is not."""
    found = soft_target_statistics(torch.tensor([[0.0, -46.0, -92.0]]), torch.tensor([0]), alpha=0.5, T=1.0)
    assert found.dark == pytest.approx(math.exp(-46) / math.sqrt(2) / math.sqrt(2 / 3), rel=1e-9)


# --- numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
def test_everything_is_float64(dtype: torch.dtype) -> None:
    logits, labels = drawn(3)
    logits = logits.half().to(dtype)
    assert soft_target_statistics(logits, labels, alpha=0.7, T=3.0) == soft_target_statistics(
        logits.double(), labels, alpha=0.7, T=3.0
    )


@pytest.mark.parametrize("T", [0.01, 1.0, 1000.0])
def test_enormous_scores_stay_finite(T: float) -> None:
    found = soft_target_statistics(1e4 * drawn(4)[0], drawn(4)[1], alpha=0.5, T=T)
    assert all(math.isfinite(value) for value in (*found.soft, *found.plain, found.kd_share, found.dark))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"alpha": 1.5}, r"^alpha must be in \[0, 1\], not 1.5$"),
        ({"T": 0.0}, r"^T must be above 0 and finite, not 0.0$"),
        ({"T": math.inf}, r"^T must be above 0 and finite, not inf$"),
        ({"logits": torch.zeros(2, 1)}, r"^expected logits \(N, C\) and labels \(N,\) .* not \(2, 1\) and \(2,\)$"),
        ({"logits": torch.zeros(0, 3), "labels": torch.zeros(0).long()}, r"not \(0, 3\) and \(0,\)$"),
        ({"labels": torch.zeros(3).long()}, r"not \(2, 3\) and \(3,\)$"),
        ({"labels": torch.tensor([0, 3])}, r"^labels must be in \[0, 3\), not in \[0, 3\]$"),
        ({"labels": torch.tensor([-1, 2])}, r"^labels must be in \[0, 3\), not in \[-1, 2\]$"),
        ({"logits": torch.tensor([[1, math.nan, 0]] * 2)}, r"^expected finite logits of the teacher, got NaN or inf"),
    ],
)
def test_refusals(changed: dict[str, float | Tensor], message: str) -> None:
    values = {"logits": torch.zeros(2, 3), "labels": torch.tensor([0, 2]), "alpha": 0.5, "T": 2.0, **changed}
    with pytest.raises(UserError, match=message):
        soft_target_statistics(values.pop("logits"), values.pop("labels"), **values)  # type: ignore[arg-type]


# --- what is printed


def lines_of(*, top: float = 0.6, share: float = 0.5, T: float = 4.0, label_smoothing: float | None = 0.0) -> list[str]:
    statistics = SoftTargets(
        TargetStatistics(top, 1.151, share, 0.55), TargetStatistics(0.97, 0.1, 0.04, 0.93), kd_share=0.843, dark=0.217
    )
    return soft_target_lines(statistics, alpha=0.9, T=T, label_smoothing=label_smoothing)


def test_the_numbers_are_told() -> None:
    text = "\n".join(lines_of())
    assert "warning" not in text
    assert "targets at T=4: top class 60.0%, true class 55.0%, entropy 1.15 nats (50.0% of log C)" in text
    assert "targets at T=1: top class 97.0%, true class 93.0%, entropy 0.1 nats (4.0% of log C)" in text
    assert "with alpha=0.9, 84.3% of the gradient is the teacher's term" in text
    assert "among the wrong classes is 21.7% of that term" in text


@pytest.mark.parametrize(
    ("label_smoothing", "told"),
    [
        (0.0, "trained without label smoothing"),
        (0.1, "trained with label smoothing 0.1"),
        (None, "trained elsewhere: with which label smoothing, its file does not say"),
    ],
)
@pytest.mark.parametrize("T", [1.0, 4.0])
def test_how_it_was_trained_is_told(label_smoothing: float | None, told: str, T: float) -> None:
    assert [line for line in lines_of(T=T, label_smoothing=label_smoothing) if line.startswith("trained")] == [told]


def test_targets_at_one_are_told_once() -> None:
    found = soft_target_statistics(*drawn(5), alpha=0.5, T=1.0)
    text = "\n".join(soft_target_lines(found, alpha=0.5, T=1.0, label_smoothing=0.0))
    assert text.count("targets at T=1: ") == 1


@pytest.mark.parametrize(
    ("values", "warning"),
    [
        ({"top": 0.995}, "at T=4 the targets are little more than labels (top class 99.50%): raise T"),
        (
            {"share": 0.96},
            "at T=4 the targets are nearly uniform (96.0% of the largest entropy): the loss is close to the squared "
            "distance of the logits, and a higher T changes little (Hinton et al. 2015, arXiv:1503.02531, 2.1)",
        ),
        ({"label_smoothing": 0.1}, f"{MESSAGE} is better (Chandrasegaran et al. 2022, arXiv:2206.14532)"),
    ],
)
def test_targets_that_say_little_are_warned_of(values: dict[str, float], warning: str) -> None:
    assert lines_of(**values)[len(lines_of()) :] == [f"warning: {warning}"]


def test_warnings_start_above_their_limits() -> None:
    assert not any(line.startswith("warning") for line in lines_of(top=0.99, share=0.95, label_smoothing=0.1, T=1.0))


@pytest.mark.parametrize(("label_smoothing", "T", "doubted"), [(0.1, 1.01, True), (0.1, 1.0, False), (0.0, 4.0, False)])
def test_smoothing_speaks_against_a_high_temperature(label_smoothing: float, T: float, doubted: bool) -> None:
    assert label_smoothing_warning(label_smoothing, Temperature("T", T, T)).startswith(MESSAGE) == doubted


@pytest.mark.parametrize(("top", "T", "doubted"), [(0.91, 4.0, True), (0.91, 1.0, False), (0.96, 4.0, False)])
def test_a_teacher_that_is_less_sure_than_right_may_be_smoothed(top: float, T: float, doubted: bool) -> None:
    p = torch.full((4, 10), (1 - top) / 9, dtype=torch.float64)
    p[torch.arange(4), torch.arange(4)] = top
    told = underconfidence_warning(p.log(), torch.arange(4), Temperature("T", T, T))
    seen = "the teacher is right in 100.0% and gives its top class 91.0%, as after label smoothing or mixup, which"
    assert told.startswith(seen) == doubted
    assert bool(told) == doubted
    assert underconfidence_warning(p.log(), torch.arange(4) + 5, Temperature("T", T, T)) == ""  # wrong, and sure
