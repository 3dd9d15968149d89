"""Learning rates: within (0, peak], without jumps, and exactly where they say they start, peak and end."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.amp import GradScaler

from kdignite.schedules import FINAL_SHARE, ONE_CYCLE_RISE, ONE_CYCLE_START, build_optimizer, learning_rate

EXAMPLES = settings(deadline=None, max_examples=100)
KINDS = st.sampled_from(["constant", "cosine", "onecycle"])
PEAKS = st.floats(1e-6, 10)
STEPS = st.integers(1, 300)
WARMUPS = st.one_of(st.just(0.0), st.floats(0.01, 100))

# steepest slope over the run, in peaks: flat; half a cosine at its middle; the steeper of two lines
SLOPES = {
    "constant": 0.0,
    "cosine": (1 - FINAL_SHARE) * math.pi / 2,
    "onecycle": max((1 - ONE_CYCLE_START) / ONE_CYCLE_RISE, (1 - FINAL_SHARE) / (1 - ONE_CYCLE_RISE)),
}


@EXAMPLES
@given(KINDS, PEAKS, STEPS, WARMUPS)
def test_within_0_and_peak(kind: str, peak: float, total: int, warmup: float) -> None:
    lr_at = learning_rate(kind, peak=peak, total_steps=total, warmup_steps=warmup)
    assert all(0 < lr_at(step) <= peak * (1 + 1e-12) for step in range(total))


@EXAMPLES
@given(KINDS, PEAKS, st.integers(2, 300), WARMUPS)
def test_no_jump_from_step_to_step(kind: str, peak: float, total: int, warmup: float) -> None:
    lr_at = learning_rate(kind, peak=peak, total_steps=total, warmup_steps=warmup)
    rates = [lr_at(step) for step in range(total)]
    largest = peak * (SLOPES[kind] / (total - 1) + (1 / warmup if warmup else 0))
    assert max(abs(b - a) for a, b in pairwise(rates)) <= largest + 1e-12 * peak


@EXAMPLES
@given(KINDS, PEAKS, st.integers(2, 300))
def test_ends_where_it_says(kind: str, peak: float, total: int) -> None:
    lr_at = learning_rate(kind, peak=peak, total_steps=total)
    share = 1 if kind == "constant" else FINAL_SHARE
    assert lr_at(total - 1) == pytest.approx(share * peak, rel=1e-9)


@EXAMPLES
@given(PEAKS, st.integers(1, 60))
def test_one_cycle_rises_to_its_peak_and_falls(peak: float, fifths: int) -> None:
    top = fifths  # total - 1 = 5 * fifths steps, so that x = ONE_CYCLE_RISE = 1/5 is a step
    lr_at = learning_rate("onecycle", peak=peak, total_steps=5 * fifths + 1)
    rates = [lr_at(step) for step in range(5 * fifths + 1)]
    assert ONE_CYCLE_RISE == 1 / 5
    assert rates[0] == pytest.approx(ONE_CYCLE_START * peak, rel=1e-12)
    assert rates[top] == pytest.approx(peak, rel=1e-12)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    middle = rates[top + 2 * fifths]  # half way down a straight line
    assert middle == pytest.approx((1 + FINAL_SHARE) / 2 * peak, rel=1e-9)


@EXAMPLES
@given(PEAKS, st.integers(1, 150))
def test_cosine_is_half_a_cosine(peak: float, half: int) -> None:
    lr_at = learning_rate("cosine", peak=peak, total_steps=2 * half + 1)
    rates = [lr_at(step) for step in range(2 * half + 1)]
    assert rates[0] == pytest.approx(peak, rel=1e-12)
    assert rates[half] == pytest.approx((1 + FINAL_SHARE) / 2 * peak, rel=1e-9)
    assert rates == sorted(rates, reverse=True)
    for early, late in zip(rates, reversed(rates), strict=True):  # symmetric about its middle
        assert early + late == pytest.approx((1 + FINAL_SHARE) * peak, rel=1e-9)


@EXAMPLES
@given(st.sampled_from(["constant", "cosine"]), PEAKS, st.integers(1, 50))
def test_warm_up_is_linear(kind: str, peak: float, warmup: int) -> None:
    plain = learning_rate(kind, peak=peak, total_steps=200)
    warm = learning_rate(kind, peak=peak, total_steps=200, warmup_steps=warmup)
    for step in range(warmup):
        assert warm(step) == pytest.approx(plain(step) * (step + 1) / warmup, rel=1e-12)
    assert all(warm(step) == plain(step) for step in range(warmup - 1, 200))


@pytest.mark.parametrize("kind", ["constant", "cosine", "onecycle"])
def test_a_run_of_one_step(kind: str) -> None:
    assert 0 < learning_rate(kind, peak=0.3, total_steps=1)(0) <= 0.3


@EXAMPLES
@given(KINDS, STEPS, st.randoms(use_true_random=False))
def test_a_pure_function_of_the_step(kind: str, total: int, random) -> None:
    lr_at = learning_rate(kind, peak=0.1, total_steps=total)
    rates = [lr_at(step) for step in range(total)]
    shuffled = random.sample(range(total), total)
    assert [lr_at(step) for step in shuffled] == [rates[step] for step in shuffled]


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))


@pytest.mark.parametrize("kind", ["nesterov", "sgd", "adamw"])
def test_matrices_and_kernels_alone_decay(model: nn.Module, kind: str) -> None:
    optimizer = build_optimizer(model, kind=kind, lr=0.1, momentum=0.8, weight_decay=0.03)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    expected = {"0.weight": 0.03, "0.bias": 0, "1.weight": 0, "1.bias": 0, "3.weight": 0.03, "3.bias": 0}
    assert {name: decay[id(parameter)] for name, parameter in model.named_parameters()} == expected


@pytest.mark.parametrize(("kind", "strength"), [("nesterov", 1.9), ("sgd", 1.0), ("adamw", 1.0)])
def test_decay_moves_what_it_should(model: nn.Module, kind: str, strength: float) -> None:
    """With gradients of 0 a first step multiplies what decays by 1 - lr * weight_decay, and leaves the rest.

    Nesterov's momentum looks one step ahead, so that its first step is 1 + momentum times as long.
    """
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, kind=kind, lr=0.5, momentum=0.9, weight_decay=0.2).step()
    for name, parameter in model.named_parameters():
        factor = 1 - 0.5 * 0.2 * strength if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_frozen_parameters_are_left_out(model: nn.Module) -> None:
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, kind="sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


def test_a_model_without_vectors() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2, bias=False), kind="sgd", lr=0.1, momentum=0.9, weight_decay=0.1)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 0]
    optimizer.step()


def test_sgd_is_plain_momentum() -> None:
    """v = m v + g; w = w - lr v, by hand for the gradients 1, 1 of a single weight."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, kind="sgd", lr=0.1, momentum=0.5, weight_decay=0.0)
    assert isinstance(optimizer, torch.optim.SGD)
    for expected in (2.0 - 0.1, 1.9 - 0.1 * 1.5):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)


def test_nesterov_looks_one_step_ahead() -> None:
    """v = m v + g; w = w - lr (g + m v), by hand for the gradients 1, 1 of a single weight."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, kind="nesterov", lr=0.1, momentum=0.5, weight_decay=0.0)
    for expected in (2.0 - 0.1 * 1.5, 1.85 - 0.1 * 1.75):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["sgd", "nesterov"])
def test_parameters_of_a_group_may_get_their_first_gradient_in_different_steps(kind: str) -> None:
    """As when a backbone begins to learn after its head; torch's kernel by parameter is the reference."""
    made = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
        optimizer = build_optimizer(model, kind=kind, lr=0.1, momentum=0.9, weight_decay=0.01)
        if not fused:
            groups = [{**group, "fused": False} for group in optimizer.param_groups]
            optimizer = torch.optim.SGD(groups, fused=False)
        for layers in (model[1:], model, model):
            for parameter in layers.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        made.append(model.state_dict())
    for name, value in made[0].items():
        torch.testing.assert_close(value, made[1][name])


@pytest.mark.parametrize("kind", ["sgd", "nesterov", "adamw"])
def test_a_first_step_that_overflows_leaves_no_trace(kind: str) -> None:
    junk = [torch.full((64, 64), math.nan) for _ in range(64)]  # what freed memory may hold
    model, other = (nn.Linear(64, 64, bias=False) for _ in range(2))
    other.load_state_dict(model.state_dict())
    optimizer = build_optimizer(model, kind=kind, lr=0.1, momentum=0.9, weight_decay=0.0)
    scaler = GradScaler("cpu", init_scale=2.0**127)
    del junk
    scaler.scale(1e6 * model.weight.sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight, other.weight)
    fresh = build_optimizer(other, kind=kind, lr=0.1, momentum=0.9, weight_decay=0.0)
    for one, its in ((model, optimizer), (other, fresh)):
        one.weight.grad = torch.ones_like(one.weight)
        its.step()
    assert torch.equal(model.weight, other.weight)


def test_adamw_takes_momentum_as_beta1(model: nn.Module) -> None:
    optimizer = build_optimizer(model, kind="adamw", lr=0.01, momentum=0.85, weight_decay=0.0)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {(group["betas"], group["lr"]) for group in optimizer.param_groups} == {((0.85, 0.999), 0.01)}
