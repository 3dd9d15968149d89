"""What is printed before a run starts: what it will do, and how long that will take."""

import copy
import time
from dataclasses import fields
from typing import Any

import torch

from kdignite import processes
from kdignite.config import TrainConfig
from kdignite.data.batches import EVALUATION_BATCH, Batch
from kdignite.data.splits import Part
from kdignite.evaluation import Logits, fed
from kdignite.pipelines.preparing import Run
from kdignite.pipelines.setup import DEV_STEPS, say, training_part
from kdignite.schedules import build_optimizer


def announce(run: Run) -> None:
    """Print what will be done: data, model, loss, and the resolved config.

    Args:
        run: about to start.
    """
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


def estimate(run: Run) -> float:
    """How long a run will take, from timed steps of a copy; nothing of the run itself is touched.

    Args:
        run: about to start.

    Returns:
        Seconds; the smallest of a few steps counts, since the first ones allocate memory and choose kernels.
    """
    model = copy.deepcopy(run.student.model)
    optimizer = build_optimizer(model, kind=run.config.optimizer, lr=0.0, momentum=0.5, weight_decay=0.0)
    step = run.rehearsal.make_step(model, optimizer, prepare=run.student.prepare, scaler=copy.deepcopy(run.scaler))
    batches = run.batches(0, 0)
    timed: list[float] = []
    while len(timed) < 4 and sum(timed) < 5.0:
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        float(step(None, batch)["loss"])
        timed.append(time.perf_counter() - started)
    an_image = _seconds_an_image(fed(model, prepare=run.student.prepare), next(run.batches(0, 0)))
    val, test = (_num_evaluated(run, part) for part in (run.data.splits.val, run.data.splits.test))
    evaluated = (val * (run.config.epochs + 1) + test) / processes.world()  # the saved model is evaluated on both
    steps = min(timed) * run.config.epochs * run.epoch_length
    return steps + an_image * evaluated + run.rehearsal.seconds()


def _seconds_an_image(logits_of: Logits, batch: Batch) -> float:
    """Of an evaluation, which multiplies in float32 whatever the training does."""
    started = time.perf_counter()
    float(logits_of(batch.images)[0, 0])
    return (time.perf_counter() - started) / len(batch.images)


def _num_evaluated(run: Run, part: Part) -> int:
    return min(len(part.indices), DEV_STEPS * EVALUATION_BATCH if run.config.fast_dev_run else len(part.indices))


def _wrapped(config: TrainConfig) -> list[str]:
    """The resolved config in lines of a readable width; what is off or unset is left out."""
    told = (one for one in fields(config) if "help" in one.metadata)
    shown = [one for one in told if getattr(config, one.name) not in (None, False)]
    words = [f"{one.name}={_text(getattr(config, one.name))}" for one in shown]
    lines = ["config   "]
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(" " * 9)
        lines[-1] += " " + word
    return lines


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
