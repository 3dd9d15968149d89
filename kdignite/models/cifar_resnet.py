"""Residual networks for small images, as in section 4.2 of the paper that introduced them.

Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A): ``relu(f(x) + shortcut(x))``."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, H, W) to (N, width, ceil(H / stride), ceil(W / stride))."""
        residual = F.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + shortcut(x, width=self.conv1.out_channels, stride=self.conv1.stride[0]))


def shortcut(x: Tensor, *, width: int, stride: int) -> Tensor:
    """The identity where shapes agree; else every ``stride``-th pixel, with channels of zeros around the old ones.

    The paper leaves open where the new channels stand. Half before and half after is the usual form in PyTorch, so that
    weights trained elsewhere fit.

    Args:
        x: (N, C, H, W).
        width: channels of the result, C plus an even number.
        stride: 1 or 2.

    Returns:
        (N, width, ceil(H / stride), ceil(W / stride)).

    Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 3.3, option A.
    """
    new = width - x.shape[1]
    if stride == 1 and not new:
        return x
    return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, new // 2, new // 2))


class CifarResNet(nn.Module):
    """A 3x3 convolution, three stages of blocks with 16, 32 and 64 channels, the mean over pixels, one linear layer."""

    def __init__(self, *, num_blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], num_blocks=num_blocks, stride=1)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], num_blocks=num_blocks, stride=2)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], num_blocks=num_blocks, stride=2)
        self.linear = nn.Linear(WIDTHS[2], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to logits (N, C)."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def cifar_resnet(*, depth: int, num_classes: int, size: int) -> CifarResNet:
    """A residual network of ``depth = 6 n + 2`` layers with weights: n blocks of two convolutions in each stage.

    Convolutions start from normal numbers of standard deviation ``sqrt(2 / fan_out)``, which keeps the gradient's scale
    through ReLU.

    Args:
        depth: 20, 32, 44, 56 or 110 in the paper.
        num_classes: number of outputs C.
        size: side of the input, in pixels; any will do, the last map is averaged.

    Returns:
        A module that maps images (N, 3, size, size) to logits (N, C).

    Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2; initial weights: the same, arXiv:1502.01852.
    """
    del size
    return CifarResNet(num_blocks=(depth - 2) // 6, num_classes=num_classes)


resnet20 = partial(cifar_resnet, depth=20)
resnet32 = partial(cifar_resnet, depth=32)
resnet44 = partial(cifar_resnet, depth=44)
resnet56 = partial(cifar_resnet, depth=56)
resnet110 = partial(cifar_resnet, depth=110)


def _stage(channels: int, width: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(channels, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(num_blocks - 1)))
