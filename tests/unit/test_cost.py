"""What a model costs, against closed forms, and that measuring leaves no trace."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from kdignite.metrics import cost
from kdignite.metrics.cost import Cost, measure_cost
from kdignite.models.layout import place
from kdignite.models.registry import build_model

FLOAT, INDEX = 4, 8  # bytes
IMAGE = 3 * 8 * 8 * FLOAT  # bytes of an image 8 pixels wide


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the smallest number of calls is timed."""
    monkeypatch.setattr(cost, "TIMED_SECONDS", 0.0)


class Calls(nn.Module):
    """Does something at every call; what it does is shared by its copies."""

    def __init__(self, act: Callable[[nn.Module, Tensor], None]) -> None:
        super().__init__()
        self.act = act
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, images: Tensor) -> Tensor:
        self.act(self, images)
        return images


def build(name: str, *, num_classes: int = 10, size: int = 32) -> nn.Module:
    return build_model(name, num_classes=num_classes, size=size, options={})


def multiply_adds(*layers: nn.Module, size: int = 8) -> int:
    return measure_cost(nn.Sequential(*layers), size=size).multiply_adds


def peak(*layers: nn.Module) -> int:
    """Bytes for an image 8 pixels wide."""
    return measure_cost(nn.Sequential(*layers), size=8).peak_memory_bytes


# --- arithmetic


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 5, 3, padding=1), 8 * 8 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, bias=False), 6 * 6 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, 3, stride=2, padding=1), 4 * 4 * 5 * 3 * 9),
        (nn.Conv2d(3, 5, (1, 7), padding=(0, 3)), 8 * 8 * 5 * 3 * 7),
        (nn.Conv2d(3, 5, 3, dilation=2), 4 * 4 * 5 * 3 * 9),
        (nn.Conv2d(3, 6, 3, padding=1, groups=3), 8 * 8 * 6 * 1 * 9),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), 8 * 8 * 3 * 5 * 4),
    ],
)
def test_a_convolution(layer: nn.Module, expected: int) -> None:
    assert multiply_adds(layer) == expected


def test_a_linear_layer_without_its_bias() -> None:
    assert multiply_adds(nn.Flatten(), nn.Linear(192, 7)) == 192 * 7
    assert multiply_adds(nn.Linear(8, 7)) == 3 * 8 * 8 * 7  # at each of 3 * 8 positions


def test_other_layers_count_nothing() -> None:
    others = (nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1))
    assert multiply_adds(*others) == 0


def test_a_layer_that_is_used_twice_counts_twice() -> None:
    layer = nn.Conv2d(3, 3, 1, bias=False)
    measured = measure_cost(nn.Sequential(layer, layer), size=8)
    assert (measured.num_parameters, measured.multiply_adds) == (9, 2 * 8 * 8 * 9)


class Tokens(nn.Module):
    """Rows of the image as tokens of 24 values."""

    def forward(self, images: Tensor) -> Tensor:
        return images.permute(0, 2, 1, 3).flatten(2)  # (N, 8, 24)


class Attention(nn.Module):
    """`nn.MultiheadAttention` of tokens on themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return out


def test_attention_counts_although_torch_fuses_it() -> None:
    """Four projections, the scores of all pairs, and their sums; per head or not is the same."""
    attention = 4 * 8 * 24 * 24 + 2 * 8 * 8 * 24
    assert multiply_adds(Tokens(), Attention()) == attention
    layer = nn.TransformerEncoderLayer(24, 4, dim_feedforward=10, batch_first=True)
    assert multiply_adds(Tokens(), layer) == attention + 2 * 8 * 24 * 10


def test_cnn5_by_hand() -> None:
    convolutions = 9 * (3 * 64 * 32**2 + 64 * 64 * 16**2 + 64 * 64 * 8**2 + 64 * 24 * 4**2 + 24 * 12 * 2**2)
    weights = 9 * (3 * 64 + 64 * 64 + 64 * 64 + 64 * 24 + 24 * 12) + 12 * 10
    measured = measure_cost(build("cnn5"), size=32)
    assert measured.multiply_adds == convolutions + 12 * 10
    assert measured.num_parameters == weights + 2 * (64 + 64 + 64 + 24 + 12) + 10


def test_resnet20_by_hand() -> None:
    """Shortcuts without parameters: with 1x1 convolutions in their place it would be 40.8 million."""
    stem, first = 9 * 3 * 16 * 32**2, 6 * 9 * 16 * 16 * 32**2
    second = 9 * 16 * 32 * 16**2 + 5 * 9 * 32 * 32 * 16**2
    third = 9 * 32 * 64 * 8**2 + 5 * 9 * 64 * 64 * 8**2
    expected = stem + first + second + third + 64 * 10
    assert measure_cost(build("resnet20"), size=32).multiply_adds == expected
    assert round(expected / 1e6, 2) == 40.55


def test_resnet18_as_torchvision_publishes_it() -> None:
    published = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.meta
    measured = measure_cost(build("resnet18", num_classes=1000, size=224), size=224)
    assert measured.num_parameters == published["num_params"]
    assert round(measured.multiply_adds / 1e9, 3) == published["_ops"]


# --- memory


def test_the_peak_of_a_small_network_by_hand() -> None:
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, 10)]
    weights = FLOAT * (4 * 3 * 9 + 4 * 4 + 4 * 6 * 6 * 10 + 10) + INDEX  # BatchNorm counts its batches in int64
    maps = 2 * FLOAT * 4 * 6 * 6  # the input and the output of BatchNorm, or of ReLU
    assert peak(*layers) == weights + IMAGE + maps


def test_the_indices_of_max_pooling_are_memory_too() -> None:
    assert peak(nn.MaxPool2d(2)) == IMAGE + 3 * 4 * 4 * (FLOAT + INDEX)


def test_what_is_not_needed_any_more_is_free() -> None:
    """The caller holds the image, a layer its input and its output."""
    assert [peak(*(nn.ReLU() for _ in range(depth))) for depth in (1, 2, 5)] == [2 * IMAGE, 3 * IMAGE, 3 * IMAGE]


def test_views_and_work_in_place_need_nothing() -> None:
    assert peak(nn.Flatten(2), nn.Unflatten(2, (8, 8)), nn.ReLU(inplace=True)) == IMAGE


def test_a_shared_weight_is_in_memory_once() -> None:
    layer = nn.Linear(8, 8, bias=False)
    assert peak(layer, layer) == peak(layer, nn.Linear(8, 8, bias=False)) - 8 * 8 * FLOAT


def test_a_kept_tensor_stays_in_memory() -> None:
    class Skip(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            kept = images + 1
            return kept + F.relu(F.relu(kept))  # the sum comes while the image, kept and the second ReLU are alive

    assert peak(Skip()) == 4 * IMAGE


def test_the_inside_of_attention_is_seen() -> None:
    """Fused to one operation it would show nothing between the tokens and the result."""
    tokens = IMAGE
    weights = FLOAT * 4 * (24 * 24 + 24)
    assert peak(Tokens(), Attention()) >= weights + IMAGE + 4 * tokens  # queries, keys, values and their product


# --- time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still unless its ``now`` is moved."""
    made = SimpleNamespace(now=0.0)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr(cost, "TIMED_SECONDS", 0.5)
    return made


def timed(clock: SimpleNamespace, seconds: Callable[[int], float]) -> tuple[Cost, int]:
    """The cost of a model whose n-th timed call takes so long, and the number of timed calls."""
    calls: list[None] = []

    def act(model: nn.Module, images: Tensor) -> None:
        before = 2 + cost.WARM_UP_CALLS  # two to count
        calls.append(None)
        clock.now += seconds(len(calls) - before) if len(calls) > before else 1000.0

    measured = measure_cost(Calls(act), size=8)
    return measured, len(calls) - 2 - cost.WARM_UP_CALLS


def test_latency_is_of_single_calls_after_the_warm_up(clock: SimpleNamespace) -> None:
    measured, num_calls = timed(clock, lambda call: 2**-6 if call % 8 else 2**-4)
    assert measured.latency_median_ms == 1000 * 2**-6
    assert measured.latency_p95_ms == 1000 * 2**-4
    assert num_calls == 24  # 21 short and 3 long ones are 33/64 s


def test_a_quick_model_is_called_for_half_a_second(clock: SimpleNamespace) -> None:
    assert timed(clock, lambda call: 2**-10)[1] == 512


def test_a_slow_model_is_called_twenty_times(clock: SimpleNamespace) -> None:
    measured, num_calls = timed(clock, float)
    assert num_calls == 20
    assert measured.latency_median_ms == pytest.approx(10_500)  # of 1, 2, ..., 20 seconds
    assert measured.latency_p95_ms == pytest.approx(1000 * (1 + 0.95 * 19))


def test_latency_of_a_real_model() -> None:
    small, large = measure_cost(build("cnn5"), size=32), measure_cost(build("cnn5", size=160), size=160)
    for measured in (small, large):
        assert 0 < measured.latency_median_ms <= measured.latency_p95_ms
    assert small.latency_median_ms < large.latency_median_ms  # 25 times as many pixels


# --- how it is fed, and what is left behind


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_it_is_fed_as_the_package_feeds_its_models_on_one_thread() -> None:
    seen: list[tuple[object, ...]] = []

    def act(model: nn.Module, images: Tensor) -> None:
        assert images.shape == (1, 3, 8, 8)
        assert (images.dtype, images.device.type) == (torch.float32, "cpu")
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert model.get_parameter("layer.weight").is_contiguous(memory_format=torch.channels_last)
        assert not model.training
        assert not torch.is_grad_enabled()
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))

    assert measure_cost(place(Calls(act), torch.device("cpu")), size=8).latency_threads == 1
    assert set(seen[-20:]) == {(1, True)}


def settings() -> tuple[int, bool, bool, list[int]]:
    """Everything of torch that a measurement sets for its time."""
    fast, grad = torch.backends.mha.get_fastpath_enabled(), torch.is_grad_enabled()
    return torch.get_num_threads(), fast, grad, torch.get_rng_state().tolist()


@pytest.mark.usefixtures("two_threads")
def test_torch_is_left_as_it_was_even_by_models_that_draw_and_by_those_that_fail() -> None:
    def draw(model: nn.Module, images: Tensor) -> None:
        torch.rand(3)

    def fail(model: nn.Module, images: Tensor) -> None:
        draw(model, images)
        if torch.is_inference_mode_enabled():
            raise ZeroDivisionError

    def fail_at_once(model: nn.Module, images: Tensor) -> None:
        raise ZeroDivisionError

    drawing, *failing = (Calls(act) for act in (draw, fail, fail_at_once))
    before = settings()
    assert before[:2] == (2, True)
    measure_cost(drawing, size=8)
    assert settings() == before
    measured = [measure_cost(model, size=8) for model in failing]
    assert settings() == before
    assert [one.num_parameters for one in measured] == [3 * 4 * 9 + 4] * 2
    assert [one.latency_p95_ms for one in measured] == [None, None]  # what fails has no figure
    # parameters, the image, and what it draws
    assert [(one.multiply_adds, one.peak_memory_bytes) for one in measured] == [(0, 448 + 768 + 12), (None, None)]
