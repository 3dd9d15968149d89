"""Steps of a compiled model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from kdignite.commands.baseline import baseline
from kdignite.config import BaselineConfig, configure
from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.steps import supervised_step
from kdignite.training import compiling as under_test
from kdignite.training.compiling import compiling

BATCH = Batch(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.arange(4) % 2, torch.arange(4), 0)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


def step_of(model: nn.Module) -> Any:
    make = compiling(supervised_step)
    return make(model, torch.optim.SGD(model.parameters(), lr=0.1), prepare=lambda images: images.float())


def test_the_compiled_model_is_trained_with_the_weights_of_the_one_that_is_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: compiled.append(model) or model)
    ours, theirs = network(), network()
    step_of(ours)(None, BATCH)
    supervised_step(theirs, torch.optim.SGD(theirs.parameters(), lr=0.1), prepare=lambda images: images.float())(
        None, BATCH
    )
    assert compiled == [ours]
    assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_each_size_of_batch_gets_code_of_its_own_and_none_is_chosen_by_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a run that goes on with its last, smaller batch has other kernels for all that follow."""
    given: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: given.append(settings) or model)
    step_of(network())
    assert given == [{"dynamic": False, "options": {"deterministic": True}}]
    assert "deterministic" in torch._inductor.list_options()


class Broken(nn.Linear):
    """What a machine without a compiler makes of any model."""

    def forward(self, images: Tensor) -> Tensor:
        raise TorchDynamoException("no working C++ compiler\nand a long explanation")


def test_a_machine_that_cannot_compile_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    with pytest.raises(UserError) as caught:
        step_of(nn.Sequential(nn.Flatten(), Broken(12, 2)))(None, BATCH)
    assert str(caught.value) == "--compile does not work here (no working C++ compiler): leave it out"


def test_a_python_that_is_too_new_is_told_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, **_: Any) -> nn.Module:
        raise RuntimeError("Dynamo is not supported on Python 3.99+")

    monkeypatch.setattr(under_test.torch, "compile", refuse)
    with pytest.raises(UserError, match=r"Dynamo is not supported on Python 3.99\+\): leave it out"):
        step_of(network())


@pytest.mark.slow
def test_a_compiled_run_is_one_of_the_same_model(tmp_path: Path) -> None:
    """With whatever compiler this machine has: weights differ from those of a plain run by rounding."""
    small = {"dataset": "digits", "epochs": 1, "batch_size": 50, "widths": (8,) * 5, "limit_train": 400, "threads": 1}
    small["amp"] = "off"  # bfloat16 rounds by hundredths, and eight steps at this rate make another model of that
    plain, compiled = (
        baseline(configure(BaselineConfig, **small, compile=flag), root=tmp_path) for flag in (False, True)
    )
    assert abs(plain.result["test"]["loss"] - compiled.result["test"]["loss"]) < 0.05
    assert compiled.result["test"]["num_images"] == 300
