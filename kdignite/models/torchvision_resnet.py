"""torchvision's residual networks, with the stem they were made with or one for small images."""

from functools import partial

import torchvision
from torch import nn

from kdignite.errors import UserError


def torchvision_resnet(*, depth: int, num_classes: int, size: int, stem: str = "imagenet") -> nn.Module:
    """torchvision's ResNet with a head of ``num_classes`` outputs and fresh weights.

    The stem ``imagenet`` (7x7 convolution of stride 2, then 3x3 max-pooling of stride 2) divides the side by 4 before
    the first block, too much for small images: ``cifar`` is a 3x3 convolution of stride 1 without pooling.

    Args:
        depth: 18, 34 or 50.
        num_classes: number of outputs C.
        size: side of the input, in pixels: at least 32, or 8 with the stem ``cifar``; the last map is averaged.
        stem: ``imagenet`` or ``cifar``.

    Returns:
        A module that maps images (N, 3, size, size) to logits (N, C), with torchvision's names of parameters.

    Raises:
        UserError: if the stem is another word.

    Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385, table 1.
    """
    del size
    if stem not in ("imagenet", "cifar"):
        raise UserError(f"--stem must be imagenet or cifar, not {stem!r}")
    model: nn.Module = torchvision.models.get_model(f"resnet{depth}", weights=None, num_classes=num_classes)
    if stem == "cifar":
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
        model.maxpool = nn.Identity()
    return model


resnet18 = partial(torchvision_resnet, depth=18)
resnet34 = partial(torchvision_resnet, depth=34)
resnet50 = partial(torchvision_resnet, depth=50)
