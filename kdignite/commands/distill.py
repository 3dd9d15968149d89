"""``distill``: train a student with the help of a teacher."""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from kdignite import processes, runs
from kdignite.config import DistillConfig
from kdignite.console import say
from kdignite.errors import UserError
from kdignite.losses import DistillationLoss, kd_loss
from kdignite.steps import distill_step
from kdignite.training.data import Data, open_training_data
from kdignite.training.device import check_amp, choose_amp, set_up_device
from kdignite.training.extensions import Attach
from kdignite.training.model import check_and_fetch_model
from kdignite.training.resume import resumable
from kdignite.training.spec import RunSpec, build_spec, resolve
from kdignite.training.teacher import choose_teacher, inherit, load_checked_teacher
from kdignite.training.teacher_cache import LoadedTeacher, make_teacher
from kdignite.training.trainer import execute


@resumable
def distill(
    config: DistillConfig,
    *,
    root: Path = runs.ROOT,
    loss: DistillationLoss = kd_loss,
    handlers: Sequence[Attach] = (),
) -> runs.Finished:
    """Train a student on the labels and a teacher's softened predictions.

    ``loss = (1 - alpha) * ce + alpha * T**2 * KL(softmax(teacher/T) || softmax(student/T))``

    Args:
        config: what to train, and how.
        root: the folder of all runs.
        loss: a function of your own with the arguments of `kd_loss`, instead of it; a ``def`` outside of other
            functions, whose name the run records.
        handlers: functions of your own ``(engine, view)``, called once each before the training, which attach what they
            like to the events of the engine.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had or the teacher is refused.
        RunFailed: if the loss stops being a number.
    """
    name = _name_of(loss)
    check_and_fetch_model(config)
    device = set_up_device(config.device, threads=config.threads)
    check_amp(config, device=device)
    checkpoint = processes.on_rank0(lambda: choose_teacher(config, root=root))
    config = inherit(config, checkpoint.description.origin)
    data = open_training_data(config, device=device)
    config = resolve(config, data, device=device)
    choose_amp(config.teacher_amp, device=device, flag="teacher_amp")
    loaded = load_checked_teacher(checkpoint, config, data, root=root, device=device)
    formula = "(1 - alpha) * ce + alpha * T^2 * KL(teacher/T || student/T)" if loss is kd_loss else name
    say(f"loss      {formula}, alpha={config.alpha:g}, T={config.T:g}")
    run = assemble(config, data, loaded, root=root, device=device, loss=loss)
    return execute(run, root=root, own=handlers)


def assemble(
    config: DistillConfig,
    data: Data,
    loaded: LoadedTeacher,
    *,
    root: Path,
    device: torch.device,
    loss: DistillationLoss = kd_loss,
) -> RunSpec:
    """A distillation that is ready to start."""
    teacher = make_teacher(loaded, config, data, root=root, device=device)
    make_step = partial(
        distill_step,
        alpha=config.alpha,
        T=config.T,
        label_smoothing=config.label_smoothing,
        loss=loss,
        grad_clip=config.grad_clip,
        amp=config.amp,
    )
    return build_spec(
        config,
        data,
        device=device,
        make_step=partial(make_step, teacher=teacher),
        loss=_name_of(loss),
        teacher=teacher,
        teacher_record=loaded.teacher_record,
    )


def _name_of(loss: DistillationLoss) -> str:
    """What records call a loss; by its name `compare` tells one from another."""
    if loss is kd_loss:
        return "kd_loss"
    name = getattr(loss, "__qualname__", "")
    if not name or "<" in name or inspect.ismethod(loss):
        what = name or f"{type(loss).__module__}.{type(loss).__qualname__}"
        raise UserError(
            f"the loss {what} has no name of its own, by which compare could tell it from others; give the loss a "
            "name: write it as a def outside of other functions"
        )
    return f"{loss.__module__}:{name}"
