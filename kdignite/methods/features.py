"""Methods on feature maps: layers of student and teacher, the i-th of one with the i-th of the other.

Every function here takes ``(student, teacher, labels, *, parameters, label_smoothing, class_weights)`` with labels (B,)
int64 in [0, C), or shares of the classes (B, C) where images are mixed, and returns `Terms` of scalars, computed in at
least float32 and outside autocast:
``loss = (1 - alpha) * ce + alpha * kd + weight * term``, where ``ce`` is `kdignite.losses.cross_entropy` with the
labels and ``kd`` is `kdignite.losses.kd_divergence` of the logits, which is left out where alpha is 0. The teacher's
features are treated as constant. Over several pairs of layers the term is a sum. R(f) is what a projector, learnt
beside the student, makes of its features (`kdignite.methods.projectors`): it is part of the features that come here.
"""

import torch.nn.functional as F
from torch import Tensor

from kdignite.methods.maps import (
    FLOOR,
    POOLED,
    VARIANCE,
    added,
    beside_features,
    in_float32,
    of_one_size,
    pairs,
    pooled,
    summed,
    unit,
)
from kdignite.methods.terms import Outputs, Terms


@in_float32
def fitnet(
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
    """FitNet: fit a map of the teacher with a regressor on a map of the student.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * fitnet`` with ``fitnet = mean (R(f_s) - f_t)**2`` over images,
    channels and pixels; the larger of the two maps is pooled. It is 0 and stationary where the maps are equal. R ends
    in ReLU: features of the teacher below 0 are out of its reach.

    Args:
        student: logits (B, C), features R(f_s) (B, c, h, w).
        teacher: logits (B, C), features (B, c, h', w').
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats and ``fitnet`` in squared units of the map.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Romero et al. 2014, arXiv:1412.6550, equation 3, in one stage as in RepDistiller.
    """
    term = summed(F.mse_loss(*of_one_size(*pair)) for pair in pairs(student.features, teacher.features))
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"fitnet": (weight, term)})


@in_float32
def at(
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
    """Attention transfer: match where maps have their energy.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * at`` with ``at = mean (A_s - A_t)**2`` over images and pixels, and
    ``A = q / |q|`` for each image, ``q = mean_c f**2`` (h w,) of its pixels; the larger map is pooled before. It does
    not see the scale of an image's map, nor the order of channels; it is 0 and stationary where the maps are equal, and
    constant for maps of one pixel.

    Args:
        student: logits (B, C), features (B, c, h, w).
        teacher: logits (B, C), features (B, c', h', w').
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats and ``at``, without unit.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Zagoruyko & Komodakis 2016, arXiv:1612.03928, as in the authors' code: mean and square, where equation 2 has
    a sum over channels and no square.
    """
    maps = (of_one_size(*pair) for pair in pairs(student.features, teacher.features))
    term = summed(F.mse_loss(_attention(one), _attention(other)) for one, other in maps)
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"at": (weight, term)})


@in_float32
def vid(
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
    """Variational information distillation: make the teacher's maps likely given those of the student.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * vid`` with
    ``vid = mean ((R(f_s) - f_t)**2 / v + log v) / 2`` over images, channels and pixels, which is the negative logarithm
    of a normal density without its constant, v (c,) a variance that is learnt for each channel, at least 1e-5; the
    larger map is pooled. It may be negative, and is not 0 where the maps are equal.

    Args:
        student: logits (B, C); features R(f_s) (B, c, h, w) of each layer, then v (c,) of each, called
            ``LAYER variance``.
        teacher: logits (B, C), features (B, c, h', w').
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) and ``vid`` in nats.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Ahn et al. 2019, arXiv:1904.05835, equations 5 and 6.
    """
    means = {name: one for name, one in student.features.items() if not name.endswith(VARIANCE)}
    variances = (student.features[f"{name}{VARIANCE}"] for name in means)
    maps = zip(pairs(means, teacher.features), variances, strict=True)
    term = summed(_negative_log_density(*of_one_size(*pair), variance) for pair, variance in maps)
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"vid": (weight, term)})


@in_float32
def reviewkd(
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
    """Knowledge review: fit each map of the teacher with what a student's map and all deeper ones give together.

    ``loss = (1 - alpha) * ce + alpha * kd + weight * reviewkd``, where ``reviewkd`` is the sum of ``H(R_i, f_i)`` over
    the layers of the teacher, and over its last one pooled to one pixel. ``H(a, b) = sum_k h_k m_k / sum_k h_k`` has
    the means of squares ``m_0 = mean (a - b)**2`` over images, channels and pixels, and m_k of both maps pooled to 4, 2
    and 1 pixels a side, as far as these are fewer, with ``h_k = 2**-k``. It is 0 and stationary where the maps are
    equal.

    Args:
        student: logits (B, C); features R_i (B, c, h, w) of each layer, then of the last one pooled (B, c', 1, 1).
        teacher: logits (B, C), features (B, c, h, w) of each layer.
        labels: (B,) int64.
        weight: of the term, at least 0.
        alpha: in [0, 1], weight of ``kd``.
        T: temperature of ``kd``, above 0.
        label_smoothing: in [0, 1), of the labels in ``ce``.
        class_weights: (C,) of the classes in ``ce``; None: all 1.

    Returns:
        ``loss``, and the parts ``ce``, ``kd`` (with alpha above 0) in nats and ``reviewkd`` in squared units of maps.

    Raises:
        UserError: if alpha, T or a weight is outside its domain.

    Source: Chen et al. 2021, arXiv:2104.09044, sections 3.2 and 3.3; weights of the levels as in the authors' code.
    """
    *_, last = teacher.features.items()
    levels = {**teacher.features, f"{last[0]}{POOLED}": last[1].mean((2, 3), keepdim=True)}
    term = summed(_hierarchical(*of_one_size(*pair)) for pair in pairs(student.features, levels))
    beside = beside_features(student, teacher, labels, alpha=alpha, T=T, ce=(label_smoothing, class_weights))
    return added(beside, {"reviewkd": (weight, term)})


def _attention(feature_map: Tensor) -> Tensor:
    """(B, h w)."""
    return unit(feature_map.square().mean(1).flatten(1), floor=FLOOR**2)  # of energies, which are squares


def _negative_log_density(mean: Tensor, target: Tensor, variance: Tensor) -> Tensor:
    v = variance[:, None, None]
    return ((mean - target).square() / v + v.log()).mean() / 2


def _hierarchical(one: Tensor, other: Tensor) -> Tensor:
    """Mean squares of two maps of one size and of their pooled forms, each with half the weight of the one before."""
    sizes = [(side, side) for side in (4, 2, 1) if side < min(one.shape[-2:])]
    squares = [F.mse_loss(one, other), *(F.mse_loss(pooled(one, size), pooled(other, size)) for size in sizes)]
    weights = [0.5**level for level in range(len(squares))]
    return summed(weight * square for weight, square in zip(weights, squares, strict=True)) / sum(weights)
