"""A small residual network that is quick to train on small images: the teacher of the ``standard`` preset."""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256)
HEAD_SCALE = 0.125  # of the logits, so that training starts with soft predictions


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        out: Tensor = x + self.branch(x)
        return out


class Scale(nn.Module):
    """``factor * x``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        return self.factor * x


def fastresnet(*, num_classes: int, size: int) -> nn.Module:
    """A stem and three stages; a stage widens, halves the image by max pooling, and adds a residual pair.

    Each of its nine convolutions after the stem costs the same 9.4 or 18.9 million multiply-adds at 32x32: channels
    double where the area is quartered, and every spatial position is worth the same work.

    Args:
        num_classes: C, length of the logits.
        size: side of the input in pixels; any from 32 up, the head pools what is left.

    Returns:
        A module from (N, 3, size, size) to (N, num_classes).

    Source: after the nine-layer network of Page 2018, "How to train your ResNet".
    """
    del size  # global pooling makes the network independent of it
    stages = [
        (f"stage{number}", _stage(before, width)) for number, (before, width) in enumerate(pairwise(WIDTHS), start=1)
    ]
    return nn.Sequential(
        OrderedDict(
            [
                ("stem", _conv(3, WIDTHS[0])),
                *stages,
                ("pool", nn.AdaptiveMaxPool2d(1)),
                ("flatten", nn.Flatten()),
                ("head", nn.Linear(WIDTHS[-1], num_classes, bias=False)),
                ("scale", Scale(HEAD_SCALE)),
            ]
        )
    )


def _stage(before: int, width: int) -> nn.Module:
    pair = nn.Sequential(OrderedDict([("conv1", _conv(width, width)), ("conv2", _conv(width, width))]))
    return nn.Sequential(OrderedDict([("widen", _conv(before, width, pool=True)), ("residual", Residual(pair))]))


def _conv(before: int, width: int, *, pool: bool = False) -> nn.Module:
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(before, width, 3, padding=1, bias=False)),
        ("norm", nn.BatchNorm2d(width)),
    ]
    if pool:
        layers.insert(1, ("pool", nn.MaxPool2d(2)))
    return nn.Sequential(OrderedDict([*layers, ("act", nn.ReLU())]))
