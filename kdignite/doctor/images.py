"""Which images a diagnosis looks at."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.batches import Batch, chunks, pixel_batches
from kdignite.data.splits import Part
from kdignite.data.views import apply_views, draw_views, pick_views

BATCH = 100  # images
# Batch sizes of scripts, a different one for each draw of a model in training mode, which answers by its batch.
BATCH_SIZES = (100, 64, 128, 32, 256, 50, 200, 16, 500, 20)
ANY_AUGMENTATION = "crop+flip"  # of a model of which nobody knows how it was trained


class Sample(NamedTuple):
    """The images of a diagnosis, N of them."""

    images: Tensor  # uint8 (N, 3, S, S)
    labels: Tensor  # (N,) int64, CPU
    rows: Tensor  # (N,) int64, CPU: which rows of the part they are
    indices: Tensor  # (N,) int64, CPU: which images of the source
    augment: str  # of the training
    num_source: int  # images of the source, for which views are drawn


def show(part: Part, *, num_images: int, augment: str) -> Sample:
    """Choose images: whole batches of 100 neighbours, at equal distances over the part.

    Neighbours, because a model in training mode answers by its batch, and a script that does not shuffle makes these.
    """
    every = chunks(torch.arange(len(part.indices)), BATCH)
    count = max(1, min(len(every), num_images // BATCH))
    rows = tuple(every[i * len(every) // count] for i in range(count))
    images = torch.cat(list(pixel_batches(part.images, tuple(part.indices[one] for one in rows))))
    which = torch.cat(rows)
    return Sample(
        images,
        part.labels.cpu()[which],
        which,
        part.indices[which],
        augment or ANY_AUGMENTATION,
        len(part.images.labels),
    )


def batches(shown: Sample, *, draw: int, views: bool) -> list[Batch]:
    """The images in batches, plain or as training would show them."""
    images = shown.images
    if views:
        drawn = draw_views(0, draw, num_images=shown.num_source, augment=shown.augment, size=images.shape[-1])
        images = apply_views(images, pick_views(drawn, shown.indices))
    size = BATCH_SIZES[draw % len(BATCH_SIZES)]
    return [
        Batch(images[one.to(images.device)], shown.labels[one], shown.indices[one], 0)
        for one in chunks(torch.arange(len(images)), size)
    ]
