"""Random resized crops of square images: boxes drawn from a key, and sums without rounding, alike on every device."""

import math

import torch
from torch import Tensor

from kdignite.streams import stream

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # area of the crop as a share of the image's, width over height
TRIES = 10  # for a box that lies within the image; then it is the whole image
STEPS = 256  # of a pixel: with 8 bits of a pixel and 8 + 8 of two weights, float32 holds every sum as it is


def draw_boxes(view_seed: int, view: int, *, num_images: int, size: int) -> Tensor:
    """A box for each image: area uniform in `SCALE`, logarithm of the ratio uniform in that of `RATIO`, then its place.

    Args:
        view_seed: key of the views.
        view: from 0.
        num_images: of the whole source.
        size: side of the images in pixels.

    Returns:
        (N, 4) int64 in pixels: top, left, height, width.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 6; ranges and tries of torchvision's ``RandomResizedCrop``.
    """
    generator = stream("rrc", view_seed, view)
    place = torch.rand(2, num_images, generator=generator, dtype=torch.float64)
    sides = torch.full((2, num_images), float(size), dtype=torch.float64)
    low, high = map(math.log, RATIO)
    is_open = torch.ones(num_images, dtype=torch.bool)
    for _ in range(TRIES):
        area, ratio = torch.rand(2, num_images, generator=generator, dtype=torch.float64)
        area, ratio = size**2 * (SCALE[0] + area * (SCALE[1] - SCALE[0])), torch.exp(low + ratio * (high - low))
        tried = torch.stack([area / ratio, area * ratio]).sqrt().round()
        fits = is_open & (tried >= 1).all(0) & (tried <= size).all(0)
        sides, is_open = torch.where(fits, tried, sides), is_open & ~fits
    corner = (place * (size - sides + 1)).floor()
    return torch.cat([corner, sides]).long().T


def resized_crop(images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
    """Cut a box out of each image, enlarge it to the size of the image, and mirror it where asked.

    Bilinear between the centres of pixels, without anything from outside the box: ``resized_crop`` of torchvision, for
    which antialiasing changes nothing where a picture becomes larger. Places are rounded to 1/256 of a pixel: then
    nothing else is, and every device and every batch gives the same pixels.

    Args:
        images: uint8 (B, 3, S, S).
        boxes: (B, 4) of `draw_boxes`, on the images' device.
        flip: (B,) bool.

    Returns:
        uint8 (B, 3, S, S), rounded half up.
    """
    size = images.shape[-1]
    top, left, height, width = boxes[:, :, None].unbind(1)  # (B, 1) each
    place = torch.arange(size, device=images.device)
    columns = _stretched(images.transpose(2, 3), left, width, torch.where(flip[:, None], size - 1 - place, place))
    rows = _stretched(columns.transpose(2, 3), top, height, place.expand(len(images), size))
    return rows.add_(0.5).to(torch.uint8)


def _stretched(pixels: Tensor, start: Tensor, length: Tensor, place: Tensor) -> Tensor:
    """Lines of pixels (B, 3, S, S) at places (B, S) of what a box of them becomes, float32; whole lines copy fast."""
    batch, channels, size, _ = pixels.shape
    at = (((2 * place + 1) * length - size) * STEPS + size).div(2 * size, rounding_mode="floor")  # in steps
    at = at.clamp_min(0).minimum(STEPS * (length - 1))
    first, weight = at // STEPS, (at % STEPS).float() / STEPS
    image = torch.arange(batch * channels, device=pixels.device).view(batch, channels, 1) * size
    lines = pixels.reshape(-1, size)
    low, high = (
        lines.index_select(0, (image + (start + one)[:, None]).flatten()).float()
        for one in (first, (first + 1).minimum(length - 1))
    )
    weight = weight[:, None].expand(batch, channels, size).reshape(-1, 1)
    return low.lerp_(high, weight).view(batch, channels, size, size)
