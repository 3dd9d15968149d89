"""The teacher of a run: its cached logits, or the model itself for every batch."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite import files, processes, runs
from kdignite.config import DistillConfig, TrainConfig, typed_flags
from kdignite.console import say
from kdignite.data.batches import evaluation_batches
from kdignite.data.splits import Part
from kdignite.data.views import view_of
from kdignite.errors import UserError
from kdignite.evaluation import Outcome, Predictor, tally
from kdignite.methods.registry import temperature_of
from kdignite.methods.terms import Outputs
from kdignite.steps import Teacher
from kdignite.teachers import (
    CacheFolder,
    CacheSpec,
    LogitCache,
    RowFormat,
    live_teacher,
    make_room,
    table_bytes,
    table_key,
)
from kdignite.training.data import DEV_STEPS, Data, mixing_of, share
from kdignite.training.features import FeatureTeacher
from kdignite.training.spec import TeacherRecord

FORMAT = 4  # raised when the same key would mean other numbers
ON_CPU, ON_GPU = ("device", "cpu", "processor", "threads"), ("device", "cuda")  # what the last bits depend on
LIMIT_BYTES = 2**30  # of all tables together, under --cache=auto


class LoadedTeacher(NamedTuple):
    """A network that teaches, and has passed its checks."""

    logits_of: Predictor
    teacher_record: TeacherRecord
    size: int = 0  # side of its input in pixels, if larger than the images
    outcome: Outcome | None = None  # on the validation images
    features: FeatureTeacher | None = None  # for methods that compare them

    def outputs_of(self, images: Tensor) -> Outputs:
        """Logits of uint8 images (B, 3, S, S), and features where a method compares them."""
        return Outputs(self.logits_of(images)) if self.features is None else self.features.outputs_of(images)

    @property
    def feature_shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Of an image, by layer."""
        features = {} if self.features is None else self.features.features
        return tuple((name, tuple(feature.shape[1:])) for name, feature in features.items())


def make_teachers(
    loaded: Sequence[LoadedTeacher], config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> list[Teacher]:
    """The teachers of a run: for each its cached logits, with features where a method compares them, or the model."""
    augment, mixing = str(config.augment), mixing_of(config, data)
    specs = [CacheSpec(data.train, config.view_seed, augment, one.size, mixing) for one in loaded]
    views = len(views_of(config, range(config.epochs)))
    T = temperature_of(config.method, config.parameters)
    plain = RowFormat(len(data.source.classes), config.cache_dtype, config.cache_top, T, amp=str(config.teacher_amp))
    if config.cache_top is not None and plain.is_whole:
        say(f"cache     --cache_top={config.cache_top} keeps all logits of {plain.num_classes:,} classes")
    rows = [plain._replace(features=one.feature_shapes) for one in loaded]
    caches = _caches(loaded, specs, rows, config, data, views=views, root=root, device=device)
    if config.cache == "auto" and not config.fast_dev_run:
        needed = {one.store.key: table_bytes(one.cache_spec, one.rows, views=views) for one in caches or []}
        processes.on_rank0(partial(_make_room, runs.cache_folder(root), needed))
    if caches is None:
        return [live_teacher(one.outputs_of) for one in loaded]
    for cache in caches:
        there = views - cache.num_missing(range(views)) // len(cache.cache_spec.part.indices)
        say(f"cache     {cache.store.folder}: {there} of {views} views have cached teacher {cache.rows.content}")
    return [*caches]


def evaluate_teacher(
    loaded: LoadedTeacher, config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> Outcome:
    """The teacher on the validation images; its logits are cached too, and a sample of them is computed again."""
    cache_spec = CacheSpec(data.splits.val, 0, "none", loaded.size)
    rows = RowFormat(len(data.source.classes), "float32", amp=str(config.teacher_amp))
    caches = _caches([loaded], [cache_spec], [rows], config, data, views=1, root=root, device=device)
    for cache in caches or []:
        cache.open(0)  # in every process, though there may be more of them than batches
    limit = DEV_STEPS if config.fast_dev_run else None
    batches = evaluation_batches(cache_spec.part, size=loaded.size, limit=limit, share=share())
    teacher = caches[0] if caches else live_teacher(loaded.outputs_of)
    return tally(lambda batch: teacher(batch).logits, batches, num_classes=len(data.source.classes))


def views_of(config: TrainConfig, epochs: Iterable[int]) -> set[int]:
    """Which views of each image some epochs of a run see."""
    augment, mixed = str(config.augment), config.mix is not None
    return {view_of(epoch, views=config.views, augment=augment, mixed=mixed) for epoch in epochs}


def _caches(
    loaded: Sequence[LoadedTeacher],
    specs: Sequence[CacheSpec],
    rows: Sequence[RowFormat],
    config: DistillConfig,
    data: Data,
    *,
    views: int,
    root: Path,
    device: torch.device,
) -> list[LogitCache] | None:
    """A cache of each teacher's logits with room for all of them; None: there is to be none."""
    num_bytes = sum(table_bytes(one, row, views=views) for one, row in zip(specs, rows, strict=True))
    if config.cache == "off" or config.fast_dev_run:
        return None
    if config.cache == "auto" and num_bytes > LIMIT_BYTES:
        if kept := _kept(rows[0]):  # a live teacher would teach something else
            raise UserError(
                f"{kept} still takes {num_bytes / 2**30:.1f} GiB, more than the 1 GiB of --cache=auto: add "
                "--cache=DIR, or --views=K for fewer views; a live teacher needs --cache_dtype=float32, no --cache_top"
            )
        say(
            f"cache     none: the teacher's {rows[0].content} would take {num_bytes / 2**30:.1f} GiB, more than the "
            "1 GiB of --cache=auto; --views=K makes them fewer, --cache=DIR keeps them all the same"
        )
        return None
    place = runs.cache_folder(root) if config.cache == "auto" else _named(config.cache)
    folders = []
    for one, cache_spec, row in zip(loaded, specs, rows, strict=True):
        describe = partial(_about, one.teacher_record, cache_spec, row, config, data, device=device)
        about = processes.on_rank0(describe)
        folders.append(CacheFolder(place / table_key(about["determined_by"]), about, row))
    return [
        LogitCache(one.outputs_of, cache_spec, folder, seed=config.seed, say=say)
        for one, cache_spec, folder in zip(loaded, specs, folders, strict=True)
    ]


def _kept(rows: RowFormat) -> str:
    """The flags by which rows hold less than the teacher computes."""
    return typed_flags(
        cache_top=None if rows.is_whole else rows.top, cache_dtype=None if rows.dtype == "float32" else rows.dtype
    )


def _make_room(place: Path, needed: Mapping[str, int]) -> None:
    """Once a run: what was written to evaluate its teachers counts too, and must not take the place of their tables."""
    for old in make_room(place, needed, limit=LIMIT_BYTES):
        say(f"cache     {old.folder} is removed: it was used longest ago, and {place} is to stay below 1 GiB")


def _named(cache: str) -> Path:
    folder = files.typed_path(cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--cache={cache} must be auto, off or a folder: {error.strerror}") from error
    return folder


def _about(
    teacher_record: TeacherRecord,
    cache_spec: CacheSpec,
    rows: RowFormat,
    config: DistillConfig,
    data: Data,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Everything that determines the teacher's logits to the last bit, and names for people."""
    machine = runs.environment(device)
    is_of_training_set = cache_spec.part.images is data.splits.train.images
    return {
        "teacher": teacher_record.name,
        "dataset": data.source.name,
        "features": ", ".join(name for name, _ in rows.features) or "-",
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
            "mix": [cache_spec.mixing.kind, cache_spec.mixing.alpha] if cache_spec.mixing else None,
            "chunk": cache_spec.chunk,
            "amp": config.teacher_amp,
            "dtype": rows.dtype,
            "top": None if rows.is_whole else [rows.top, rows.T],
            **({"features": rows.features} if rows.features else {}),
            "outputs": config.teacher_outputs or "logits",
            "torch": machine["packages"]["torch"],
            **{name: machine[name] for name in (ON_GPU if device.type == "cuda" else ON_CPU)},
        },
    }


def _digest(part: Part) -> str:
    return hashlib.sha256(part.indices.numpy().astype("<i8").tobytes()).hexdigest()
