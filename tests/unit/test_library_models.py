"""Models of timm and torchvision by name: names, options, input, head, weights from files made here, layers."""

import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from kdignite.checkpoints import Architecture
from kdignite.config import AdoptConfig, BaselineConfig, TeacherConfig, configure
from kdignite.data.preprocess import preparer
from kdignite.data.registry import is_code
from kdignite.data.specs import INTERPOLATIONS, Preprocessing
from kdignite.errors import UserError
from kdignite.models import libraries
from kdignite.models.layers import default_layers
from kdignite.models.options import option_flags, parse_options
from kdignite.models.outline import meta_state_dict
from kdignite.models.registry import build_model, check_model, default_size
from kdignite.training.initial_weights import (
    _as_its_library_does,
    architecture_of,
    check_and_fetch_weights,
    head_of,
    load_initial_weights,
)
from kdignite.training.model import check_and_fetch_model, interpolation_of

SMALL = "torchvision:mobilenet_v3_small"
TIMM = "timm:test_resnet"  # 0.3 M parameters


def told(work: Any) -> str:
    with pytest.raises(UserError) as caught:
        work()
    return str(caught.value)


def needs_timm() -> None:
    pytest.importorskip("timm")


# --- names and options


def test_a_name_of_a_library_is_no_code() -> None:
    assert not is_code(SMALL)
    assert not is_code("timm:resnet10t")
    assert is_code("timm.models:resnet10t")


def test_help_and_configs_import_no_library() -> None:
    code = (
        "import sys; import kdignite.models.registry, kdignite.cli, kdignite.config as c; "
        "c.configure(c.TeacherConfig, arch='resnet18'); "
        "sys.exit(bool({'torch', 'timm', 'torchvision'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        (("drop_rate=0.1", "img_size=64"), {"drop_rate": 0.1, "img_size": 64}),
        (("depths=2", "2", "6", "scale=1e-3"), {"depths": (2, 2, 6), "scale": 0.001}),
        (("act_layer=relu", "bias=true", "x=False"), {"act_layer": "relu", "bias": True, "x": False}),
        (None, {}),
    ],
)
def test_options_are_typed(typed: tuple[str, ...] | None, options: dict[str, Any]) -> None:
    assert parse_options(typed) == options
    again = option_flags("mine:net", options).get("arch_options", ())
    assert parse_options(item for one in again for item in one.split(",")) == options


@pytest.mark.parametrize("typed", [("0.1",), ("a-b=1",), ("x=",), ("x=1", "x=2")])
def test_options_that_are_none_are_refused(typed: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"^--arch_options"):
        BaselineConfig(arch_options=typed)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet19", {}, "torchvision has no model 'resnet19'; did you mean resnet1"),
        (SMALL, {"dropuot": 0.5}, f"{SMALL} takes no option dropuot; did you mean dropout? it takes "),
        (SMALL, {"weights": "DEFAULT"}, f"weights is no option of {SMALL} here: --weights, --size and the classes"),
        (SMALL, {"stem": "cifar"}, f"{SMALL} takes no --stem; resnet18, resnet34, resnet50 do"),
        (SMALL, {"dropout": "much"}, f"{SMALL} --arch_options=dropout=much cannot be built: "),
    ],
)
def test_names_and_options_that_are_not_there(name: str, options: dict[str, Any], message: str) -> None:
    assert told(lambda: build_model(name, num_classes=3, size=64, options=options)).startswith(message)


def test_an_unknown_option_is_told_before_the_data_are_read() -> None:
    config = configure(TeacherConfig, arch=SMALL, arch_options=("foo=1",), dataset="folder:nowhere")
    assert told(lambda: check_and_fetch_model(config)).startswith(f"{SMALL} takes no option foo; it takes ")


@pytest.mark.parametrize("option", ["width", "widths", "stem"])  # the last two are also those of models here
def test_a_function_of_ones_own_takes_options_too(option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_options.py").write_text(
        "from torch import nn\n"
        f"def net(num_classes, {option}=4):\n"
        f"    return nn.Sequential(nn.Conv2d(3, {option}, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),"
        f" nn.Linear({option}, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_options", raising=False)
    model = build_model("own_options:net", num_classes=3, size=16, options={option: 7})
    assert model[3].in_features == 7
    assert option_flags("own_options:net", {option: 7}) == {"arch_options": [f"{option}=7"]}
    refused = told(lambda: build_model("own_options:net", num_classes=3, size=16, options={"wide": 7}))
    assert "own_options:net must be callable as function(num_classes=3, wide=7)" in refused


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kdignite.models.timm_models", raising=False)
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(
        libraries.importlib,
        "import_module",
        lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name="timm")),
    )
    message = told(lambda: check_model("timm:resnet10t", size=64, options={}))
    assert message == "timm:resnet10t needs timm, which is not installed: pip install timm"


# --- how a model is fed


def test_a_model_brings_the_size_it_is_made_for_which_flags_and_presets_override() -> None:
    assert default_size("cnn5", {}) is None
    assert configure(TeacherConfig, arch="torchvision:inception_v3").size == 299
    assert configure(TeacherConfig, arch="torchvision:vit_b_16", arch_options=("image_size=64",)).size == 64
    assert configure(TeacherConfig, arch="torchvision:inception_v3", size=96).size == 96
    assert configure(TeacherConfig, arch="torchvision:inception_v3", preset="pictures").size == 224


def test_statistics_and_interpolation_are_those_of_the_weights() -> None:
    own = libraries.own_input("torchvision:swin_v2_t", {})
    assert own == (256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
    assert interpolation_of(Architecture("torchvision:swin_v2_t", {})) == "bicubic, antialiased"
    assert interpolation_of(Architecture("resnet18", {})) == "bilinear, antialiased"
    assert told(lambda: check_and_fetch_model(BaselineConfig(normalize="model"))).startswith(
        "--normalize=model is for timm:NAME and torchv"
    )


@pytest.mark.parametrize("how", INTERPOLATIONS)
def test_images_are_resized_as_the_description_says(how: str) -> None:
    images = torch.randint(256, (2, 3, 24, 24), dtype=torch.uint8)
    prepared = preparer(Preprocessing(16, (0.0,) * 3, (1.0,) * 3, how), device=torch.device("cpu"))(images)
    mode = torchvision.transforms.InterpolationMode(how.partition(",")[0])
    expected = torchvision.transforms.functional.resize(images.float() / 255, [16, 16], mode, antialias=True).clamp(
        0, 1
    )
    assert torch.allclose(prepared, expected, atol=1e-5)


def test_adopt_asks_only_for_what_a_library_does_not_say() -> None:
    assert AdoptConfig(file="x", arch=SMALL).size is None
    assert "adopt needs --size, --mean, --std" in told(lambda: AdoptConfig(file="x", arch="cnn5"))


# --- heads and weights


@pytest.mark.parametrize(
    ("name", "head"),
    [
        (SMALL, ["classifier.3.weight", "classifier.3.bias"]),
        ("torchvision:squeezenet1_1", ["classifier.1.weight", "classifier.1.bias"]),  # a convolution
    ],
)
def test_the_head_is_what_the_number_of_classes_changes(name: str, head: list[str]) -> None:
    model = build_model(name, num_classes=3, size=64, options={})
    assert head_of(model, Architecture(name, {}), num_classes=3, size=64) == head


def weights_of(name: str, path: Path, *, num_classes: int = 5, size: int = 64) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    weights = build_model(name, num_classes=num_classes, size=size, options={}).state_dict()
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("name", [SMALL, TIMM])
def test_a_file_is_loaded_but_for_a_head_of_other_classes(
    name: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == TIMM:
        needs_timm()
    path = tmp_path / f"theirs{suffix}"
    theirs = weights_of(name, path)
    model = build_model(name, num_classes=3, size=64, options={})
    head = head_of(model, Architecture(name, {}), num_classes=3, size=64)
    fresh = {key: model.state_dict()[key].clone() for key in head}
    load_initial_weights(model, BaselineConfig(arch=name, weights=str(path), size=64), head=head)
    for key, value in model.state_dict().items():
        assert torch.equal(value, fresh[key] if key in head else theirs[key]), key
    assert f"weights   {path}; a new head: {', '.join(head)}\n" in capsys.readouterr().out


def test_files_of_torchvision_are_converted_as_it_does_with_a_line() -> None:
    own = torch.nn.ModuleDict({"denselayer1": torch.nn.ModuleDict({"norm1": torch.nn.LayerNorm(2)})})
    norm = {key: torch.rand(2) for key in ("denselayer1.norm.1.weight", "denselayer1.norm.1.bias")}
    aux = "aux1.conv.weight"
    new, [line] = _as_its_library_does(own, {**norm, aux: torch.ones(1)}, name=SMALL, head=[])
    assert {key: value.tolist() for key, value in new.items()} == {
        key.replace("m.1", "m1"): value.tolist() for key, value in norm.items()
    }
    assert line == f"torchvision renames, resizes or leaves out 3 tensors of the file: {', '.join([*norm, aux])}"
    odd = {"body.weight": torch.ones(1)}
    assert _as_its_library_does(own, odd, name=SMALL, head=[]) == (odd, [])


def test_pretrained_weights_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    needs_timm()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))

    def no_network(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    config = BaselineConfig(arch="timm:resnet10t", weights="pretrained", size=64)
    assert told(lambda: check_and_fetch_weights(config)) == (
        "the pretrained weights of timm:resnet10t cannot be fetched (no route to host); give --weights=FILE (a state "
        "dict of timm's resnet10t, from the repository timm/resnet10t.c3_in1k of the Hugging Face hub) or "
        "--weights=none"
    )


def test_the_options_of_a_config_are_part_of_the_architecture() -> None:
    config = BaselineConfig(arch=SMALL, arch_options=("dropout=0.5",))
    assert architecture_of(config) == Architecture(SMALL, {"dropout": 0.5})
    assert build_model(SMALL, num_classes=3, size=64, options={"dropout": 0.5}).classifier[2].p == 0.5
    shapes = meta_state_dict(SMALL, num_classes=3, size=64, options={"dropout": 0.5})
    assert shapes is not None
    assert all(value.is_meta for value in shapes.values())


# --- timm


def test_names_sizes_and_options_of_timm() -> None:
    needs_timm()
    assert told(lambda: check_model("timm:resnet10x", size=64, options={})).startswith(
        "timm has no model 'resnet10x'; did you mean resnet10t"
    )
    assert told(lambda: check_model("timm:resnet10t.mine", size=64, options={})).startswith(
        "timm has no model 'resnet10t.mine'; did you mean resnet10t"
    )
    check_model("timm:resnet10t.c3_in1k", size=64, options={})
    assert configure(TeacherConfig, arch="timm:resnet10t").size == 176
    vit = "timm:test_vit"
    assert default_size(vit, {"img_size": 64}) == 64
    sized = build_model(vit, num_classes=3, size=64, options={})
    assert sized(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    refused = told(lambda: build_model(TIMM, num_classes=3, size=64, options={"img_size": 64}))
    assert refused.startswith(f"{TIMM} takes no option img_size; --size is the side of its images, it takes ")
    assert "drop_rate" in refused


# --- layers


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        (SMALL, 160, ("features.1", "features.3", "features.8", "features")),
        (SMALL, 8, ("features.0", "features.1", "features.1", "features.1")),
        ("timm:test_resnet", 160, ("layer1", "layer2", "layer3", "layer4")),
        ("timm:test_vit", 160, ("blocks.0", "blocks.2", "blocks.3", "blocks.5")),
    ],
)
def test_layers_that_are_compared(name: str, size: int, layers: tuple[str, ...]) -> None:
    if name.startswith("timm:"):
        needs_timm()
    assert default_layers(build_model(name, num_classes=2, size=size, options={}), size=size) == layers
