"""What methods on features share: pairs, maps of one size, embeddings, unit vectors, and the loss beside them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps

import torch
import torch.nn.functional as F
from torch import Tensor

from kdignite.losses import at_least_float32, check_temperature, check_weights, cross_entropy
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs, Terms

POOLED = " pooled"  # after the name of the last layer: one pixel, made of it
VARIANCE = " variance"  # after the name of a layer: the variances (c,) that are learnt for it
FLOOR = 1e-6  # of the mean length: a shorter vector has no direction, whose gradient would be about 1 / length


def in_float32(method: Callable[..., Terms]) -> Callable[..., Terms]:
    """A method whose outputs are in at least float32 outside autocast, those of the teacher without gradient."""

    @wraps(method)
    def call(student: Outputs, teacher: Outputs, labels: Tensor, **parameters: object) -> Terms:
        with torch.autocast(student.logits.device.type, enabled=False):
            fixed = Outputs(teacher.logits.detach(), {name: one.detach() for name, one in teacher.features.items()})
            return method(_promoted(student), _promoted(fixed), labels, **parameters)

    return call


def _promoted(outputs: Outputs) -> Outputs:
    features = {name: at_least_float32(one) for name, one in outputs.features.items()}
    return Outputs(at_least_float32(outputs.logits), features)


def pairs(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The i-th features of the student with the i-th of the teacher."""
    return zip(student.values(), teacher.values(), strict=True)


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps (B, c, h, w), the larger of which is pooled to the smaller."""
    size = smaller(one.shape, other.shape)
    return pooled(one, size), pooled(other, size)


def smaller(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the smaller of two maps."""
    return min(one[-2], other[-2]), min(one[-1], other[-1])


def pooled(feature_map: Tensor, size: tuple[int, int]) -> Tensor:
    """``adaptive_avg_pool2d`` of (B, c, h, w), as matrices: its own backward pass on a GPU sums in any order.

    The channels come last in between, as they lie in memory: few large products, and gradients in the map's own layout,
    without which BatchNorm's backward pass is slow (a step of `reviewkd` on a CPU took 1.4 times as long).
    """
    if tuple(feature_map.shape[-2:]) == size:
        return feature_map
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(old, dtype=feature_map.dtype, device=feature_map.device), new).T
        for old, new in zip(feature_map.shape[-2:], size, strict=True)
    )
    c, _, w = feature_map.shape[1:]
    lines = rows @ feature_map.permute(0, 2, 3, 1).flatten(2)  # (B, h', w c)
    found: Tensor = columns @ lines.unflatten(2, (w, c))
    return found.permute(0, 3, 1, 2)


def embedding(features: Tensor) -> Tensor:
    """(B, d): maps (B, d, h, w) and tokens (B, n, d) by their mean over pixels or tokens, others as they are."""
    if features.dim() == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.dim() == 3 else features.flatten(1)


def unit(rows: Tensor, *, floor: float = FLOOR) -> Tensor:
    """Rows (..., d) of length 1; one that is shorter than the floor, a share of their mean, is 0 without gradient."""
    length = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    has_direction = length > floor * length.detach().mean()
    return torch.where(has_direction, rows / length.where(has_direction, 1.0), 0.0)


def summed(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


def beside_features(
    student: Outputs, teacher: Outputs, labels: Tensor, *, alpha: float, T: float, ce: tuple[float, Tensor | None]
) -> Terms:
    """``(1 - alpha) * ce + alpha * kd``, ce of some label smoothing and class weights; with alpha 0 ``ce`` alone."""
    check_temperature(T=T)
    smoothing, weights = ce
    if alpha == 0:
        from_labels = cross_entropy(student.logits, labels, label_smoothing=smoothing, class_weights=weights)
        return Terms(from_labels, {"ce": from_labels})
    return kd(student, teacher, labels, alpha=alpha, T=T, label_smoothing=smoothing, class_weights=weights)


def added(beside: Terms, terms: Mapping[str, tuple[float, Tensor]]) -> Terms:
    """The same with terms added, each by its weight."""
    check_weights(**{f"the weight of {name}": weight for name, (weight, _) in terms.items()})
    loss = beside.loss
    for weight, term in terms.values():
        loss = loss + weight * term
    return Terms(loss, beside.parts | {name: term for name, (_, term) in terms.items()})
