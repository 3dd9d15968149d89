"""In which type is multiplied, and that float32 is float32 afterwards."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from kdignite.data.batches import Batch
from kdignite.devices import compute_exactly
from kdignite.evaluation import predictor
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs
from kdignite.precision import AUTOCAST, tf32
from kdignite.steps import distill_step, supervised_step


def flags() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    before = flags()
    compute_exactly()
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


class Noting(nn.Linear):
    """Notes the flags in the forward and in the backward pass."""

    def __init__(self) -> None:
        super().__init__(12, 3)
        self.noted: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.noted.append(flags())
        out = super().forward(images.flatten(1).float())
        if out.requires_grad:
            out.register_hook(lambda _: self.noted.append(flags()))
        return out


BATCH = Batch(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4) % 3, torch.arange(4), 0)


@pytest.mark.parametrize("amp", AUTOCAST)
def test_a_step_multiplies_in_tf32_where_that_was_asked_for_and_its_teacher_does_not(amp: str) -> None:
    model, asked = Noting(), []

    def teacher(batch: Batch) -> Outputs:
        asked.append(flags())
        return Outputs(torch.zeros(4, 3))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"prepare": lambda images: images, "amp": amp}
    distill_step(model, optimizer, teacher, method=partial(kd, alpha=0.5, T=2.0), **settings)(None, BATCH)
    supervised_step(model, optimizer, **settings)(None, BATCH)
    assert model.noted == [(amp == "tf32",) * 2] * 4  # forward and backward of both
    assert asked == [(False, False)]
    assert flags() == (False, False)


@pytest.mark.parametrize("amp", AUTOCAST)
def test_a_teacher_answers_in_the_type_that_it_was_asked_for(amp: str) -> None:
    model = Noting()
    logits = predictor(model, prepare=lambda images: images, amp=amp)(BATCH.images)
    assert model.noted == [(amp == "tf32",) * 2]
    assert logits.dtype == torch.float32
    assert flags() == (False, False)


def test_bfloat16_changes_an_answer_by_its_rounding_only() -> None:
    model = Noting()
    images = torch.randint(256, (50, 3, 2, 2), dtype=torch.uint8)
    exactly, roughly = (
        predictor(model, prepare=lambda pixels: pixels / 255, amp=amp)(images) for amp in ("off", "bf16")
    )
    assert not torch.equal(exactly, roughly)
    assert float((exactly - roughly).abs().max() / exactly.abs().max()) < 0.02  # 8 bits


def test_after_an_error_float32_is_float32_again() -> None:
    seen: list[tuple[bool, bool]] = []

    def fail() -> None:
        with tf32("tf32"):
            seen.append(flags())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [*seen, flags()] == [(True, True), (False, False)]
