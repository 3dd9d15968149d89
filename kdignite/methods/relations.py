"""Methods on the relations between the images of a batch, as features of student and teacher have them.

Every function here takes what those of `kdignite.methods.features` take, and returns the same kind of `Terms`. B is the
number of images that are seen together: of a batch, in each process.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kdignite.methods.maps import added, beside_features, embedding, in_float32, pairs, summed, unit
from kdignite.methods.terms import Outputs, Terms

PKT_FLOOR = 1e-7  # added to the affinities of `pkt` within the logarithm


@in_float32
def sp(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    weight: float,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Similarity preserving: match which images of a batch look alike.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * sp`` with ``sp = |G_s - G_t|**2 / B**2``, where the rows of G are
    those of ``f f^T`` (B, B) as unit vectors, f (B, d) the features of an image in a row. It does not see an orthogonal
    map of all features, nor their scale, but that of single images; it is 0 and stationary where G are equal, and
    constant for one image.

    Args:
        student: logits (B, C), features (B, ...).
        teacher: logits (B, C), features (B, ...).
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats and ``sp``, without unit.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Tung & Mori 2019, arXiv:1907.09682, equations 1 to 4.
    """
    term = _relation(student, teacher, _similarities, F.mse_loss)
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"sp": (weight, term)})


@in_float32
def pkt(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    weight: float,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Probabilistic knowledge transfer: match the distribution of each image over its neighbours in a batch.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * pkt`` with
    ``pkt = mean K_t * log((K_t + 1e-7) / (K_s + 1e-7))`` over the B**2 pairs, itself included, where the rows of K are
    those of ``(cos(e_i, e_j) + 1) / 2`` divided by their sum, and e (B, d) are features pooled over pixels. It does not
    see the scale of an image's features, nor an orthogonal map of all; it is 0 where K are equal, stationary there
    but for that 1e-7, and constant for one image.

    Args:
        student: logits (B, C), features (B, d, h, w), (B, n, d) or (B, d).
        teacher: logits (B, C), features as those of the student, of any d.
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats and ``pkt`` in nats / B.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Passalis & Tefas 2018, arXiv:1803.10837, with the cosine kernel, as in the authors' code.
    """
    term = _relation(student, teacher, lambda f: _affinities(embedding(f)), _divergence)
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"pkt": (weight, term)})


@in_float32
def rkd(
    student: Outputs,
    teacher: Outputs,
    labels: Tensor,
    *,
    weight: float,
    weight_angle: float,
    alpha: float,
    T: float,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Terms:
    """Relational distillation: match the distances of pairs and the angles of triplets of a batch.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * distance + weight_angle * angle``, smooth L1 (1 where it becomes
    linear) of student and teacher: ``distance`` of ``|e_i - e_j| / mu``, mean over B**2 pairs, with mu the mean of the
    distances above 0; ``angle`` of ``cos(e_i - e_j, e_k - e_j)``, mean over B**3 triplets, whose memory it takes. e
    (B, d) are features pooled over pixels. Neither sees a translation, a rotation or a scale of all e; both are 0 and
    stationary where the networks are equal, and constant for two images or one, and for a student whose e are all
    equal.

    Args:
        student: logits (B, C), features (B, d, h, w), (B, n, d) or (B, d).
        teacher: logits (B, C), features as those of the student, of any d.
        labels: (B,) int64.
        weight: of ``distance``, at least 0.
        weight_angle: of ``angle``, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats, ``distance`` and ``angle``, without unit.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Park et al. 2019, arXiv:1904.05068, equations 5 to 9.
    """
    distance, angle = (
        _relation(student, teacher, lambda f, of=of: of(_differences(embedding(f))), F.smooth_l1_loss)  # type: ignore[misc]
        for of in (_distances, _angles)
    )
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"distance": (weight, distance), "angle": (weight_angle, angle)})


def _relation(
    student: Outputs,
    teacher: Outputs,
    relation: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """The distance of a relation between the images of a batch in student and teacher, summed over layers."""
    return summed(distance(relation(s), relation(t)) for s, t in pairs(student.features, teacher.features))


def _similarities(features: Tensor) -> Tensor:
    """(B, B)."""
    rows = features.flatten(1)
    return unit(rows @ rows.T)


def _affinities(e: Tensor) -> Tensor:
    """(B, B), every row with sum 1."""
    rows = unit(e)
    near = (rows @ rows.T + 1) / 2
    return near / near.sum(1, keepdim=True)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return (teacher * ((teacher + PKT_FLOOR) / (student + PKT_FLOOR)).log()).mean()


def _differences(e: Tensor) -> Tensor:
    """(B, B, d): [j, i] = e_i - e_j."""
    return e[None] - e[:, None]


def _distances(differences: Tensor) -> Tensor:
    """(B, B), divided by the mean of those above 0."""
    lengths: Tensor = torch.linalg.vector_norm(differences, dim=-1)
    above = lengths > 0
    return lengths / (lengths.sum() / above.sum().clamp_min(1)).where(above.any(), 1.0)


def _angles(differences: Tensor) -> Tensor:
    """(B, B, B): [j, i, k] = cosine of the angle at j."""
    rows = unit(differences)
    return rows @ rows.mT
