"""From a config to device, data and model."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from kdignite import processes
from kdignite.checkpoints import Architecture, Checkpoint, Description, Origin, Validation
from kdignite.commands.baseline import baseline as train_baseline
from kdignite.commands.distill import distill
from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, TrainConfig
from kdignite.data.preprocess import preparer
from kdignite.data.source import ImageSet, Source
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from kdignite.data.splits import split_source
from kdignite.errors import UserError
from kdignite.evaluation import predictor
from kdignite.models.registry import build_model
from kdignite.training import data as data_module
from kdignite.training import device as device_module
from kdignite.training import initial_weights, spec
from kdignite.training import model as model_module
from kdignite.training.data import Data

CPU = torch.device("cpu")
WIDTHS = (3, 3, 3, 3, 3)
CLASSES = ("cat", "dog", "fox")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The number of threads belongs to the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def toy(*, own_val: bool = False) -> Data:
    """Noise of 60 images with 8 pixels a side, brighter in the images that come later."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.arange(60)[:, None, None, None]
    images = (torch.randint(0, 100, (60, 3, 8, 8), generator=generator) + 2 * ramp).to(torch.uint8)
    train = ImageSet(images, torch.arange(60) % 3)
    val = ImageSet(images[:9], torch.arange(9) % 3) if own_val else None
    source = Source("toy", CLASSES, train, val, None, "f" * 64, 12, 9, "flip")
    return Data(source, split_source(source, val_size=None), 8)


def baseline(**given: Any) -> BaselineConfig:
    return BaselineConfig(**{"widths": WIDTHS, "normalize": "data", "dataset": "toy", **given})


# --- device


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    """A machine with GPUs; those that were made the current one, one after another."""
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1] if taken else 0)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.mark.parametrize("available", [False, True])
def test_the_device_is_the_gpu_where_there_is_one_and_nothing_was_asked(
    monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    with_gpus(monkeypatch, 2 if available else 0)
    assert device_module.set_up_device("auto", threads=None) == torch.device("cuda:0" if available else "cpu")


def test_a_device_that_is_there_is_taken_by_its_number_and_made_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Graphs and threads that pin memory use the current one; `cuda` and `cuda:0` are one device on resuming."""
    current = with_gpus(monkeypatch, 2)
    assert device_module.set_up_device("cpu", threads=None) == CPU
    assert current == []
    for name, number in (("cuda", 0), ("cuda:1", 1), ("cuda", 1), ("cuda:0", 0)):
        assert device_module.set_up_device(name, threads=None) == torch.device("cuda", number)
        assert current[-1] == number


def test_a_gpu_computes_what_repeats_and_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(monkeypatch, 1)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = False, True, True, True  # others' wish
    device_module.set_up_device("cpu", threads=None)
    assert not cudnn.deterministic
    device_module.set_up_device("cuda", threads=None)
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32) == (True, False, False, False)


def test_each_process_gets_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = with_gpus(monkeypatch, 4)
    monkeypatch.setattr(processes, "world_size", lambda: 8)  # on two machines
    for number, name in ((0, "auto"), (3, "cuda")):
        monkeypatch.setattr(processes, "local_rank", lambda number=number: number)
        assert device_module.set_up_device(name, threads=None) == torch.device("cuda", number)
    assert taken == [0, 3]
    assert device_module.set_up_device("cpu", threads=None) == CPU
    with pytest.raises(UserError, match="--device=cuda:1 is one GPU for all processes: --device=cuda gives each"):
        device_module.set_up_device("cuda:1", threads=None)
    monkeypatch.setattr(processes, "local_rank", lambda: 4)
    with pytest.raises(UserError, match="torch sees 4 GPUs, fewer than processes: start one for each, or say --device"):
        device_module.set_up_device("auto", threads=None)


def test_processes_with_and_without_a_gpu_do_not_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "all_gather_object", lambda kind: [kind, "cuda"])
    with pytest.raises(UserError, match="some of the processes have a GPU and some have none: say --device=cpu"):
        device_module.set_up_device("cpu", threads=None)


@pytest.mark.parametrize(("world", "device"), [(1, "cpu"), (1, "cuda:0"), (2, "cpu")])
def test_batchnorm_over_all_processes_needs_several_and_gpus(
    monkeypatch: pytest.MonkeyPatch, world: int, device: str
) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: world)
    with pytest.raises(UserError, match=r"--sync_bn needs several processes, each with a GPU .*: leave it out"):
        spec.resolve(baseline(sync_bn=True), toy(), device=torch.device(device))


@pytest.mark.parametrize(("name", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_refused_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    told = refused(lambda: device_module.set_up_device(name, threads=None))
    assert told == f"--device={name} is not there: torch sees {count} GPUs; try --device=cpu"


@pytest.mark.parametrize("name", ["gpu", "", "mps", "meta", "cuda:x", "cuda:-1", "cuda:0:1", "CPU"])
def test_what_is_no_device_is_refused(name: str) -> None:
    told = refused(lambda: device_module.set_up_device(name, threads=None))
    assert told == f"--device must be auto, cpu, cuda or cuda:N, not {name!r}"


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"avx512_bf16": False, "avx2": True}, "off"),
        ({}, "off"),
    ],
)
def test_half_precision_is_chosen_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capabilities: dict[str, bool], chosen: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert device_module.choose_amp("auto", device=CPU) == chosen
    assert device_module.choose_amp("off", device=CPU) == "off"
    assert capsys.readouterr().out == ""
    assert device_module.choose_amp("bf16", device=CPU) == "bf16"
    told = "" if chosen == "bf16" else "warning   --amp=bf16: torch finds no instructions for it on cpu"
    assert capsys.readouterr().out[: len(told) or None] == told


@pytest.mark.parametrize(
    ("capabilities", "quick"),
    [({"avx512_fp16": True}, True), ({"amx_fp16": True}, True), ({"avx512_bf16": True}, False)],
)
def test_float16_is_never_chosen_and_warned_about_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capabilities: dict[str, bool], quick: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert device_module.choose_amp("auto", device=CPU) != "fp16"
    assert device_module.choose_amp("fp16", device=CPU) == "fp16"
    assert ("warning   --amp=fp16: torch finds no instructions for it on cpu" in capsys.readouterr().out) is not quick
    assert device_module.choose_amp("fp16", device=torch.device("cuda")) == "fp16"
    assert capsys.readouterr().out == ""


def test_a_torch_that_does_not_tell_what_the_processor_has_means_full_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert device_module.choose_amp("auto", device=CPU) == "off"


@pytest.mark.parametrize("supported", [False, True])
def test_half_precision_is_chosen_where_the_gpu_has_it(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    assert device_module.choose_amp("auto", device=torch.device("cuda")) == ("bf16" if supported else "off")


def test_tf32_is_float32_under_another_name_on_a_cpu() -> None:
    for name in ("amp", "teacher_amp"):
        config = DistillConfig(**{name: "tf32"})
        told = refused(lambda config=config: device_module.check_amp(config, device=CPU))
        assert told == f"--{name}=tf32 is for NVIDIA GPUs: on a CPU say --{name}=off, or bf16"
        device_module.check_amp(config, device=torch.device("cuda", 0))
    for config in (baseline(amp="bf16"), baseline(name="tf32")):
        device_module.check_amp(config, device=CPU)


def test_it_is_refused_before_data_are_loaded(tmp_path: Path) -> None:
    nothing: dict[str, Any] = {"data_root": str(tmp_path / "none"), "device": "cpu", "amp": "tf32"}
    for command, config in ((distill, DistillConfig(**nothing)), (train_baseline, BaselineConfig(**nothing))):
        told = refused(lambda command=command, config=config: command(config, root=tmp_path))
        assert told.startswith("--amp=tf32 is for NVIDIA GPUs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("capability", "has"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_a_gpu_that_has_no_tf32_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], capability: tuple[int, int], has: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert device_module.choose_amp("tf32", device=torch.device("cuda", 0)) == "tf32"
    assert ("warning   --amp=tf32: torch finds no instructions for it on cuda:0" in capsys.readouterr().out) is not has


def test_threads_are_set_where_a_number_is_given() -> None:
    torch.set_num_threads(2)
    device_module.set_up_device("cpu", threads=None)
    assert torch.get_num_threads() == 2
    device_module.set_up_device("cpu", threads=1)
    assert torch.get_num_threads() == 1


# --- data


def test_the_folder_of_data_is_the_flag_then_the_environment_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDIGNITE_DATA", "/there")
    assert data_module.data_folder("here") == Path("here")
    assert data_module.data_folder(None) == Path("/there")
    monkeypatch.setenv("KDIGNITE_DATA", "")
    assert data_module.data_folder(None) == Path("data")
    monkeypatch.delenv("KDIGNITE_DATA")
    assert data_module.data_folder(None) == Path("data")


def test_opened_data_are_cut_and_lie_in_memory_once() -> None:
    data = data_module.open_data("digits", data_root=None, val_size=None, image_size=64, device=CPU)
    parts = data.splits[:3]
    assert [len(part.indices) for part in parts] == [1297, 200, 300]
    assert data.image_size == 32  # what the images are, not what was asked for
    assert len({id(part.images) for part in parts}) == 1
    assert len(torch.cat([part.indices for part in parts]).unique()) == 1797
    assert data.splits.hash == split_source(data.source, val_size=None).hash


def test_the_data_of_a_run_are_those_of_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(data_module, "open_data", lambda name, **given: (asked.append((name, given)), toy())[1])
    data_module.open_training_data(baseline(data_root="d", val_size=7, image_size=48, limit_train=5), device=CPU)
    data_module.open_training_data(DistillConfig(size=64), device=CPU)
    usual = {"device": CPU, "skip_broken": False}
    assert asked == [
        ("toy", {"data_root": "d", "val_size": 7, "image_size": 48, "limit_train": 5, **usual}),
        (
            "cifar10",
            {"data_root": None, "val_size": None, "image_size": 64, "limit_train": None, **usual},
        ),
    ]


def test_what_was_left_open_is_settled() -> None:
    config = BaselineConfig(dataset=None, widths=WIDTHS)
    resolved = spec.resolve(config, toy(), device=CPU)
    expected = {
        "dataset": "toy",
        "val_size": 12,
        "image_size": 8,
        "augment": "flip",
        "normalize": "data",
        "device": "cpu",
        "amp": device_module.choose_amp("auto", device=CPU),
        "threads": torch.get_num_threads(),
    }
    assert asdict(resolved) == {**asdict(config), **expected}


def test_what_was_given_stays() -> None:
    given = {
        "amp": "off",
        "val_size": 15,
        "augment": "none",
        "normalize": "imagenet",
        "epochs": 3,
        "warmup_epochs": 1.0,
    }
    resolved = spec.resolve(baseline(**given, schedule="cosine"), toy(), device=CPU)
    assert {key: getattr(resolved, key) for key in given} == given


def test_data_that_bring_their_own_validation_images_have_no_val_size() -> None:
    assert spec.resolve(baseline(), toy(own_val=True), device=CPU).val_size is None


def test_imagenet_weights_are_fed_with_the_statistics_of_imagenet() -> None:
    config = TeacherConfig(arch="resnet18", weights="pretrained")
    assert spec.resolve(config, toy(), device=CPU).normalize == "imagenet"


def test_a_dry_run_is_one_epoch_and_partial() -> None:
    config = baseline(fast_dev_run=True, epochs=9, warmup_epochs=4.0, schedule="cosine")
    resolved = spec.resolve(config, toy(), device=CPU)
    assert (resolved.epochs, resolved.warmup_epochs) == (1, 0.0)
    assert data_module.is_partial(resolved, toy())


def test_a_limit_makes_a_run_partial_and_a_seed_does_not() -> None:
    data = toy()
    num_images = len(data.splits.train.indices)
    assert data_module.is_partial(baseline(), data._replace(limit_train=5))
    assert not data_module.is_partial(baseline(seed=5), data)
    assert not data_module.is_partial(baseline(), data._replace(limit_train=num_images))


def test_a_size_that_the_images_do_not_have_is_refused() -> None:
    told = refused(lambda: spec.resolve(baseline(image_size=64), toy(), device=CPU))
    assert re.fullmatch(r"the images of \w+ are \d+ pixels wide: leave out --image_size", told)


def test_a_limit_takes_some_of_the_training_images() -> None:
    data = toy()
    part = data._replace(limit_train=6).train
    assert len(part.indices) == 6
    assert set(part.indices.tolist()) <= set(data.splits.train.indices.tolist())
    assert torch.equal(data.train.indices, data.splits.train.indices)


# --- model


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in model.state_dict().values()]


def test_initial_weights_are_a_function_of_the_seed() -> None:
    data = toy()
    first = weights_of(model_module.prepare_model(baseline(seed=4), data, device=CPU).network)
    torch.rand(7)
    state = torch.get_rng_state()
    again = weights_of(model_module.prepare_model(baseline(seed=4), data, device=CPU).network)
    other = weights_of(model_module.prepare_model(baseline(seed=5), data, device=CPU).network)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


def test_student_and_baseline_start_from_the_same_weights() -> None:
    data = toy()
    distill = DistillConfig(widths=WIDTHS, normalize="data", seed=4, alpha=0.3)
    pairs = zip(
        weights_of(model_module.prepare_model(distill, data, device=CPU).network),
        weights_of(model_module.prepare_model(baseline(seed=4), data, device=CPU).network),
        strict=True,
    )
    assert all(torch.equal(*pair) for pair in pairs)


def test_a_student_is_normalized_with_the_statistics_of_its_training_images_alone() -> None:
    data = toy()
    found = model_module.prepare_model(baseline(), data, device=CPU)
    part = data.splits.train
    pixels = part.images.images[part.indices].numpy() / 255
    np.testing.assert_allclose(found.preprocessing.mean, pixels.mean((0, 2, 3)), atol=6e-5)
    np.testing.assert_allclose(found.preprocessing.std, pixels.std((0, 2, 3)), atol=6e-5)
    everything = data.source.train.images.numpy() / 255
    assert not np.allclose(found.preprocessing.mean, everything.mean((0, 2, 3)), atol=6e-5)


def test_statistics_do_not_depend_on_a_limit_and_can_be_those_of_imagenet() -> None:
    data = toy()
    whole = model_module.prepare_model(baseline(), data, device=CPU).preprocessing
    limited = data._replace(limit_train=6)
    assert model_module.prepare_model(baseline(), limited, device=CPU).preprocessing == whole
    imagenet = model_module.prepare_model(baseline(normalize="imagenet"), data, device=CPU).preprocessing
    assert imagenet == Preprocessing(32, IMAGENET_MEAN, IMAGENET_STD)


def test_a_student_knows_its_architecture_and_fits_the_classes() -> None:
    student = model_module.prepare_model(baseline(), toy(), device=CPU)
    assert student.architecture == Architecture("cnn5", {"widths": WIDTHS})
    images = toy().source.train.images[:2]
    assert student.network(student.prepare(images)).shape == (2, 3)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, {}),
        ({"widths": WIDTHS}, {"widths": WIDTHS}),
        ({"arch": "resnet18", "stem": "cifar"}, {"stem": "cifar"}),
    ],
)
def test_an_architecture_names_the_options_that_were_set(given: dict[str, Any], options: dict[str, Any]) -> None:
    assert initial_weights.architecture_of(BaselineConfig(**given)).options == options


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            TeacherConfig(arch="resnet18", weights="pretrained", stem="cifar"),
            "--weights=pretrained are made for --stem=imagenet: leave out --stem=cifar, or --weights",
        ),
        (
            BaselineConfig(weights="missing.pt"),
            "--weights must be none, pretrained or a file; there is no file missing.pt",
        ),
        (BaselineConfig(key="ema"), "--key=ema is for a file of weights: --weights=FILE"),
        (BaselineConfig(size=16), "cnn5 needs images of at least 32 pixels, not --size=16; try --size=32"),
        (TeacherConfig(arch="resnet20", widths=WIDTHS), "resnet20 takes no --widths; cnn5, fastresnet do"),
    ],
)
def test_a_model_that_cannot_be_had_is_refused_early(config: TrainConfig, told: str) -> None:
    assert refused(lambda: model_module.check_and_fetch_model(config)) == told


def test_a_model_that_can_be_had_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(initial_weights, "pretrained_file", asked.append)
    (tmp_path / "w.pt").write_text("")
    for weights in ("none", str(tmp_path / "w.pt")):
        model_module.check_and_fetch_model(baseline(weights=weights))
    model_module.check_and_fetch_model(TeacherConfig(arch="resnet50", weights="pretrained"))
    assert asked == ["resnet50"]  # before any data are fetched


def test_a_function_that_cannot_be_imported_is_refused_early() -> None:
    told = refused(lambda: model_module.check_and_fetch_model(TeacherConfig(arch="no_such_module:net")))
    assert told.startswith("--arch: there is no module no_such_module")


def model(num_classes: int = 3, *, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model("cnn5", num_classes=num_classes, size=32, options={"widths": WIDTHS})


def test_weights_from_a_file_replace_the_initial_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = model(seed=9)
    torch.save({"state_dict": given.state_dict()}, tmp_path / "w.pt")
    config = baseline(weights=str(tmp_path / "w.pt"))
    student = model_module.prepare_model(config, toy(), device=CPU)
    assert all(map(torch.equal, weights_of(student.network), weights_of(given)))
    assert capsys.readouterr().out == f"weights   {tmp_path / 'w.pt'}\n"


def test_weights_with_another_head_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(model(1000, seed=9).state_dict(), tmp_path / "w.pt")
    model_module.prepare_model(baseline(weights=str(tmp_path / "w.pt")), toy(), device=CPU)
    assert capsys.readouterr().out == f"weights   {tmp_path / 'w.pt'}; a new head: linear.weight, linear.bias\n"


def test_without_weights_nothing_is_loaded_or_said(capsys: pytest.CaptureFixture[str]) -> None:
    fresh = model()
    before = weights_of(fresh)
    initial_weights.load_initial_weights(fresh, baseline())
    assert all(map(torch.equal, weights_of(fresh), before))
    assert capsys.readouterr().out == ""


def test_the_origin_says_what_a_model_was_trained_on() -> None:
    data = toy()._replace(limit_train=6)
    config = spec.resolve(baseline(label_smoothing=0.1), data, device=CPU)
    assert model_module.origin_of(config, data) == Origin(
        command="baseline",
        dataset="toy",
        fingerprint="f" * 64,
        split=data.splits.hash,
        val_size=12,
        image_size=8,
        augment="flip",
        label_smoothing=0.1,
        partial=True,
    )


# --- revive


PREPROCESSING = Preprocessing(32, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def checkpoint(
    *, classes: tuple[str, ...] = CLASSES, architecture: Architecture | None = None, own: nn.Module | None = None
) -> Checkpoint:
    description = Description(
        architecture or Architecture("cnn5", {"widths": WIDTHS}),
        classes,
        PREPROCESSING,
        Origin("teacher", "toy", "f", "s", 12, 8, "flip", 0.0, False),
        Validation(5, 12, 1),
    )
    weights = (own or model(len(classes))).state_dict()
    return Checkpoint(description, {**weights}, Path("runs/teacher/best.safetensors"))


def revived(found: Checkpoint, **given: Any) -> torch.Tensor:
    """Logits of the toy images."""
    options = {"classes": CLASSES, "device": CPU, "arch": None, "again": "--arch=", **given}
    return model_module.load_predictor(found, **options)(toy().source.train.images)


def test_a_revived_model_answers_as_the_one_that_was_saved() -> None:
    own = model(seed=6)
    expected = predictor(own, prepare=preparer(PREPROCESSING, device=CPU))(toy().source.train.images)
    np.testing.assert_allclose(revived(checkpoint(own=own)), expected, rtol=1e-5, atol=1e-6)


def test_outputs_come_in_the_order_of_the_classes_of_the_data() -> None:
    own = revived(checkpoint())
    for classes in (("dog", "fox", "cat"), ("fox", "cat", "dog"), ("dog", "cat", "fox")):
        answers = revived(checkpoint(), classes=classes)
        for position, name in enumerate(classes):
            assert torch.equal(answers[:, position], own[:, CLASSES.index(name)])


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        (("cat", "dog"), "(3 against 2): fox"),
        (("cat", "dog", "owl"), "(3 against 3): fox, owl"),
        (tuple("abcdefghij"), "(3 against 10): a, b, c, cat, d, dog and 7 more"),
    ],
)
def test_other_classes_are_refused(classes: tuple[str, ...], told: str) -> None:
    assert refused(lambda: revived(checkpoint(), classes=classes)) == (
        f"runs/teacher/best.safetensors has other classes than the data {told}"
    )


def test_weights_of_another_architecture_are_refused() -> None:
    wider = Architecture("cnn5", {"widths": (4, 4, 4, 4, 4)})
    told = refused(lambda: revived(checkpoint(architecture=wider)))
    assert told.startswith("the weights of runs/teacher/best.safetensors do not fit the model: ")


def test_a_broken_weight_is_refused() -> None:
    own = model()
    own.state_dict()["linear.bias"][0] = torch.nan
    told = refused(lambda: revived(checkpoint(own=own)))
    assert told == "the weights of runs/teacher/best.safetensors are not finite numbers: linear.bias"


USER_MODEL = """
import torch
print("IMPORTED")
def make(num_classes):
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, num_classes))
"""


def test_a_model_of_your_own_is_built_only_where_its_name_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_setup_model.py").write_text(USER_MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    name = "my_setup_model:make"
    own = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    found = checkpoint(architecture=Architecture(name, {}), own=own)
    for arch in (None, "my_setup_model:other", "cnn5"):
        told = refused(lambda arch=arch: revived(found, arch=arch))
        assert told == (
            "runs/teacher/best.safetensors was made with a model of your own, and a file never names code to run: "
            "repeat its name: --arch=my_setup_model:make"
        )
    assert "IMPORTED" not in capsys.readouterr().out  # the file alone did not bring it in
    expected = predictor(own, prepare=preparer(PREPROCESSING, device=CPU))(toy().source.train.images)
    assert torch.equal(revived(found, arch=name), expected)
