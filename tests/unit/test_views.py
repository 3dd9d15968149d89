"""Views by example: which way an image moves, how often it is mirrored, and that nothing else changes it."""

import pytest
import torch

from kdignite.data.views import Views, apply_views, draw_views, pick_views

MANY = 20_000


def views(flip: bool = False, dy: int = 0, dx: int = 0) -> Views:
    return Views(torch.tensor([flip]), torch.tensor([dy]), torch.tensor([dx]))


@pytest.fixture
def image() -> torch.Tensor:
    """Pixel (y, x) of an 8 x 8 image holds 10 y + x, in three channels 0, 80 and 160 apart."""
    place = torch.arange(8)
    grey = 10 * place[:, None] + place
    return torch.stack([grey, grey + 80, grey + 160]).to(torch.uint8)[None]


def test_identity(image: torch.Tensor) -> None:
    assert torch.equal(apply_views(image, views()), image)


def test_mirrored(image: torch.Tensor) -> None:
    assert torch.equal(apply_views(image, views(flip=True)), image.flip(3))


def test_positive_dy_shows_what_lies_further_down(image: torch.Tensor) -> None:
    column = apply_views(image, views(dy=1))[0, 0, :, 0].tolist()
    assert column == [10, 20, 30, 40, 50, 60, 70, 60]  # the last row's neighbour is reflected, not the last row


def test_negative_dx_shows_what_lies_further_left(image: torch.Tensor) -> None:
    row = apply_views(image, views(dx=-1))[0, 2, 0].tolist()
    assert row == [161, 160, 161, 162, 163, 164, 165, 166]


def test_mirrored_and_moved(image: torch.Tensor) -> None:
    row = apply_views(image, views(flip=True, dx=1))[0, 0, 0].tolist()
    assert row == [6, 7, 6, 5, 4, 3, 2, 1]  # out[x] = in[reflect(7 - x + 1)]


def test_each_image_gets_its_own_view(image: torch.Tensor) -> None:
    both = Views(torch.tensor([True, False]), torch.tensor([0, -1]), torch.tensor([1, 0]))
    seen = apply_views(image.repeat(2, 1, 1, 1), both)
    assert torch.equal(seen[:1], apply_views(image, views(flip=True, dx=1)))
    assert torch.equal(seen[1:], apply_views(image, views(dy=-1)))


def test_the_images_given_are_not_changed(image: torch.Tensor) -> None:
    before = image.clone()
    apply_views(image, views(flip=True, dy=1)).zero_()
    assert torch.equal(image, before)


def test_pick() -> None:
    table = draw_views(0, 0, num_images=10, augment="rrc+flip+jitter", size=32)
    picked = pick_views(table, torch.tensor([7, 2]))
    assert [column.tolist() for column in picked] == [column[[7, 2]].tolist() for column in table]


def test_half_are_mirrored_in_every_epoch() -> None:
    for epoch in range(3):
        table = draw_views(0, epoch, num_images=MANY, augment="flip", size=32)
        assert abs(table.flip.float().mean() - 0.5) < 5 * 0.5 / MANY**0.5  # 5 standard errors
        assert not table.dy.any()
        assert not table.dx.any()


def test_flips_alternate() -> None:
    first, second, third = (draw_views(4, epoch, num_images=50, augment="flip", size=32).flip for epoch in range(3))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)


@pytest.mark.parametrize(("size", "furthest"), [(32, 4), (224, 28), (8, 1)])
def test_shifts_take_every_value_of_their_range_equally_often(size: int, furthest: int) -> None:
    table = draw_views(0, 0, num_images=MANY, augment="crop", size=size)
    assert not table.flip.any()
    for shift in (table.dy, table.dx):
        counts = torch.bincount(shift + furthest, minlength=2 * furthest + 1)
        expected = MANY / (2 * furthest + 1)
        assert len(counts) == 2 * furthest + 1
        assert (counts - expected).abs().max() < 5 * expected**0.5


def test_the_two_shifts_are_independent() -> None:
    table = draw_views(0, 0, num_images=MANY, augment="crop", size=32)
    correlation = torch.corrcoef(torch.stack([table.dy, table.dx]).double())[0, 1]
    assert abs(correlation) < 5 / MANY**0.5


def test_shifts_change_from_epoch_to_epoch_and_seed_to_seed() -> None:
    tables = [draw_views(s, e, num_images=50, augment="crop+flip", size=32) for s, e in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(tables[one].dy, tables[other].dy)
    assert not torch.equal(tables[0].flip, tables[2].flip)


def test_flips_and_shifts_do_not_depend_on_one_another() -> None:
    both, flip, crop = (draw_views(3, 2, num_images=50, augment=a, size=32) for a in ("crop+flip", "flip", "crop"))
    assert torch.equal(both.flip, flip.flip)
    assert torch.equal(both.dy, crop.dy)
    assert torch.equal(both.dx, crop.dx)
