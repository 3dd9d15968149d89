"""What the accuracies of a model say, with the line that mends it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from kdignite import files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.config import AdoptConfig, command_line, typed_flags
from kdignite.data.registry import is_code
from kdignite.doctor.conclusions import (
    BetterSetting,
    better_order,
    better_setting,
    better_text,
    is_far_below_chance,
    lost_lines,
)
from kdignite.doctor.images import ImageSample
from kdignite.doctor.settings import SettingResults
from kdignite.training.data import Data


def conclusions(
    checkpoint: Checkpoint, data: Data, results: SettingResults, sample: ImageSample, split: str
) -> list[str]:
    """What is likely wrong with a model as it was recorded; nothing where nothing is."""
    (name, _), own, _, origin, recorded = checkpoint.description
    first, classes, labels = results.logits[0], data.source.classes, sample.labels.numpy()
    predicted = first.predicted[0].numpy()
    right, lines = predicted == labels, []
    is_same = origin.split == data.splits.hash and recorded.num_images == len(data.splits.val.indices)
    if split == "val" and is_same:
        lines += lost_lines(recorded, right, part="validation", own_code=is_code(name))
    better = better_setting(results.logits, labels)
    better = better or better_order(first.logits[0].numpy(), labels, classes=classes, own=own)
    if better is not None:
        lines.append(f"{better_text(better, predicted, labels)}: {_mended(better, checkpoint)}")
    elif is_far_below_chance(predicted, labels):
        lines.append(f"{right.mean():.2%} as recorded is far below chance: the labels are those of other images")
    return lines


def _mended(better: BetterSetting, checkpoint: Checkpoint) -> str:
    settings = checkpoint.path.with_name(runs.CONFIG)
    if checkpoint.description.origin.command == "adopt" and settings.is_file():
        return adopt_again(files.read_json(settings), better)
    return typed_flags(**better.flags) if better.flags else better.wrong


def adopt_again(recorded: Mapping[str, Any], better: BetterSetting) -> str:
    """The line that adopts a file, as it was adopted once, so that a better setting is the recorded one."""
    if better.flags is None:
        return "adopt has no flag for this: feed the model as it was trained, in a module of your own around it"
    usual = {one.name: one.default for one in fields(AdoptConfig)}
    given = {name: value for name, value in recorded.items() if value != usual.get(name, value)}
    file = given.pop("file", "FILE")
    flags: dict[str, Any] = {**given, "name": None, "allow_weak_teacher": None, **better.flags}
    if not any("," in name for name in flags.get("classes") or ()):
        return command_line("adopt", file, **flags)
    line = command_line("adopt", file, **{**flags, "classes": "FILE"})
    return f"{line}, where FILE has these names, one a line: {'; '.join(flags['classes'])}"
