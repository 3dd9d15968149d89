"""What methods on features learn beside the student: built before the training, dropped after it.

A builder takes the shapes of the features of student and teacher, without B, by the names of their layers, and the
method's parameters. It returns a module from the student's features by layer to what the method compares.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdignite.errors import UserError
from kdignite.methods.maps import POOLED, VARIANCE, pooled, smaller

Shapes = Mapping[str, tuple[int, ...]]
INITIAL_VARIANCE, LEAST_VARIANCE = 5.0, 1e-5
WIDEST_REVIEW = 512  # channels


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


class Review(nn.Module):
    """A map of the student, fused with what the next deeper level made of its own, as a map of the teacher."""

    def __init__(self, c_s: int, width: int, shape: tuple[int, ...], *, is_deepest: bool) -> None:
        super().__init__()
        self.side = shape[1:]
        self.reduce = nn.Sequential(nn.Conv2d(c_s, width, 1, bias=False), nn.BatchNorm2d(width))
        self.gates = None if is_deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.fit = nn.Sequential(nn.Conv2d(width, shape[0], 3, padding=1, bias=False), nn.BatchNorm2d(shape[0]))

    def forward(self, feature_map: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """From (B, c_s, h, w) and (B, width, H, W) to (B, c_t, h_t, w_t), and (B, width, h, w) for the next level."""
        state: Tensor = self.reduce(feature_map)
        if self.gates is not None and deeper is not None:
            deeper = F.interpolate(deeper, state.shape[-2:])
            own, other = self.gates(torch.cat([state, deeper], 1)).split(1, 1)
            state = own * state + other * deeper
        return self.fit(F.interpolate(state, self.side)), state


class Reviews(nn.Module):
    """The levels of a review, from the pooled last map to the first one."""

    def __init__(self, levels: list[Review]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A map of the teacher for each layer, and one pixel for the last."""
        *_, (name, last) = features.items()
        maps = {**features, f"{name}{POOLED}": last.mean((2, 3), keepdim=True)}
        found: dict[str, Tensor] = {}
        state = None
        for level, (key, one) in zip(self.levels, reversed(maps.items()), strict=True):
            found[key], state = level(one, state)
        return {key: found[key] for key in maps}


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


def reviews(student_shapes: Shapes, teacher_shapes: Shapes, **parameters: float) -> nn.Module:
    """The fusion of `kdignite.methods.features.reviewkd`, whose maps have at most 512 channels.

    From the pooled last map to the first one: a 1x1 convolution with BatchNorm; after the first level a sum with the
    result of the level before, enlarged to its pixels, both times gates of each pixel (1x1 convolution, sigmoid); then,
    brought to the teacher's size, a 3x3 convolution with BatchNorm. Sizes change by taking the nearest pixel.

    Raises:
        UserError: if a map of the student is larger than one before it.

    Source: Chen et al. 2021, arXiv:2104.09044, section 3.2; widths as in the authors' code.
    """
    del parameters
    for (earlier, one), (later, other) in pairwise(student_shapes.items()):
        if other[1] > one[1] or other[2] > one[2]:
            raise UserError(
                f"--method=reviewkd fuses maps from the last to the first, and {later} is larger than {earlier}: name "
                "the layers from the first to the last"
            )
    sides = list(zip(student_shapes.values(), teacher_shapes.values(), strict=True))
    (c_s, *_), (c_t, *_) = sides[-1]
    width = min(WIDEST_REVIEW, c_s)
    levels = [Review(c_s, width, (c_t, 1, 1), is_deepest=True)]
    return Reviews(levels + [Review(s[0], width, t, is_deepest=False) for s, t in reversed(sides)])


def _regressor(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    (c_s, *side_s), (c_t, *side_t) = student, teacher
    layers: list[nn.Module] = [nn.BatchNorm2d(c_t), nn.ReLU()]
    if side_s == [2 * side for side in side_t]:
        return nn.Sequential(nn.Conv2d(c_s, c_t, 3, stride=2, padding=1, bias=False), *layers)
    if [2 * side for side in side_s] == side_t:
        return nn.Sequential(nn.ConvTranspose2d(c_s, c_t, 4, stride=2, padding=1, bias=False), *layers)
    return nn.Sequential(PoolTo(smaller(student, teacher)), nn.Conv2d(c_s, c_t, 1, bias=False), *layers)


def _mean(student: tuple[int, ...], teacher: tuple[int, ...]) -> nn.Module:
    c_t = teacher[0]
    first, second, third = (nn.Conv2d(c, c_t, 1, bias=False) for c in (student[0], c_t, c_t))
    return nn.Sequential(PoolTo(smaller(student, teacher)), first, nn.ReLU(), second, nn.ReLU(), third)
