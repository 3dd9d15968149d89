"""Fine-tuning: a backbone that stands still at first and learns more slowly, stopped and resumed; models of timm."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from kdignite import checkpoints, stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.evaluate import evaluate
from kdignite.commands.export import export
from kdignite.config import BaselineConfig, DistillConfig, EvaluateConfig, ExportConfig, configure
from kdignite.models.registry import build_model
from kdignite.runs import Finished
from kdignite.schedules import LR_MULT, build_optimizer, set_learning_rate
from kdignite.streams import seeded

from .alike import assert_alike, weights
from .conftest import alone
from .test_resume import EPOCH, asked_to_stop

pytestmark = pytest.mark.usefixtures("few_pixels")
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


@pytest.mark.parametrize("mult", [0.1, 1.0])
def test_then_everything_learns(tmp_path: Path, mult: float) -> None:
    before, after = states(tmp_path, **{**SETTINGS, "epochs": 2, "backbone_lr_mult": mult})
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


# of each of timm's families (files) that have a model of at most 6 M parameters the smallest one
SMALLEST = """
    coat_tiny convit_tiny convnext_zepto_rms cs3darknet_focus_s cspnext_tiny deit_tiny_patch16_224 dla46x_c
    edgenext_xx_small efficientformerv2_s0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0
    fastvit_t8 ghostnet_050 gmlp_ti16_224 hardcorenas_b hgnetv2_b0 iformer_t inception_next_atto lcnetv2_small
    mobilenetv2_035 mobilenetv3_small_050 mobileone_s1 mobilevit_xxs pit_ti_224 pvt_v2_b0 regnetx_002 repghostnet_050
    repvit_m1 resnet10t rexnet_100 starnet_s050 swiftformer_xs vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb
    xcit_nano_12_p8_224
"""


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of twenty pictures."""
    folder, draws = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for number in range(40):
        path = folder / ("dark", "light")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draws.integers(128 * (number % 2), 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return folder


def test_a_folder_that_was_given_validation_pictures_since(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(photographs, folder / "train")
    run = baseline(alone(dataset=f"folder:{folder}", name="run", val_size=8, widths=(4,) * 5), root=tmp_path)
    shutil.copytree(photographs, folder / "val")
    counted = evaluate(EvaluateConfig(run=str(run.folder), split="val", threads=1), root=tmp_path).result
    assert counted["num_images"] == 40
    told = capsys.readouterr().out
    assert "brings its own validation images: leave out --val_size; evaluated on the parts that folder:" in told
    assert "other data or another split than the model was trained on" in told


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST.split())
def test_every_family_of_timm_trains_evaluates_and_is_exported(name: str, photographs: Path, tmp_path: Path) -> None:
    for package in ("timm", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    settings = {"dataset": f"folder:{photographs}", "arch": f"timm:{name}", "threads": 1, "batch_size": 4}
    run = baseline(configure(BaselineConfig, **settings, fast_dev_run=True, name="run"), root=tmp_path)
    tested = evaluate(EvaluateConfig(run="run", threads=1), root=tmp_path).result
    written = export(ExportConfig(run="run", threads=1), root=tmp_path)
    assert (written.folder / "model.onnx").stat().st_size > run.result["cost"]["file_bytes"] / 2
    assert written.result["check"]["num_images"] == tested["num_images"] == 4
