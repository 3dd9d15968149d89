"""Few images, large images, and models that bring their own recipe: what follows from the data and the model."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdignite.config import (
    BaselineConfig,
    DistillConfig,
    ReproduceConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
    configure,
    from_json,
    stages,
    study_identity,
    sweep_configs,
    sweep_identity,
    to_json,
)
from kdignite.config.presets import MIN_STEPS, PRESETS
from kdignite.data.batches import evaluation_batch_size, evaluation_batches, num_batches
from kdignite.data.source import ImageSet, Source
from kdignite.data.splits import all_images, split_source
from kdignite.evaluation import measure_batch_norms
from kdignite.models.registry import MODELS
from kdignite.teachers import CacheSpec
from kdignite.training import announce, spec
from kdignite.training.data import Data

CPU = torch.device("cpu")
TRAINING = (TeacherConfig, DistillConfig, BaselineConfig)
CIFAR = 45_000  # training images of CIFAR-10 and CIFAR-100


def data_of(num_train: int, *, side: int = 8, val_labels: Tensor | None = None) -> Data:
    """A data set of two classes with so many training images, and ten of validation."""
    train, val = torch.zeros(num_train, 3, side, side, dtype=torch.uint8), torch.zeros(10, 3, side, side).byte()
    held_out = ImageSet(val, torch.arange(10) % 2 if val_labels is None else val_labels)
    labelled = ImageSet(train, torch.arange(num_train) % 2)
    source = Source("toy", ("cat", "dog"), labelled, held_out, held_out, "f", 1, 1, "flip")
    return Data(source, split_source(source, val_size=None), side)


def resolved(num_train: int, kind: type[TrainConfig] = BaselineConfig, **given: Any) -> TrainConfig:
    return spec.resolve(configure(kind, dataset="toy", **given), data_of(num_train), device=CPU)


# --- lengths in steps


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("kind", TRAINING)
def test_a_preset_has_its_own_epochs_on_cifar(preset: str, kind: type[TrainConfig]) -> None:
    config = configure(kind, preset=preset)
    steps = num_batches(CIFAR, config.batch_size)
    assert 0 < config.min_steps <= config.epochs * steps
    assert config.epochs == PRESETS[preset][kind.command].get("epochs", kind.epochs)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("num_train", [2, 30, 120, 810, 1297, 20_000])
def test_with_few_images_the_epochs_follow(num_train: int, preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in TRAINING:
        asked, found = configure(kind, preset=preset), resolved(num_train, kind, preset=preset)
        steps = num_batches(num_train, asked.batch_size)
        least = MIN_STEPS[preset][kind.command]
        assert found.epochs >= asked.epochs
        assert found.epochs * steps >= least
        assert found.epochs == asked.epochs or (found.epochs - 1) * steps < least  # no more than needed
        line = f"epochs    {found.epochs}, not {asked.epochs}: {num_train:,} training images are {steps} steps an epoch"
        assert (line in capsys.readouterr().out) == (found.epochs > asked.epochs)


def test_epochs_that_were_given_are_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    assert resolved(100, epochs=3).epochs == 3
    assert resolved(100, preset="quick", epochs=1).epochs == 1
    assert resolved(100, fast_dev_run=True).epochs == 1
    assert spec.resolve(BaselineConfig(dataset="toy"), data_of(100), device=CPU).epochs == 10
    assert capsys.readouterr().out == ""


def test_a_limit_counts_as_few_images() -> None:
    config = configure(BaselineConfig, preset="quick", dataset="toy")
    assert spec.resolve(config, data_of(20_000)._replace(limit_train=1000), device=CPU).epochs == 20


def test_a_run_that_is_resumed_has_the_epochs_that_it_recorded() -> None:
    first = resolved(500, preset="quick")
    again = from_json(BaselineConfig, to_json(first))
    assert first.epochs == 40
    assert spec.resolve(again, data_of(500), device=CPU).epochs == 40
    assert spec.resolve(replace(again, epochs=7), data_of(500), device=CPU).epochs == 7


def test_studies_whose_epochs_follow_are_not_those_whose_epochs_were_given() -> None:
    follows, given = (configure(ReproduceConfig, preset="quick", **one) for one in ({}, {"epochs": 2}))
    assert to_json(stages(follows).students[0]) == to_json(stages(given).students[0])
    assert study_identity(follows) != study_identity(given)
    follows, given = (configure(SweepConfig, preset="quick", **one) for one in ({}, {"epochs": 2}))
    assert {one.min_steps for one in sweep_configs(follows)} == {MIN_STEPS["quick"]["distill"]}
    assert sweep_identity(follows) != sweep_identity(given)


# --- recipes


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("arch", [*MODELS, "mine:net"])
def test_a_model_that_is_named_brings_its_recipe(kind: type[TrainConfig], arch: str) -> None:
    config = configure(kind, arch=arch)
    expected = (250, 0.25, 1.2e-3) if arch == "fastresnet" else (100, 0.1, 5e-4)
    assert (config.batch_size, config.lr, config.weight_decay) == expected
    assert set(config.given or ()) == {"arch"}
    assert configure(kind, arch=arch, lr=0.3).lr == 0.3
    original = configure(kind, preset="original", arch=arch)
    assert (original.batch_size, original.lr, original.weight_decay) == (100, 0.001, 0.0)


def test_a_model_that_is_not_named_has_the_recipe_of_its_row() -> None:
    for kind in TRAINING:
        assert configure(kind, arch=kind.arch) == configure(kind) == kind()


def test_each_stage_of_a_study_has_the_recipe_of_its_own_model() -> None:
    plan = stages(configure(ReproduceConfig, arch="fastresnet", teacher_arch="resnet18", teacher_weight_decay=1e-4))
    assert {one.lr for one in (*plan.students, *plan.baselines)} == {0.25}
    assert (plan.teacher.lr, plan.teacher.weight_decay) == (0.1, 1e-4)


# --- what is said


def notes(kind: type[TrainConfig] = BaselineConfig, *, num_train: int = 300, **given: Any) -> list[str]:
    data = data_of(num_train, side=32, val_labels=given.pop("val_labels", None))
    config = spec.resolve(configure(kind, dataset="toy", **given), data, device=CPU)
    run = spec.build_spec(config, data, device=CPU, make_step=lambda *_, **__: None)  # type: ignore[arg-type]
    return list(announce._notes(run))


def test_nothing_is_said_of_an_ordinary_run() -> None:
    assert notes() == []


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (TeacherConfig, {"arch": "resnet20"}, "--arch=resnet20 brings batch_size=100, lr=0.1, weight_decay=0.0005"),
        (TeacherConfig, {"arch": "cnn5", "lr": 0.1}, "--arch=cnn5 brings batch_size=100, weight_decay=0.0005"),
        (
            TeacherConfig,
            {"arch": "resnet18"},
            "resnet18 has the stem for ImageNet, coarse for 32 pixels: --stem=cifar (reproduce: --teacher_stem=cifar) "
            "is for small images",
        ),
        (BaselineConfig, {"arch": "resnet18"}, "coarse for 32 pixels: --stem=cifar is for small images"),
        (BaselineConfig, {"size": 48}, "images kept at 32 pixels are enlarged to --size=48"),
        (BaselineConfig, {"batch_size": 5000}, "--batch_size=5000 is more than all 300 training images"),
        (
            BaselineConfig,
            {"epochs": 1},
            "3 steps are too few for the running statistics of BatchNorm: they are measured on the training images "
            "before each evaluation",
        ),
    ],
)
def test_what_one_may_not_expect_is_said(kind: type[TrainConfig], given: dict[str, Any], told: str) -> None:
    assert any(told in line for line in notes(kind, **given))


@pytest.mark.parametrize("given", [{"stem": "cifar"}, {"size": 64}])
def test_a_stem_that_fits_is_not_spoken_of(given: dict[str, Any]) -> None:
    assert not any("stem" in line for line in notes(arch="resnet18", **given))


# --- BatchNorm of short runs


def small_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 2))


def test_statistics_of_batch_norm_are_the_means_over_the_batches() -> None:
    model = small_model()
    batches = torch.rand(3, 16, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    untouched, random = [copy.deepcopy(model[i].state_dict()) for i in (0, 4)], torch.get_rng_state()
    measure_batch_norms(model, batches)
    maps = [model[0](batch).detach() for batch in batches]
    mean = torch.stack([one.mean((0, 2, 3)) for one in maps]).mean(0)
    variance = torch.stack([one.var((0, 2, 3)) for one in maps]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].momentum == 0.1
    assert not model.training
    assert torch.equal(random, torch.get_rng_state())  # dropout was in eval mode
    for before, layer in zip(untouched, (model[0], model[4]), strict=True):
        assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


class Frozen(nn.Module):
    """A model that keeps its normalisation in eval mode, as fine-tuning does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_model()

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self.net[1].eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def test_a_frozen_batch_norm_is_left_alone() -> None:
    model = Frozen()
    before = copy.deepcopy(model.state_dict())
    measure_batch_norms(model, torch.rand(2, 8, 3, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_only_evaluations_before_step_50_measure_anew() -> None:
    data = data_of(300, side=32)
    config = spec.resolve(BaselineConfig(dataset="toy", epochs=20), data, device=CPU)
    run = spec.build_spec(config, data, device=CPU, make_step=lambda *_, **__: None)  # type: ignore[arg-type]
    assert [run.is_early(iteration) for iteration in (1, 49, 50, 1000)] == [True, True, False, False]
    assert not run._replace(model=run.model._replace(network=nn.Linear(1, 1))).is_early(1)


# --- chunks of bytes


@pytest.mark.parametrize(
    ("side", "size", "expected"),
    [
        (32, 0, 500),
        (32, 32, 500),
        (64, 64, 500),
        (96, 0, 303),
        (32, 224, 55),
        (224, 32, 55),
        (1024, 0, 2),
        (2000, 0, 1),
    ],
)
def test_images_are_evaluated_in_chunks_of_bytes(side: int, size: int, expected: int) -> None:
    images = ImageSet(torch.zeros(1, 3, side, side, dtype=torch.uint8).expand(600, -1, -1, -1), torch.zeros(600).long())
    assert evaluation_batch_size(images, size) == expected
    assert expected * 3 * max(side, size) ** 2 * 4 <= 2**25 or expected == 1
    assert CacheSpec(all_images(images), 0, "none", size).chunk == expected
    if side <= 96:
        found = [len(batch.labels) for batch in evaluation_batches(all_images(images), size=size)]
        assert found == [expected] * (600 // expected) + ([600 % expected] if 600 % expected else [])


def test_no_chunk_leaves_an_image_out() -> None:
    images = ImageSet(torch.arange(250 * 3, dtype=torch.uint8).view(250, 3, 1, 1), torch.arange(250))
    whole, cut = (torch.cat([b.images for b in evaluation_batches(all_images(images), size=n)]) for n in (0, 224))
    assert torch.equal(whole, cut)
