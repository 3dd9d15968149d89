"""The rivals of the benchmark do kdignite's job: the same loss, the same step, the same images."""

import copy
import importlib
import sys
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdignite.data.batches import Batch
from kdignite.data.preprocess import preparer
from kdignite.data.registry import load_source
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import Part, limited, split_source
from kdignite.evaluation import predictor
from kdignite.losses import kd_loss
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs
from kdignite.models.registry import build_model
from kdignite.steps import distill_step
from kdignite.teachers import live_teacher

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
MEAN, STD = (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)
PREPARE = preparer(Preprocessing(32, MEAN, STD), device=torch.device("cpu"))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("plain", monkeypatch)


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("job", monkeypatch)


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return script("table", monkeypatch)


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A script of the benchmark, with its folder on the path, where it looks for the others."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.delitem(sys.modules, name, raising=False)  # another test's module of that name
    return importlib.import_module(name)


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("cnn5", num_classes=5, size=32, options={"widths": (4, 4, 4, 4, 4)})


def batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    return [
        Batch(
            torch.randint(256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8),
            torch.randint(5, (6,), generator=generator),
            torch.arange(6),
            0,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize(("alpha", "T"), [(0.0, 4.0), (0.3, 4.0), (0.9, 2.0), (1.0, 0.5)])
def test_the_plain_loss_is_that_of_kdignite_in_value_and_gradient(plain: ModuleType, alpha: float, T: float) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (3 * torch.randn(6, 5, generator=generator) for _ in range(2))
    student, labels = student.requires_grad_(), torch.arange(6) % 5
    losses = (
        plain.kd_loss(student, teacher, labels, alpha=alpha, T=T),
        kd_loss(student, teacher, labels, alpha=alpha, T=T).loss,
    )
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, student) for loss in losses))


def test_the_plain_loop_ends_with_the_weights_of_kdignite(plain: ModuleType) -> None:
    """Also where the teacher comes in train mode: its answers are those of eval mode, and it does not change."""
    ours, theirs, teacher = network(0), network(0), network(1).train()
    before, data = copy.deepcopy(teacher.state_dict()), batches(5)
    sgd = [torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9) for model in (ours, theirs)]
    logits_of = predictor(copy.deepcopy(teacher), prepare=PREPARE)
    reference = live_teacher(lambda images: Outputs(logits_of(images)))
    step = distill_step(ours, sgd[0], reference, prepare=PREPARE, method=partial(kd, alpha=0.7, T=3.0))
    losses = [float(step(None, batch)["loss"]) for batch in data]
    prepared = [(PREPARE(batch.images), batch.labels) for batch in data]
    mean_loss = plain.train_epoch(theirs, teacher, prepared, optimizer=sgd[1], alpha=0.7, T=3.0)
    assert mean_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    torch.testing.assert_close(theirs.state_dict(), ours.state_dict(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


def pixels_of(part: Part) -> Tensor:
    return part.images.images[part.indices]


def test_rivals_see_the_images_that_kdignite_sees(job: ModuleType) -> None:
    images = job.load_images("digits", data_root=Path(), limit_train=50, mean=MEAN, std=STD)
    splits = split_source(load_source("digits", data_root=Path(), image_size=32), val_size=None)
    train, test = limited(splits.train, 50), splits.test
    assert images.train.labels == train.labels.tolist()
    assert torch.equal(torch.from_numpy(images.train.pixels).permute(0, 3, 1, 2), pixels_of(train))
    torch.testing.assert_close(torch.stack([image for image, _ in images.test]), PREPARE(pixels_of(test)).contiguous())
    assert [label for _, label in images.test] == test.labels.tolist()
    assert images.num_classes == 10


def test_views_are_shifts_by_up_to_four_pixels_and_mirrors(job: ModuleType) -> None:
    images = job.load_images("digits", data_root=Path(), limit_train=20, mean=(0, 0, 0), std=(1, 1, 1)).train
    with torch.random.fork_rng():
        torch.manual_seed(0)
        seen = [(index, images[index][0]) for index in range(20) for _ in range(20)]
    dy, dx, mirrored = zip(*(place(torch.from_numpy(images.pixels[index]), view) for index, view in seen), strict=True)
    assert {*dy} == {*dx} == {*range(-4, 5)}
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6


def place(pixels: Tensor, view: Tensor) -> tuple[int, int, bool]:
    """Where in its padded image a view was cut out, and whether it was mirrored."""
    padded = F.pad(pixels.permute(2, 0, 1), (4, 4, 4, 4))
    seen = (255 * view).round().to(torch.uint8)
    for dy, dx, mirrored in product(range(-4, 5), range(-4, 5), (False, True)):
        cut = padded[:, 4 + dy : 36 + dy, 4 + dx : 36 + dx]
        if torch.equal(cut.flip(2) if mirrored else cut, seen):
            return dy, dx, mirrored
    raise AssertionError("no view of the image")


def test_accuracy_counts_every_image_in_eval_mode(job: ModuleType) -> None:
    """A model that says 3 to every image is right about those of class 3."""
    images = job.load_images("digits", data_root=Path(), limit_train=50, mean=MEAN, std=STD).test
    model, modes = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).train(), []
    nn.init.zeros_(model[1].weight)
    model[1].bias.data = torch.eye(10)[3]
    model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    assert job.accuracy(model, images) == images.labels.count(3) / 300
    assert {*modes} == {False}


def record(speed: float, *, seconds: float = 1.0, accuracy: float = 0.5) -> dict[str, float]:
    return {
        "median_images_per_s": speed,
        "train_seconds": seconds,
        "wall_seconds": 2 * seconds,
        "accuracy": accuracy,
    }


def test_the_table_holds_medians_and_the_ratio_to_the_faster_rival(table: ModuleType) -> None:
    records = {
        "live": [record(300, seconds=9, accuracy=0.7), record(900, seconds=1, accuracy=0.8), record(600, seconds=5)],
        "plain": [record(100), record(200), record(900)],
        "other": [record(400), record(10), record(240)],
    }
    header, live, plain, other = table.table_rows(records, rivals=["plain", "other"])
    row = dict(zip(header, live, strict=True))
    assert (row["images/s"], row["range"]) == ("600", "300 to 900")
    assert (row["training s"], row["process s"]) == ("5.0", "10.0")
    assert (row["accuracy %"], row["std"]) == ("66.67", "15.28")  # of 70, 80 and 50
    assert [dict(zip(header, one, strict=True))["x faster rival"] for one in (live, plain, other)] == [
        *("2.50", "0.83", "1.00")
    ]


def test_a_rival_takes_its_fastest_number_of_workers(table: ModuleType) -> None:
    assert table.fastest({0: 90.0, 1: 120.0, 2: 100.0}) == 1
