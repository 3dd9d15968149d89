"""The images of a diagnosis."""

from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.batches import Batch, chunks, pixel_batches
from kdignite.data.splits import Part, stratified_pick
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
    """Images in batches of 100, as scripts make them that do not shuffle: whole batches of neighbours.

    Where neighbours are of one class, as in folders, whole batches would be of a few classes: each class has its share.
    Fewer than a batch are its first images.
    """
    labels, every = part.labels.cpu(), chunks(torch.arange(len(part.indices)), BATCH)
    count = max(1, min(len(every), num_images // BATCH))
    wanted = min(num_images, count * BATCH)
    if wanted < len(labels) and _are_sorted(labels):
        which = stratified_pick(labels, wanted, key=("doctor",))
    else:
        which = torch.cat([every[i * len(every) // count] for i in range(count)])[:wanted]
    batches = tuple(part.indices[one] for one in chunks(which, BATCH))
    images = torch.cat(list(pixel_batches(part.images, batches)))
    labels, indices = labels[which], part.indices[which]
    return ImageSample(images, labels, which, indices, augment or DEFAULT_AUGMENT, len(part.images.labels))


def _are_sorted(labels: Tensor) -> bool:
    """Whether neighbours have the same class much more often than two images at random."""
    shares = torch.bincount(labels) / len(labels)
    at_random = float((shares**2).sum())
    return float((labels[1:] == labels[:-1]).float().mean()) > (1 + at_random) / 2


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
