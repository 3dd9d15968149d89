"""Methods on logits: they need nothing of the teacher but (B, C) scores, so cached teacher logits will do.

Every function here takes ``(student, teacher, labels, *, parameters, label_smoothing, class_weights)`` with labels
(B,) int64 in [0, C), or shares of the classes (B, C) where images are mixed, and returns `Terms` of scalars that are
means over the batch, computed in at least float32. The teacher's logits are treated as constant. ``ce`` is
`kdignite.losses.cross_entropy` with the labels; a ``ce_weight`` of 0 leaves it out. All but `dist` are means of what
each image contributes, and defined for a single image. Sums over c are over the C classes.
"""

import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from kdignite.losses import (
    at_least_float32,
    centred,
    check_alpha,
    check_exponent,
    check_shapes,
    check_temperature,
    check_weights,
    cross_entropy,
    kd_divergence,
    standardized,
)
from kdignite.methods.terms import Outputs, Terms

EPS = 1e-8  # of the paper of `dist`, in squared probabilities
FLATTEST = 0.1  # share of the teacher's deviation that a nearly constant student counts as


def kd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    alpha: float,
    T: float,
    standardize: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Knowledge distillation: match the teacher's softened class probabilities.

    ``loss = (1 - alpha) * ce + alpha * kd`` with ``kd = T**2 * mean_b KL(softmax(teacher/T) || softmax(student/T))``,
    see `kdignite.losses.kd_divergence`. The gradient of ``kd`` to the student's logits is ``T * (q - p) / B``, which
    is 0 where both distributions are equal.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        alpha: in [0, 1], weight of the teacher's term; 0 is training without a teacher.
        T: temperature, above 0 and finite, dimensionless.
        standardize: `kdignite.losses.standardized` logits in ``kd``, of both; those in ``ce`` stay as they are.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` and ``kd`` in nats; ``kd`` carries ``T**2``.

    Raises:
        UserError: if alpha or T is outside its domain, or the logits differ in shape.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2; standardize: Sun et al. 2024, arXiv:2403.01427.
    """
    check_alpha(alpha)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    kd = kd_divergence(*logit_pair(student, teacher, standardize=standardize), T=T)
    return Terms((1 - alpha) * ce + alpha * kd, {"ce": ce, "kd": kd})


def logit_mse(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    alpha: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Squared error of centred logits: the limit of `kd` for large T.

    ``loss = (1 - alpha) * ce + alpha * mse`` with ``mse = mean_b sum_c (s[b, c] - t[b, c])**2 / (2 C)``, where s and t
    are the logits less their mean over the classes, which softmax does not see either. The gradient to the student's
    logits is ``(s - t) / (B C)``.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        alpha: in [0, 1], weight of the teacher's term; 0 is training without a teacher.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` in nats and ``mse`` in squared units of the logits.

    Raises:
        UserError: if alpha is outside its domain, or the logits differ in shape.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.1; Ba & Caruana 2014, arXiv:1312.6184.
    """
    check_alpha(alpha)
    s, t = map(centred, logit_pair(student, teacher))
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    mse = (s - t).square().sum(1).mean() / (2 * s.shape[1])
    return Terms((1 - alpha) * ce + alpha * mse, {"ce": ce, "mse": mse})


def dist(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    beta: float,
    gamma: float,
    tau: float,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Match correlations of the probabilities, over classes and over images, in place of their values.

    ``loss = ce_weight * ce + 2 * (beta * inter + gamma * intra)`` with s and t the softmax of the logits over tau,
    ``inter = tau**2 * (1 - mean_b r(s[b, :], t[b, :]))``, ``intra = tau**2 * (1 - mean_c r(s[:, c], t[:, c]))`` and
    Pearson's ``r(a, b) = <a - mean a, b - mean b> / (|a - mean a| |b - mean b| + 1e-8)``. Where the student's deviation
    ``|a - mean a| / |a|`` is below a tenth of the teacher's, it counts as that tenth: the gradient grows like one over
    it, and a head that begins with zeros would not recover from its first step. At equality both parts are 0 up to the
    1e-8, and stationary. Logits may be shifted by a constant in each row, not scaled. ``intra`` of a single image is
    the constant ``tau**2``; ``inter`` of two classes has a gradient only where that tenth counts.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        beta: weight of ``inter``, at least 0.
        gamma: weight of ``intra``, at least 0.
        tau: temperature, above 0 and finite, dimensionless.
        ce_weight: of ``ce``, at least 0.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` in nats, ``inter`` and ``intra`` in [0, 2 tau**2].

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Huang et al. 2022, arXiv:2205.10536, with the factor ``2 * tau**2`` of the authors' code.
    """
    check_weights(beta=beta, gamma=gamma, ce_weight=ce_weight)
    check_temperature(tau=tau)
    s, t = (F.softmax(logits / tau, dim=1) for logits in logit_pair(student, teacher))
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    inter, intra = (tau**2 * (1 - _correlation(s, t, dim=dim).mean()) for dim in (1, 0))
    return Terms(ce_weight * ce + 2 * (beta * inter + gamma * intra), {"ce": ce, "inter": inter, "intra": intra})


def ttm(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    gamma: float,
    beta: float,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Transformed teacher matching: soften the teacher alone.

    ``loss = ce_weight * ce + beta * ttm`` with ``ttm = mean_b KL(q || softmax(student))`` and
    ``q = softmax(gamma * teacher)``, which is the teacher's probabilities to the power gamma, renormalized. It is 0
    where the student's probabilities are q, which are not the teacher's unless gamma is 1. There is no factor ``T**2``.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        gamma: exponent, in (0, 1], the reciprocal of a temperature.
        beta: weight of the teacher's term, at least 0.
        ce_weight: of ``ce``, at least 0.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` and ``ttm`` in nats.

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Zheng & Yang 2024, arXiv:2402.11148.
    """
    check_weights(beta=beta, ce_weight=ce_weight)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    ttm = _transformed_divergence(student, teacher, gamma=gamma)[0].mean()
    return Terms(ce_weight * ce + beta * ttm, {"ce": ce, "ttm": ttm})


def wttm(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    gamma: float,
    beta: float,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Weighted transformed teacher matching: `ttm`, and images count more whose teacher is less certain.

    ``loss = ce_weight * ce + beta * wttm`` with ``wttm = mean_b U[b] * KL(q[b] || softmax(student)[b])``,
    ``q = softmax(gamma * teacher)`` and ``U = sum_c softmax(teacher)[:, c]**gamma``, which is from 1 to
    ``C**(1 - gamma)``. It is 0 where the student's probabilities are q.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        gamma: exponent, in (0, 1], the reciprocal of a temperature.
        beta: weight of the teacher's term, at least 0.
        ce_weight: of ``ce``, at least 0.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` and ``wttm`` in nats.

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Zheng & Yang 2024, arXiv:2402.11148.
    """
    check_weights(beta=beta, ce_weight=ce_weight)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    divergence, log_power_sum = _transformed_divergence(student, teacher, gamma=gamma)
    wttm = (log_power_sum.exp() * divergence).mean()
    return Terms(ce_weight * ce + beta * wttm, {"ce": ce, "wttm": wttm})


def logit_pair(student: Outputs, teacher: Outputs, *, standardize: bool = False) -> tuple[Tensor, Tensor]:
    """The logits of both in at least float32, the teacher's as a constant."""
    check_shapes(student.logits, teacher.logits)
    s, t = at_least_float32(student.logits), at_least_float32(teacher.logits.detach())
    return (standardized(s), standardized(t)) if standardize else (s, t)


def _correlation(student: Tensor, teacher: Tensor, *, dim: int) -> Tensor:
    """Pearson's correlation along a dimension, less where the student is nearly constant; 0 where one of them is."""
    a, b = (one - one.mean(dim, keepdim=True) for one in (student, teacher))
    norm_s, norm_t, norm_a, norm_b = (vector_norm(one, dim=dim) for one in (student, teacher, a, b))
    norm_a = norm_a.maximum(FLATTEST * norm_s * norm_b / norm_t.clamp_min(EPS))
    r: Tensor = (a * b).sum(dim) / (norm_a * norm_b + EPS)
    return r


def _transformed_divergence(student: Outputs, teacher: Outputs, *, gamma: float) -> tuple[Tensor, Tensor]:
    """KL(q || student) and log U of each image (B,); powers of probabilities themselves would underflow."""
    check_exponent(gamma)
    s, t = logit_pair(student, teacher)
    log_powers = gamma * F.log_softmax(t, dim=1)
    kl = F.kl_div(F.log_softmax(s, dim=1), F.log_softmax(log_powers, dim=1), reduction="none", log_target=True)
    return kl.sum(1), log_powers.logsumexp(1)
