"""What methods on features learn beside the student: built before the training, dropped after it.

A builder takes the shapes of the features of student and teacher, without B, by the names of their layers, and the
method's parameters. It returns a module from the student's features by layer to what the method compares.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdignite.methods.maps import VARIANCE, pooled, smaller

Shapes = Mapping[str, tuple[int, ...]]
INITIAL_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5


class Each(nn.Module):
    """A module of its own for each layer."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(modules)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each makes of its features."""
        return {name: layer(one) for (name, one), layer in zip(features.items(), self.layers, strict=True)}


class Distributions(nn.Module):
    """A normal distribution of the teacher's map (c, h, w) for each layer, with a variance for each channel."""

    def __init__(self, means: list[nn.Module], channels: list[int]) -> None:
        super().__init__()
        self.means = Each(means)
        start = math.log(math.expm1(INITIAL_VARIANCE - LEAST_VARIANCE))
        self.scales = nn.ParameterList(nn.Parameter(torch.full((c,), start)) for c in channels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means, then the variances, ``softplus(scale) + 1e-5``."""
        names = (f"{name}{VARIANCE}" for name in features)
        variances = (F.softplus(scale) + LEAST_VARIANCE for scale in self.scales)
        return {**self.means(features), **dict(zip(names, variances, strict=True))}


class PoolTo(nn.Module):
    """Pool a map that is larger than (h, w)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, c, H, W) to (B, c, h, w)."""
        return pooled(feature_map, self.size)


def regressors(student_shapes: Shapes, teacher_shapes: Shapes, **parameters: float) -> nn.Module:
    """The regressors of `kdignite.methods.features.fitnet`: a convolution, BatchNorm and ReLU for each layer.

    The convolution is 3x3 of stride 2 where the student's map has twice the side of the teacher's, 4x4, transposed, of
    stride 2 where it has half of it, else 1x1 after pooling a larger map of the student.

    Source: Romero et al. 2014, arXiv:1412.6550, section 2.2; forms as in RepDistiller, which pools nothing.
    """
    del parameters
    return Each([_regressor(s, t) for s, t in zip(student_shapes.values(), teacher_shapes.values(), strict=True)])


def distributions(student_shapes: Shapes, teacher_shapes: Shapes, **parameters: float) -> nn.Module:
    """Means and variances of `kdignite.methods.features.vid`: three 1x1 convolutions for each layer, after pooling.

    Source: Ahn et al. 2019, arXiv:1904.05835, section 3; layers as in RepDistiller.
    """
    del parameters
    sides = list(zip(student_shapes.values(), teacher_shapes.values(), strict=True))
    return Distributions([_mean(s, t) for s, t in sides], [t[0] for _, t in sides])


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    (c_s, *side_s), (c_t, *side_t) = student, teacher
    layers: list[nn.Module] = [nn.BatchNorm2d(c_t), nn.ReLU()]
    if side_s == [2 * side for side in side_t]:
        return nn.Sequential(nn.Conv2d(c_s, c_t, 3, stride=2, padding=1, bias=False), *layers)
    if [2 * side for side in side_s] == side_t:
        return nn.Sequential(nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1, bias=False), *layers)
    return nn.Sequential(PoolTo(smaller(student, teacher)), nn.Conv2d(c_s, c_t, 1, bias=False), *layers)


def _mean(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    c_s, c_t = student[0], teacher[0]
    widths = ((c_s, c_t), (c_t, c_t), (c_t, c_t))
    convolutions = [nn.Conv2d(*width, 1, bias=False) for width in widths]
    first, second, third = convolutions
    return nn.Sequential(PoolTo(smaller(student, teacher)), first, nn.ReLU(), second, nn.ReLU(), third)
