"""Batches: chosen by a key, assembled by vectorised functions, the same whatever loads them.

Images that fit in memory are indexed; larger sets are decoded by worker processes. Both give the same uint8 batches,
and neither draws a random number.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from kdignite.data.mixing import Mixing, draw_mixes, mix
from kdignite.data.source import ImageSet
from kdignite.data.splits import Part
from kdignite.data.views import Views, apply_views, draw_views, pick_views, view_of
from kdignite.data.workers import decode_batches
from kdignite.devices import is_accelerator, to_device
from kdignite.streams import stream

EVALUATION_BATCH = 500  # images at most; fixed, so that the same weights give the same logits in every command
EVALUATION_BYTES = 2**25  # of the float32 input of a model at most: 500 images of up to 74 pixels, 2 of 1,024
BLOCK_BYTES = 2**24  # of pixels that an accelerator assembles at once, for several batches
SMALLEST_BATCH = 2  # images; BatchNorm has no variance to measure in one
Items = TypeVar("Items", Tensor, tuple[Tensor, ...])


class Share(NamedTuple):
    """Which part of the work one of several processes does; by default all of it."""

    rank: int = 0  # from 0
    world: int = 1  # processes

    def of(self, items: Items) -> Items:
        """An even share in one piece: those of all ranks, in order, are all items."""
        start, stop = (-(-len(items) * rank // self.world) for rank in (self.rank, self.rank + 1))  # rounded up
        return items[start:stop]


class Batch(NamedTuple):
    """The input of a training step; a teacher may use its images, or its view and indices."""

    images: Tensor  # uint8 (B, 3, S, S), the view that teacher and student share
    labels: Tensor  # (B,) int64; of mixed views (B, C) float32, the shares of the classes
    indices: Tensor  # (B,) int64, CPU: which images of the source
    view: int  # from 0: which view of them
    weight: float = 1.0  # of its mean loss in the mean over the processes, which then is that over the whole batch
    device_indices: Tensor | None = None  # the indices on the device of the images; None: on the CPU alone


SINGLE_PROCESS = Share()
Batches = Callable[[int, int], Iterator[Batch]]


def on_device(part: Part, device: torch.device) -> Part:
    """The part with its labels, and its images where they are in memory, on the device that computes."""
    images = part.images.images
    if isinstance(images, Tensor):
        images = images.to(device)
    return part._replace(images=ImageSet(images, part.images.labels.to(device)))


def evaluation_batch_size(images: ImageSet, size: int = 0) -> int:
    """How many images are evaluated at once: a function of their side and of that of the model's input, in pixels."""
    return batch_limit(max(size, image_side(images)))


def batch_limit(side: int) -> int:
    """How many images of a side in pixels are evaluated at once."""
    return max(1, min(EVALUATION_BATCH, EVALUATION_BYTES // (3 * side**2 * 4)))


def num_batches(num_images: int, batch_size: int, *, world: int = 1) -> int:
    return len(chunks(torch.arange(num_images), batch_size, world=world))


def chunks(indices: Tensor, batch_size: int, *, world: int = 1) -> tuple[Tensor, ...]:
    """Cut an order into batches; a last one below `SMALLEST_BATCH` images a process joins the one before it."""
    parts: tuple[Tensor, ...] = indices.split(batch_size)
    if len(parts) > 1 and len(parts[-1]) < SMALLEST_BATCH * world:
        return (*parts[:-2], torch.cat(parts[-2:]))
    return parts


def training_batches(
    part: Part,
    *,
    seed: int,
    view_seed: int,
    augment: str,
    batch_size: int,
    views: int | None = None,
    mixing: Mixing | None = None,
    share: Share = SINGLE_PROCESS,
) -> Batches:
    """The batches of any epoch, from any point of it.

    The order of epoch e is a permutation drawn from ``(seed, e)``; the view of image i comes from
    ``(view_seed, v, i)`` with v of `view_of`. There is no state:
    ``batches(e, k)`` yields what ``batches(e, 0)`` yields from its batch k on.
    """

    def batches(epoch: int, start: int) -> Iterator[Batch]:
        order = torch.randperm(len(part.indices), generator=stream("order", seed, epoch))
        view = view_of(epoch, views=views, augment=augment, mixed=mixing is not None)
        global_batches = chunks(part.indices[order], batch_size, world=share.world)[start:]
        own = tuple(map(share.of, global_batches))
        local_batches = _assemble(part.images, own, view=view, view_seed=view_seed, augment=augment, mixing=mixing)
        for batch, indices in zip(local_batches, global_batches, strict=True):
            yield batch._replace(weight=len(batch.indices) * share.world / len(indices))

    return batches


def view_batches(
    part: Part,
    *,
    view: int,
    view_seed: int,
    augment: str,
    mixing: Mixing | None = None,
    size: int = 0,
    share: Share = SINGLE_PROCESS,
) -> Iterator[Batch]:
    """One view of every image of a part, in the order of their indices; size: of a model's input, if it is larger."""
    wanted = share.of(part.indices.split(evaluation_batch_size(part.images, size)))
    return _assemble(part.images, wanted, view=view, view_seed=view_seed, augment=augment, mixing=mixing)


def run_batches(batches: Batches, *, epochs: int, epoch_length: int, first_iteration: int = 0) -> Iterator[Batch]:
    """All batches of a run from an iteration on; an engine that resumes would replay the epoch from its first one."""
    first_epoch, start = divmod(first_iteration, epoch_length)
    for epoch in range(first_epoch, epochs):
        yield from batches(epoch, start if epoch == first_epoch else 0)


def evaluation_batches(
    part: Part, *, size: int = 0, limit: int | None = None, share: Share = SINGLE_PROCESS
) -> Iterator[Batch]:
    """The images of a part in the order of their indices, without augmentation; size: as in `view_batches`."""
    wanted = share.of(part.indices.split(evaluation_batch_size(part.images, size))[:limit])
    return _assemble(part.images, wanted, view=0, view_seed=0, augment="none")


def pixel_batches(images: ImageSet, wanted: tuple[Tensor, ...]) -> Iterator[Tensor]:
    """The pixels of each wanted batch, indexed in memory or decoded by workers."""
    store = images.images
    if isinstance(store, Tensor):
        yield from (_take(store, indices) for indices in wanted)
        return
    for pixels in decode_batches(store, wanted, pin_memory=images.labels.is_cuda):
        yield pixels.to(images.labels.device, non_blocking=True)


def image_side(images: ImageSet) -> int:
    """Side of the images of a set in pixels."""
    return int(images.images[0].shape[-1])


def _assemble(
    images: ImageSet,
    wanted: tuple[Tensor, ...],
    *,
    view: int,
    view_seed: int,
    augment: str,
    mixing: Mixing | None = None,
) -> Iterator[Batch]:
    """Batches of one view; an accelerator assembles several together, which changes no pixel."""
    if not wanted:
        return
    device, in_memory = images.labels.device, isinstance(images.images, Tensor)
    views = _views_on_device(images, view=view, view_seed=view_seed, augment=augment)
    mixed = None if mixing is None else _Mixer(mixing, images, view=view, view_seed=view_seed)
    blocks = _blocks(images, wanted) if in_memory and is_accelerator(device) else [(indices,) for indices in wanted]
    needed = [torch.cat(block) for block in blocks]
    if mixed is not None:
        needed = list(map(mixed.with_partners, needed))
    block_rows = to_device(torch.cat(needed), device).split(list(map(len, needed)))
    for block, rows, pixels in zip(
        blocks, block_rows, pixel_batches(images, block_rows if in_memory else tuple(needed)), strict=True
    ):
        viewed = pixels if views is None else apply_views(pixels, pick_views(views, rows))
        columns = (viewed, _take(images.labels, rows), rows)
        if mixed is not None:
            columns = mixed(*columns)
        parts = zip(*(column.split(list(map(len, block))) for column in columns), strict=True)
        for indices, (own, labels, own_rows) in zip(block, parts, strict=True):
            yield Batch(own, labels, indices, view, device_indices=own_rows)


class _Mixer:
    """Mixes the images of one view with their partners."""

    def __init__(self, mixing: Mixing, images: ImageSet, *, view: int, view_seed: int) -> None:
        num_images, size = len(images.labels), image_side(images)
        drawn = draw_mixes(mixing, view_seed, view, num_images=num_images, size=size)
        self._partner, self._num_classes = drawn.partner, mixing.num_classes
        self._mixes = drawn.map(lambda column: to_device(column, images.labels.device))

    def with_partners(self, indices: Tensor) -> Tensor:
        """(2 B,) images and then their partners."""
        return torch.cat([indices, self._partner[indices]])

    def __call__(self, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and indices of a batch, from those of the batch and its partners."""
        rows = rows[: len(rows) // 2]
        mixes = self._mixes.map(lambda column: column.index_select(0, rows))
        return *mix(images, labels, mixes, num_classes=self._num_classes), rows


def _views_on_device(images: ImageSet, *, view: int, view_seed: int, augment: str) -> Views | None:
    """One view of all images, on their device; None: images as they are."""
    if augment == "none":
        return None
    num_images, size = len(images.labels), image_side(images)
    views = draw_views(view_seed, view, num_images=num_images, augment=augment, size=size)
    return views.map(lambda column: to_device(column, images.labels.device))


def _blocks(images: ImageSet, wanted: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
    """Neighbouring batches whose pixels together take no more than `BLOCK_BYTES`; at least one."""
    many = max(1, BLOCK_BYTES // (len(wanted[0]) * 3 * image_side(images) ** 2))
    return [wanted[start : start + many] for start in range(0, len(wanted), many)]


def _take(values: Tensor, indices: Tensor) -> Tensor:
    indices = to_device(indices, values.device) if indices.device != values.device else indices
    return values.index_select(0, indices)  # copies whole images: 15 x as fast as []
