"""Features that hooks take from a network, and what a trainer does with the module that takes them."""

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.methods.features import fitnet
from kdignite.methods.maps import pooled
from kdignite.methods.projectors import distributions, regressors, reviews
from kdignite.methods.taps import SHOWN, FeatureExtractor
from kdignite.methods.terms import Outputs
from kdignite.steps import distill_step
from kdignite.teachers import outputs_with_features

NORM = np.sqrt(1 + 1e-5)  # of a BatchNorm that has seen nothing
IMAGES = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """What hooks have to live with: ReLU in place, a module that is called twice, one that is never called, a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.never = nn.Linear(1, 1)
        self.pair = Pair()
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(images)))
        x, _ = self.pair(x - 0.5)
        logits: Tensor = self.head(self.relu(x).mean((2, 3)))
        return logits


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return 2 * x, "of no use"


def network(seed: int = 0) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network()


def extractor(*layers: str, of: nn.Module | None = None) -> FeatureExtractor:
    return FeatureExtractor(of or network(), layers, flag="student_layers", who="mine:net")


def test_features_are_what_the_layers_returned_in_the_order_of_their_names() -> None:
    own = network()
    found = extractor("pair", "norm", "relu", of=own)(IMAGES)
    own.eval()  # which changes the statistics of BatchNorm that are used
    own.train()
    normed = own.norm(own.conv(IMAGES))
    assert list(found.features) == ["pair", "norm", "relu"]
    torch.testing.assert_close(found.features["norm"], normed)  # not what the ReLU in place made of it
    assert bool((found.features["norm"] < 0).any())
    torch.testing.assert_close(found.features["pair"], 2 * (normed.relu() - 0.5))
    torch.testing.assert_close(found.features["relu"], found.features["pair"].relu())  # of two calls the last
    torch.testing.assert_close(found.logits, own.head(found.features["relu"].mean((2, 3))))


def test_the_network_alone_is_as_it_was_and_nothing_is_kept_between_two_calls() -> None:
    own = network()
    plain = copy.deepcopy(own)
    tapped = extractor("norm", of=own)
    out = own(IMAGES)
    assert torch.equal(out, plain(IMAGES))
    assert list(own.state_dict()) == list(plain.state_dict())
    found = tapped(IMAGES)
    assert [tap.collected for tap in tapped.taps] == [None]
    kept = weakref.ref(found.features["norm"])
    del found
    gc.collect()
    assert kept() is None  # and with it the graph of the step
    copied = copy.deepcopy(own)
    assert torch.equal(copied(IMAGES), own(IMAGES))
    assert [tap.collected for tap in tapped.taps] == [None]


def test_a_layer_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError) as caught:
        extractor("norms")
    assert str(caught.value) == (
        "--student_layers: mine:net has no layer 'norms'; did you mean norm?; there are conv, norm, relu, never, pair, "
        "head"
    )
    many = nn.Sequential(*(nn.Sequential(nn.Identity()) for _ in range(SHOWN)))
    with pytest.raises(UserError, match=rf"there are 0, 1, .*, {SHOWN - 1} and {SHOWN} more$"):
        extractor("layer", of=many)
    assert "never" not in extractor("never")(IMAGES).features


def test_a_step_compares_features_in_float32_and_trains_what_is_learnt_beside_the_student() -> None:
    student, teacher = extractor("relu", of=network(1)), extractor("norm", of=network(2))
    shapes = ({"relu": (4, 6, 6)}, {"norm": (4, 6, 6)})
    with torch.random.fork_rng():
        student.projector = regressors(*shapes)
    before = copy.deepcopy(student.state_dict())
    seen: list[tuple[Outputs, Outputs]] = []

    def method(student: Outputs, teacher: Outputs, labels: Tensor) -> Any:
        seen.append((student, teacher))
        return fitnet(student, teacher, labels, weight=1.0, alpha=0.5, T=2.0)

    outputs_of = outputs_with_features(teacher, prepare=lambda images: images.float() / 255)
    frozen = copy.deepcopy(teacher.state_dict())
    step = distill_step(
        student,
        torch.optim.SGD(student.parameters(), lr=0.1),
        lambda batch: outputs_of(batch.images),
        method=method,
        prepare=lambda images: images.float() / 255,
        amp="bf16",
        grad_clip=1.0,
    )
    pixels = torch.randint(256, (4, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parts = step(None, Batch(pixels, torch.arange(4) % 2, torch.arange(4), 0))
    assert set(parts) == {"loss", "ce", "kd", "fitnet", "correct"}
    ((own, fixed),) = seen
    assert own.features["relu"].dtype == fixed.features["norm"].dtype == torch.float32
    assert own.features["relu"].requires_grad
    assert not fixed.features["norm"].requires_grad
    assert not fixed.features["norm"].is_inference()
    changed = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    assert {"network.conv.weight", "network.head.weight", "projector.layers.0.1.weight"} <= changed
    assert all(torch.equal(value, frozen[key]) for key, value in teacher.state_dict().items())  # in eval mode


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [
        ((3, 8, 8), (5, 4, 4), "Conv2d(3, 5, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)"),
        ((3, 4, 4), (5, 8, 8), "ConvTranspose2d(3, 5, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), bias=False)"),
        ((3, 8, 8), (5, 8, 8), "Conv2d(3, 5, kernel_size=(1, 1), stride=(1, 1), bias=False)"),
        ((3, 16, 16), (5, 15, 15), "Conv2d(3, 5, kernel_size=(1, 1), stride=(1, 1), bias=False)"),
        ((3, 2, 2), (5, 7, 7), "Conv2d(3, 5, kernel_size=(1, 1), stride=(1, 1), bias=False)"),
    ],
)
def test_projectors_bring_maps_to_the_smaller_size_and_the_channels_of_the_teacher(
    student: tuple[int, ...], teacher: tuple[int, ...], kernel: str
) -> None:
    shapes = {"s": student}, {"t": teacher}
    features = {"s": torch.randn(2, *student)}
    regressor = regressors(*shapes)
    doubled = [2 * side for side in student[1:]] == [*teacher[1:]]
    size = teacher[1:] if doubled else tuple(map(min, student[1:], teacher[1:]))
    assert regressor(features)["s"].shape == (2, 5, *size)
    assert kernel in repr(regressor)
    found = distributions(*shapes)(features)
    assert found["s"].shape == (2, 5, *map(min, student[1:], teacher[1:]))
    torch.testing.assert_close(found["s variance"], torch.full((5,), 5.0))


def test_a_review_takes_maps_from_the_first_to_the_last() -> None:
    maps = {"a": (3, 2, 2), "b": (5, 2, 2), "c": (3, 4, 4)}
    with pytest.raises(
        UserError, match=r"^--method=reviewkd .*, and c is larger than b: name the layers from the first"
    ):
        reviews(maps, maps)


def test_a_review_fuses_each_map_with_all_deeper_ones() -> None:
    """Against NumPy, from the first pooled level on; BatchNorm in eval mode divides by sqrt(1 + 1e-5)."""
    student, teacher = {"a": (3, 4, 4), "b": (5, 2, 2)}, {"a": (2, 8, 8), "b": (4, 2, 2)}
    module = reviews(student, teacher).double().eval()
    maps = {name: torch.randn(2, *shape, dtype=torch.float64) for name, shape in student.items()}
    found = {name: one.detach().numpy() for name, one in module(maps).items()}
    assert {name: one.shape for name, one in found.items()} == {
        **{name: (2, *shape) for name, shape in teacher.items()},
        "b pooled": (2, 4, 1, 1),
    }
    weights = {name: one.numpy() for name, one in module.state_dict().items()}
    inputs = [maps["b"].mean((2, 3), keepdim=True).numpy(), maps["b"].numpy(), maps["a"].numpy()]
    state = np.zeros((2, 5, 1, 1))
    for level, (name, one) in enumerate(zip(("b pooled", "b", "a"), inputs, strict=True)):
        own = np.einsum("bchw,dc->bdhw", one, weights[f"levels.{level}.reduce.0.weight"][:, :, 0, 0]) / NORM
        if level:
            state = state.repeat(2, axis=2).repeat(2, axis=3)
            both, bias = np.concatenate([own, state], 1), weights[f"levels.{level}.gates.0.bias"]
            gates = np.einsum("bchw,dc->bdhw", both, weights[f"levels.{level}.gates.0.weight"][:, :, 0, 0])
            gates = 1 / (1 + np.exp(-gates - bias[:, None, None]))
            own = gates[:, :1] * own + gates[:, 1:] * state
        state = own
        large = own.repeat(2, axis=2).repeat(2, axis=3) if name == "a" else own
        padded, (h, w) = np.pad(large, ((0, 0), (0, 0), (1, 1), (1, 1))), large.shape[2:]
        windows = [padded[:, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
        kernel = weights[f"levels.{level}.fit.0.weight"].reshape(-1, 5, 9)
        fitted = sum(np.einsum("bchw,dc->bdhw", part, kernel[:, :, k]) for k, part in enumerate(windows))
        np.testing.assert_allclose(found[name], fitted / NORM, rtol=1e-9, atol=1e-12)


def test_a_compiled_extractor_gives_the_features_of_each_call() -> None:
    tapped = extractor("norm", "relu").eval()
    compiled = torch.compile(tapped, backend="eager", fullgraph=True, dynamic=False)
    for images in (IMAGES, 2 * IMAGES):
        expected, found = tapped(images), compiled(images)
        assert all(torch.equal(found.features[name], one) for name, one in expected.features.items())


def test_pooling_keeps_the_layout_of_a_map_and_of_its_gradient() -> None:
    given = torch.rand(2, 3, 7, 5).to(memory_format=torch.channels_last).requires_grad_()
    out = pooled(given, (3, 2))
    assert torch.allclose(out, torch.nn.functional.adaptive_avg_pool2d(given, (3, 2)))
    (gradient,) = torch.autograd.grad(out.square().sum(), given)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
