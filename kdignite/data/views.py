"""Training views: flip, shift or box, and colours of image i in view v, as a table drawn from a key.

The table covers *all* images of a source, whatever part of them is trained on, so that neither a split nor a limit
changes the view of an image. Its only inputs are (view_seed, view, image index).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.colour import draw_factors, jitter
from kdignite.data.resized_crop import draw_boxes, resized_crop
from kdignite.streams import stream

DISTINCT = {"none": 1, "flip": 2}  # augmentation -> views after which they repeat; others never do
PIECE_BYTES = 2**20  # of pixels that are resampled or recoloured at once: they stay in a cache
PAD_SHARE = 8  # a crop moves the image by at most an eighth of its side: 4 pixels of 32


class Views(NamedTuple):
    """One view an image: mirrored or not, moved by whole pixels or cut out of a box, and with other colours."""

    flip: Tensor  # (N,) bool
    dy: Tensor  # (N,) int64, pixels
    dx: Tensor  # (N,) int64, pixels
    box: Tensor | None = None  # (N, 4) int64 of `draw_boxes`; None: no random resized crop
    factors: Tensor | None = None  # (N, 3) float32 of `draw_factors`; None: no jitter

    def map(self, change: Callable[[Tensor], Tensor]) -> "Views":
        """The views with every column changed alike."""
        return Views(*(None if column is None else change(column) for column in self))  # type: ignore[arg-type]


def view_of(epoch: int, *, views: int | None, augment: str, mixed: bool = False) -> int:
    """Which view of the images an epoch sees.

    ``v = epoch mod views`` (``epoch`` where there is a new one every epoch), and then the first view that is the same:
    flips alone repeat after two epochs, plain images are one view, unless they are mixed.

    Args:
        epoch: from 0.
        views: how many the run cycles through; None: a new one every epoch.
        augment: parts joined by ``+``: crop or rrc, flip, jitter; or ``none``.
        mixed: whether views are mixed with partners, which are others in every view.

    Returns:
        The number of the view, from 0.
    """
    view = epoch if views is None else epoch % views
    return view % DISTINCT[augment] if augment in DISTINCT and not mixed else view


def draw_views(view_seed: int, view: int, *, num_images: int, augment: str, size: int) -> Views:
    """One view of every image: what an epoch sees.

    Flips alternate: half of the images, chosen once a ``view_seed``, are mirrored in even views, the other half in odd
    ones. Each view still mirrors every image with probability 1/2, and any two in a row show both sides, which
    independent flips do only half of the time.

    Args:
        view_seed: key of the views.
        view: from 0; the epoch, unless views come round again.
        num_images: of the whole source.
        augment: parts joined by ``+``: crop or rrc, flip, jitter; or ``none``.
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
    box = draw_boxes(view_seed, view, num_images=num_images, size=size) if "rrc" in parts else None
    factors = draw_factors(view_seed, view, num_images=num_images) if "jitter" in parts else None
    return Views(flip, shift[0], shift[1], box, factors)


def pick_views(views: Views, indices: Tensor) -> Views:
    """The views of the images with these (B,) int64 source indices, on the device of the table."""
    return views.map(lambda column: column.index_select(0, indices))


def apply_views(images: Tensor, views: Views) -> Tensor:
    """Move images or cut boxes out of them, mirror them, then change their colours.

    Args:
        images: uint8 (B, 3, S, S).
        views: (B,) each, on the images' device.

    Returns:
        uint8 (B, 3, S, S) on the images' device.
    """
    if views.box is None and views.factors is None:
        return _moved(images, views)
    viewed, many = torch.empty_like(images), max(1, PIECE_BYTES // images[0].numel())
    for start in range(0, len(images), many):
        rows = torch.arange(start, min(start + many, len(images)), device=images.device)
        viewed[start : start + many] = _resampled(images[start : start + many], pick_views(views, rows))
    return viewed


def _resampled(images: Tensor, views: Views) -> Tensor:
    viewed = _moved(images, views) if views.box is None else resized_crop(images, views.box, views.flip)
    return viewed if views.factors is None else jitter(viewed, views.factors)


def _moved(images: Tensor, views: Views) -> Tensor:
    """Mirrored and moved images, in one gather for the whole batch.

    ``out[n, c, y, x] = images[n, c, reflect(y + dy[n]), reflect(m(x) + dx[n])]`` where ``m(x) = S - 1 - x`` for
    mirrored images and ``x`` otherwise. What moves in from outside is the reflected image, without repeating the edge.
    """
    batch, channels, size, _ = images.shape
    flip, dy, dx = (column[:, None] for column in (views.flip, views.dy, views.dx))
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
