"""Mixed views: with which image, and by how much, image i is mixed in view v, as a table drawn from a key.

Partners come from the training images alone, and each is mixed as it looks in the same view: so the mixed view of an
image is a function of (view_seed, view, image index) too, whatever the batches.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdignite.data.colour import blend_
from kdignite.streams import seed_of


class Mixing(NamedTuple):
    """How the views of a training are mixed."""

    kind: str  # mixup or cutmix
    alpha: float  # shares are drawn from Beta(alpha, alpha)
    partners: Tensor  # (n,) int64, CPU: the training images, by their source indices
    num_classes: int


class Mixes(NamedTuple):
    """Of each image of a source its partner, and what is left of itself."""

    partner: Tensor  # (N,) int64, source indices
    share: Tensor  # (N,) float32 in [0, 1]: of the image itself
    box: Tensor | None = None  # (N, 4) int64, pixels: top, left, bottom, right of what is the partner's; None: mixup

    def map(self, change: Callable[[Tensor], Tensor]) -> "Mixes":
        """The table with every column changed alike."""
        return Mixes(change(self.partner), change(self.share), None if self.box is None else change(self.box))


def draw_mixes(mixing: Mixing, view_seed: int, view: int, *, num_images: int, size: int) -> Mixes:
    """Partner and share of every image in one view.

    The partner is uniform over the training images. ``share ~ Beta(alpha, alpha)``; under cutmix a square of
    ``sqrt(1 - share)`` of the side, around a pixel drawn uniformly and cut off at the edges, is the partner's, and the
    share is then that of the pixels which are left.

    Args:
        mixing: kind, alpha and partners.
        view_seed: key of the views.
        view: from 0.
        num_images: of the whole source.
        size: side of the images in pixels.

    Returns:
        `Mixes` for all images, on the CPU.

    Source: mixup: Zhang et al. 2017, arXiv:1710.09412; cutmix: Yun et al. 2019, arXiv:1905.04899.
    """
    drawn = np.random.default_rng(seed_of("mix", view_seed, view))
    partner = mixing.partners[torch.from_numpy(drawn.integers(len(mixing.partners), size=num_images))]
    share = torch.from_numpy(drawn.beta(mixing.alpha, mixing.alpha, size=num_images))
    if mixing.kind == "mixup":
        return Mixes(partner, share.float())
    half = ((1 - share).sqrt() * size).long() // 2
    centre = torch.from_numpy(drawn.integers(size, size=(2, num_images)))
    corners = torch.cat([centre - half, centre + half]).clamp(0, size)
    top, left, bottom, right = corners
    return Mixes(partner, (1 - (bottom - top) * (right - left) / size**2).float(), corners.T)


def mix(images: Tensor, labels: Tensor, mixes: Mixes, *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix the first half of some images with the second half, their partners.

    Args:
        images: uint8 (2 B, 3, S, S).
        labels: (2 B,) int64.
        mixes: of the first half, (B,) each, on the images' device.
        num_classes: C.

    Returns:
        uint8 (B, 3, S, S), ``round(share * image + (1 - share) * partner)`` or, under cutmix, the image with the box
        of its partner; and (B, C) float32, ``share * onehot(label) + (1 - share) * onehot(label of the partner)``.
    """
    (own, others), share = images.chunk(2), mixes.share[:, None]
    if mixes.box is None:
        mixed = blend_(own.float(), others.float(), share[:, :, None, None]).round_().to(torch.uint8)
    else:
        mixed = torch.where(_inside(mixes.box, images.shape[-1]), others, own)
    mine, theirs = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float().chunk(2)
    return mixed, share * mine + (1 - share) * theirs


def _inside(box: Tensor, size: int) -> Tensor:
    """Which pixels (B, 1, S, S) are in the box of an image."""
    place = torch.arange(size, device=box.device)
    top, left, bottom, right = box[:, :, None].unbind(1)
    rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)
    return rows[:, None, :, None] & columns[:, None, None, :]
