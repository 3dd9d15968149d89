"""The images of a diagnosis."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.batches import Batch, chunks, pixel_batches
from kdignite.data.splits import Part
from kdignite.data.views import apply_views, draw_views, pick_views

BATCH = 100  # images
# of scripts, another for each draw: in training mode the logits depend on the batch
BATCH_SIZES = (100, 64, 128, 32, 256, 50, 200, 16, 500, 20)
DEFAULT_AUGMENT = "crop+flip"  # of models whose training is not recorded


class ImageSample(NamedTuple):
    """The images of a diagnosis, N of them."""

    images: Tensor  # uint8 (N, 3, S, S)
    labels: Tensor  # (N,) int64, CPU
    rows: Tensor  # (N,) int64, CPU: which rows of the part they are
    indices: Tensor  # (N,) int64, CPU: which images of the source
    augment: str  # of the training
    num_source: int  # images of the source, for which views are drawn


def sample_images(part: Part, *, num_images: int, augment: str) -> ImageSample:
    """Whole batches of 100 neighbours at equal distances, as scripts make them that do not shuffle."""
    every = chunks(torch.arange(len(part.indices)), BATCH)
    count = max(1, min(len(every), num_images // BATCH))
    rows = tuple(every[i * len(every) // count] for i in range(count))
    images = torch.cat(list(pixel_batches(part.images, tuple(part.indices[one] for one in rows))))
    which = torch.cat(rows)
    labels, indices = part.labels.cpu()[which], part.indices[which]
    return ImageSample(images, labels, which, indices, augment or DEFAULT_AUGMENT, len(part.images.labels))


def make_batches(sample: ImageSample, *, draw: int, views: bool) -> list[Batch]:
    """The images in batches, plain or augmented as in training."""
    size, num_images = sample.images.shape[-1], sample.num_source
    drawn = draw_views(0, draw, num_images=num_images, augment=sample.augment, size=size) if views else None
    batches = []
    for one in chunks(torch.arange(len(sample.images)), BATCH_SIZES[draw % len(BATCH_SIZES)]):
        images = sample.images[one.to(sample.images.device)]
        if drawn is not None:
            images = apply_views(images, pick_views(drawn, sample.indices[one]))
        batches.append(Batch(images, sample.labels[one], sample.indices[one], 0))
    return batches
