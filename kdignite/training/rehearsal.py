"""A network of the user's own, rehearsed: what a run will do with it is done with a second one that is thrown away."""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.parameter import is_lazy

from kdignite.checkpoints import check_storable, not_finite
from kdignite.config import TrainConfig
from kdignite.console import say_once
from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare
from kdignite.errors import RunFailed, UserError, listed
from kdignite.evaluation import Predictor, predictor
from kdignite.memory import oom_as_failure
from kdignite.models.layout import place, require_contiguous
from kdignite.models.trial import check_shapes
from kdignite.plugins import TRACEBACK, own_error
from kdignite.schedules import build_optimizer
from kdignite.steps import forward, supervised_step
from kdignite.streams import seeded, stream, unchanged_generators
from kdignite.teachers.outputs import SOFTMAX, activation_of
from kdignite.training.built_twice import check_apart, check_repeatable, same_bytes

NUM_IMAGES = 4
TOLERANCE = 1e-3  # relative, between two evaluations: kernels of a GPU may sum in another order


class Rehearsal(NamedTuple):
    """A network of the user's own, and what is needed to try another one of its kind."""

    name: str  # package.module:function
    build: Callable[[], nn.Module]  # a new one, on the CPU
    prepare: Prepare
    size: int  # of its input, in pixels
    num_classes: int
    device: torch.device
    amp: str = "off"  # of its evaluation

    @property
    def images(self) -> Tensor:
        """uint8 (4, 3, size, size) of noise."""
        shape = (NUM_IMAGES, 3, self.size, self.size)
        return torch.randint(256, shape, generator=stream("rehearsal")).to(torch.uint8).to(self.device)

    def predictor(self, network: nn.Module) -> Predictor:
        """The network as evaluations use it."""
        return predictor(network, prepare=self.prepare, amp=self.amp)


class NetworkFailed(Exception):
    """The network raised; the message says in which mode, the cause is its error."""


def rehearse_training(model: nn.Module, rehearsal: Rehearsal, config: TrainConfig) -> None:
    """Refuse a network that cannot be trained or evaluated as this run would; choose its memory layout.

    Args:
        model: that will be trained, new; only its memory layout is changed.
        rehearsal: of it.
        config: of the run, resolved.

    Raises:
        UserError: saying in which mode it failed, with its own error and what to do.
    """
    if lazy := [key for key, parameter in model.named_parameters() if is_lazy(parameter)]:
        raise UserError(
            f"{rehearsal.name} has lazy parameters that its evaluation does not make: {listed(lazy)}; give them their "
            "size when it is built"
        )
    with seeded("init", config.seed):
        second = rehearsal.build()
    check_apart(model, second, rehearsal.name)
    check_repeatable(model, second, rehearsal.name)

    def attempt(network: nn.Module) -> None:
        _train_once(network, rehearsal, config)
        _evaluate_twice(network, rehearsal)

    try:
        _choose_layout(model, rehearsal, attempt)
    except NetworkFailed as error:
        raise UserError(f"{rehearsal.name} fails {error}{_amp_advice(rehearsal, config)}") from error.__cause__


def rehearse_evaluation(model: nn.Module, rehearsal: Rehearsal) -> None:
    """Refuse a network whose evaluation would not be one; choose its memory layout.

    Raises:
        UserError: as `rehearse_training`.
    """
    with unchanged_generators():
        check_apart(model, rehearsal.build(), rehearsal.name)
    try:
        _choose_layout(model, rehearsal, lambda network: _evaluate_twice(network, rehearsal))
    except NetworkFailed as error:
        raise UserError(f"{rehearsal.name} fails {error}") from error.__cause__


def _choose_layout(model: nn.Module, rehearsal: Rehearsal, attempt: Callable[[nn.Module], None]) -> None:
    """Try in channels_last memory, and where the network fails there, in contiguous memory."""
    with unchanged_generators(rehearsal.device), warnings.catch_warnings(action="ignore"):
        try:
            attempt(place(rehearsal.build(), rehearsal.device))
            return
        except NetworkFailed as error:
            failed, cause = error, error.__cause__ or error
        network = rehearsal.build()
        require_contiguous(network)
        try:
            attempt(place(network, rehearsal.device))
        except NetworkFailed:
            raise failed from cause
    require_contiguous(model)
    why = own_error(cause)
    say_once(f"note      {rehearsal.name} computes in contiguous memory, since it fails in channels_last: {why}")


def _train_once(network: nn.Module, rehearsal: Rehearsal, config: TrainConfig) -> None:
    """One whole step, which has to update weights and to leave the names and shapes of the state as they are."""
    amp, name = str(config.amp), rehearsal.name
    before, broken = _state_shapes(network), not_finite(_tensors(network))
    trained = [key for key, parameter in network.named_parameters() if parameter.requires_grad]
    if not trained:
        raise UserError(f"{name} has no parameter to train: requires_grad is False for all of them")
    mode = "in train mode" + ("" if amp == "off" else f" in {amp} mixed precision")
    with _failing(mode):
        network.train()
        logits = forward(network, rehearsal.prepare(rehearsal.images[:2]), amp=amp).logits
        check_shapes(
            [tuple(logits.shape)], name=name, num_classes=rehearsal.num_classes, size=rehearsal.size, when=f" {mode}"
        )
        if not logits.requires_grad:
            raise UserError(f"{name} returns logits without gradient {mode}: see detach(), no_grad(), .data in it")
        _step(network, rehearsal, config)
    check_storable(network.state_dict(), source=name)
    after = _state_shapes(network)
    if changed := [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]:
        raise UserError(
            f"{name} changes its state in a training step, so no checkpoint of it could be loaded: make these as "
            f"large as they get when it is built: {listed(changed)}"
        )
    if constant := [key for key in not_finite(_tensors(network)) if key in broken]:
        raise UserError(
            f"{name} holds NaN or infinity where it is built, which no checkpoint may: {listed(constant)}; "
            "register_buffer(..., persistent=False) keeps a constant out of checkpoints, or take a large finite number"
        )
    idle = [key for key, parameter in network.named_parameters() if key in trained and parameter.grad is None]
    if idle:
        say_once(f"warning   no gradient reaches {len(idle)} of {len(trained)} parameters of {name}: {listed(idle)}")


def _step(network: nn.Module, rehearsal: Rehearsal, config: TrainConfig) -> None:
    optimizer = build_optimizer(
        network,
        kind=config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    step = supervised_step(
        network,
        optimizer,
        label_smoothing=config.label_smoothing,
        prepare=rehearsal.prepare,
        grad_clip=config.grad_clip,
        amp=str(config.amp),
        scaler=GradScaler(rehearsal.device.type, enabled=config.amp == "fp16"),
    )
    images = rehearsal.images
    indices = torch.arange(len(images))
    step(None, Batch(images, (indices % rehearsal.num_classes).to(images.device), indices, view=0))


def _evaluate_twice(network: nn.Module, rehearsal: Rehearsal) -> None:
    """Two evaluations of the same images, which have to agree, and one of a single image."""
    name, images, logits_of = rehearsal.name, rehearsal.images, rehearsal.predictor(network)
    before = {key: value.clone() for key, value in _tensors(network).items()}
    with _failing("in eval mode"):
        one, two, pair, single = (logits_of(some) for some in (images, images, images[:2], images[:1]))
    check_shapes(
        [tuple(pair.shape), tuple(single.shape)], name=name, num_classes=rehearsal.num_classes, size=rehearsal.size
    )
    training = [key or "the network itself" for key, module in network.named_modules() if module.training]
    if training:
        raise UserError(
            f"{name} stays in train mode after eval(): see its train() and eval(), which must pass the mode on to "
            f"{listed(training)}"
        )
    if not _agree(one, two):
        changing = [key for key, value in network.state_dict().items() if not same_bytes(value, before.get(key))]
        why = (
            f"its buffers change: {listed(changing)}"
            if changing
            else "F.dropout, for one, needs training=self.training"
        )
        raise UserError(f"{name} is not the same in two evaluations of the same images, in eval mode: {why}")
    if activation_of(one) == SOFTMAX:
        say_once(f"warning   {name} ends in softmax: train it without; a teacher needs --teacher_outputs=probabilities")


def _agree(one: Tensor, two: Tensor) -> bool:
    scale = float(one.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(one, two, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}


def _state_shapes(network: nn.Module) -> dict[str, object]:
    return {key: getattr(value, "shape", None) for key, value in network.state_dict().items()}


def _amp_advice(rehearsal: Rehearsal, config: TrainConfig) -> str:
    """What to type where the same step passes without mixed precision."""
    if config.amp == "off":
        return ""
    with unchanged_generators(rehearsal.device):
        try:
            network = place(rehearsal.build(), rehearsal.device)
            _train_once(network, rehearsal, dataclasses.replace(config, amp="off"))
        except (NetworkFailed, UserError):
            return ""
    return "; it passes with --amp=off"


@contextmanager
def _failing(mode: str) -> Iterator[None]:
    """Within the block an error of the network becomes a `NetworkFailed` that says in which mode."""
    try:
        with oom_as_failure("its first step does not fit: try a smaller --batch_size, or a smaller network"):
            yield
    except (UserError, RunFailed):
        raise
    except Exception as error:
        raise NetworkFailed(f"{mode}: {own_error(error)} ({TRACEBACK})") from error
