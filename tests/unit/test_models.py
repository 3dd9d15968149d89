"""Every registered model, and the errors of those that cannot be built."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdignite.errors import UserError
from kdignite.models.cifar_resnet import shortcut
from kdignite.models.cnn5 import cnn5
from kdignite.models.registry import MODELS, build_model, check_model, init_from_data
from kdignite.models.torchvision_resnet import torchvision_resnet

BIG = {"resnet34", "resnet44", "resnet50", "resnet56", "resnet110"}  # built once, for their shape
LIGHT = sorted(set(MODELS) - BIG)


def build(name: str, *, num_classes: int = 10, size: int = 32, **options: Any) -> nn.Module:
    return build_model(name, num_classes=num_classes, size=size, options=options)


def seeded(seed: int, name: str, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build(name, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture
def mine() -> Iterator[ModuleType]:
    module = ModuleType("user_models")
    sys.modules["user_models"] = module
    yield module
    del sys.modules["user_models"]


def test_the_list_is_free_of_torch() -> None:
    code = (
        "import sys; from kdignite.models.registry import MODELS, check_model;"
        "[check_model(name, size=224, options={}) for name in MODELS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


SHAPES = [(name, entry.min_size) for name, entry in MODELS.items()]
SHAPES += [(name, 32) for name, entry in MODELS.items() if entry.min_size < 32 and name not in BIG]
SHAPES += [("cnn5", 64), ("resnet18", 64), ("cnn5", 75)]


@pytest.mark.parametrize(("name", "size"), SHAPES)
def test_forward_shape(name: str, size: int) -> None:
    model = build(name, num_classes=7, size=size)
    assert model.training
    assert model.eval()(torch.rand(3, 3, size, size)).shape == (3, 7)


@pytest.mark.parametrize("name", LIGHT)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = seeded(0, name)
    nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    trained = [(key, parameter) for key, parameter in model.named_parameters() if parameter.requires_grad]
    without = [key for key, p in trained if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


@pytest.mark.parametrize("name", LIGHT)
def test_seed_decides_the_weights(name: str) -> None:
    one, same, other = (seeded(seed, name).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", LIGHT)
def test_building_leaves_batchnorm_as_new(name: str) -> None:
    norms = [module for module in build(name).modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        fresh = nn.BatchNorm2d(norm.num_features)
        assert all(torch.equal(buffer, other) for buffer, other in zip(norm.buffers(), fresh.buffers(), strict=True))


# --- cnn5


@pytest.mark.parametrize("size", [32, 64, 96, 100, 224])
def test_cnn5_parameters_in_closed_form(size: int) -> None:
    widths = (8, 6, 5, 4, 3)
    convolutions = 9 * (3 * 8 + 8 * 6 + 6 * 5 + 5 * 4 + 4 * 3)
    linear = (3 * (size // 32) ** 2 + 1) * 10
    assert count(cnn5(num_classes=10, size=size, widths=widths)) == convolutions + 2 * sum(widths) + linear


def test_cnn5_has_the_published_widths_and_readable_keys() -> None:
    state = build("cnn5").state_dict()
    assert [state[f"conv{block}.weight"].shape[0] for block in range(1, 6)] == [64, 64, 64, 24, 12]
    assert [key for key in state if "conv" in key] == [f"conv{block}.weight" for block in range(1, 6)]
    assert state["linear.weight"].shape == (10, 12)
    assert build("cnn5", widths=(8,) * 5).state_dict()["linear.weight"].shape == (10, 8)


def relu_then_pool(model: nn.Sequential, images: Tensor) -> Tensor:
    """The order of the published network, with the weights of ours."""
    x = images
    for block in range(1, 6):
        convolution, norm = (model.get_submodule(f"{kind}{block}") for kind in ("conv", "norm"))
        x = nn.functional.max_pool2d(nn.functional.relu(norm(convolution(x))), 2)
    logits: Tensor = model.get_submodule("linear")(x.flatten(1))
    return logits


def test_cnn5_equals_relu_before_pooling() -> None:
    model = cnn5(num_classes=10, size=64, widths=(8, 8, 8, 8, 4)).double()
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    images.data[:2, :, :32] = 0.0  # equal neighbours: ties in the maximum
    labels = torch.arange(4)
    results = []
    for forward in (model, lambda x: relu_then_pool(model, x)):
        logits = forward(images)
        loss = nn.functional.cross_entropy(logits, labels)
        results.append((logits, *torch.autograd.grad(loss, [images, *model.parameters()])))
    assert len(results[0]) == 2 + 5 * 3 + 2
    for ours, published in zip(*results, strict=True):
        assert torch.equal(ours, published)


@pytest.mark.parametrize("name", [name for name, row in MODELS.items() if row.widths])
@pytest.mark.parametrize("wrong", [lambda w: w[1:], lambda w: (*w, 8), lambda w: (*w[1:], 0)])
def test_other_numbers_of_widths_are_refused(wrong: Callable[..., tuple[int, ...]], name: str) -> None:
    widths = wrong(MODELS[name].widths)
    message = rf"{name} needs {len(MODELS[name].widths)} channel counts .*, not {','.join(map(str, widths))}$"
    with pytest.raises(UserError, match=message):
        build(name, widths=widths)
    with pytest.raises(UserError, match=message):
        check_model(name, size=32, options={"widths": widths})


def test_fastresnet_has_the_widths_that_it_is_given() -> None:
    shapes = {key: tuple(value.shape) for key, value in build("fastresnet", widths=(8, 12, 20)).state_dict().items()}
    assert [shapes[f"stage{number}.widen.conv.weight"][:2] for number in (1, 2, 3)] == [(8, 24), (12, 8), (20, 12)]
    assert shapes["head.weight"] == (10, 20)
    wider = build("fastresnet", widths=(96, 192, 384))
    assert sum(one.numel() for one in wider.parameters()) == 4_342_008  # 9 (b w + 2 w w) + 6 w for a stage from b to w


# --- residual networks


@pytest.mark.parametrize(
    ("name", "published"),
    [("resnet20", 269_722), ("resnet32", None), ("resnet44", None), ("resnet56", 853_018), ("resnet110", 1_727_962)],
)
def test_cifar_resnet_parameters_in_closed_form(name: str, published: int | None) -> None:
    n = (int(name.removeprefix("resnet")) - 2) // 6
    convolutions = 9 * (3 * 16 + 2 * n * 16**2 + 16 * 32 + (2 * n - 1) * 32**2 + 32 * 64 + (2 * n - 1) * 64**2)
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    expected = convolutions + norms + 65 * 10
    assert published in (None, expected)
    assert count(build(name, size=8)) == expected


def test_option_a_shortcut_takes_every_second_pixel_and_adds_zeros() -> None:
    x = torch.randn(2, 4, 5, 6)
    y = shortcut(x, width=8, stride=2)
    assert y.shape == (2, 8, 3, 3)
    for row in range(3):
        for column in range(3):
            assert torch.equal(y[:, 2:6, row, column], x[:, :, 2 * row, 2 * column])
    assert y[:, :2].abs().max() == 0
    assert y[:, 6:].abs().max() == 0
    assert shortcut(x, width=4, stride=1) is x


def test_cifar_resnet_weights_have_the_scale_of_he() -> None:
    state = seeded(0, "resnet20").state_dict()
    for key, fan_out in (("layer1.0.conv1.weight", 16 * 9), ("layer3.2.conv2.weight", 64 * 9)):
        assert state[key].std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "published"), [("resnet18", 11_689_512), ("resnet34", 21_797_672)])
def test_torchvision_resnet_has_the_published_parameters(name: str, published: int) -> None:
    assert count(build(name, num_classes=1000)) == published


@pytest.mark.parametrize(("stem", "side"), [("imagenet", 2), ("cifar", 8)])
def test_stem_decides_the_last_map(stem: str, side: int) -> None:
    model = build("resnet18", size=64, stem=stem)
    maps: list[Tensor] = []
    model.get_submodule("layer4").register_forward_hook(lambda module, inputs, output: maps.append(output))
    model(torch.rand(2, 3, 64, 64))
    assert maps[0].shape == (2, 512, side, side)


def test_cifar_stem_keeps_everything_else() -> None:
    imagenet, cifar = (build("resnet18", stem=stem).state_dict() for stem in ("imagenet", "cifar"))
    assert list(imagenet) == list(cifar)
    assert [key for key in cifar if cifar[key].shape != imagenet[key].shape] == ["conv1.weight"]
    assert cifar["conv1.weight"].shape == (64, 3, 3, 3)


def test_cifar_stem_takes_smaller_images() -> None:
    build("resnet18", size=8, stem="cifar")
    with pytest.raises(UserError, match=r"resnet18 needs images of at least 8 pixels, not --size=7; try --size=8$"):
        check_model("resnet18", size=7, options={"stem": "cifar"})


def test_unknown_stem() -> None:
    with pytest.raises(UserError, match=r"^--stem must be imagenet or cifar, not 'patch'$"):
        torchvision_resnet(depth=18, num_classes=10, size=32, stem="patch")


# --- names, options, sizes


def test_unknown_name() -> None:
    with pytest.raises(UserError, match=r"no model is called 'resnet200'; did you mean resnet20\?") as caught:
        check_model("resnet200", size=32, options={})
    assert all(name in str(caught.value) for name in MODELS)
    assert "package.module:function" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_name_that_is_like_none() -> None:
    with pytest.raises(UserError, match=r"^no model is called 'x'; there are cnn5, ") as caught:
        build("x")
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("resnet20", "widths", "resnet20 takes no --widths; cnn5, fastresnet do"),
        ("cnn5", "stem", "cnn5 takes no --stem; resnet18, resnet34, resnet50 do"),
        ("cnn5", "depth", "cnn5 takes no --depth"),
        ("timm:resnet18", "widths", "timm:resnet18 takes no --widths; cnn5, fastresnet do"),
    ],
)
def test_option_that_the_model_does_not_take(name: str, option: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_model(name, size=32, options={option: (8,) * 5})
    assert str(caught.value) == message


@pytest.mark.parametrize("name", MODELS)
def test_input_too_small(name: str) -> None:
    least = MODELS[name].min_size
    check_model(name, size=least, options={})
    with pytest.raises(UserError, match=f"{name} needs images of at least {least} pixels, not --size={least - 1}; try"):
        build(name, size=least - 1)


# --- functions of the user's


class Moody(nn.Module):
    """Draws random numbers and writes to a buffer in eval mode too; a part of it is frozen in eval mode."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, num_classes)
        self.frozen = nn.BatchNorm2d(3).eval()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.linear(nn.functional.dropout(self.frozen(images).mean((2, 3)), 0.5, training=True))
        return logits


def test_a_function_of_the_users(mine: ModuleType) -> None:
    mine.net = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, num_classes))
    assert build("user_models:net", num_classes=5, size=16)(torch.rand(2, 3, 16, 16)).shape == (2, 5)


def test_the_trial_changes_nothing(mine: ModuleType) -> None:
    mine.net = Moody
    model = build("user_models:net", size=16)
    assert model.calls == 0
    assert model.training
    assert not model.get_submodule("frozen").training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_trial_draws_no_random_numbers(mine: ModuleType) -> None:
    mine.net = Moody
    torch.manual_seed(3)
    build("user_models:net", size=16)
    after = torch.rand(4)
    torch.manual_seed(3)
    Moody(10)
    assert torch.equal(after, torch.rand(4))


def test_the_trial_makes_lazy_modules(mine: ModuleType) -> None:
    mine.net = lambda num_classes: nn.Sequential(
        nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(num_classes)
    )
    model = build("user_models:net", size=8)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model[1].running_mean.shape == (4,)


def refused(size: int = 32) -> str:
    with pytest.raises(UserError) as caught:
        build("user_models:net", size=size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_function_that_does_not_exist() -> None:
    with pytest.raises(UserError, match=r"^--arch: there is no module no_such_module, neither in "):
        build("no_such_module:net")


def test_function_that_returns_no_module(mine: ModuleType) -> None:
    mine.net = lambda num_classes: "resnet"
    assert refused() == "user_models:net must return a torch.nn.Module, not str"


def test_function_that_is_a_network(mine: ModuleType) -> None:
    mine.net = nn.Identity()
    assert refused().startswith("user_models:net is a network itself; needed is a function that builds one")


def test_what_a_module_draws_when_it_is_imported_changes_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from torch import nn\n\nnn.Linear(3, 3)\n\ndef net(num_classes):\n    return nn.Sequential(nn.Flatten(), "
    (tmp_path / "drawing.py").write_text(f"{text}nn.Linear(3072, num_classes))\n")
    monkeypatch.chdir(tmp_path)
    first, second = (seeded(0, "drawing:net").state_dict() for _ in range(2))
    sys.modules.pop("drawing")
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_function_that_fails(mine: ModuleType) -> None:
    mine.net = lambda num_classes: Path("no weights").read_bytes()
    told = "user_models:net fails when it builds a network: FileNotFoundError: [Errno 2] No such file or directory: "
    assert refused() == f"{told}'no weights' (--traceback shows where)"


def test_buffer_that_grows_when_it_is_tried_is_as_before(mine: ModuleType) -> None:
    class Observed(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.register_buffer("largest", torch.zeros(0))

        def forward(self, images: Tensor) -> Tensor:
            self.largest.resize_(10).fill_(1)
            return super().forward(images)

    mine.net = lambda num_classes: nn.Sequential(nn.Flatten(), Observed(3 * 32 * 32, num_classes))
    assert build("user_models:net", size=32).state_dict()["1.largest"].shape == (0,)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_logits_that_are_no_floating_point_numbers(mine: ModuleType, dtype: torch.dtype) -> None:
    class Other(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images)[:, :10].to(dtype)

    mine.net = lambda num_classes: Other()
    assert refused() == f"user_models:net: its logits must be floating-point numbers, not {str(dtype)[6:]}"


def test_function_that_takes_other_arguments(mine: ModuleType) -> None:
    mine.net = lambda classes: nn.Identity()
    assert refused().startswith("user_models:net must be callable as function(num_classes=10): ")


def test_module_with_another_number_of_outputs(mine: ModuleType) -> None:
    mine.net = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, 1000))
    wanted = (
        "user_models:net must turn images (N, 3, 32, 32) into logits of shape (N, num_classes) = (2, 10) "
        "for N = 2, not "
    )
    assert refused() == wanted + "(2, 1000)"
    mine.net = lambda num_classes: nn.Identity()
    assert refused() == wanted + "(2, 3, 32, 32)"


def test_module_that_returns_no_tensor(mine: ModuleType) -> None:
    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[str, Tensor]:
            return "images", images

    mine.net = lambda num_classes: Pair()
    assert refused() == (
        "user_models:net: it must return logits (N, C), or a tuple, dict or object in which they are first or called "
        "'logits', not tuple"
    )


def test_module_for_another_size(mine: ModuleType) -> None:
    mine.net = lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))
    assert refused(size=16).startswith(
        "user_models:net does not take two images of shape (3, 16, 16), or one: RuntimeError: mat1 and mat2 "
    )
    assert refused(size=16).endswith(" (--traceback shows where); it takes --size=32")


def test_module_that_needs_more_than_one_image(mine: ModuleType) -> None:
    """squeeze() takes the batch axis too where there is one image; evaluation and cost ask about one."""
    layers = (nn.Conv2d(3, 10, 3), nn.AdaptiveAvgPool2d(1))

    class Squeezed(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = super().forward(images).squeeze()
            return out

    mine.net = lambda num_classes: Squeezed(*layers)
    assert refused().endswith("= (1, 10) for N = 1, not (10,)")
    mine.net = lambda num_classes: nn.Sequential(Squeezed(*layers), nn.BatchNorm1d(10))
    assert "does not take two images of shape (3, 32, 32), or one: ValueError: expected 2D" in refused()


# --- weights that follow from the data


def correlated(generator: torch.Generator) -> list[Tensor]:
    """Batches of smooth images: each pixel is a mean of its neighbours, and the channels are alike."""
    noise = torch.randn(60, 3, 18, 18, generator=generator)
    mixed = torch.einsum("dc,nchw->ndhw", torch.tensor([[1.0, 0.2, 0.1], [0.9, 0.5, 0.0], [0.8, 0.1, 0.6]]), noise)
    return list(nn.functional.avg_pool2d(mixed, 3, stride=1).split(25))


def test_the_stem_answers_in_uncorrelated_units() -> None:
    batches = correlated(torch.Generator().manual_seed(0))
    model = build("fastresnet")
    init_from_data(model, "fastresnet", batches)
    answers = model.get_submodule("stem")(torch.cat(batches)).transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(answers[:12], -answers[12:])
    second_moments = answers[:12] @ answers[:12].T / answers.shape[1]
    variances = second_moments.diag()
    torch.testing.assert_close(second_moments, torch.diag(variances), atol=1e-4, rtol=0)
    # v / (v + 5e-4), a little below 1 where the images vary, and far below where they hardly do
    assert 0.99 < variances.max() < 1
    assert variances.min() < 0.99


def test_whitening_does_not_depend_on_how_images_are_batched() -> None:
    images = torch.cat(correlated(torch.Generator().manual_seed(0)))
    kernels = []
    for size in (7, 60):
        model = build("fastresnet")
        init_from_data(model, "fastresnet", images.split(size))
        kernels.append(model.get_parameter("stem.weight"))
    torch.testing.assert_close(*kernels, rtol=1e-4, atol=1e-5)


def test_the_stem_is_not_trained() -> None:
    frozen = {name for name, parameter in build("fastresnet").named_parameters() if not parameter.requires_grad}
    assert frozen == {"stem.weight"}


def test_other_models_read_no_images() -> None:
    def unread() -> Iterator[Tensor]:
        pytest.fail("was read")
        yield torch.zeros(1)

    init_from_data(build("cnn5"), "cnn5", unread())
    init_from_data(nn.Linear(1, 1), "mine:net", unread())
