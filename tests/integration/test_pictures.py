"""Fine-tuning: a backbone that stands still at first and learns more slowly, stopped and resumed; models of timm."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from kdignite import checkpoints, stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.evaluate import evaluate
from kdignite.config import BaselineConfig, DistillConfig, EvaluateConfig, configure
from kdignite.models.registry import build_model
from kdignite.runs import Finished
from kdignite.schedules import LR_MULT, build_optimizer, set_learning_rate
from kdignite.streams import seeded

from .alike import assert_alike, weights
from .conftest import alone
from .test_resume import EPOCH, asked_to_stop

pytestmark = pytest.mark.usefixtures("few_pixels")
LARGEST = 6_000_000  # parameters
HEAD = {"linear.weight", "linear.bias"}
SETTINGS = {"freeze_epochs": 1, "backbone_lr_mult": 0.1, "optimizer": "sgd", "schedule": "constant"}


def states(root: Path, **given: object) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The initial weights of a run, and those after its last epoch."""
    run = baseline(alone(name="run", keep_last=True, limit_train=200, **given), root=root)
    with torch.random.fork_rng(devices=[]), seeded("init", alone().seed):
        fresh = build_model("cnn5", num_classes=10, size=32, options={"widths": alone().widths})
    return fresh.state_dict(), checkpoints.read(run.folder / "last.safetensors")["model"]


def test_a_frozen_backbone_keeps_weights_and_statistics(tmp_path: Path) -> None:
    before, after = states(tmp_path, **{**SETTINGS, "epochs": 1})
    assert {key for key, value in after.items() if not torch.equal(value, before[key])} == HEAD


def test_then_everything_learns(tmp_path: Path) -> None:
    before, after = states(tmp_path, **{**SETTINGS, "epochs": 2})
    assert {key for key, value in after.items() if torch.equal(value, before[key])} == set()
    assert after["norm1.num_batches_tracked"] == 4  # of the second epoch alone


def test_the_backbone_has_its_share_of_every_rate() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(), nn.Linear(2, 2))
    settings = {"kind": "sgd", "lr": 0.4, "momentum": 0.9, "weight_decay": 0.1, "backbone_lr_mult": 0.25}
    optimizer = build_optimizer(model, backbone=model[0].parameters(), **settings)
    set_learning_rate(optimizer, 0.2)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert [rates[id(p)] for p in model.parameters()] == [0.05, 0.05, 0.2, 0.2]
    assert [(group["weight_decay"], group[LR_MULT]) for group in optimizer.param_groups] == [
        (0.1, 1.0),
        (0.0, 1.0),
        (0.1, 0.25),
        (0.0, 0.25),
    ]


@pytest.mark.parametrize("iteration", [7, EPOCH, EPOCH + 1, EPOCH + 9])
def test_stopped_before_or_after_the_thaw_it_ends_the_same(
    tmp_path: Path, iteration: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"freeze_epochs": 1, "backbone_lr_mult": 0.1, "optimizer": "adamw", "lr": 0.01, "epochs": 2, "name": "run"}
    whole = baseline(alone(**given), root=tmp_path / "whole")
    asked_to_stop(monkeypatch, iteration)
    with pytest.raises(stopping.Stopped):
        baseline(alone(**given), root=tmp_path / "stopped")
    again = baseline(configure(BaselineConfig, resume="run"), root=tmp_path / "stopped")
    assert_alike(again.folder, whole.folder)


def test_a_model_of_timm_is_taught_and_evaluated_from_its_file(taught: Finished, root: Path) -> None:
    timm = pytest.importorskip("timm")
    given = {"dataset": "digits", "arch": "timm:test_resnet", "arch_options": ("drop_rate=0.1",), "threads": 1}
    settings = {**given, "size": 32, "epochs": 1, "limit_train": 100, "batch_size": 50, "name": "small"}
    run = distill(configure(DistillConfig, **settings), root=root)
    description = checkpoints.load_checkpoint(run.folder / "best.safetensors").description
    assert description.architecture == ("timm:test_resnet", {"drop_rate": 0.1})
    own = timm.create_model("test_resnet").default_cfg
    assert description.preprocessing[1:] == (own["mean"], own["std"], f"{own['interpolation']}, antialiased")
    assert (
        evaluate(EvaluateConfig(run="small", threads=1), root=root).result["num_correct"]
        == (run.result["test"]["num_correct"])
    )
    assert weights(run.folder)["fc.weight"].shape[0] == 10


def smallest_by_family() -> dict[str, str]:
    """The smallest model in each of timm's files, of those with at most 6 M parameters."""
    timm = pytest.importorskip("timm")
    smallest = {}
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family, exclude_filters="test_*"):
            with torch.device("meta"), contextlib.suppress(RuntimeError):
                sizes[name] = sum(one.numel() for one in timm.create_model(name).parameters())
        if sizes and min(sizes.values()) <= LARGEST:
            smallest[family] = min(sizes, key=sizes.__getitem__)
    return smallest


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_of_timm_trains_and_evaluates(tmp_path: Path) -> None:
    """One small member of each: built, two steps on digits, evaluated; those that need more are told by name."""
    failed = {}
    names = list(smallest_by_family().values())
    for name in names:
        settings = {"dataset": "digits", "arch": f"timm:{name}", "threads": 1, "fast_dev_run": True, "batch_size": 4}
        try:
            run = baseline(configure(BaselineConfig, **settings), root=tmp_path)
            evaluate(EvaluateConfig(run=str(run.folder), threads=1), root=tmp_path)
        except Exception as error:  # noqa: BLE001  # all of them are listed at once
            failed[name] = f"{type(error).__name__}: {error}"
    assert len(names) > 30
    assert failed == {}
