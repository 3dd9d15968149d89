"""Methods on logits that ask for the label of an image beyond its cross-entropy: see `kdignite.methods.logits`.

Probabilities of the right class and of the others are taken in log space: ``log p_y = z_y - lse(z)`` and
``log(1 - p_y) = lse(z without y) - lse(z)`` with ``lse(z) = log sum_c exp z_c``, finite where softmax is 0 or 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kdignite.losses import check_temperature, check_weights, cross_entropy, kd_divergence
from kdignite.methods.logits import logit_pair
from kdignite.methods.terms import Outputs, Terms

EPS = 1e-7  # nats; of the authors of `wsld`, for a teacher without any doubt


def dkd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    alpha: float,
    beta: float,
    T: float,
    ce_weight: float = 1.0,
    standardize: bool = False,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Decoupled knowledge distillation: the right class against the others, and the others among themselves.

    ``loss = ce_weight * ce + alpha * tckd + beta * nckd`` with ``tckd = T**2 * mean_b KL(b_t || b_s)``, where b is the
    pair ``(p_y, 1 - p_y)`` of ``p = softmax(logits / T)``, and ``nckd = T**2 * mean_b KL(h_t || h_s)``, where h is the
    softmax of the C - 1 other logits over T. Of one image, ``kd = tckd + (1 - t_y) * nckd`` with t_y of the teacher at
    T. At equality it is 0 and stationary. With two classes ``nckd`` is 0. The weights are constant: the warm-up of the
    authors' code, ``min(epoch / 20, 1)`` on both terms, is left out.

    Args:
        student: logits (B, C), C at least 2.
        teacher: logits (B, C).
        labels: (B,) int64.
        alpha: weight of ``tckd``, at least 0.
        beta: weight of ``nckd``, at least 0.
        T: temperature, above 0 and finite, dimensionless.
        ce_weight: of ``ce``, at least 0.
        standardize: `kdignite.losses.standardized` logits in ``tckd`` and ``nckd``.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce``, ``tckd`` and ``nckd`` in nats; the latter two carry ``T**2``.

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Zhao et al. 2022, arXiv:2203.08679; standardize: Sun et al. 2024, arXiv:2403.01427.
    """
    check_weights(alpha=alpha, beta=beta, ce_weight=ce_weight)
    check_temperature(T=T)
    s, t = logit_pair(student, teacher, standardize=standardize)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    log_s, log_t = (_log_right_or_not(logits / T, labels) for logits in (s, t))
    tckd = T**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
    nckd = kd_divergence(_others(s, labels), _others(t, labels), T=T)
    return Terms(ce_weight * ce + alpha * tckd + beta * nckd, {"ce": ce, "tckd": tckd, "nckd": nckd})


def nkd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    gamma: float,
    T: float,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Normalized knowledge distillation: the probability of the right class, and the others renormalized to 1.

    ``loss = ce_weight * ce + target + gamma * nontarget`` with ``target = -mean_b t_y * log s_y`` of the probabilities
    at temperature 1, and ``nontarget = -T**2 * mean_b sum_i h_t[i] * log h_s[i]``, where h is the softmax of the C - 1
    other logits over T. At equality ``nontarget`` is stationary and ``target`` is not: it raises s_y to 1. With two
    classes ``nontarget`` is 0.

    Args:
        student: logits (B, C), C at least 2.
        teacher: logits (B, C).
        labels: (B,) int64.
        gamma: weight of ``nontarget``, at least 0.
        T: temperature of ``nontarget``, above 0 and finite, dimensionless.
        ce_weight: of ``ce``, at least 0.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce``, ``target`` and ``nontarget`` in nats; ``nontarget`` carries ``T**2``.

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Yang et al. 2023, arXiv:2303.13005.
    """
    check_weights(gamma=gamma, ce_weight=ce_weight)
    check_temperature(T=T)
    s, t = logit_pair(student, teacher)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    target = (F.softmax(t, dim=1) * F.log_softmax(s, dim=1)).gather(1, labels[:, None]).mean().neg()
    nontarget = T**2 * _soft_cross_entropy(_others(s, labels) / T, _others(t, labels) / T).mean()
    return Terms(ce_weight * ce + target + gamma * nontarget, {"ce": ce, "target": target, "nontarget": nontarget})


def wsld(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    alpha: float,
    T: float,
    ce_weight: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Weighted soft labels: the teacher counts less on an image whose label the student fits better than it does.

    ``loss = ce_weight * ce + alpha * wsl`` with ``wsl = -T**2 * mean_b w[b] * sum_c t[b, c] * log s[b, c]``, s and t
    the softmax of the logits over T, and ``w = 1 - exp(-ce_s / (ce_t + 1e-7))`` of the cross-entropies of student and
    teacher with the label of each image (T = 1, labels not smoothed), through which no gradient flows. At equality w is
    1 - 1/e and ``wsl`` is stationary, but not 0.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        alpha: weight of the teacher's term, at least 0.
        T: temperature, above 0 and finite, dimensionless.
        ce_weight: of ``ce``, at least 0.
        label_smoothing, class_weights: of ``ce``, as `kdignite.losses.cross_entropy` takes them.

    Returns:
        ``loss``, and the parts ``ce`` and ``wsl`` in nats; ``wsl`` carries ``T**2``.

    Raises:
        UserError: if a parameter is outside its domain, or the logits differ in shape.

    Source: Zhou et al. 2021, arXiv:2102.00650.
    """
    check_weights(alpha=alpha, ce_weight=ce_weight)
    check_temperature(T=T)
    s, t = logit_pair(student, teacher)
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    ce_s, ce_t = (F.cross_entropy(logits, labels, reduction="none") for logits in (s.detach(), t))
    weights = -torch.expm1(-ce_s / (ce_t + EPS))
    wsl = T**2 * (weights * _soft_cross_entropy(s / T, t / T)).mean()
    return Terms(ce_weight * ce + alpha * wsl, {"ce": ce, "wsl": wsl})


def _others(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits (B, C - 1) of all classes but that of the label, in their order."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]))


def _log_right_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithms (B, 2) of p_y and 1 - p_y."""
    log_p = F.log_softmax(logits, dim=1)
    return torch.cat([log_p.gather(1, labels[:, None]), _others(log_p, labels).logsumexp(1, keepdim=True)], dim=1)


def _soft_cross_entropy(logits: Tensor, target_logits: Tensor) -> Tensor:
    """-sum_c softmax(target) log softmax(logits) of each image (B,)."""
    return -(F.softmax(target_logits, dim=1) * F.log_softmax(logits, dim=1)).sum(1)
