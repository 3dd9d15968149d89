"""Whether the teacher of a run is asked for every batch, or its answers are kept."""

import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite import processes, runs
from kdignite.config import DistillConfig
from kdignite.data.batches import EVALUATION_BATCH, Batch, view_batches
from kdignite.data.splits import Part
from kdignite.data.views import view_of
from kdignite.errors import UserError
from kdignite.pipelines.setup import Data, say, training_part
from kdignite.pipelines.teaching import Teaching
from kdignite.steps import Teacher
from kdignite.teachers import Lesson, TableFolder, TeacherTable, live_teacher, make_room, table_bytes, table_key

FORMAT = 1  # raised when the same key would mean other numbers
LIMIT_BYTES = 2**30  # of all tables together, under --cache=auto


class Tuition(NamedTuple):
    """A teacher for the steps of a run, and what it takes."""

    teach: Teacher
    rehearse: Teacher  # takes the time that `teach` takes in every step
    seconds: Callable[[], float]  # what `teach` takes over a whole run on top of that


def arrange(teaching: Teaching, config: DistillConfig, data: Data, *, root: Path, device: torch.device) -> Tuition:
    """The teacher of a run: a table of its answers, or the model itself where none is to be kept.

    Args:
        teaching: the teacher, which passed its checks.
        config: resolved.
        data: of the run.
        root: the folder of all runs.
        device: that computes.

    Returns:
        The `Tuition`.

    Raises:
        UserError: if the folder that was named cannot be used.
    """
    lesson = Lesson(training_part(config, data), config.view_seed, str(config.augment))
    views, num_classes = num_views(config), len(data.source.classes)
    num_bytes = table_bytes(lesson, views=views, num_classes=num_classes, dtype=config.cache_dtype)
    cache = _cache(config, num_bytes=num_bytes, root=root)
    if cache is None:
        teach = live_teacher(teaching.logits_of)
        return Tuition(teach, teach, lambda: 0.0)
    about = processes.on_first(lambda: _about(teaching, config, data, lesson, device=device))
    kept = TableFolder(cache / table_key(about["determined_by"]), about, config.cache_dtype)
    if config.cache == "auto":
        make = partial(make_room, cache, num_bytes=num_bytes, limit=LIMIT_BYTES, keep=kept.key)
        for old in processes.on_first(make):
            say(f"cache     {old.folder} is removed: it was used longest ago, and {cache} is to stay below 1 GiB")
    table = TeacherTable(teaching.logits_of, lesson, kept, num_classes=num_classes, seed=config.seed, say=say)
    missing = table.num_missing(views) // len(lesson.part.indices)
    say(f"cache     {kept.folder}: {views - missing} of {views} views of the images have the teacher's answers")
    rehearse = partial(_silence, num_classes=num_classes)
    return Tuition(table, rehearse, lambda: table.num_missing(views) * _seconds_an_image(teaching, lesson))


def num_views(config: DistillConfig) -> int:
    """How many views of each image a run sees.

    Args:
        config: resolved.

    Returns:
        As many as epochs, unless they come round again.
    """
    augment = str(config.augment)
    return len({view_of(epoch, views=config.views, augment=augment) for epoch in range(config.epochs)})


def _cache(config: DistillConfig, *, num_bytes: int, root: Path) -> Path | None:
    """The folder of tables; None: the teacher is asked for every batch."""
    if config.cache == "off" or config.fast_dev_run:  # two steps need no table
        return None
    if config.cache != "auto":
        folder = Path(config.cache)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--cache={config.cache} must be auto, off or a folder: {error.strerror}") from error
        return folder
    if num_bytes > LIMIT_BYTES:
        say(
            f"cache     none: the teacher's answers would take {num_bytes / 2**30:.1f} GiB, more than the 1 GiB of "
            "--cache=auto; --views=K makes them fewer, --cache=DIR keeps them all the same"
        )
        return None
    return runs.cache_folder(root)


def _about(
    teaching: Teaching, config: DistillConfig, data: Data, lesson: Lesson, *, device: torch.device
) -> dict[str, Any]:
    """Everything that determines the teacher's answers to the last bit, and names for people."""
    machine = runs.environment(device)
    return {
        "teacher": teaching.taught.name,
        "dataset": data.source.name,
        "num_images": len(lesson.part.indices),
        "determined_by": {
            "format": FORMAT,
            "teacher": teaching.taught.sha256,
            "teacher_arch": config.teacher_arch,
            "classes": list(data.source.classes),
            "data": data.source.fingerprint,
            "image_size": data.image_size,
            "images": _digest(lesson.part),
            "augment": lesson.augment,
            "view_seed": lesson.view_seed,
            "chunk": EVALUATION_BATCH,
            "dtype": config.cache_dtype,
            "torch": machine["packages"]["torch"],
            **{name: machine[name] for name in ("device", "cpu", "processor", "threads")},
        },
    }


def _digest(part: Part) -> str:
    return hashlib.sha256(part.indices.numpy().astype("<i8").tobytes()).hexdigest()


def _silence(batch: Batch, *, num_classes: int) -> Tensor:
    return torch.zeros(len(batch.labels), num_classes, device=batch.images.device)


def _seconds_an_image(teaching: Teaching, lesson: Lesson) -> float:
    """Of the teacher, from one chunk; the first call allocates memory and chooses kernels."""
    part = lesson.part._replace(indices=lesson.part.indices[:EVALUATION_BATCH])
    (batch,) = view_batches(part, view=0, view_seed=lesson.view_seed, augment=lesson.augment)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        float(teaching.logits_of(batch.images)[0, 0])
        seconds.append(time.perf_counter() - started)
    return min(seconds) / len(batch.images)
