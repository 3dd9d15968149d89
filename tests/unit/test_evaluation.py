"""The one evaluation: what it counts, and what it must not depend on."""

import logging
from collections.abc import Callable, Iterator

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss
from torch import Tensor, nn

from kdignite.data.batches import Batch, evaluation_batches
from kdignite.data.preprocess import preparer
from kdignite.data.source import ImageSet
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import Part
from kdignite.evaluation import Outcome, evaluate, predictor

NUM_CLASSES = 4
SIZE = 4  # pixels


class Probe(nn.Module):
    """A model with both things that training mode changes; it notes the mode of every call."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(3 * SIZE * SIZE, NUM_CLASSES)
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.modes.append(self.training)
        logits: Tensor = self.linear(self.dropout(self.norm(images)).flatten(1))
        return logits


@pytest.fixture
def model() -> Probe:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Probe()


def part(num_images: int, *, seed: int = 0) -> Part:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (num_images, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, NUM_CLASSES, (num_images,), generator=generator)
    return Part(ImageSet(images, labels), torch.arange(num_images))


def cut(whole: Part, sizes: tuple[int, ...]) -> Iterator[Batch]:
    """A generator of batches of these sizes."""
    for indices in whole.indices.split(sizes):
        yield Batch(whole.images.images[indices], whole.images.labels[indices], indices, 0)


PREPARE = preparer(Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), device=torch.device("cpu"))


def answering(logits: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that answers with the given logits row by row, whatever it is asked."""
    rows = iter(logits)
    return lambda images: torch.stack([next(rows) for _ in images])


def outcome_of(logits: Tensor, labels: Tensor) -> Outcome:
    images = torch.zeros(len(labels), 3, SIZE, SIZE, dtype=torch.uint8)
    batches = evaluation_batches(Part(ImageSet(images, labels), torch.arange(len(labels))))
    return evaluate(answering(logits), batches, num_classes=logits.shape[1])


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (1, 6), (1,) * 7])
def test_counts_are_those_of_scikit_learn_whatever_the_batches(model: Probe, sizes: tuple[int, ...]) -> None:
    whole = part(7)
    outcome = evaluate(predictor(model, prepare=PREPARE), cut(whole, sizes), num_classes=NUM_CLASSES)
    with torch.no_grad():
        expected = model.eval()(PREPARE(whole.images.images))
    labels, predicted = whole.images.labels, expected.argmax(1)
    np.testing.assert_array_equal(outcome.confusion, confusion_matrix(labels, predicted, labels=range(NUM_CLASSES)))
    np.testing.assert_allclose(outcome.logits, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(outcome.labels, labels)
    assert torch.equal(outcome.indices, whole.indices)
    assert outcome.num_correct == int((predicted == labels).sum())
    probabilities = torch.softmax(expected.double(), 1).numpy()
    assert outcome.loss == pytest.approx(log_loss(labels, probabilities, labels=range(NUM_CLASSES)), rel=1e-6)


def test_rows_are_true_classes_and_columns_predicted_ones() -> None:
    outcome = outcome_of(torch.eye(3)[[2, 2, 1]], torch.tensor([0, 0, 1]))
    assert outcome.confusion.tolist() == [[0, 0, 2], [0, 1, 0], [0, 0, 0]]
    assert outcome.num_correct == 1


def test_the_outcome_lies_on_the_cpu_in_the_types_that_are_stored() -> None:
    outcome = outcome_of(torch.randn(5, 3).half(), torch.tensor([0, 1, 2, 0, 1]))
    assert outcome.logits.dtype == torch.float32
    assert outcome.labels.dtype == outcome.indices.dtype == outcome.confusion.dtype == torch.int64
    assert {tensor.device.type for tensor in outcome[:4]} == {"cpu"}
    assert isinstance(outcome.loss, float)


def test_the_loss_is_the_mean_over_images_not_over_batches() -> None:
    logits, labels = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 2.0]]), torch.tensor([0, 0, 0])
    whole = Part(ImageSet(torch.zeros(3, 3, SIZE, SIZE, dtype=torch.uint8), labels), torch.arange(3))
    outcome = evaluate(answering(logits), cut(whole, (2, 1)), num_classes=2)
    by_hand = [np.log(1 + np.exp(-3)), np.log(1 + np.exp(1)), np.log(1 + np.exp(4))]
    assert outcome.loss == pytest.approx(np.mean(by_hand), rel=1e-6)


def test_the_model_is_put_into_eval_mode_at_every_call(model: Probe) -> None:
    logits_of, images = predictor(model, prepare=PREPARE), part(5).images.images
    for _ in range(3):
        model.train()
        logits_of(images)
    assert model.modes == [False, False, False]


def test_logits_do_not_depend_on_the_mode_or_the_batch_that_came_before(model: Probe) -> None:
    logits_of, images = predictor(model, prepare=PREPARE), part(6).images.images
    model.eval()
    first = logits_of(images)
    model.train()
    assert torch.equal(logits_of(images), first)
    logits_of(255 - images)
    model.train()
    assert torch.equal(logits_of(images), first)


def test_an_evaluation_moves_no_buffer_and_no_weight(model: Probe) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    evaluate(predictor(model, prepare=PREPARE), cut(part(9), (4, 4, 1)), num_classes=NUM_CLASSES)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_logits_carry_no_gradient(model: Probe) -> None:
    logits = predictor(model, prepare=PREPARE)(part(2).images.images)
    assert not logits.requires_grad
    assert logits.grad_fn is None


def test_images_go_through_the_preparation_of_the_model() -> None:
    sums = nn.Sequential(nn.Flatten(), nn.LazyLinear(1, bias=False))
    sums(torch.zeros(1, 3, SIZE, SIZE))
    nn.init.ones_(sums[1].weight)
    images = part(5).images.images
    pixels = images.double() / 255
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    expected = ((pixels.numpy() - mean[:, None, None]) / std[:, None, None]).sum((1, 2, 3))
    np.testing.assert_allclose(predictor(sums, prepare=PREPARE)(images)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_outputs_are_put_into_the_order_of_the_classes_of_the_data(model: Probe) -> None:
    images = part(5).images.images
    own = predictor(model, prepare=PREPARE)(images)
    order = torch.tensor([2, 0, 3, 1])
    mapped = predictor(model, prepare=PREPARE, order=order)(images)
    for position, output in enumerate(order.tolist()):
        assert torch.equal(mapped[:, position], own[:, output])


@pytest.mark.parametrize("label", [-1, 3, 7])
def test_a_label_outside_the_classes_is_an_error_and_not_left_out(label: int) -> None:
    with pytest.raises(AssertionError, match=r"labels from .*, of 3 classes"):
        outcome_of(torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, label]))


def test_nothing_is_counted_on_a_gpu_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignite's own metrics go to one wherever there is one."""
    monkeypatch.setattr(idist, "device", lambda: torch.device("cuda"))
    outcome = outcome_of(torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 2]))
    assert outcome.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_logit_that_is_no_number_makes_the_model_a_dead_one(value: float) -> None:
    logits = torch.eye(3)[[0, 0, 1]]
    assert outcome_of(logits, torch.tensor([0, 0, 1])).num_correct == 3
    logits[2, 2] = value
    outcome = outcome_of(logits, torch.tensor([0, 0, 1]))
    assert not outcome.is_finite
    assert outcome.num_correct == 0


def test_a_dead_model_does_not_score_the_share_of_class_0() -> None:
    outcome = outcome_of(torch.full((6, 2), float("nan")), torch.tensor([0, 0, 0, 1, 1, 1]))
    assert (outcome.is_finite, outcome.num_correct) == (False, 0)
    assert np.isnan(outcome.loss)


def test_an_error_comes_out_and_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(images: Tensor) -> Tensor:
        raise ZeroDivisionError

    monkeypatch.setattr(logging.getLogger("ignite.engine.engine.Engine"), "disabled", False)  # all engines share it
    with pytest.raises(ZeroDivisionError):
        evaluate(broken, cut(part(3), (3,)), num_classes=NUM_CLASSES)
    assert caplog.records == []
