"""The preset ``original``: its code path with a weights file made here, since the published weights are a download."""

import json
from pathlib import Path

import pytest
import torch
import torchvision

from kdignite.commands.reproduce import reproduce
from kdignite.config import ReproduceConfig, TeacherConfig, configure
from kdignite.errors import UserError
from kdignite.models import weights as weights_module
from kdignite.training.data import open_training_data
from kdignite.training.device import set_up_device
from kdignite.training.model import prepare_model
from kdignite.training.spec import resolve

SMALL = {"dataset": "digits", "size": 32, "threads": 1}  # at 224 pixels each of these tests would take minutes


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What torchvision offers for download: a state dict of a ResNet50 with a head of 1,000 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = torchvision.models.resnet50()
    path = tmp_path_factory.mktemp("weights") / "resnet50.pt"
    torch.save(model.state_dict(), path)
    return path


def test_the_teacher_starts_from_the_file_with_a_new_head_fed_as_it_was(file: Path) -> None:
    device = set_up_device("cpu", threads=1)
    config = configure(TeacherConfig, preset="original", weights=str(file), **SMALL)
    data = open_training_data(config, device=device)
    student = prepare_model(resolve(config, data, device=device), data, device=device)
    published, own = torch.load(file), student.network.state_dict()
    assert {key for key in own if not torch.equal(own[key], published[key])} == {"fc.weight", "fc.bias"}
    assert own["fc.weight"].shape == (10, 2048)
    assert student.preprocessing.mean == (0.485, 0.456, 0.406)
    assert student.preprocessing.std == (0.229, 0.224, 0.225)


@pytest.mark.slow
def test_the_whole_study(file: Path, tmp_path: Path) -> None:
    config = configure(
        ReproduceConfig,
        preset="original",
        teacher_weights=str(file),
        teacher_size=32,
        fast_dev_run=True,
        **SMALL,
    )
    done = reproduce(config, root=tmp_path)
    shared = {"batch_size": 100, "lr": 0.001, "momentum": 0.9, "optimizer": "sgd", "schedule": "constant"}
    shared |= {"weight_decay": 0.0, "normalize": "imagenet", "augment": "flip"}
    archs = {"teacher-dev": "resnet50", "distill-a0.5-T1-dev": "cnn5", "baseline-dev": "cnn5"}
    for name, arch in archs.items():
        written = json.loads((done.folder / name / "config.json").read_text())
        assert {key: written[key] for key in shared} == shared
        assert written["arch"] == arch
    assert done.result["partial"]


def test_weights_that_cannot_be_fetched_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **given: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(weights_module.torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(weights_module.torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(UserError) as caught:
        reproduce(configure(ReproduceConfig, preset="original", **SMALL), root=tmp_path / "runs")
    told = str(caught.value)
    assert told.startswith("the pretrained weights of resnet50 cannot be fetched (no network); give ")
    assert "--teacher_weights=FILE (a state dict of torchvision's resnet50, from https://" in told
    assert told.endswith(".pth) or --teacher_weights=none")
    assert not (tmp_path / "runs").exists()
