"""What must hold of splits, views and batches for any data set, size and seed."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as F

from kdignite.config import AUGMENTATIONS
from kdignite.data.batches import Share, chunks, num_batches, run_batches, training_batches, view_batches
from kdignite.data.mixing import Mixing, draw_mixes, mix
from kdignite.data.preprocess import measure_statistics
from kdignite.data.resized_crop import draw_boxes
from kdignite.data.source import ImageSet, Source
from kdignite.data.splits import Part, limited, split_source, stratified_pick
from kdignite.data.views import PAD_SHARE, Views, apply_views, draw_views, pick_views, view_of

EXAMPLES = settings(deadline=None, max_examples=60)
AUGMENTS = st.sampled_from(AUGMENTATIONS)
SEEDS = st.integers(0, 2**40)
VIEWS = st.none() | st.integers(1, 5)


def drawn_images(count: int, *, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """A training set of 30 to 200 images in which every class occurs, and nothing else."""
    num_classes, count = draw(st.integers(2, 6)), draw(st.integers(30, 200))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    skewed = (num_classes * torch.rand(count - num_classes, generator=generator) ** 2).to(torch.int64)
    labels = torch.cat([torch.arange(num_classes), skewed])[torch.randperm(count, generator=generator)]
    train = ImageSet(drawn_images(count, size=8, seed=0), labels)
    classes = tuple("abcdef"[:num_classes])
    return Source("drawn", classes, train, None, None, "0f", 0.1, draw(st.sampled_from([0.15, 5])), "crop+flip")


class Setting(NamedTuple):
    """A part of some images, and everything else that batches depend on."""

    part: Part
    seed: int
    view_seed: int
    augment: str
    batch_size: int
    views: int | None
    mixing: Mixing | None

    @property
    def numbers(self) -> dict[str, object]:
        """What the number of a view depends on."""
        return {"views": self.views, "augment": self.augment, "mixed": self.mixing is not None}

    def batches(self, share: Share = Share()):  # noqa: B008 - a tuple
        _, *names = self._fields
        return training_batches(self.part, **{name: getattr(self, name) for name in names}, share=share)


@st.composite
def parts(draw: st.DrawFn) -> Setting:
    images = ImageSet(drawn_images(40, size=8, seed=draw(SEEDS)), torch.arange(40) % 7)
    wanted = draw(st.sets(st.integers(0, 39), min_size=2))
    part = Part(images, torch.tensor(sorted(wanted)))
    kind = draw(st.sampled_from([None, "mixup", "cutmix"]))
    mixing = None if kind is None else Mixing(kind, draw(st.floats(0.1, 10)), part.indices, 7)
    return Setting(part, draw(SEEDS), draw(SEEDS), draw(AUGMENTS), draw(st.integers(1, 45)), draw(VIEWS), mixing)


def assert_same_batches(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
        assert one.view == other.view


def assert_same_views(one: Views, other: Views) -> None:
    for mine, its in zip(one, other, strict=True):
        assert (mine is None) == (its is None)
        assert mine is None or torch.equal(mine, its)


def assert_stratified(labels: torch.Tensor, picked: torch.Tensor) -> None:
    """Each class within one image of its exact share."""
    for c in range(int(labels.max()) + 1):
        share = Fraction(int((labels == c).sum()) * len(picked), len(labels))
        assert abs(int((picked == c).sum()) - share) < 1


@EXAMPLES
@given(sources(), st.one_of(st.integers(1, 10), st.floats(0.1, 0.5), st.none()))
def test_split_is_a_disjoint_stratified_cover(source: Source, val_size: float | None) -> None:
    train, val, test, _ = split_source(source, val_size=val_size)
    everything = torch.cat([train.indices, val.indices, test.indices]).sort().values
    assert torch.equal(everything, torch.arange(len(source.train.labels)))
    for part in (train, val, test):
        assert part.images is source.train
        assert torch.equal(part.indices, part.indices.sort().values)
        assert torch.equal(part.labels, source.train.labels[part.indices])
    assert_stratified(source.train.labels, test.labels)
    assert_stratified(torch.cat([train.labels, val.labels]), val.labels)


@EXAMPLES
@given(sources(), st.integers(1, 10), st.floats(0.1, 0.5))
def test_val_size_is_a_count_or_a_fraction_of_what_is_not_test(source: Source, count: int, fraction: float) -> None:
    rest = len(source.train.labels) - len(split_source(source, val_size=count).test.indices)
    assert len(split_source(source, val_size=count).val.indices) == count
    assert abs(len(split_source(source, val_size=fraction).val.indices) - fraction * rest) <= 0.5


@EXAMPLES
@given(sources(), st.integers(1, 10), SEEDS)
def test_split_depends_on_no_seed(source: Source, val_size: int, seed: int) -> None:
    first = split_source(source, val_size=val_size)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        second = split_source(source, val_size=val_size)
    assert first.hash == second.hash
    assert all(torch.equal(one.indices, two.indices) for one, two in zip(first[:3], second[:3], strict=True))


@EXAMPLES
@given(sources(), st.integers(0, 100), st.text(max_size=3))
def test_a_pick_is_stratified_and_keyed(source: Source, percent: int, word: str) -> None:
    labels = source.train.labels
    count = len(labels) * percent // 100
    picked = stratified_pick(labels, count, key=(word,))
    assert picked.dtype == torch.int64
    assert len(picked) == len(set(picked.tolist())) == count
    assert torch.equal(picked, picked.sort().values)
    assert torch.equal(picked, stratified_pick(labels, count, key=(word,)))
    assert_stratified(labels, labels[picked])


@EXAMPLES
@given(sources(), st.integers(1, 250))
def test_a_limit_is_stratified_and_stable(source: Source, limit: int) -> None:
    train = split_source(source, val_size=5).train
    few = limited(train, limit)
    assert len(few.indices) == min(limit, len(train.indices))
    assert set(few.indices.tolist()) <= set(train.indices.tolist())
    assert torch.equal(few.indices, limited(train, limit).indices)
    assert_stratified(train.labels, few.labels)


@st.composite
def viewed(draw: st.DrawFn) -> tuple[torch.Tensor, Views]:
    count, size = draw(st.integers(1, 6)), draw(st.integers(8, 24))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    pad = size // PAD_SHARE
    dy, dx = torch.randint(-pad, pad + 1, (2, count), generator=generator)
    flip = torch.rand(count, generator=generator) < 0.5
    return drawn_images(count, size=size, seed=draw(SEEDS)), Views(flip, dy, dx)


@EXAMPLES
@given(viewed())
def test_views_are_those_of_numpy_one_image_at_a_time(example: tuple[torch.Tensor, Views]) -> None:
    """A window of the reflected image, moved by (dy, dx), then mirrored: the formula read from the inside."""
    images, views = example
    size = images.shape[-1]
    pad = size // PAD_SHARE
    expected = []
    for image, flip, dy, dx in zip(images.numpy(), *(column.tolist() for column in views[:3]), strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        window = padded[:, pad + dy : pad + dy + size, pad + dx : pad + dx + size]
        expected.append(window[:, :, ::-1] if flip else window)
    seen = apply_views(images, views)
    assert seen.dtype == torch.uint8
    np.testing.assert_array_equal(seen.numpy(), np.stack(expected))


@EXAMPLES
@given(SEEDS, st.integers(0, 1000), st.integers(1, 300), st.integers(8, 70), AUGMENTS)
def test_a_table_of_views(view_seed: int, epoch: int, count: int, size: int, augment: str) -> None:
    one, again, following = (
        draw_views(view_seed, e, num_images=count, augment=augment, size=size) for e in (epoch, epoch, epoch + 1)
    )
    assert_same_views(one, again)
    assert [tuple(column.shape) for column in one[:3]] == [(count,)] * 3
    assert one.flip.dtype == torch.bool
    # both sides in any two epochs where flips are asked for, else never mirrored
    assert (one.flip ^ following.flip).all() if "flip" in augment else not one.flip.any()
    furthest = size // 8 if "crop" in augment else 0
    assert all(column.abs().max() <= furthest for column in (one.dy, one.dx))
    assert ((one.box is not None), (one.factors is not None)) == ("rrc" in augment, "jitter" in augment)
    if one.factors is not None:
        assert one.factors.shape == (count, 3)
        assert 0.6 <= one.factors.min() <= one.factors.max() <= 1.4 + 1e-6


@EXAMPLES
@given(SEEDS, st.integers(0, 1000), st.integers(1, 300), st.integers(8, 70))
def test_boxes_lie_within_the_image_and_have_the_area_and_the_ratio_of_torchvision(
    view_seed: int, view: int, count: int, size: int
) -> None:
    corners, sides = draw_boxes(view_seed, view, num_images=count, size=size).split(2, dim=1)
    assert (corners >= 0).all()
    assert (sides >= 1).all()
    assert (corners + sides <= size).all()
    low, high = sides.double() - 0.5, sides.double() + 0.5  # before they were rounded
    assert (high.prod(1) >= 0.08 * size**2).all()
    assert (low[:, 1] / high[:, 0] <= 4 / 3).all()
    assert (high[:, 1] / low[:, 0] >= 3 / 4).all()


def resampled_by_torchvision(image: torch.Tensor, views: Views) -> torch.Tensor:
    """One image (3, S, S) in the only view of a table, in float32 between 0 and 1."""
    pixels, size = image / 255, list(image.shape[-2:])
    if views.box is not None:
        pixels = F.resized_crop(pixels, *views.box[0].tolist(), size, antialias=True)
    if bool(views.flip[0]):
        pixels = F.horizontal_flip(pixels)
    if views.factors is not None:
        brightness, contrast, saturation = views.factors[0].tolist()
        pixels = F.adjust_contrast(F.adjust_brightness(pixels, brightness), contrast)
        pixels = F.adjust_saturation(pixels, saturation)
    return pixels


@settings(EXAMPLES, max_examples=25)
@given(SEEDS, st.integers(8, 40), st.sampled_from(["rrc", "rrc+flip", "jitter", "flip+jitter", "rrc+flip+jitter"]))
def test_resampled_and_recoloured_images_are_those_of_torchvision(seed: int, size: int, augment: str) -> None:
    images = drawn_images(5, size=size, seed=seed)
    views = draw_views(seed, 1, num_images=5, augment=augment, size=size)
    seen = apply_views(images, views)
    # at most 1.5 levels of a box, by places in 1/256 of a pixel and by rounding; colours may double that
    most = {"rrc": 1.5, "rrc+flip": 1.5}.get(augment, 3.5 if "rrc" in augment else 1.0)
    for row in range(5):
        alone = pick_views(views, torch.tensor([row]))
        expected = 255 * resampled_by_torchvision(images[row], alone)
        assert (seen[row] - expected).abs().max() <= most + 1e-3
        assert torch.equal(apply_views(images[[row]], alone)[0], seen[row])  # the same in any batch


@EXAMPLES
@given(parts(), st.integers(0, 50))
def test_the_view_of_an_image_depends_on_view_seed_epoch_and_image_alone(setting: Setting, epoch: int) -> None:
    view = epoch if setting.views is None else epoch % setting.views
    table = draw_views(setting.view_seed, view, num_images=40, augment=setting.augment, size=8)
    every, labels = apply_views(setting.part.images.images, table), setting.part.images.labels
    if setting.mixing is not None:
        mixes = draw_mixes(setting.mixing, setting.view_seed, view, num_images=40, size=8)
        partners = torch.cat([every, every[mixes.partner]]), torch.cat([labels, labels[mixes.partner]])
        every, labels = mix(*partners, mixes, num_classes=7)
        assert set(mixes.partner.tolist()) <= set(setting.part.indices.tolist())
    for batch in setting.batches()(epoch, 0):
        assert torch.equal(batch.images, every[batch.indices])
        assert torch.equal(batch.labels, labels[batch.indices])
        assert batch.view == view_of(epoch, **setting.numbers)


@EXAMPLES
@given(SEEDS, st.integers(2, 5), st.integers(8, 30), st.sampled_from(["mixup", "cutmix"]), st.floats(0.1, 10))
def test_mixed_images_are_those_of_numpy_one_image_at_a_time(
    seed: int, num_classes: int, size: int, kind: str, alpha: float
) -> None:
    images, labels = drawn_images(8, size=size, seed=seed), torch.arange(8) % num_classes
    mixes = draw_mixes(Mixing(kind, alpha, torch.arange(3, 6), num_classes), seed, 2, num_images=4, size=size)
    seen, shares = mix(images, labels, mixes, num_classes=num_classes)
    for row, lam in enumerate(mixes.share.double().tolist()):
        own, other = images[row].double(), images[4 + row].double()
        if kind == "mixup":
            assert (seen[row] - (lam * own + (1 - lam) * other)).abs().max() <= 0.5 + 1e-4
        else:
            top, left, bottom, right = mixes.box[row].tolist()
            own[:, top:bottom, left:right] = other[:, top:bottom, left:right]
            assert torch.equal(seen[row], own.to(torch.uint8))
            assert lam == pytest.approx(1 - (bottom - top) * (right - left) / size**2)
        expected = np.zeros(num_classes)
        expected[int(labels[row])] += lam
        expected[int(labels[4 + row])] += 1 - lam
        assert shares[row].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


@EXAMPLES
@given(SEEDS, st.integers(0, 50), AUGMENTS, VIEWS)
def test_views_of_one_number_are_the_same_and_there_are_no_more_than_were_asked_for(
    view_seed: int, epoch: int, augment: str, views: int | None
) -> None:
    assert view_of(epoch, views=views, augment=augment, mixed=True) == (epoch if views is None else epoch % views)
    asked = epoch if views is None else epoch % views
    tables = [
        draw_views(view_seed, view, num_images=40, augment=augment, size=8)
        for view in (asked, view_of(epoch, views=views, augment=augment))
    ]
    assert_same_views(*tables)
    numbers = {view_of(e, views=views, augment=augment) for e in range(60)}
    most = {"none": 1, "flip": 2}.get(augment, 60)
    assert numbers == set(range(min(most, views or 60)))


@EXAMPLES
@given(parts(), st.integers(0, 50))
def test_a_view_of_a_whole_part_is_what_an_epoch_sees_of_it(setting: Setting, epoch: int) -> None:
    seen = torch.cat([batch.images for batch in setting.batches()(epoch, 0)])
    order = torch.cat([batch.indices for batch in setting.batches()(epoch, 0)]).argsort()
    labels = torch.cat([batch.labels for batch in setting.batches()(epoch, 0)])
    view, keys = view_of(epoch, **setting.numbers), {"view_seed": setting.view_seed, "augment": setting.augment}
    (whole,) = view_batches(setting.part, view=view, mixing=setting.mixing, **keys)
    assert torch.equal(whole.images, seen[order])
    assert torch.equal(whole.indices, setting.part.indices)
    assert torch.equal(whole.labels, labels[order])
    assert whole.view == view


@EXAMPLES
@given(parts(), st.integers(0, 50))
def test_every_image_exactly_once_an_epoch(setting: Setting, epoch: int) -> None:
    sizes, seen = [], []
    for batch in setting.batches()(epoch, 0):
        sizes.append(len(batch.indices))
        seen += batch.indices.tolist()
    assert sorted(seen) == setting.part.indices.tolist()
    assert len(sizes) == num_batches(len(setting.part.indices), setting.batch_size)
    assert set(sizes[:-2]) <= {setting.batch_size}


@EXAMPLES
@given(st.integers(1, 500), st.integers(1, 120))
def test_chunks_cover_in_order_and_never_end_on_a_single_image(count: int, batch_size: int) -> None:
    cut = chunks(torch.arange(count), batch_size)
    sizes = [len(one) for one in cut]
    full, rest = divmod(count, batch_size)
    expected = [batch_size] * full + [rest] * (rest > 0)
    if len(expected) > 1 and expected[-1] == 1:
        expected[-2:] = [expected[-2] + 1]
    assert torch.equal(torch.cat(cut), torch.arange(count))
    assert sizes == expected
    assert num_batches(count, batch_size) == len(expected)


@EXAMPLES
@given(st.integers(4, 500), st.integers(1, 120), st.integers(2, 6))
def test_every_process_gets_two_images_of_the_last_chunk_too(count: int, spare: int, world: int) -> None:
    batch_size = 2 * world + spare
    sizes = [len(one) for one in chunks(torch.arange(count), batch_size, world=world)]
    full, rest = divmod(count, batch_size)
    if full and 0 < rest < 2 * world:
        assert sizes == [batch_size] * (full - 1) + [batch_size + rest]
    else:
        assert sizes == [len(one) for one in torch.arange(count).split(batch_size)]
    assert num_batches(count, batch_size, world=world) == len(sizes)


@EXAMPLES
@given(st.integers(0, 50), st.integers(1, 7))
def test_shares_are_even_and_together_everything(count: int, world: int) -> None:
    items = torch.arange(count)
    shares = [Share(rank, world).of(items) for rank in range(world)]
    assert torch.equal(torch.cat(shares), items)
    assert {len(one) for one in shares} <= {count // world, -(-count // world)}
    assert [Share(rank, world).of(tuple(items)) for rank in range(world)] == [tuple(one) for one in shares]


@EXAMPLES
@given(parts(), st.integers(0, 20), st.integers(1, 3))
def test_the_processes_divide_each_batch_and_weigh_their_means(setting: Setting, epoch: int, world: int) -> None:
    assume(min(setting.batch_size, len(setting.part.indices)) >= 2 * world)
    shares = [list(setting.batches(Share(rank, world))(epoch, 0)) for rank in range(world)]
    order = torch.cat([batch.indices for batch in setting.batches()(epoch, 0)])
    whole = chunks(order, setting.batch_size, world=world)
    for batch, pieces in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(torch.cat([piece.indices for piece in pieces]), batch)
        assert min(len(piece.indices) for piece in pieces) >= 2
        values = torch.randn(40, dtype=torch.float64)
        mean = sum(piece.weight * values[piece.indices].mean() for piece in pieces) / world
        torch.testing.assert_close(mean, values[batch].mean())


@EXAMPLES
@given(parts(), st.integers(0, 20), st.data())
def test_from_the_middle_of_an_epoch(setting: Setting, epoch: int, data: st.DataObject) -> None:
    batches = setting.batches()
    whole = list(batches(epoch, 0))
    start = data.draw(st.integers(0, len(whole)))
    assert_same_batches(batches(epoch, start), whole[start:])


@EXAMPLES
@given(parts(), st.integers(1, 4), st.data())
def test_from_any_iteration_of_a_run(setting: Setting, epochs: int, data: st.DataObject) -> None:
    length = num_batches(len(setting.part.indices), setting.batch_size)
    stream = list(run_batches(setting.batches(), epochs=epochs, epoch_length=length))
    numbers = [view_of(epoch, **setting.numbers) for epoch in range(epochs)]
    assert [batch.view for batch in stream] == [number for number in numbers for _ in range(length)]
    first = data.draw(st.integers(0, epochs * length))
    rest = run_batches(setting.batches(), epochs=epochs, epoch_length=length, first_iteration=first)
    assert_same_batches(rest, stream[first:])


@EXAMPLES
@given(parts(), st.integers(0, 20), st.integers(1, 45), AUGMENTS, SEEDS)
def test_order_depends_on_seed_and_epoch_alone(
    setting: Setting, epoch: int, batch_size: int, augment: str, view_seed: int
) -> None:
    other = setting._replace(batch_size=batch_size, augment=augment, view_seed=view_seed)
    ours, theirs = (torch.cat([b.indices for b in one.batches()(epoch, 0)]) for one in (setting, other))
    assert torch.equal(ours, theirs)


@EXAMPLES
@given(parts(), SEEDS)
def test_other_draws_in_between_change_nothing(setting: Setting, seed: int) -> None:
    undisturbed = list(setting.batches()(3, 0))
    disturbed = []
    with torch.random.fork_rng():
        for batch in setting.batches()(3, 0):
            torch.manual_seed(seed)
            torch.rand(5)
            disturbed.append(batch)
    assert_same_batches(disturbed, undisturbed)


@EXAMPLES
@given(st.integers(1, 20), st.integers(2, 12), SEEDS, st.integers(1, 20))
def test_statistics_are_those_of_numpy(count: int, size: int, seed: int, batch_size: int) -> None:
    images = drawn_images(count, size=size, seed=seed)
    images[:, 1] //= 2
    pixels = images.numpy().astype(np.float64) / 255
    measured = measure_statistics(images.split(batch_size))
    # one unit in the fourth digit: what rounding half-way values may differ by
    assert measured.mean == pytest.approx(pixels.mean(axis=(0, 2, 3)), abs=0.51e-4)
    assert measured.std == pytest.approx(pixels.std(axis=(0, 2, 3)), abs=0.51e-4)
    assert measured == measure_statistics(reversed(images.split(1)))
