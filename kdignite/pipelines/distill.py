"""``distill``: train a student with the help of a teacher."""

import inspect
from functools import partial
from pathlib import Path

from kdignite import processes, runs
from kdignite.config import DistillConfig
from kdignite.errors import UserError
from kdignite.losses import DistillationLoss, kd_loss
from kdignite.pipelines.building import check_architecture
from kdignite.pipelines.preparing import prepare_run
from kdignite.pipelines.resuming import resumable
from kdignite.pipelines.setup import AMP, choose_device, open_training_data, say, settle
from kdignite.pipelines.teaching import check_teacher, choose_teacher, inherit
from kdignite.pipelines.training import execute
from kdignite.steps import distill_step
from kdignite.teachers import live_teacher


@resumable
def distill(config: DistillConfig, *, root: Path = runs.ROOT, loss: DistillationLoss = kd_loss) -> runs.Finished:
    """Train a student on the labels and a teacher's softened predictions.

    ``loss = (1 - alpha) * ce + alpha * T**2 * KL(softmax(teacher/T) || softmax(student/T))``

    Args:
        config: what to train, and how.
        root: the folder of all runs.
        loss: a function of your own with the arguments of `kd_loss`, instead of it; a ``def`` outside of other
            functions, whose name the run records.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had or the teacher is refused.
        RunFailed: if the loss stops being a number.
    """
    name = _name_of(loss)
    check_architecture(config)
    device = choose_device(config.device, threads=config.threads)
    checkpoint = processes.on_first(lambda: choose_teacher(config, root=root))
    config = inherit(config, checkpoint.description.origin)
    data = open_training_data(config, device=device)
    config = settle(config, data, device=device)
    teaching = check_teacher(checkpoint, config, data, device=device)
    formula = "(1 - alpha) * ce + alpha * T^2 * KL(teacher/T || student/T)" if loss is kd_loss else name
    say(f"loss      {formula}, alpha={config.alpha:g}, T={config.T:g}")
    make_step = partial(
        distill_step,
        teacher=live_teacher(teaching.logits_of),
        alpha=config.alpha,
        T=config.T,
        label_smoothing=config.label_smoothing,
        loss=loss,
        grad_clip=config.grad_clip,
        amp=AMP[config.amp],
    )
    run = prepare_run(config, data, device=device, make_step=make_step, loss=name, taught=teaching.taught)
    return execute(run, root=root)


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
