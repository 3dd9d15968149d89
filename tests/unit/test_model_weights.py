"""Initial weights from elsewhere: all of them, or none and the reason."""

import socket
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kdignite.errors import UserError
from kdignite.models.registry import MODELS, build_model
from kdignite.models.weights import PRETRAINED_MODELS, pretrained_file, transfer_weights

State = dict[str, Tensor]


def build(name: str = "cnn5", *, num_classes: int = 10, **options: Any) -> nn.Module:
    options = options or ({"widths": (8, 6, 5, 4, 3)} if name == "cnn5" else {})
    return build_model(name, num_classes=num_classes, size=32, options=options)


def trained(name: str = "cnn5", **arguments: Any) -> State:
    """A state dict of a model whose every tensor differs from those of any fresh model."""
    state = build(name, **arguments).state_dict()
    return {
        key: torch.rand(value.shape) + 1 if value.is_floating_point() else value + 5 for key, value in state.items()
    }


def snapshot(model: nn.Module) -> State:
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def refused(model: nn.Module, state: State) -> str:
    """The message of an error that leaves the model untouched."""
    before = snapshot(model)
    with pytest.raises(UserError, match=r"^--weights=FILE does not fit the model, nothing was loaded; ") as caught:
        transfer_weights(model, state, source="--weights=FILE")
    assert equal(before, model.state_dict())
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- transfer


@pytest.mark.parametrize("name", ["cnn5", "fastresnet", "resnet20", "resnet18"])
def test_everything_is_loaded(name: str) -> None:
    model, state = build(name), trained(name)
    assert transfer_weights(model, state, source="x") == []
    assert equal(model.state_dict(), state)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("cnn5", ["linear.weight", "linear.bias"]),
        ("fastresnet", ["head.weight"]),
        ("resnet20", ["linear.weight", "linear.bias"]),
        ("resnet18", ["fc.weight", "fc.bias"]),
    ],
)
def test_a_head_of_another_shape_stays_as_initialised(name: str, head: list[str]) -> None:
    model, state = build(name, num_classes=10), trained(name, num_classes=1000)
    before = snapshot(model)
    assert transfer_weights(model, state, source="x") == head
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key] if key in head else state[key]) for key in after)


def test_a_head_that_is_missing_in_part_stays_whole() -> None:
    model, state = build(), trained()
    del state["linear.bias"]
    before = snapshot(model)
    assert transfer_weights(model, state, source="x") == ["linear.weight", "linear.bias"]
    assert torch.equal(model.state_dict()["linear.weight"], before["linear.weight"])


def test_a_model_without_a_linear_layer_has_no_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert transfer_weights(model, {"0.weight": torch.ones(10, 3, 1, 1), "0.bias": torch.ones(10)}, source="x") == []
    assert model.state_dict()["0.bias"].sum() == 10
    assert "0.bias (4,) instead of (10,)" in refused(
        model, {"0.weight": torch.ones(10, 3, 1, 1), "0.bias": torch.ones(4)}
    )


def test_a_model_that_is_a_linear_layer_is_all_head() -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    assert transfer_weights(nn.Linear(3, 2), state, source="x") == []
    assert transfer_weights(nn.Linear(3, 4), state, source="x") == ["weight", "bias"]


def test_counters_of_batches_may_be_missing() -> None:
    model, state = build(), trained()
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert transfer_weights(model, old, source="x") == []
    assert torch.equal(model.state_dict()["norm3.running_var"], state["norm3.running_var"])
    assert model.state_dict()["norm3.num_batches_tracked"] == 0


def test_half_precision_is_loaded_into_the_models_own() -> None:
    model, state = build(), trained()
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    transfer_weights(model, half, source="x")
    assert model.state_dict()["conv1.weight"].dtype == torch.float32
    assert torch.equal(model.state_dict()["conv1.weight"], half["conv1.weight"].float())


def test_missing_and_unexpected_keys_are_listed() -> None:
    state = trained()
    state["convolution2.weight"] = state.pop("conv2.weight")
    message = refused(build(), state)
    assert "(1 missing: conv2.weight; 1 unexpected: convolution2.weight)" in message


def test_long_lists_are_cut() -> None:
    message = refused(build(), {})
    body = [key for key in build().state_dict() if "linear" not in key and "num_batches" not in key]
    assert len(body) == 5 * 5
    assert f"(25 missing: {', '.join(body[:6])} and 19 more)" in message


def test_shapes_are_listed() -> None:
    message = refused(build("resnet18", stem="cifar"), trained("resnet18", stem="imagenet"))
    assert message.endswith("(1 of another shape: conv1.weight (64, 3, 7, 7) instead of (64, 3, 3, 3))")


def test_nothing_is_loaded_if_the_last_tensor_does_not_fit() -> None:
    state = trained()
    state["norm5.running_var"] = torch.ones(9)
    assert "norm5.running_var (9,) instead of (3,)" in refused(build(), state)


# --- torchvision's weights


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", PRETRAINED_MODELS)
def test_imagenet_weights_are_fetched_once(name: str, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, float | None]] = []

    def download(url: str, dst: str, hash_prefix: str, progress: bool) -> None:
        calls.append((hash_prefix, socket.getdefaulttimeout()))
        assert url.endswith(f"/{name}-{hash_prefix}.pth")
        torch.save({"conv1.weight": torch.ones(1)}, dst)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    file = pretrained_file(name)
    assert file == pretrained_file(name)
    [(sha256, seconds)] = calls
    assert file == hub / "checkpoints" / f"{name}-{sha256}.pth"
    assert len(sha256) == 8
    assert int(sha256, 16) > 0
    assert seconds == 15
    assert socket.getdefaulttimeout() is None
    assert torch.load(file, weights_only=True)["conv1.weight"] == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (URLError("no route to host"), "no route to host"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError('invalid hash value (expected "a",\n got "b")'), 'invalid hash value (expected "a", got "b")'),
    ],
)
def test_imagenet_weights_that_cannot_be_fetched(
    error: Exception, why: str, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    url = torchvision.models.get_model_weights("resnet50")["IMAGENET1K_V1"].url
    with pytest.raises(UserError) as caught:
        pretrained_file("resnet50")
    assert str(caught.value) == (
        f"the pretrained weights of resnet50 cannot be fetched ({why}); give --weights=FILE (a state dict of "
        f"torchvision's resnet50, from {url}) or --weights=none"
    )
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("name", sorted({*MODELS, "package.module:function"} - set(PRETRAINED_MODELS)))
def test_models_without_imagenet_weights(name: str) -> None:
    message = (
        f"^{name} has no pretrained weights; resnet18, resnet34, resnet50 have, and most of timm:NAME and "
        "torchvision:NAME; give --weights=FILE or --weights=none$"
    )
    with pytest.raises(UserError, match=message):
        pretrained_file(name)
