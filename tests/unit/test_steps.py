"""Training steps against loops written out by hand, called without an engine."""

import copy
import hashlib
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdignite.data.batches import Batch
from kdignite.data.preprocess import preparer
from kdignite.data.specs import Preprocessing
from kdignite.evaluation import predictor
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs
from kdignite.steps import Step, Teacher, distill_step, supervised_step

PREPARE = preparer(Preprocessing(8, (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)), device=torch.device("cpu"))


def network(seed: int, *, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(144, 5)
        )


def batches(count: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    return [
        Batch(
            torch.randint(256, (6, 3, 8, 8), generator=generator, dtype=torch.uint8),
            torch.randint(5, (6,), generator=generator),
            torch.arange(6),
            0,
        )
        for _ in range(count)
    ]


def sgd(model: nn.Module, *, lr: float = 0.1) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def weighted(weight: float) -> list[Batch]:
    return [batch._replace(weight=weight) for batch in batches()]


def stored(logits: Tensor) -> Teacher:
    return lambda batch: Outputs(logits)


TEACHER = stored(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)))


def trained(model: nn.Module, step: Step, data: Iterable[Batch]) -> dict[str, Tensor]:
    for batch in data:
        step(None, batch)
    return copy.deepcopy(model.state_dict())


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


def digest(model: nn.Module) -> str:
    parts = [f"{key}{value.tolist()}" for key, value in model.state_dict().items()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_supervised_is_the_plain_loop(smoothing: float) -> None:
    ours, plain = network(0), network(0)
    step = supervised_step(ours, sgd(ours), prepare=PREPARE, label_smoothing=smoothing)
    outputs = [step(None, batch) for batch in batches()]
    optimizer = sgd(plain)
    for batch, output in zip(batches(), outputs, strict=True):
        optimizer.zero_grad()
        logits = plain(PREPARE(batch.images))
        target = (1 - smoothing) * F.one_hot(batch.labels, 5) + smoothing / 5
        loss = -(target * logits.log_softmax(1)).sum(1).mean()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(output["loss"], loss.detach())
        assert output["correct"] == sum(logits.argmax(1).eq(batch.labels).tolist())
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


@pytest.mark.parametrize(("alpha", "T"), [(0.3, 4.0), (0.9, 2.0), (1.0, 4.0)])
def test_distill_is_the_loop_of_the_formula(alpha: float, T: float) -> None:
    ours, plain = network(0), network(0)
    step = distill_step(ours, sgd(ours), TEACHER, prepare=PREPARE, method=partial(kd, alpha=alpha, T=T))
    outputs = [step(None, batch) for batch in batches()]
    optimizer = sgd(plain)
    for batch, output in zip(batches(), outputs, strict=True):
        optimizer.zero_grad()
        logits = plain(PREPARE(batch.images))
        p, q = (TEACHER(batch).logits / T).softmax(1), (logits / T).softmax(1)
        ce = -logits.log_softmax(1)[torch.arange(6), batch.labels].mean()
        soft = T**2 * (p * (p / q).log()).sum(1).mean()
        ((1 - alpha) * ce + alpha * soft).backward()
        optimizer.step()
        torch.testing.assert_close(output["ce"], ce.detach())
        torch.testing.assert_close(output["kd"], soft.detach())
        torch.testing.assert_close(output["loss"], ((1 - alpha) * ce + alpha * soft).detach())
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


@pytest.mark.parametrize("T", [1.0, 4.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_alpha_0_ends_bit_equal_to_the_supervised_step(T: float, smoothing: float) -> None:
    student, baseline = network(0, dropout=0.3), network(0, dropout=0.3)
    settings = {"prepare": PREPARE, "grad_clip": 0.5}
    method = partial(kd, alpha=0.0, T=T, label_smoothing=smoothing)
    distill = distill_step(student, sgd(student), TEACHER, method=method, **settings)
    supervised = supervised_step(baseline, sgd(baseline), label_smoothing=smoothing, **settings)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        ours = trained(student, distill, batches(6))
        torch.manual_seed(3)
        theirs = trained(baseline, supervised, batches(6))
    assert_equal(ours, theirs)


def test_alpha_1_changes_the_student_and_ignores_the_labels() -> None:
    student, other = network(0), network(0)
    before = copy.deepcopy(student.state_dict())
    relabelled = [batch._replace(labels=(batch.labels + 1) % 5) for batch in batches()]
    ours = trained(
        student,
        distill_step(student, sgd(student), TEACHER, prepare=PREPARE, method=partial(kd, alpha=1.0, T=4.0)),
        batches(),
    )
    theirs = trained(
        other,
        distill_step(other, sgd(other), TEACHER, prepare=PREPARE, method=partial(kd, alpha=1.0, T=4.0)),
        relabelled,
    )
    assert_equal(ours, theirs)
    assert all(not torch.equal(ours[key], before[key]) for key in ("0.weight", "5.weight", "5.bias"))


def test_another_teacher_teaches_something_else() -> None:
    weights = []
    teacher_logits = TEACHER(batches()[0]).logits
    for logits in (teacher_logits, -teacher_logits):
        student = network(0)
        step = distill_step(
            student, sgd(student), stored(logits), prepare=PREPARE, method=partial(kd, alpha=0.9, T=4.0)
        )
        weights.append(trained(student, step, batches())["5.weight"])
    assert not torch.allclose(*weights)


def step_of(kind: str, model: nn.Module, optimizer: Optimizer, **settings: float) -> Step:
    if kind == "supervised":
        return supervised_step(model, optimizer, prepare=PREPARE, **settings)
    return distill_step(model, optimizer, TEACHER, prepare=PREPARE, method=partial(kd, alpha=0.9, T=4.0), **settings)


PARTS = {"supervised": {"loss", "ce", "correct"}, "distill": {"loss", "ce", "kd", "correct"}}
KINDS = pytest.mark.parametrize("kind", PARTS)


@KINDS
def test_the_output_is_named_parts_without_a_graph(kind: str) -> None:
    model = network(0)
    output = step_of(kind, model, sgd(model))(None, batches(1)[0])
    assert output.keys() == PARTS[kind]
    for part in output.values():
        assert part.shape == ()
        assert part.grad_fn is None
        assert not part.requires_grad
    assert not output["correct"].is_floating_point()


@KINDS
def test_a_student_left_in_eval_mode_is_trained_in_train_mode(kind: str) -> None:
    model, plain = network(0), network(0)
    step = step_of(kind, model, sgd(model))
    for batch in batches():
        model.eval()
        step(None, batch)
        assert all(module.training for module in model.modules())
    assert_equal(dict(model.state_dict()), trained(plain, step_of(kind, plain, sgd(plain)), batches()))
    assert model[1].num_batches_tracked == 4


@KINDS
def test_gradients_do_not_pile_up(kind: str) -> None:
    """Without momentum, two steps at lr 0 leave the gradient of the last batch alone."""
    model, fresh = network(0), network(0)
    one, two = batches(2)
    step = step_of(kind, model, torch.optim.SGD(model.parameters(), lr=0.0))
    step(None, one)
    step(None, two)
    step_of(kind, fresh, torch.optim.SGD(fresh.parameters(), lr=0.0))(None, two)
    for ours, theirs in zip(model.parameters(), fresh.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def update(kind: str, **settings: Any) -> Tensor:
    """All weights' change in one step of plain gradient descent at lr 1: minus the gradient that was used."""
    model = network(0)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    step_of(kind, model, torch.optim.SGD(model.parameters(), lr=1.0), **settings)(None, batches(1)[0])
    return nn.utils.parameters_to_vector(model.parameters()).detach() - before


@KINDS
def test_grad_clip_bounds_the_norm_and_keeps_the_direction(kind: str) -> None:
    free = update(kind)
    clip = float(free.norm()) / 3
    clipped = update(kind, grad_clip=clip)
    assert clipped.norm() <= clip * (1 + 1e-5)
    torch.testing.assert_close(clipped, free / 3, rtol=1e-3, atol=1e-6)


@KINDS
def test_grad_clip_leaves_small_gradients_alone(kind: str) -> None:
    assert torch.equal(update(kind, grad_clip=1e6), update(kind))


@KINDS
def test_a_scaled_loss_gives_the_same_update(kind: str) -> None:
    """Scales are powers of two: what is multiplied and divided by one keeps its bits."""
    assert torch.equal(update(kind, scaler=GradScaler("cpu", init_scale=2.0**16)), update(kind))
    free = update(kind)
    clipped = update(kind, scaler=GradScaler("cpu", init_scale=2.0**16), grad_clip=float(free.norm()) / 3)
    torch.testing.assert_close(clipped, free / 3, rtol=1e-3, atol=1e-6)


@KINDS
def test_an_update_that_overflows_is_left_out_and_the_scale_halved(kind: str) -> None:
    scaler, model = GradScaler("cpu", init_scale=2.0**127), network(0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    step_of(kind, model, sgd(model), scaler=scaler)(None, batches(1)[0]._replace(weight=1e6))
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 2.0**126


class OwnTrain(nn.Module):
    """A network that keeps its normalisation in eval mode, as fine-tuning does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network(0)
        self.norms = [one for one in self.net.modules() if isinstance(one, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> "OwnTrain":
        super().train(mode)
        for norm in self.norms:
            norm.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


@KINDS
def test_a_network_is_in_its_own_train_mode_from_the_first_step_on(kind: str) -> None:
    model = OwnTrain()
    assert model.norms
    before = [norm.running_mean.clone() for norm in model.norms]
    step_of(kind, model, sgd(model))(None, batches(1)[0])
    assert model.training
    assert all(torch.equal(old, norm.running_mean) for old, norm in zip(before, model.norms, strict=True))


def test_a_live_teacher_is_not_changed_by_teaching() -> None:
    """With BatchNorm and Dropout, left in train mode by its owner: buffers, answers and gradients stay as they were."""
    student, teacher = network(0), network(1, dropout=0.5).train()
    logits_of = predictor(teacher, prepare=PREPARE)
    before, first = digest(teacher), logits_of(batches(1)[0].images)
    teacher.train()
    step = distill_step(
        student,
        sgd(student),
        lambda batch: Outputs(logits_of(batch.images)),
        prepare=PREPARE,
        method=partial(kd, alpha=0.9, T=4.0),
    )
    trained(student, step, batches())
    assert digest(teacher) == before
    assert torch.equal(logits_of(batches(1)[0].images), first)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert student.training


def test_a_live_teacher_answers_in_eval_mode() -> None:
    """The kd of the first step is that of the teacher's eval-mode logits, not of one dropout mask."""
    student, teacher = network(0), network(1, dropout=0.5).train()
    batch = batches(1)[0]
    logits_of = predictor(teacher, prepare=PREPARE)
    step = distill_step(
        student,
        sgd(student),
        lambda batch: Outputs(logits_of(batch.images)),
        prepare=PREPARE,
        method=partial(kd, alpha=0.9, T=4.0),
    )
    found = step(None, batch)["kd"]
    with torch.no_grad():
        p = (copy.deepcopy(teacher).eval()(PREPARE(batch.images)) / 4).softmax(1)
        q = (network(0).train()(PREPARE(batch.images)) / 4).softmax(1)
    torch.testing.assert_close(found, 16 * (p * (p / q).log()).sum(1).mean(), rtol=1e-4, atol=1e-6)


def test_the_teacher_is_asked_once_a_step_with_the_batch() -> None:
    asked = []

    def teacher(batch: Batch) -> Outputs:
        asked.append(batch)
        return TEACHER(batch)

    student, data = network(0), batches()
    trained(
        student,
        distill_step(student, sgd(student), teacher, prepare=PREPARE, method=partial(kd, alpha=0.9, T=4.0)),
        data,
    )
    assert len(asked) == len(data)
    assert all(one is other for one, other in zip(asked, data, strict=True))


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_only_the_trained_model_multiplies_in_half_precision(amp: str, dtype: torch.dtype) -> None:
    model, seen = network(0), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    def teacher(batch: Batch) -> Outputs:
        product = batch.images.flatten(1).float() @ torch.ones(192, 5)
        seen.append(product.dtype)
        return Outputs(product)

    step = distill_step(model, sgd(model), teacher, prepare=PREPARE, method=partial(kd, alpha=0.5, T=2.0), amp=amp)
    output = step(None, batches(1)[0])
    assert seen == [torch.float32, dtype]
    assert {part.dtype for name, part in output.items() if name != "correct"} == {torch.float32}
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


def test_half_precision_changes_a_loss_by_its_rounding_only() -> None:
    losses = {}
    for amp in ("off", "bf16"):
        model = network(0)
        step = supervised_step(model, sgd(model), prepare=PREPARE, amp=amp)
        losses[amp] = [float(step(None, batch)["loss"]) for batch in batches()]
    assert losses["off"] != losses["bf16"]
    assert losses["off"] == pytest.approx(losses["bf16"], rel=0.05)  # bfloat16 has 8 bits: 0.4 % a rounding


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_gradients_of_a_share_are_weighted_and_its_means_are_not(weight: float) -> None:
    def steps(model: nn.Module, lr: float) -> tuple[Step, Step]:
        optimizer = torch.optim.SGD(model.parameters(), lr=lr)
        return (
            supervised_step(model, optimizer, prepare=PREPARE),
            distill_step(model, optimizer, TEACHER, prepare=PREPARE, method=partial(kd, alpha=0.7, T=3.0)),
        )

    for which in (0, 1):
        one, other = network(3), network(3)
        ours = [steps(one, 0.1)[which](None, batch) for batch in weighted(weight)]
        theirs = [steps(other, 0.1 * weight)[which](None, batch) for batch in batches()]
        for name, value in one.state_dict().items():
            torch.testing.assert_close(value, other.state_dict()[name])
        for mine, yours in zip(ours, theirs, strict=True):
            assert mine.keys() == yours.keys()
            for name, value in mine.items():
                torch.testing.assert_close(value, yours[name])


def test_of_a_mixed_image_the_class_of_the_larger_share_counts() -> None:
    model, batch = network(0), batches(1)[0]
    dominant = batch.labels
    shares = 0.6 * F.one_hot(dominant, 5) + 0.4 * F.one_hot(dominant.roll(1), 5)
    plain, mixed = (
        supervised_step(copy.deepcopy(model), sgd(model), prepare=PREPARE)(None, batch._replace(labels=labels))
        for labels in (dominant, shares)
    )
    assert plain["correct"] == mixed["correct"]
    assert plain["ce"] != mixed["ce"]
