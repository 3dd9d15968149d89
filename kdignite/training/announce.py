"""What is printed before a run starts: what it will do, and how long that will take."""

import copy
import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice

import torch

from kdignite import processes
from kdignite.config import TrainConfig, setting_text
from kdignite.console import say
from kdignite.data.batches import EVALUATION_BATCH, Batch, evaluation_batches
from kdignite.data.splits import Part
from kdignite.devices import is_accelerator
from kdignite.evaluation import Predictor, predictor
from kdignite.schedules import build_optimizer
from kdignite.steps import Step
from kdignite.training.data import DEV_STEPS, training_part
from kdignite.training.spec import RunSpec

# steps that are timed together for the estimate of a run's time; an accelerator works on while the host goes ahead
ON_CPU, ON_ACCELERATOR = (1, 1, 1, 1), (5, 10)
LONGEST_S = 5.0  # that they may take, up to the last round


def announce(run: RunSpec) -> None:
    """Print what will be done: data, model, loss, and the resolved config."""
    config, splits = run.config, run.data.splits
    sizes = [f"{len(part.indices):,}" for part in (training_part(config, run.data), splits.val, splits.test)]
    parameters = sum(parameter.numel() for parameter in run.student.model.parameters())
    say(f"{config.command:<9} {config.arch} ({parameters:,} parameters) on {config.dataset}, preset {config.preset}")
    say(f"data      {sizes[0]} training, {sizes[1]} validation, {sizes[2]} test images, split {splits.hash[:12]}")
    several = f" in each of {processes.world()} processes" if processes.world() > 1 else ""
    say(f"device    {run.device}, {torch.get_num_threads()} threads{several}")
    for line in _wrapped(config):
        say(line)
    if config.patience is not None and config.schedule == "onecycle":
        say("warning   --patience under --schedule=onecycle may stop before the last epochs, which gain the most")


def estimate(run: RunSpec) -> float:
    """How long a run will take, from timed steps of a copy; nothing of the run itself is touched."""
    model = copy.deepcopy(run.student.model)
    optimizer = build_optimizer(model, kind=run.config.optimizer, lr=0.0, momentum=0.5, weight_decay=0.0)
    step = run.rehearsal.make_step(model, optimizer, prepare=run.student.prepare, scaler=copy.deepcopy(run.scaler))
    a_step = _seconds_a_step(step, run.batches(0, 0), rounds=ON_ACCELERATOR if is_accelerator(run.device) else ON_CPU)
    an_image = _seconds_an_image(predictor(model, prepare=run.student.prepare), run)
    val, test = (_num_evaluated(run, part) for part in (run.data.splits.val, run.data.splits.test))
    evaluated = (val * (run.config.epochs + 1) + test) / processes.world()  # the saved model is evaluated on both
    return a_step * run.config.epochs * run.epoch_length + an_image * evaluated + run.rehearsal.seconds()


def _seconds_a_step(step: Step, batches: Iterator[Batch], *, rounds: tuple[int, ...]) -> float:
    """Of the fastest round; each waits for the device once, at its end."""
    timed: list[float] = []
    until = time.perf_counter() + LONGEST_S
    for num_steps in rounds:
        started = time.perf_counter()
        losses = [step(None, batch)["loss"] for batch in islice(batches, num_steps)] if started < until else []
        if not losses:
            break
        float(losses[-1])
        timed.append((time.perf_counter() - started) / len(losses))
    return min(timed)


def _seconds_an_image(logits_of: Predictor, run: RunSpec) -> float:
    """Of an evaluation, which multiplies in float32 whatever the training does.

    An accelerator chooses its kernels in a first call, which takes far longer than the ones that follow.
    """
    on_accelerator = is_accelerator(run.device)
    batch = next(evaluation_batches(run.data.splits.val) if on_accelerator else run.batches(0, 0))
    for _ in range(2 if on_accelerator else 1):
        started = time.perf_counter()
        float(logits_of(batch.images)[0, 0])
        seconds = time.perf_counter() - started
    return seconds / len(batch.images)


def _num_evaluated(run: RunSpec, part: Part) -> int:
    return min(len(part.indices), DEV_STEPS * EVALUATION_BATCH if run.config.fast_dev_run else len(part.indices))


def _wrapped(config: TrainConfig) -> list[str]:
    """The resolved config in lines of a readable width; what is off or unset is left out."""
    told = (one for one in fields(config) if "help" in one.metadata)
    shown = [one for one in told if getattr(config, one.name) not in (None, False)]
    words = [f"{one.name}={setting_text(getattr(config, one.name))}" for one in shown]
    lines = ["config   "]
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(" " * 9)
        lines[-1] += " " + word
    return lines
