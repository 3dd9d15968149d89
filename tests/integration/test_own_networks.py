"""Networks as people bring them: each trains from start to end, or is refused in one line before a run exists."""

import dataclasses
import random
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from kdignite import checkpoints
from kdignite.cli import main
from kdignite.commands.adopt import adopt
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.commands.export import export
from kdignite.commands.predict import predict
from kdignite.commands.teacher import teacher
from kdignite.config import (
    AdoptConfig,
    BaselineConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    TeacherConfig,
)
from kdignite.errors import UserError
from kdignite.metrics import cost
from kdignite.runs import Finished
from kdignite.training import results
from kdignite.training.initial_weights import head_of

SIDE, CLASSES = 8, 3
Forward = Callable[["Net", Tensor], Any]


class Net(nn.Module):
    """A small network; what it does with its body is given."""

    def __init__(self, forward: Forward = lambda net, x: net.body(x), *, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, classes))
        )
        self.act = forward

    def forward(self, images: Tensor) -> Any:
        return self.act(self, images)


class Answer(NamedTuple):
    logits: Tensor
    aux: Tensor | None = None


@dataclasses.dataclass
class Boxed:
    logits: Tensor


def stripes() -> dict[str, object]:
    """Three classes that differ in their brightest channel."""
    labels = np.arange(90) % CLASSES
    images = np.random.default_rng(0).integers(0, 120, (90, SIDE, SIDE, 3))
    images[np.arange(90), :, :, labels] += 130
    images = images.astype(np.uint8)
    return {"train": (images[:60], labels[:60]), "test": (images[60:], labels[60:]), "classes": ["r", "g", "b"]}


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of one's own, and costs that are measured in no time."""
    module = ModuleType("own_networks")
    module.data = stripes  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_networks", module)
    monkeypatch.setattr(cost, "TIMED_SECONDS", 0)
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


SETTINGS = {
    **{"arch": "own_networks:net", "dataset": "own_networks:data", "size": SIDE, "epochs": 1, "batch_size": 20},
    **{"val_size": 0.25, "threads": 1, "amp": "off", "augment": "none"},
}


def train(root: Path, make: Callable[..., nn.Module], mine: ModuleType, **given: Any) -> Finished:
    mine.net = make  # type: ignore[attr-defined]
    return baseline(BaselineConfig(**SETTINGS | given), root=root)


def branch(train_mode: Forward, eval_mode: Forward = lambda net, x: net.body(x)) -> Forward:
    return lambda net, x: (train_mode if net.training else eval_mode)(net, x)


class Frozen(Net):
    def train(self, mode: bool = True) -> None:  # type: ignore[override]  # usual in code with frozen BatchNorm
        super().train(mode)
        self.body[1].eval()


class Locked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> "Locked":
        raise TypeError("not to be copied")


def viewed(net: Net, images: Tensor) -> Tensor:
    maps = net.body[:3](images)
    return net.body[4](maps.view(maps.size(0), -1))


def weight_normed(num_classes: int) -> nn.Module:
    net = Net()
    nn.utils.weight_norm(net.body[4])
    return net


def in_double(net: Net, images: Tensor) -> Tensor:
    return net.body[4].double()(net.body[:4](images).double()).float()


class Complex(Net):
    def __init__(self) -> None:
        super().__init__(lambda net, x: net.body(x) + (x.mean((2, 3)).to(torch.complex64) @ net.phase).real)
        self.phase = nn.Parameter(torch.randn(3, CLASSES, dtype=torch.complex64))


class Masked(Net):
    """With a constant that is not finite, as attention masks are."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__(lambda net, x: (net.body(x)[:, None] + net.mask).max(-1).values)
        self.register_buffer("mask", torch.triu(torch.full((CLASSES, CLASSES), -torch.inf), 1), persistent=persistent)


class Observed(Net):
    """A range that is empty until the first step."""

    def __init__(self) -> None:
        super().__init__(branch(self.observe))
        self.register_buffer("lowest", torch.tensor(torch.inf))

    @staticmethod
    def observe(net: Any, images: Tensor) -> Tensor:
        net.lowest = torch.minimum(net.lowest, images.min().detach())
        logits: Tensor = net.body(images)
        return logits


class Calibrated(Net):
    """Quantisation-aware: it measures the range of its input in eval mode too."""

    def __init__(self) -> None:
        super().__init__(lambda net, x: net.body(x) / net.largest(x))
        self.register_buffer("range", torch.zeros(()))

    def largest(self, images: Tensor) -> Tensor:
        self.range = 0.9 * self.range + images.abs().max()
        return self.range


ACCEPTED: dict[str, Callable[[], nn.Module]] = {
    "as it is": Net,
    "tuple": lambda: Net(lambda net, x: (net.body(x), None)),
    "list": lambda: Net(lambda net, x: [net.body(x)]),
    "dict": lambda: Net(lambda net, x: OrderedDict(aux=x, logits=net.body(x))),
    "dataclass": lambda: Net(lambda net, x: Boxed(net.body(x))),
    "named tuple, logits last": lambda: Net(lambda net, x: Answer(aux=None, logits=net.body(x))),
    "tuple in train mode": lambda: Net(branch(lambda net, x: (net.body(x), net.body(x)))),
    "object in train mode": lambda: Net(branch(lambda net, x: Answer(net.body(x)))),
    "view": lambda: Net(viewed),
    "view in train mode": lambda: Net(branch(viewed)),
    "train() without return": Frozen,
    "lock": Locked,
    "scripted": lambda: torch.jit.script(Net().body),
    "data parallel": lambda: nn.DataParallel(Net()),
    "complex parameters": Complex,
    "an infinite constant outside checkpoints": lambda: Masked(persistent=False),
    "an infinite buffer until the first step": Observed,
    "float64 inside": lambda: Net(in_double),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_it_trains_and_gets_its_result(
    tmp_path: Path, mine: ModuleType, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit
        num_parameters = sum(parameter.numel() for parameter in ACCEPTED[name]().parameters())
        finished = train(tmp_path, lambda num_classes: ACCEPTED[name](), mine)
    assert finished.result["cost"]["num_parameters"] == num_parameters
    printed = capsys.readouterr().out
    contiguous = "view" in name
    assert finished.result["memory_format"] == ("contiguous" if contiguous else "channels_last")
    assert printed.count("computes in contiguous memory") == contiguous
    assert "no gradient reaches" not in printed
    assert all(value is not None for value in finished.result["cost"].values())


def test_a_network_that_views_computes_what_it_computes_with_flatten(tmp_path: Path, mine: ModuleType) -> None:
    first, second = (
        train(tmp_path / name, lambda num_classes, f=forward: Net(f), mine).result
        for name, forward in (("view", viewed), ("flatten", lambda net, x: net.body(x.contiguous())))
    )
    assert first["test"]["accuracy"] == second["test"]["accuracy"]
    assert first["val"]["loss"] == pytest.approx(second["val"]["loss"], rel=1e-3)


def test_an_untrained_teacher_computes_as_the_trained_one(tmp_path: Path, mine: ModuleType) -> None:
    mine.net = lambda num_classes: Net(viewed)  # type: ignore[attr-defined]
    taught_by = teacher(TeacherConfig(**SETTINGS), root=tmp_path)
    own = {"teacher": str(taught_by.folder), "teacher_arch": "own_networks:net", "allow_weak_teacher": True}
    finished = distill(DistillConfig(**SETTINGS | own, control="random"), root=tmp_path)
    assert finished.result["test"]["num_images"] == 30


def test_what_is_only_reported_costs_no_run(
    tmp_path: Path, mine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ValueError("no such glyph")

    for name in ("save_figure", "hparams"):
        monkeypatch.setattr(results, name, broken)
    for name in ("_multiply_adds", "_peak_memory", "_call_times"):
        monkeypatch.setattr(cost, name, broken)
    finished = train(tmp_path, lambda num_classes: Net(), mine)
    assert finished.result["test"]["num_images"] == 30
    printed = capsys.readouterr().out
    assert printed.count("cannot be made (ValueError: no such glyph)") == 2  # TensorBoard has no figures to show
    assert "parameters, - M multiply-adds" in printed


def test_a_deprecation_is_not_printed_in_the_middle(tmp_path: Path, mine: ModuleType) -> None:
    train(tmp_path, weight_normed, mine, fast_dev_run=True)  # a warning would be an error


def targets_needed(net: Net, images: Tensor) -> Tensor:
    assert not net.training, "in training mode, targets should be passed"
    logits: Tensor = net.body(images)
    return logits


class Aux(Net):
    def __init__(self) -> None:
        super().__init__(branch(lambda net, x: net.body(x) + net.aux(x.flatten(1))))
        self.aux = nn.LazyLinear(CLASSES)


class Growing(Net):
    def __init__(self) -> None:
        super().__init__(self.remember)
        self.register_buffer("seen", torch.zeros(0))

    @staticmethod
    def remember(net: Any, images: Tensor) -> Tensor:
        if net.training:
            net.seen = torch.cat([net.seen, images.mean((1, 2, 3)).detach()])
        logits: Tensor = net.body(images)
        return logits


class Stuck(Net):
    def train(self, mode: bool = True) -> "Stuck":
        super().train(True)
        return self


class Extra(Net):
    def get_extra_state(self) -> dict[str, int]:
        return {"calls": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def made_in_the_first_step(net: Any, images: Tensor) -> Tensor:
    if net.training and not hasattr(net, "late"):
        net.late = nn.Linear(CLASSES, CLASSES)
    logits: Tensor = net.body(images)
    return logits


def frozen(num_classes: int) -> nn.Module:
    return Net().requires_grad_(False)


ONE = Net()
BACKBONE = nn.BatchNorm2d(3)
# what a function makes -> what the refusal says
REFUSED: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "targets in train mode": (
        lambda num_classes: Net(targets_needed),
        "fails in train mode: AssertionError: in training mode, targets should be passed",
    ),
    "None in train mode": (lambda num_classes: Net(branch(lambda net, x: None)), "in train mode: TypeError: it must"),
    "another shape in train mode": (
        lambda num_classes: Net(branch(lambda net, x: net.body(x).repeat(1, 2))),
        "for N = 2, not (2, 6) in train mode",
    ),
    "one more axis": (lambda num_classes: Net(lambda net, x: net.body(x)[..., None]), "for N = 2, not (2, 3, 1)"),
    "dict without logits": (lambda num_classes: Net(lambda net, x: {"out": net.body(x)}), "'logits', not dict"),
    "without gradient": (
        lambda num_classes: Net(lambda net, x: net.body(x).detach()),
        "without gradient in train mode",
    ),
    "nothing to train": (frozen, "has no parameter to train"),
    "parameters made in the first step": (
        lambda num_classes: Net(made_in_the_first_step),
        "changes its state in a training step, so no checkpoint of it could be loaded: make these as large as they get "
        "when it is built: late.bias, late.weight",
    ),
    "lazy in train mode alone": (
        lambda num_classes: Aux(),
        "has lazy parameters that its evaluation does not make: aux.weight, aux.bias",
    ),
    "a buffer that grows": (lambda num_classes: Growing(), "when it is built: seen"),
    "train mode for ever": (lambda num_classes: Stuck(), "stays in train mode after eval()"),
    "dropout in eval mode": (
        lambda num_classes: Net(lambda net, x: F.dropout(net.body(x), 0.3)),
        "is not the same in two evaluations of the same images, in eval mode: F.dropout, for one",
    ),
    "statistics in eval mode": (lambda num_classes: Calibrated(), "in eval mode: its buffers change: range"),
    "an infinite constant": (
        lambda num_classes: Masked(persistent=True),
        "holds NaN or infinity where it is built, which no checkpoint may: mask; register_buffer(..., ",
    ),
    "state that is no tensor": (lambda num_classes: Extra(), "cannot be saved in a checkpoint"),
    "one shared network": (lambda num_classes: ONE, "returns networks that share weights, such as body.0.weight"),
    "a shared part": (lambda num_classes: nn.Sequential(BACKBONE, Net()), "share weights, such as 0"),
    "weights of a generator of its own": (
        lambda num_classes: own_generator(),
        "returns other initial weights when it is called again with the same seed: body.4.bias",
    ),
    "autograd in eval mode": (
        lambda num_classes: Net(lambda net, x: torch.autograd.grad(net.body(x.requires_grad_()).sum(), x)[0]),
        "RuntimeError: ",
    ),
    "an assertion": (lambda num_classes: Net(lambda net, x: wants(x, 16)), "AssertionError: 16 pixels"),
}


def own_generator() -> nn.Module:
    net = Net()
    net.body[4].bias.data = torch.randn(CLASSES, generator=OWN)
    return net


def wants(images: Tensor, size: int) -> Tensor:
    assert images.shape[-1] == size, f"{size} pixels"
    return images


OWN = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_before_a_run_exists(tmp_path: Path, mine: ModuleType, name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(UserError) as caught:
        train(tmp_path, make, mine)
    assert str(caught.value).startswith(("own_networks:net", "--arch=own_networks:net"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Gated(nn.Module):
    """Whose last layer that is registered is not its head."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.body = nn.Conv2d(3, 8, 3)
        self.gate = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images).mean((2, 3))
        return self.head(features * torch.sigmoid(self.gate(features)))


def convolutional(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, num_classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(("make", "head"), [(Gated, "head."), (convolutional, "1.")])
def test_the_head_is_what_the_classes_decide(
    tmp_path: Path, mine: ModuleType, make: Callable[[int], nn.Module], head: str
) -> None:
    mine.net = make  # type: ignore[attr-defined]
    found = head_of(make(CLASSES), checkpoints.Architecture("own_networks:net", {}), num_classes=CLASSES, size=SIDE)
    assert set(found) == {f"{head}weight", f"{head}bias"}
    assert train(tmp_path, make, mine, backbone_lr_mult=0.1).folder.is_dir()


@pytest.mark.parametrize("flag", [{"freeze_epochs": 1}, {"backbone_lr_mult": 0.1}])
def test_without_a_head_nothing_can_be_frozen(tmp_path: Path, mine: ModuleType, flag: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"--{next(iter(flag))} is for all layers but the head, .*: leave it out$"):
        train(tmp_path, lambda num_classes: Net(), mine, **flag)
    assert list(tmp_path.iterdir()) == []


def test_a_size_that_it_takes_is_named(tmp_path: Path, mine: ModuleType) -> None:
    with pytest.raises(UserError, match=r"; it takes --size=96$"):
        train(tmp_path, lambda num_classes: Net(lambda net, x: wants(x, 96)), mine)


def test_mixed_precision_is_named_where_it_is_the_reason(tmp_path: Path, mine: ModuleType) -> None:
    class Double(Net):
        def __init__(self) -> None:
            super().__init__(lambda net, x: net.body[4](net.body[:4](x).double()).float())
            self.body[4].double()

    def adds(net: Net, images: Tensor) -> Tensor:
        maps = net.body[:4](images)
        assert maps.dtype == torch.float32, "float32 alone"
        logits: Tensor = net.body[4](maps)
        return logits

    assert train(tmp_path, lambda num_classes: Double(), mine, fast_dev_run=True).result["partial"]
    with pytest.raises(UserError, match=r"in train mode in bf16 mixed precision: .*; it passes with --amp=off$"):
        train(tmp_path, lambda num_classes: Net(adds), mine, amp="bf16")


def test_its_own_traceback_is_shown_on_demand(
    tmp_path: Path, mine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mine.net = lambda num_classes: Net(targets_needed)  # type: ignore[attr-defined]
    words = ["baseline", *(f"--{name}={value}" for name, value in SETTINGS.items())]
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main([*words, "--traceback"]) == 2
    assert "in targets_needed" in capsys.readouterr().err


def test_nothing_of_the_run_is_changed_by_its_rehearsal(tmp_path: Path, mine: ModuleType) -> None:
    """A network that draws, counts and remembers ends with the weights of its first run when it is trained alone."""
    calls: list[int] = []

    class Drawing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.body[4].bias.data = torch.tensor(np.random.normal(0, 0.1, CLASSES), dtype=torch.float32)
            self.body[0].bias.data *= random.uniform(0.5, 2)

        def forward(self, images: Tensor) -> Tensor:
            if self.training:
                self.steps += 1
                images = images * random.uniform(0.9, 1.1) + float(np.random.normal(0, 0.01))
            calls.append(1)
            logits: Tensor = self.body(images)
            return logits

    def weights(name: str) -> dict[str, Tensor]:
        random.seed(len(calls))  # whatever was drawn before
        np.random.seed(len(calls))
        finished = train(tmp_path, lambda num_classes: Drawing(), mine, name=name)
        return dict(checkpoints.load_checkpoint(finished.folder / "best.safetensors").weights)

    first, second = weights("first"), weights("second")
    assert first["steps"] == 3  # 45 training images in batches of 20
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_alpha_zero_is_the_baseline_also_with_numpy_inside(tmp_path: Path, mine: ModuleType) -> None:
    def noisy(net: Net, images: Tensor) -> Tensor:
        logits: Tensor = net.body(images * (random.uniform(0.5, 1.5) if net.training else 1.0))
        return logits

    mine.net = lambda num_classes: Net(noisy)  # type: ignore[attr-defined]
    teacher(TeacherConfig(**SETTINGS | {"name": "t"}), root=tmp_path)
    own = {"teacher": "t", "teacher_arch": "own_networks:net", "alpha": 0.0, "T": 1.0, "allow_weak_teacher": True}
    student = distill(DistillConfig(**SETTINGS | own), root=tmp_path)
    alone = baseline(BaselineConfig(**SETTINGS), root=tmp_path)
    one, other = (checkpoints.load_checkpoint(run.folder / "best.safetensors").weights for run in (student, alone))
    assert all(torch.equal(one[key], other[key]) for key in one)


# --- teachers that return probabilities


def adopted(root: Path, mine: ModuleType, forward: Forward, name: str, weights: Path) -> Finished:
    setattr(mine, name, lambda num_classes: Net(forward))
    values = {"file": str(weights), "arch": f"own_networks:{name}", "dataset": "own_networks:data", "size": SIDE}
    numbers = {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3), "val_size": 0.25, "threads": 1, "name": name}
    return adopt(AdoptConfig(**values | numbers), root=root)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_teacher_of_probabilities_is_refused_and_its_logarithm_teaches(
    tmp_path: Path, mine: ModuleType, activation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = train(tmp_path, lambda num_classes: Net(), mine, epochs=20, lr=0.05, name="plain", size=SIDE)
    weights = dict(checkpoints.load_checkpoint(trained.folder / "best.safetensors").weights)
    torch.save(weights, tmp_path / "plain.pt")
    act = {"softmax": lambda net, x: net.body(x).softmax(1), "sigmoid": lambda net, x: net.body(x).sigmoid()}
    adopted(tmp_path, mine, act[activation], activation, tmp_path / "plain.pt")
    told = capsys.readouterr().out
    assert f"plain.pt seems to end in {activation}: its outputs are probabilities, not logits" in told
    assert told.endswith(
        f"distill --teacher={tmp_path / activation} --teacher_arch=own_networks:{activation} "
        "--teacher_outputs=probabilities --dataset=own_networks:data\n"
    )
    code = {"arch": f"own_networks:{activation}", "dataset": "own_networks:data"}
    found = doctor(DoctorConfig(run=activation, **code, draws=3, threads=1), root=tmp_path)
    assert f"best.safetensors seems to end in {activation}: " in found.result["teacher"][-1]
    capsys.readouterr()
    evaluate(EvaluateConfig(run=activation, **code, threads=1), root=tmp_path)
    card = export(ExportConfig(run=activation, **code, format="safetensors", threads=1), root=tmp_path).folder
    pictures = stripes()["test"][0]  # type: ignore[index]
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    predict(
        PredictConfig(paths=(str(tmp_path / "*.png"),), model=activation, arch=code["arch"], batch_size=20, threads=1),
        root=tmp_path,
    )
    told = capsys.readouterr()
    for text in (told.out, told.err, (card / "README.md").read_text(encoding="utf-8")):
        said = text.count(f"eems to end in {activation}: its outputs are taken for logits, ")
        assert said == (2 if text == told.out else 1)  # by evaluate, and by export
    mine.net = lambda num_classes: Net()  # type: ignore[attr-defined]
    own = {"teacher": activation, "teacher_arch": f"own_networks:{activation}", "alpha": 1.0, "T": 4.0, "epochs": 2}
    before = sorted(path.name for path in tmp_path.iterdir() if path.name != ".teacher_cache")
    with pytest.raises(UserError, match=f"seems to end in {activation}: .*--teacher_outputs=probabilities"):
        distill(DistillConfig(**SETTINGS | own), root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".teacher_cache") == before
    for outputs in ("logits", "probabilities"):
        assert distill(DistillConfig(**SETTINGS | own, teacher_outputs=outputs), root=tmp_path).result["teacher"]
    if activation == "softmax":
        adopted(tmp_path, mine, lambda net, x: net.body(x), "logits", tmp_path / "plain.pt")
        own |= {"teacher": "logits", "teacher_arch": "own_networks:logits", "name": "right"}
        right = distill(DistillConfig(**SETTINGS | own), root=tmp_path)
        same = distill(
            DistillConfig(
                **SETTINGS
                | own
                | {"teacher": "softmax", "teacher_arch": "own_networks:softmax"}
                | {"teacher_outputs": "probabilities", "name": "same"}
            ),
            root=tmp_path,
        )
        assert same.result["val"]["loss"] == pytest.approx(right.result["val"]["loss"], rel=1e-3)


# --- teachers that are fed wrongly


def shades() -> dict[str, object]:
    """Three dark pictures for each two bright ones."""
    labels = np.arange(100) % 5 // 3
    noise = np.random.default_rng(0).integers(-40, 40, (100, 3, SIDE, SIDE))
    images = (np.where(labels == 1, 180, 70)[:, None, None, None] + noise).astype(np.uint8)
    one = {"train": (images, labels), "val": (images, labels), "test": (images, labels)}
    return {**one, "classes": ["dark", "bright"]}


class Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))


def test_wrong_normalisation_of_unequal_classes_is_not_taken_for_an_order(tmp_path: Path, mine: ModuleType) -> None:
    """Fed wrongly it always answers with the rarer class: swapped it would be right more often."""
    mine.data = shades  # type: ignore[attr-defined]
    mine.shade = lambda num_classes: Brightness()  # type: ignore[attr-defined]
    weights = {"head.weight": torch.tensor([[-2.0] * 3, [2.0] * 3]), "head.bias": torch.zeros(2)}
    torch.save(weights, tmp_path / "theirs.pt")
    values = {"file": str(tmp_path / "theirs.pt"), "arch": "own_networks:shade", "dataset": "own_networks:data"}
    fed = {"size": SIDE, "mean": (0.0,) * 3, "std": (1.0,) * 3, "threads": 1}
    with pytest.raises(UserError, match=r"scores 40\.00% as recorded, and 100\.00% with '.* statistics'"):
        adopt(AdoptConfig(**values | fed), root=tmp_path)
