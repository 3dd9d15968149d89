"""Colour jitter: factors drawn from a key, and arithmetic that rounds alike in every batch and on every device."""

import torch
from torch import Tensor

from kdignite.streams import stream

STRENGTH = 0.4  # factors are in 1 - STRENGTH to 1 + STRENGTH, as timm has them
LUMA = (0.299, 0.587, 0.114)  # of red, green, blue in grey: ITU-R BT.601


def draw_factors(view_seed: int, view: int, *, num_images: int) -> Tensor:
    """Factors (N, 3) float32 of brightness, contrast and saturation, each uniform in 0.6 to 1.4."""
    drawn = torch.rand(num_images, 3, generator=stream("jitter", view_seed, view))
    return 1 + STRENGTH * (2 * drawn - 1)


def jitter(images: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, then contrast, then saturation, each by a factor of the image; 1 leaves it as it is.

    ``blend(x, other, f) = clamp(f * x + (1 - f) * other, 0, 255)`` with other = 0 for brightness, the mean of the grey
    image for contrast, and the grey image for saturation.

    Args:
        images: uint8 (B, 3, S, S).
        factors: (B, 3) of `draw_factors`, on the images' device.

    Returns:
        uint8 (B, 3, S, S), rounded.

    Source: ``ColorJitter`` of torchvision, in one order and without a change of hue.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    pixels = images.float().mul_(brightness).clamp_(0, 255)
    total = _grey(pixels).round_().double().sum((1, 2, 3), keepdim=True)  # of whole numbers: exact in any order
    pixels = blend_(pixels, (total / images[0, 0].numel()).float(), contrast)
    return blend_(pixels, _grey(pixels), saturation).round_().to(torch.uint8)


def blend_(pixels: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """``share * pixels + (1 - share) * others`` within 0 to 255, in place, each product rounded by itself."""
    return pixels.mul_(share).add_(others * (1 - share)).clamp_(0, 255)


def _grey(pixels: Tensor) -> Tensor:
    red, green, blue = (weight * one for weight, one in zip(LUMA, pixels.unbind(1), strict=True))
    return red.add_(green).add_(blue)[:, None]
