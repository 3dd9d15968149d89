"""What a run will do, as it is printed, and what it still has to do, from which its time is estimated."""

from collections.abc import Iterator

import torch

from kdignite import processes
from kdignite.config import TrainConfig, setting_text, to_json
from kdignite.console import say
from kdignite.data.registry import FOLDER
from kdignite.errors import counted
from kdignite.handlers import Remaining
from kdignite.models.registry import MODELS, recipe_of
from kdignite.teachers import caches_of
from kdignite.training.initial_weights import NONE
from kdignite.training.spec import RunSpec
from kdignite.training.teacher_cache import views_of

SMALLEST_OF_STEM = 64  # pixels, of which the ImageNet stem and four stages leave 2 x 2


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
    for line in _notes(run):
        say(f"note      {line}")


def _notes(run: RunSpec) -> Iterator[str]:
    """What a user may not expect of these settings, a line each."""
    config, data = run.config, run.data
    if recipe := _recipe(config):
        yield f"--arch={config.arch} brings {recipe}"
    if _has_large_stem(config):
        flag = "--stem=cifar" + (" (reproduce: --teacher_stem=cifar)" if config.command == "teacher" else "")
        yield f"{config.arch} has the stem for ImageNet, coarse for {config.size} pixels: {flag} is for small images"
    if data.image_size < config.size:
        keep = f": --image_size={config.size} keeps more" if str(config.dataset).startswith(FOLDER) else ""
        yield f"images kept at {data.image_size} pixels are enlarged to --size={config.size}{keep}"
    if config.batch_size > len(data.train.indices):
        yield f"--batch_size={config.batch_size} is more than all {len(data.train.indices):,} training images"
    if config.freeze_epochs and config.weights == NONE:
        yield "--freeze_epochs keeps random weights as they are: --weights=pretrained or FILE starts from better ones"
    if run.is_early(config.epochs * run.epoch_length):
        yield (
            f"{counted(config.epochs * run.epoch_length, 'step')} are too few for the running statistics of BatchNorm: "
            "they are measured on the training images before each evaluation"
        )


def _recipe(config: TrainConfig) -> str:
    """The settings that came with a model that was named, as text."""
    given = config.given or ()
    if "arch" not in given or config.arch == type(config).arch:
        return ""
    usual, recipe = recipe_of(type(config).arch)._asdict(), recipe_of(config.arch)._asdict()
    names = [name for name in recipe if name not in given and recipe[name] != usual[name]]
    return ", ".join(f"{name}={setting_text(getattr(config, name))}" for name in names)


def _has_large_stem(config: TrainConfig) -> bool:
    takes_stem = config.arch in MODELS and "stem" in MODELS[config.arch].options
    return takes_stem and config.stem != "cifar" and config.weights != "pretrained" and config.size < SMALLEST_OF_STEM


def remaining(run: RunSpec, iteration: int) -> Remaining:
    """What a run still has to do; evaluating an image counts as a third of a step on it, an early stop not at all."""
    config, splits, caches = run.config, run.data.splits, caches_of(run.teacher)
    epoch = (iteration - 1) // run.epoch_length  # from 0
    num_images = len(splits.val.indices) * (config.epochs - epoch + 1) + len(splits.test.indices)
    steps = config.epochs * run.epoch_length - iteration + num_images / (3 * config.batch_size)
    if not caches:
        return Remaining(steps)
    views = views_of(config, range(epoch + 1, config.epochs))
    return Remaining(
        steps, spent_s=sum(one.spent_s for one in caches), cache_s=sum(one.seconds_left(views) for one in caches)
    )


def _wrapped(config: TrainConfig) -> list[str]:
    """The resolved config in lines of a readable width; what is off or unset is left out."""
    shown = {name: value for name, value in to_json(config).items() if value not in (None, False, "")}
    words = [f"{name}={setting_text(value)}" for name, value in shown.items()]
    lines = ["config   "]
    for word in words:
        if len(lines[-1]) + len(word) > 110:
            lines.append(" " * 9)
        lines[-1] += " " + word
    return lines
