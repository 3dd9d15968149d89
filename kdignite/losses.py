"""Distillation losses: tensors in, tensors out, in log space.

One convention throughout: ``alpha`` weights the *teacher's* term, the soft term carries ``T**2``, the divergence is
summed over classes and averaged over the batch.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdignite.errors import UserError

SMALLEST_STD = 0.01  # of the logits of an image, by which they are divided; an untrained head has about 0.1 to 1


class LossParts(NamedTuple):
    """A loss and what it is made of; scalars in nats, means over the batch, the parts *not* weighted by alpha."""

    loss: Tensor
    ce: Tensor
    kd: Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy with the labels, in at least float32.

    ``ce = mean_n sum_c -w[c] * t[n, c] * log softmax(logits)[n, c]`` with
    ``t = (1 - label_smoothing) * onehot(labels) + label_smoothing / C`` and ``w = class_weights``, 1 without them. The
    mean is over images, not over weights as in ``torch.nn.CrossEntropyLoss``: an image has the same weight in every
    batch, and the mean over processes is that over the whole batch. Labels may be shares of classes, as those of mixed
    images are; they take the place of the one-hot label.

    Args:
        logits: (N, C) unnormalised scores; half precision is promoted, float64 kept.
        labels: (N,) int64 class indices in [0, C), or (N, C) float32 shares of the classes, which sum to 1.
        label_smoothing: in [0, 1), share of the target spread evenly over all classes.
        class_weights: (C,) above 0, such as `balanced_weights`; None: all 1.

    Returns:
        A scalar, the mean over N, in nats.

    Source: label smoothing: Szegedy et al. 2015, arXiv:1512.00567, section 7.
    """
    logits = at_least_float32(logits)
    if class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    weight = class_weights.to(logits)
    return F.cross_entropy(logits, labels, weight, label_smoothing=label_smoothing, reduction="sum") / len(labels)


def balanced_weights(labels: Tensor, *, num_classes: int) -> Tensor:
    """Weights by which every class has the same share of the loss.

    ``w[c] = N / (K * n[c])`` with n[c] of the N images in class c, and K classes that have images: the mean of w over
    the images is 1, so that a learning rate keeps its meaning. A class without images has weight 1, which only label
    smoothing sees.

    Args:
        labels: (N,) int64 in [0, C), of the images that are trained on.
        num_classes: C.

    Returns:
        (C,) float32, on the device of the labels.

    Source: King & Zeng 2001, "Logistic Regression in Rare Events Data"; ``class_weight="balanced"`` of scikit-learn.
    """
    counts = torch.bincount(labels.cpu(), minlength=num_classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts)
    return torch.where(counts > 0, weights, 1.0).float().to(labels.device)


def kd_divergence(student_logits: Tensor, teacher_logits: Tensor, *, T: float) -> Tensor:
    """Divergence of the student's softened distribution from the teacher's.

    ``kd = T**2 * mean_n sum_c p[n, c] * (log p[n, c] - log q[n, c])`` with ``p = softmax(teacher_logits / T)`` and
    ``q = softmax(student_logits / T)``. The gradient to the student's logits is ``T * (q - p) / N``; since ``q - p``
    itself shrinks like 1/T, the factor ``T**2`` keeps the size of the gradient, and so the meaning of a learning rate
    and of alpha, independent of the temperature.

    Args:
        student_logits: (N, C) unnormalised scores; gradients flow through these.
        teacher_logits: (N, C); treated as constant (detached here).
        T: temperature, above 0 and finite, dimensionless; 1 leaves the distributions as they are.

    Returns:
        A scalar in nats, at least 0, and 0 exactly where the two distributions are equal.

    Raises:
        UserError: if the shapes differ, or T is not above 0 and finite.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    check_shapes(student_logits, teacher_logits)
    check_temperature(T=T)
    log_q = F.log_softmax(at_least_float32(student_logits) / T, dim=1)
    log_p = F.log_softmax(at_least_float32(teacher_logits.detach()) / T, dim=1)
    return T**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> LossParts:
    """Cross-entropy with the labels blended with the divergence from a teacher.

    ``loss = (1 - alpha) * ce + alpha * kd`` with ``ce`` of `cross_entropy` and ``kd`` of `kd_divergence`. It is affine
    in alpha: 0 is exactly training without a teacher, 1 ignores the labels, and both are continuous limits. Toolkits
    disagree on what alpha weights; here it is always the teacher's term.

    Args:
        student_logits: (N, C) unnormalised scores; gradients flow through these.
        teacher_logits: (N, C); treated as constant.
        labels: (N,) int64 class indices in [0, C).
        alpha: in [0, 1], weight of the teacher's term.
        T: temperature, above 0 and finite, dimensionless.
        label_smoothing: in [0, 1), of the labels in ``ce``; the teacher's distribution is left as it is.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``LossParts(loss, ce, kd)``: scalars in nats, means over N; ``kd`` already carries ``T**2``.

    Raises:
        UserError: if alpha is outside [0, 1], T is not above 0 and finite, or the logits differ in shape.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    check_alpha(alpha)
    ce = cross_entropy(student_logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    kd = kd_divergence(student_logits, teacher_logits, T=T)
    return LossParts((1 - alpha) * ce + alpha * kd, ce, kd)


def standardized(logits: Tensor) -> Tensor:
    """Logits (B, C) less their mean over the classes, divided by their standard deviation (C - 1 in its denominator).

    ``(z - mean z) / max(std z, 0.01)``: the gradient grows like ``1 / std``, and a head that begins with zeros has none
    to divide by. Above that floor, ``a * z + b`` with a above 0 is the same as z. Two classes become
    -0.707 and 0.707, without a gradient.
    """
    z = centred(logits)
    variance = z.square().sum(1, keepdim=True) / (z.shape[1] - 1)
    return z / variance.clamp_min(SMALLEST_STD**2).sqrt()


def centred(logits: Tensor) -> Tensor:
    """Logits (B, C) less their mean over the classes."""
    return logits - logits.mean(1, keepdim=True)


def check_shapes(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse logits that differ in shape, which would broadcast."""
    if student_logits.shape != teacher_logits.shape:
        shapes = f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        raise UserError(f"student and teacher logits must have the same shape (N, C), not {shapes}")


def check_alpha(alpha: float) -> None:
    """Refuse a weight of the teacher's term outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha must be in [0, 1], not {alpha}")


def check_temperature(**named: float) -> None:
    """Refuse a temperature that is not above 0 and finite, by its name."""
    for name, value in named.items():
        if not 0 < value < math.inf:
            raise UserError(f"{name} must be above 0 and finite, not {value}")


def check_weights(**named: float) -> None:
    """Refuse a weight of a term that is not at least 0 and finite, by its name."""
    for name, value in named.items():
        if not 0 <= value < math.inf:
            raise UserError(f"{name} must be at least 0 and finite, not {value}")


def check_exponent(gamma: float) -> None:
    """Refuse an exponent of probabilities outside (0, 1]."""
    if not 0 < gamma <= 1:
        raise UserError(f"gamma must be above 0 and at most 1, not {gamma}")


def at_least_float32(logits: Tensor) -> Tensor:
    """Half precision promoted to float32, float64 kept."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
