"""The largest logits of an image and what the others hold together, beside the softmax of all of them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdignite.config import DistillConfig, configure
from kdignite.errors import UserError
from kdignite.methods.registry import check_method, temperature_of
from kdignite.methods.terms import Outputs
from kdignite.teachers.row_formats import RowFormat, loss_of_format


def drawn(count: int, num_classes: int, *, seed: int = 0) -> Tensor:
    return 5 * torch.randn(count, num_classes, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 40), st.integers(1, 39), st.sampled_from([0.5, 1.0, 4.0, 20.0]), st.integers(0, 2**40))
def test_probabilities_are_those_of_all_logits_for_the_largest_and_even_for_the_others(
    num_classes: int, top: int, T: float, seed: int
) -> None:
    logits, rows = drawn(6, num_classes, seed=seed), RowFormat(num_classes, "float32", min(top, num_classes - 1), T)
    stored = rows.encode(logits)
    assert (stored.dtype, tuple(stored.shape)) == (torch.uint8, (6, rows.row_bytes))
    p, q = ((one.double() / T).softmax(1) for one in (logits, rows.decode(stored)))
    kept = logits.topk(rows.top, dim=1).indices
    expected = (1 - p.gather(1, kept).sum(1, keepdim=True)) / (num_classes - rows.top)
    torch.testing.assert_close(q, expected.expand_as(p).scatter(1, kept, p.gather(1, kept)), rtol=1e-4, atol=1e-7)
    assert rows.difference(stored, logits) == 0
    changed = logits.scatter_add(1, logits.argmax(1, keepdim=True), torch.full((6, 1), 0.5))
    assert rows.difference(stored, changed) >= 0.49 / max(1, float(changed.abs().max()))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("top", [None, 7, 8])
def test_all_of_them_are_as_they_were(dtype: str, top: int | None) -> None:
    logits, rows = drawn(4, 7), RowFormat(7, dtype, top, T=3.0)
    assert torch.equal(rows.decode(rows.encode(logits)), logits.to(getattr(torch, dtype)).float())
    assert (rows.row_bytes, rows.stored_dtype) == (7 * {"float32": 4, "float16": 2}[dtype], dtype)
    assert loss_of_format(rows, logits) == ""


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_lie_behind_the_logits(dtype: str) -> None:
    """Maps come back with the layout in which they are computed; what is rounded is rounded once."""
    shapes = (("map", (6, 3, 2)), ("tokens", (4, 5)), ("vector", (7,)))
    rows = RowFormat(3, dtype, features=shapes)
    features = {name: torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)) for name, shape in shapes}
    features["map"] = features["map"].contiguous(memory_format=torch.channels_last)
    stored = rows.encode(rows.flatten(Outputs(drawn(2, 3), features)))
    assert (tuple(stored.shape), rows.row_bytes) == ((2, 66), 66 * {"float32": 4, "float16": 2}[dtype])
    logits, found = rows.outputs(rows.decode(stored))
    rounded = [one.to(getattr(torch, dtype)).float() for one in (drawn(2, 3), *features.values())]
    assert list(found) == list(features)
    assert all(torch.equal(*pair) for pair in zip((logits, *found.values()), rounded, strict=True))
    values = rows.flatten(Outputs(logits, found))
    assert rows.difference(stored, values) == 0
    for start, end in ((0, 3), (3, 39), (39, 59), (59, 66)):  # one of them alone
        changed = torch.cat([values[:, :start], 0.9 * values[:, start:end], values[:, end:]], dim=1)
        assert rows.difference(stored, changed) == pytest.approx(1 / 9, rel=0.01)
        assert not rows.difference(stored, math.nan * changed) <= 1
    assert found["map"].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("num_classes", "bytes_of_class"), [(1_000, 2), (65_536, 2), (65_537, 4)])
def test_rows_are_short_and_name_any_class(num_classes: int, bytes_of_class: int) -> None:
    rows, logits = RowFormat(num_classes, "float32", 50), torch.zeros(2, num_classes)
    assert rows.row_bytes == 51 * 4 + 50 * bytes_of_class <= num_classes * 4 / 10
    logits[0, -1], logits[1, num_classes // 2] = 1000.0, 1000.0
    assert rows.decode(rows.encode(logits)).argmax(1).tolist() == [num_classes - 1, num_classes // 2]


def test_what_is_lost_is_measured() -> None:
    logits, rows = drawn(50, 12), RowFormat(12, "float32", 4, T=2.0)
    p = (logits.double() / 2).softmax(1)
    kept = p.topk(4, dim=1)
    rest = 1 - kept.values.sum(1)
    q = (rest / 8)[:, None].expand_as(p).scatter(1, kept.indices, kept.values)
    kl = (p * (p / q).log()).sum(1)
    assert loss_of_format(rows, logits) == (
        f"4 of 12 logits are kept, 28 bytes an image and not 48; at temperature 2 the others hold {rest.mean():.2%} of "
        f"the probability: spread evenly, KL(all || kept) is {kl.mean():.2g} nats, at most {kl.max():.2g} of 50 "
        "images, and the top class the same for 100.00%"
    )


@pytest.mark.parametrize(
    ("name", "given", "T"),
    [("kd", {"T": 3.0}, 3), ("dist", {}, 4), ("ttm", {"gamma": 0.25}, 4), ("nkd", {}, 3), ("logit_mse", {}, 1)],
)
def test_the_temperature_of_a_method(name: str, given: dict[str, float], T: float) -> None:
    assert temperature_of(name, check_method(name, given)) == T


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cache": "off"}, "--cache_top=5 is for cached teacher logits, not for --cache=off: leave it out"),
        ({"method": "fitnet"}, "not for --method=fitnet, which compares features: leave it out"),
        ({"cache_top": 0}, "--cache_top must be at least 1, not 0"),
    ],
)
def test_where_nothing_is_cached_there_is_nothing_to_keep(given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        configure(DistillConfig, **{"cache_top": 5, **given})


@pytest.mark.parametrize("preset", ["standard", "patient"])
def test_where_nothing_is_cached_there_is_nothing_to_round(preset: str) -> None:
    given = {"preset": preset, "cache": "off"}
    with pytest.raises(UserError, match=r"^--cache_dtype=float16 rounds .*: add --cache_dtype=float32$"):
        configure(DistillConfig, **{"cache_dtype": "float16"} | given)
    assert configure(DistillConfig, **given, cache_dtype="float32").cache == "off"
