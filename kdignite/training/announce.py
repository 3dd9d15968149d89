"""What a run will do, as it is printed, and what it still has to do, from which its time is estimated."""

from dataclasses import fields

import torch

from kdignite import processes
from kdignite.config import TrainConfig, setting_text
from kdignite.console import say
from kdignite.data.views import view_of
from kdignite.errors import counted
from kdignite.handlers import Remaining
from kdignite.teachers import LogitCache
from kdignite.training.spec import RunSpec


def announce(run: RunSpec) -> None:
    """Print what will be done: data, model, loss, and the resolved config."""
    config, splits = run.config, run.data.splits
    sizes = [f"{len(part.indices):,}" for part in (run.data.train, splits.val, splits.test)]
    parameters = sum(parameter.numel() for parameter in run.model.network.parameters())
    say(f"{config.command:<9} {config.arch} ({parameters:,} parameters) on {config.dataset}, preset {config.preset}")
    say(f"data      {sizes[0]} training, {sizes[1]} validation, {sizes[2]} test images, split {splits.hash[:12]}")
    several = f" in each of {processes.world_size()} processes" if processes.world_size() > 1 else ""
    say(f"device    {run.device}, {counted(torch.get_num_threads(), 'thread')}{several}")
    for line in _wrapped(config):
        say(line)
    if config.patience is not None and config.schedule == "onecycle":
        say("warning   --patience under --schedule=onecycle may stop before the last epochs, which gain the most")


def remaining(run: RunSpec, iteration: int) -> Remaining:
    """What a run still has to do; evaluating an image counts as a third of a step on it, an early stop not at all."""
    config, splits, cache = run.config, run.data.splits, run.teacher
    epoch = (iteration - 1) // run.epoch_length  # from 0
    num_images = len(splits.val.indices) * (config.epochs - epoch + 1) + len(splits.test.indices)
    steps = config.epochs * run.epoch_length - iteration + num_images / (3 * config.batch_size)
    if not isinstance(cache, LogitCache):
        return Remaining(steps)
    views = {
        view_of(later, views=config.views, augment=str(config.augment)) for later in range(epoch + 1, config.epochs)
    }
    return Remaining(steps, spent_s=cache.spent_s, cache_s=cache.seconds_left(views))


def _wrapped(config: TrainConfig) -> list[str]:
    """The resolved config in lines of a readable width; what is off or unset is left out."""
    flags = (one for one in fields(config) if "help" in one.metadata)
    shown = [one for one in flags if getattr(config, one.name) not in (None, False)]
    words = [f"{one.name}={setting_text(getattr(config, one.name))}" for one in shown]
    lines = ["config   "]
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(" " * 9)
        lines[-1] += " " + word
    return lines
