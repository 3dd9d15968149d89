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
from kdignite.data.batches import EVALUATION_BATCH, Batch, evaluation_batches, view_batches
from kdignite.data.splits import Part
from kdignite.data.views import view_of
from kdignite.devices import is_accelerator
from kdignite.errors import UserError
from kdignite.evaluation import Logits, Outcome, tally
from kdignite.pipelines.preparing import Taught
from kdignite.pipelines.setup import DEV_STEPS, Data, say, share, training_part
from kdignite.steps import Teacher
from kdignite.teachers import Lesson, TableFolder, TeacherTable, live_teacher, make_room, table_bytes, table_key

FORMAT = 3  # raised when the same key would mean other numbers
ON_CPU, ON_GPU = ("device", "cpu", "processor", "threads"), ("device", "cuda")  # what the last bits depend on
TIMED_IMAGES = 100  # for the estimate of a run's time
LIMIT_BYTES = 2**30  # of all tables together, under --cache=auto


class Teaching(NamedTuple):
    """A teacher that passed its checks."""

    logits_of: Logits
    taught: Taught


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
    logits_of, taught = teaching
    lesson = Lesson(training_part(config, data), config.view_seed, str(config.augment))
    views, num_classes = num_views(config), len(data.source.classes)
    num_bytes = table_bytes(lesson, views=views, num_classes=num_classes, dtype=config.cache_dtype)
    if config.cache == "auto" and num_bytes > LIMIT_BYTES:
        say(
            f"cache     none: the teacher's answers would take {num_bytes / 2**30:.1f} GiB, more than the 1 GiB of "
            "--cache=auto; --views=K makes them fewer, --cache=DIR keeps them all the same"
        )
    table = _table(
        logits_of, taught, lesson, config, data, num_bytes=num_bytes, dtype=config.cache_dtype, root=root, device=device
    )
    if table is None:
        teach = live_teacher(logits_of)
        return Tuition(teach, teach, lambda: 0.0)
    missing = table.num_missing(views) // len(lesson.part.indices)
    say(f"cache     {table.kept.folder}: {views - missing} of {views} views of the images have the teacher's answers")
    rehearse = partial(_silence, num_classes=num_classes)
    return Tuition(table, rehearse, lambda: _seconds(table, views=views))


def examine(
    logits_of: Logits, taught: Taught, config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> Outcome:
    """What a teacher scores on the validation images; its answers are kept too, and a sample of them asked again.

    Args:
        logits_of: the teacher.
        taught: whose sha256 says which one it is.
        config: of the run; whether and where answers are kept.
        data: of the run.
        root: the folder of all runs.
        device: that computes.

    Returns:
        The `Outcome`.

    Raises:
        UserError: if the folder that was named cannot be used.
    """
    lesson, num_classes = Lesson(data.splits.val, 0, "none"), len(data.source.classes)
    num_bytes = table_bytes(lesson, views=1, num_classes=num_classes, dtype="float32")
    table = _table(
        logits_of, taught, lesson, config, data, num_bytes=num_bytes, dtype="float32", root=root, device=device
    )
    if table is not None:
        table.open(0)  # in every process, though there may be more of them than batches
    limit = DEV_STEPS if config.fast_dev_run else None
    batches = evaluation_batches(lesson.part, limit=limit, share=share())
    return tally(table or live_teacher(logits_of), batches, num_classes=num_classes)


def num_views(config: DistillConfig) -> int:
    """How many views of each image a run sees.

    Args:
        config: resolved.

    Returns:
        As many as epochs, unless they come round again.
    """
    augment = str(config.augment)
    return len({view_of(epoch, views=config.views, augment=augment) for epoch in range(config.epochs)})


def _table(
    logits_of: Logits,
    taught: Taught,
    lesson: Lesson,
    config: DistillConfig,
    data: Data,
    *,
    num_bytes: int,
    dtype: str,
    root: Path,
    device: torch.device,
) -> TeacherTable | None:
    """A table of a teacher's answers with room for all of them; None: they are not to be kept."""
    if config.cache == "off" or config.fast_dev_run or (config.cache == "auto" and num_bytes > LIMIT_BYTES):
        return None
    cache = runs.cache_folder(root) if config.cache == "auto" else _named(config.cache)
    about = processes.on_first(lambda: _about(taught, lesson, config, data, dtype=dtype, device=device))
    kept = TableFolder(cache / table_key(about["determined_by"]), about, dtype)
    if config.cache == "auto":
        make = partial(make_room, cache, num_bytes=num_bytes, limit=LIMIT_BYTES, keep=kept.key)
        for old in processes.on_first(make):
            say(f"cache     {old.folder} is removed: it was used longest ago, and {cache} is to stay below 1 GiB")
    return TeacherTable(logits_of, lesson, kept, num_classes=len(data.source.classes), seed=config.seed, say=say)


def _named(cache: str) -> Path:
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache={cache} must be auto, off or a folder: {error.strerror}") from error
    return folder


def _about(
    taught: Taught, lesson: Lesson, config: DistillConfig, data: Data, *, dtype: str, device: torch.device
) -> dict[str, Any]:
    """Everything that determines the teacher's answers to the last bit, and names for people."""
    machine = runs.environment(device)
    is_of_training_set = lesson.part.images is data.splits.train.images
    return {
        "teacher": taught.name,
        "dataset": data.source.name,
        "num_images": len(lesson.part.indices),
        "determined_by": {
            "format": FORMAT,
            "teacher": taught.sha256,
            "classes": list(data.source.classes),
            "data": data.source.fingerprint,
            "image_size": data.image_size,
            "set": "train" if is_of_training_set else "val",  # whose images are numbered from 0 anew
            "images": _digest(lesson.part),
            "augment": lesson.augment,
            "view_seed": lesson.view_seed,
            "chunk": EVALUATION_BATCH,
            "amp": config.teacher_amp,
            "dtype": dtype,
            "torch": machine["packages"]["torch"],
            **{name: machine[name] for name in (ON_GPU if device.type == "cuda" else ON_CPU)},
        },
    }


def _digest(part: Part) -> str:
    return hashlib.sha256(part.indices.numpy().astype("<i8").tobytes()).hexdigest()


def _silence(batch: Batch, *, num_classes: int) -> Tensor:
    return torch.zeros(len(batch.labels), num_classes, device=batch.images.device)


def _seconds(table: TeacherTable, *, views: int) -> float:
    """What the teacher will take for the answers that are missing, from a few; the first call chooses kernels."""
    num_missing, lesson = table.num_missing(views), table.lesson
    if not num_missing:
        return 0.0
    on_gpu = is_accelerator(lesson.part.images.labels.device)  # which is as fast with a whole chunk as with a few
    part = lesson.part._replace(indices=lesson.part.indices[: EVALUATION_BATCH if on_gpu else TIMED_IMAGES])
    (batch,) = view_batches(part, view=0, view_seed=lesson.view_seed, augment=lesson.augment)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        float(table.logits_of(batch.images)[0, 0])
        seconds.append(time.perf_counter() - started)
    return num_missing * min(seconds) / len(batch.images) / processes.world()
