"""Training views: which flip and which shift image i gets in view v, as a table drawn from a key.

The table covers *all* images of a source, whatever part of them is trained on, so that neither a split nor a limit
changes the view of an image. Its only inputs are (view_seed, view, image index).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.streams import stream

DISTINCT = {"none": 1, "flip": 2}  # augmentation -> views after which they repeat; a crop never does
PAD_SHARE = 8  # a crop moves the image by at most an eighth of its side: 4 pixels of 32


class Views(NamedTuple):
    """One view an image: mirrored or not, and moved by whole pixels."""

    flip: Tensor  # (N,) bool
    dy: Tensor  # (N,) int64, pixels
    dx: Tensor  # (N,) int64, pixels


def view_of(epoch: int, *, views: int | None, augment: str) -> int:
    """Which view of the images an epoch sees.

    ``v = epoch mod views`` (``epoch`` where there is a new one every epoch), and then the first view that is the same:
    without a crop they repeat after two epochs, without a flip either all are one.

    Args:
        epoch: from 0.
        views: how many the run cycles through; None: a new one every epoch.
        augment: ``none``, ``flip``, ``crop`` or ``crop+flip``.

    Returns:
        The number of the view, from 0.
    """
    view = epoch if views is None else epoch % views
    return view % DISTINCT[augment] if augment in DISTINCT else view


def draw_views(view_seed: int, view: int, *, num_images: int, augment: str, size: int) -> Views:
    """One view of every image: what an epoch sees.

    Flips alternate: half of the images, chosen once a ``view_seed``, are mirrored in even views, the other half in odd
    ones. Each view still mirrors every image with probability 1/2, and any two in a row show both sides, which
    independent flips do only half of the time.

    Args:
        view_seed: key of the views.
        view: from 0; the epoch, unless views come round again.
        num_images: of the whole source.
        augment: ``none``, ``flip``, ``crop`` or ``crop+flip``.
        size: side of the images in pixels.

    Returns:
        `Views` for all images, drawn on the CPU, whatever device trains.

    Source: alternating flip: Jordan 2024, arXiv:2404.00498, section 3.6.
    """
    parts = augment.split("+")
    still = torch.zeros(num_images, dtype=torch.int64)
    flip, shift = still.bool(), torch.stack([still, still])
    if "flip" in parts:
        flip = (torch.rand(num_images, generator=stream("flip", view_seed)) < 0.5) ^ (view % 2 == 1)
    if "crop" in parts:
        pad = size // PAD_SHARE
        shift = torch.randint(-pad, pad + 1, (2, num_images), generator=stream("crop", view_seed, view))
    return Views(flip, shift[0], shift[1])


def pick_views(views: Views, indices: Tensor) -> Views:
    """The views of the images with these (B,) int64 source indices, on the device of the table."""
    return Views(*(column.index_select(0, indices) for column in views))


def apply_views(images: Tensor, views: Views) -> Tensor:
    """Mirror and move images, in one gather for the whole batch.

    ``out[n, c, y, x] = images[n, c, reflect(y + dy[n]), reflect(m(x) + dx[n])]`` where ``m(x) = S - 1 - x`` for
    mirrored images and ``x`` otherwise. What moves in from outside is the reflected image, without repeating the edge.

    Args:
        images: uint8 (B, 3, S, S).
        views: (B,) each, on the images' device.

    Returns:
        uint8 (B, 3, S, S) on the images' device.
    """
    batch, channels, size, _ = images.shape
    flip, dy, dx = (column[:, None] for column in views)
    place = torch.arange(size, device=images.device)
    rows = _reflect(dy + place, size)  # (B, S)
    columns = _reflect(dx + torch.where(flip, size - 1 - place, place), size)  # (B, S)
    source = rows[:, :, None] * size + columns[:, None, :]  # (B, S, S)
    source = source.view(batch, 1, size * size).expand(batch, channels, size * size)
    return images.reshape(batch, channels, size * size).gather(2, source).view_as(images)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Positions outside [0, size) mirrored at the first and the last pixel."""
    inside = position.abs()
    return torch.where(inside >= size, 2 * (size - 1) - inside, inside)
