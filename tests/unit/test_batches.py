"""Batches by example: streamed or in memory, for evaluation, and how fast."""

import time

import pytest
import torch

from kdignite.data.batches import (
    EVALUATION_BATCH,
    Batch,
    Batches,
    Share,
    evaluation_batches,
    image_side,
    on_device,
    pixel_batches,
    run_batches,
    training_batches,
)
from kdignite.data.mixing import Mixing
from kdignite.data.preprocess import preparer
from kdignite.data.source import ImageSet, StreamedImages
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import Part, all_images

CPU = torch.device("cpu")


def drawn(count: int, *, size: int = 8) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.randint(10, (count,), generator=generator))


def streamed(images: ImageSet) -> ImageSet:
    assert isinstance(images.images, torch.Tensor)
    return images._replace(images=StreamedImages(list(images.images), torch.clone))


def training(
    part: Part, *, seed: int = 1, augment: str = "crop+flip", batch_size: int = 8, mixing: Mixing | None = None
) -> Batches:
    return training_batches(part, seed=seed, view_seed=2, augment=augment, batch_size=batch_size, mixing=mixing)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.images.dtype == other.images.dtype == torch.uint8
        assert all(torch.equal(*pair) for pair in zip(one[:3], other[:3], strict=True))
        assert one.view == other.view


def test_another_seed_and_another_epoch_have_another_order() -> None:
    part = all_images(drawn(50))
    orders = [
        torch.cat([batch.indices for batch in training(part, seed=seed)(epoch, 0)])
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 4


def test_batches_of_a_part_hold_that_part() -> None:
    part = Part(drawn(50), torch.arange(0, 50, 3))
    seen = torch.cat([batch.indices for batch in training(part)(0, 0)])
    assert sorted(seen.tolist()) == part.indices.tolist()


def test_the_last_partial_batch_is_kept_and_a_single_image_joins() -> None:
    sizes = {n: [len(b.labels) for b in training(all_images(drawn(n)))(0, 0)] for n in (16, 18, 17, 8, 9, 1)}
    assert sizes == {16: [8, 8], 18: [8, 8, 2], 17: [8, 9], 8: [8], 9: [9], 1: [1]}


@pytest.mark.parametrize(
    ("augment", "kind"), [("none", None), ("crop+flip", None), ("rrc+jitter", None), ("flip", "mixup")]
)
def test_streamed_images_make_the_same_batches(augment: str, kind: str | None) -> None:
    images = drawn(45)
    part, other = (Part(one, torch.arange(3, 45)) for one in (images, streamed(images)))
    mixing = None if kind is None else Mixing(kind, 1.0, part.indices, 10)
    for epoch, start in ((0, 0), (2, 3)):
        assert_same(*(list(training(one, augment=augment, mixing=mixing)(epoch, start)) for one in (other, part)))
    assert_same(list(evaluation_batches(other)), list(evaluation_batches(part)))


def test_streamed_images_from_the_middle_of_a_run() -> None:
    part = all_images(streamed(drawn(20)))
    stream = list(run_batches(training(part), epochs=2, epoch_length=3))
    rest = list(run_batches(training(part), epochs=2, epoch_length=3, first_iteration=4))
    assert_same(rest, stream[4:])


@pytest.mark.parametrize("store", [lambda images: images, streamed], ids=["in memory", "streamed"])
def test_the_default_generator_is_left_alone(store) -> None:
    part = all_images(store(drawn(20)))
    before = torch.get_rng_state()
    for batches in (training(part)(0, 0), evaluation_batches(part)):
        for _ in batches:
            assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_wanted_from_streamed_images() -> None:
    assert list(pixel_batches(streamed(drawn(4)), ())) == []


def test_training_images_are_not_changed_by_their_views() -> None:
    images = drawn(20)
    before = images.images.clone()
    for augment in ("none", "crop+flip"):
        for batch in training(all_images(images), augment=augment)(0, 0):
            batch.images.zero_()
    assert torch.equal(images.images, before)


def test_evaluation_covers_a_part_in_order_as_it_is() -> None:
    part = Part(drawn(1250), torch.arange(5, 1250))
    batches = list(evaluation_batches(part))
    assert [len(batch.labels) for batch in batches] == [EVALUATION_BATCH, EVALUATION_BATCH, 1245 - 2 * EVALUATION_BATCH]
    assert torch.equal(torch.cat([batch.indices for batch in batches]), part.indices)
    assert torch.equal(torch.cat([batch.images for batch in batches]), part.images.images[5:])
    assert torch.equal(torch.cat([batch.labels for batch in batches]), part.images.labels[5:])


def test_evaluation_keeps_a_single_last_image_in_a_batch_of_its_own() -> None:
    assert [len(batch.labels) for batch in evaluation_batches(all_images(drawn(501)))] == [500, 1]


def test_processes_divide_the_batches_of_an_evaluation() -> None:
    part, world = all_images(drawn(1250)), 4  # more than there are batches
    shares = [list(evaluation_batches(part, share=Share(rank, world))) for rank in range(world)]
    assert sorted(map(len, shares)) == [0, 1, 1, 1]
    assert_same([batch for share in shares for batch in share], list(evaluation_batches(part)))


def test_evaluation_stops_at_a_limit() -> None:
    assert [len(batch.labels) for batch in evaluation_batches(all_images(drawn(1250)), limit=2)] == [500, 500]


def test_on_device_keeps_indices_on_the_cpu_and_everything_equal() -> None:
    part = Part(drawn(10), torch.arange(4))
    placed = on_device(part, CPU)
    assert torch.equal(placed.images.images, part.images.images)
    assert torch.equal(placed.labels, part.labels)
    assert placed.indices is part.indices
    store = streamed(drawn(10))
    assert on_device(all_images(store), CPU).images.images is store.images


def test_on_another_device_only_pixels_and_labels_move() -> None:
    placed = on_device(all_images(drawn(10)), torch.device("meta"))
    assert placed.images.images.device.type == placed.images.labels.device.type == "meta"
    assert placed.indices.device == CPU


@pytest.mark.parametrize("store", [lambda images: images, streamed], ids=["in memory", "streamed"])
def test_side_of_the_images(store) -> None:
    assert image_side(store(drawn(2, size=12))) == 12


@pytest.mark.slow
def test_the_pipeline_alone_makes_20_000_images_a_second() -> None:
    """Index, mirror, move and normalize 50,000 images in batches of 100, on one thread: never what training waits for.

    One thread, so that the figure means the same on a busy machine, where threads wait for one another.
    """
    part = on_device(all_images(drawn(50_000, size=32)), CPU)
    prepare = preparer(Preprocessing(32, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), device=CPU)
    batches, threads, rates = training(part, batch_size=100), torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for epoch in range(3):
            start = time.perf_counter()
            num_images = sum(len(prepare(batch.images)) for batch in batches(epoch, 0))
            rates.append(num_images / (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    print(f"images/s: {', '.join(f'{rate:,.0f}' for rate in rates)}")
    assert max(rates) >= 20_000
