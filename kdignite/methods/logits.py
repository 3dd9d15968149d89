"""Methods on logits: they need nothing of the teacher but (B, C) scores, so cached teacher logits will do.

Every function here takes ``(student, teacher, labels, *, parameters, label_smoothing, class_weights)`` with labels (B,)
int64 in [0, C), and returns `Terms` of scalars that are means over the batch, computed in at least float32. The
teacher's logits are treated as constant. ``ce`` is `kdignite.losses.cross_entropy` with the labels.
"""

from typing import Any

from torch import Tensor

from kdignite.losses import at_least_float32, check_alpha, check_shapes, cross_entropy, kd_loss
from kdignite.methods.terms import Outputs, Terms


def kd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Knowledge distillation: match the teacher's softened class probabilities.

    ``loss = (1 - alpha) * ce + alpha * kd`` with ``kd = T**2 * mean_b KL(softmax(teacher/T) || softmax(student/T))``,
    see `kdignite.losses.kd_loss`.

    Args:
        student: logits (B, C).
        teacher: logits (B, C).
        labels: (B,) int64.
        alpha: in [0, 1], weight of the teacher's term; 0 is training without a teacher.
        T: temperature, above 0 and finite, dimensionless.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce`` and ``kd`` in nats; ``kd`` carries ``T**2``.

    Raises:
        UserError: if alpha or T is outside its domain, or the logits differ in shape.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.
    """
    targets: dict[str, Any] = {"label_smoothing": label_smoothing, "class_weights": class_weights}
    parts = kd_loss(student.logits, teacher.logits, labels, alpha=alpha, T=T, **targets)
    return Terms(parts.loss, {"ce": parts.ce, "kd": parts.kd})


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
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce`` in nats and ``mse`` in squared units of the logits.

    Raises:
        UserError: if alpha is outside its domain, or the logits differ in shape.

    Source: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 2.1; Ba & Caruana 2014, arXiv:1312.6184.
    """
    check_shapes(student.logits, teacher.logits)
    check_alpha(alpha)
    s, t = (_centred(logits) for logits in (student.logits, teacher.logits.detach()))
    ce = cross_entropy(student.logits, labels, label_smoothing=label_smoothing, class_weights=class_weights)
    mse = (s - t).square().sum(1).mean() / (2 * s.shape[1])
    return Terms((1 - alpha) * ce + alpha * mse, {"ce": ce, "mse": mse})


def _centred(logits: Tensor) -> Tensor:
    logits = at_least_float32(logits)
    return logits - logits.mean(1, keepdim=True)
