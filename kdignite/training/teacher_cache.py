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
from kdignite.console import say
from kdignite.data.batches import EVALUATION_BATCH, Batch, evaluation_batches, view_batches
from kdignite.data.splits import Part
from kdignite.data.views import view_of
from kdignite.devices import is_accelerator
from kdignite.errors import UserError
from kdignite.evaluation import Outcome, Predictor, tally
from kdignite.steps import Teacher
from kdignite.teachers import CacheFolder, CacheSpec, LogitCache, live_teacher, make_room, table_bytes, table_key
from kdignite.training.data import DEV_STEPS, Data, share, training_part
from kdignite.training.spec import TeacherRecord

FORMAT = 3  # raised when the same key would mean other numbers
ON_CPU, ON_GPU = ("device", "cpu", "processor", "threads"), ("device", "cuda")  # what the last bits depend on
TIMED_IMAGES = 100  # for the estimate of a run's time
LIMIT_BYTES = 2**30  # of all tables together, under --cache=auto


class LoadedTeacher(NamedTuple):
    """A teacher that passed its checks."""

    logits_of: Predictor
    teacher_record: TeacherRecord


class TeacherSource(NamedTuple):
    """A teacher for the steps of a run, and what it takes."""

    teach: Teacher
    rehearse: Teacher  # takes the time that `teach` takes in every step
    seconds: Callable[[], float]  # what `teach` takes over a whole run on top of that


def make_teacher(
    loaded: LoadedTeacher, config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> TeacherSource:
    """The teacher of a run: a table of its answers, or the model itself where none is to be kept."""
    logits_of, teacher_record = loaded
    cache_spec = CacheSpec(training_part(config, data), config.view_seed, str(config.augment))
    views, num_classes = num_views(config), len(data.source.classes)
    num_bytes = table_bytes(cache_spec, views=views, num_classes=num_classes, dtype=config.cache_dtype)
    if config.cache == "auto" and num_bytes > LIMIT_BYTES:
        say(
            f"cache     none: the teacher's answers would take {num_bytes / 2**30:.1f} GiB, more than the 1 GiB of "
            "--cache=auto; --views=K makes them fewer, --cache=DIR keeps them all the same"
        )
    table = _table(
        logits_of,
        teacher_record,
        cache_spec,
        config,
        data,
        num_bytes=num_bytes,
        dtype=config.cache_dtype,
        root=root,
        device=device,
    )
    if table is None:
        teach = live_teacher(logits_of)
        return TeacherSource(teach, teach, lambda: 0.0)
    missing = table.num_missing(views) // len(cache_spec.part.indices)
    say(f"cache     {table.store.folder}: {views - missing} of {views} views of the images have the teacher's answers")
    rehearse = partial(_silence, num_classes=num_classes)
    return TeacherSource(table, rehearse, lambda: _seconds(table, views=views))


def evaluate_teacher(
    logits_of: Predictor,
    teacher_record: TeacherRecord,
    config: DistillConfig,
    data: Data,
    *,
    root: Path,
    device: torch.device,
) -> Outcome:
    """What a teacher scores on the validation images; its answers are kept too, and a sample of them asked again."""
    cache_spec, num_classes = CacheSpec(data.splits.val, 0, "none"), len(data.source.classes)
    num_bytes = table_bytes(cache_spec, views=1, num_classes=num_classes, dtype="float32")
    table = _table(
        logits_of,
        teacher_record,
        cache_spec,
        config,
        data,
        num_bytes=num_bytes,
        dtype="float32",
        root=root,
        device=device,
    )
    if table is not None:
        table.open(0)  # in every process, though there may be more of them than batches
    limit = DEV_STEPS if config.fast_dev_run else None
    batches = evaluation_batches(cache_spec.part, limit=limit, share=share())
    return tally(table or live_teacher(logits_of), batches, num_classes=num_classes)


def num_views(config: DistillConfig) -> int:
    """How many views of each image a run sees."""
    augment = str(config.augment)
    return len({view_of(epoch, views=config.views, augment=augment) for epoch in range(config.epochs)})


def _table(
    logits_of: Predictor,
    teacher_record: TeacherRecord,
    cache_spec: CacheSpec,
    config: DistillConfig,
    data: Data,
    *,
    num_bytes: int,
    dtype: str,
    root: Path,
    device: torch.device,
) -> LogitCache | None:
    """A table of a teacher's answers with room for all of them; None: they are not to be kept."""
    if config.cache == "off" or config.fast_dev_run or (config.cache == "auto" and num_bytes > LIMIT_BYTES):
        return None
    cache = runs.cache_folder(root) if config.cache == "auto" else _named(config.cache)
    about = processes.on_rank0(lambda: _about(teacher_record, cache_spec, config, data, dtype=dtype, device=device))
    kept = CacheFolder(cache / table_key(about["determined_by"]), about, dtype)
    if config.cache == "auto":
        make = partial(make_room, cache, num_bytes=num_bytes, limit=LIMIT_BYTES, keep=kept.key)
        for old in processes.on_rank0(make):
            say(f"cache     {old.folder} is removed: it was used longest ago, and {cache} is to stay below 1 GiB")
    return LogitCache(logits_of, cache_spec, kept, num_classes=len(data.source.classes), seed=config.seed, say=say)


def _named(cache: str) -> Path:
    folder = Path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache={cache} must be auto, off or a folder: {error.strerror}") from error
    return folder


def _about(
    teacher_record: TeacherRecord,
    cache_spec: CacheSpec,
    config: DistillConfig,
    data: Data,
    *,
    dtype: str,
    device: torch.device,
) -> dict[str, Any]:
    """Everything that determines the teacher's answers to the last bit, and names for people."""
    machine = runs.environment(device)
    is_of_training_set = cache_spec.part.images is data.splits.train.images
    return {
        "teacher": teacher_record.name,
        "dataset": data.source.name,
        "num_images": len(cache_spec.part.indices),
        "determined_by": {
            "format": FORMAT,
            "teacher": teacher_record.sha256,
            "classes": list(data.source.classes),
            "data": data.source.fingerprint,
            "image_size": data.image_size,
            "set": "train" if is_of_training_set else "val",  # whose images are numbered from 0 anew
            "images": _digest(cache_spec.part),
            "augment": cache_spec.augment,
            "view_seed": cache_spec.view_seed,
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


def _seconds(table: LogitCache, *, views: int) -> float:
    """What the teacher will take for the answers that are missing, from a few; the first call chooses kernels."""
    num_missing, cache_spec = table.num_missing(views), table.cache_spec
    if not num_missing:
        return 0.0
    on_gpu = is_accelerator(cache_spec.part.images.labels.device)  # which is as fast with a whole chunk as with a few
    part = cache_spec.part._replace(indices=cache_spec.part.indices[: EVALUATION_BATCH if on_gpu else TIMED_IMAGES])
    (batch,) = view_batches(part, view=0, view_seed=cache_spec.view_seed, augment=cache_spec.augment)
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        float(table.logits_of(batch.images)[0, 0])
        seconds.append(time.perf_counter() - started)
    return num_missing * min(seconds) / len(batch.images) / processes.world()
