"""Which teacher a run takes, the data settings that it inherits from it, and the checks of a teacher."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import torch

from kdignite import checkpoints, files, processes, runs
from kdignite.checkpoints import Checkpoint, Origin
from kdignite.config import DistillConfig, TrainConfig, command_line, typed_flags
from kdignite.console import say
from kdignite.data.registry import PATHS, is_code, kind_of, load_source
from kdignite.errors import UserError
from kdignite.evaluation import Outcome, Predictor
from kdignite.teachers import RANDOM, check_accuracy
from kdignite.teachers.outputs import check_logits, log_probabilities
from kdignite.teachers.soft_targets import label_smoothing_warning, underconfidence_warning
from kdignite.training.data import DATASET, Data, data_folder, is_gone, named_by
from kdignite.training.ensemble import untrained_predictor, untrained_record
from kdignite.training.model import load_predictor
from kdignite.training.spec import TeacherRecord
from kdignite.training.teacher_cache import LoadedTeacher, evaluate_teacher

C = TypeVar("C", bound=TrainConfig)
TRAIN_LONGER = "train it longer, teacher --epochs=N or reproduce --teacher_epochs=N"
SMALLEST = 8  # pixels a side, where images are read for their fingerprint alone


def fitting_teachers(config: TrainConfig, *, root: Path) -> Iterator[runs.Finished]:
    """Finished teachers for the data and split of a run; where theirs was moved, data are known by their content."""
    dataset = config.dataset or DATASET

    @functools.cache
    def fingerprint() -> str:
        folder, skip = data_folder(config.data_root), config.skip_broken
        found = load_source(dataset, data_root=folder, image_size=SMALLEST, progress=False, skip_broken=skip)
        return found.fingerprint

    for run in runs.finished_teachers(root):
        recorded = str(run.result["dataset"])
        same_data = _same_place(recorded, dataset)
        if not same_data and is_gone(recorded) and ":" in dataset and not is_code(dataset):
            same_data = run.result["fingerprint"] == fingerprint()
        if same_data and config.val_size in (None, run.result["val_size"]):
            yield run


def newest_teacher(config: TrainConfig, *, root: Path) -> tuple[runs.Finished, Checkpoint] | None:
    """The newest finished teacher that fits, and its checkpoint; one whose checkpoint is damaged is skipped."""
    for run in fitting_teachers(config, root=root):
        try:
            return run, checkpoints.load_checkpoint(run.folder / runs.BEST)
        except UserError as error:
            runs.skipped(run.folder, error)
    return None


def choose_teachers(config: DistillConfig, *, root: Path) -> tuple[Checkpoint, ...]:
    """The teachers that ``--teacher`` names, in its order, or the newest finished one for the same data and split."""
    if len(config.teachers) < 2:
        return (choose_teacher(config, root=root),)
    named = [dataclasses.replace(config, teacher=name, teacher_shares=None) for name in config.teachers]
    found = tuple(choose_teacher(one, root=root) for one in named)
    paths = [one.path.resolve() for one in found]
    if twice := [str(path) for path in paths if paths.count(path) > 1]:
        raise UserError(f"--teacher={config.teacher} names {twice[0]} twice: --teacher_shares gives one more weight")
    makers, used = (config.teacher_arch or "").split(","), {one.description.architecture.name for one in found}
    if config.teacher_arch is not None and (unused := [one for one in makers if one not in used]):
        raise UserError(f"--teacher_arch={config.teacher_arch}: no teacher was made with {unused[0]!r}: leave it out")
    return found


def choose_teacher(config: DistillConfig, *, root: Path) -> Checkpoint:
    """The teacher that ``--teacher`` names, or the newest finished one for the same data and split."""
    if config.teacher is not None:
        checkpoint = checkpoints.load_checkpoint(runs.find_checkpoint(config.teacher, root=root))
        _check_dataset(checkpoint, config)
        say(f"teacher   {checkpoint.path}")
        return checkpoint
    newest = newest_teacher(config, root=root)
    if newest is None:
        dataset = config.dataset or DATASET
        kind_of(dataset)
        make = command_line("teacher", dataset=None if dataset == DATASET else dataset, val_size=config.val_size)
        others = sorted({str(run.result["dataset"]) for run in runs.finished_teachers(root)} - {dataset})
        named = " and ".join(typed_flags(dataset=other) for other in others)
        hint = f"; there are teachers for {named}" if named else ""
        apart = [run.folder for run in runs.teachers_to_name(root) if run.result["dataset"] == dataset]
        one = typed_flags(teacher=apart[0].relative_to(root).as_posix() if apart else "RUN")
        why = " (adopted models and partial runs have to be named)" if apart else ""
        raise UserError(
            f"{root}/ has no finished teacher for {dataset}: make one, {make}; or name one, {one}{why}{hint}"
        )
    run, checkpoint = newest
    say(f"teacher   {run.folder}, the newest finished one for {run.result['dataset']}")
    return checkpoint


def inherit_from_newest(config: C, *, root: Path) -> C:
    """The config of a run without a teacher, with the data settings of the newest teacher where they were left open."""
    newest = newest_teacher(config, root=root)
    if newest is None:
        return config
    run, checkpoint = newest
    inherited = inherit(config, checkpoint.description.origin)
    if inherited != config:
        say(f"data      settings as {run.folder} has them")
    return inherited


def inherit(config: C, origin: Origin) -> C:
    """Data settings that were left open, from a teacher."""
    return dataclasses.replace(
        config,
        dataset=named_by("the teacher", origin.dataset, asked=config.dataset),
        val_size=origin.val_size if config.val_size is None else config.val_size,
        image_size=config.image_size or origin.image_size,
        augment=config.augment or origin.augment or None,
    )


def load_checked_teacher(
    checkpoint: Checkpoint, config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> LoadedTeacher:
    """The teacher, evaluated; refused if it may have seen the validation images, or is not what its file records."""
    origin, recorded = checkpoint.description.origin, checkpoint.description.validation
    if origin.split != data.splits.hash:
        raise UserError(
            f"{checkpoint.path} was trained on another split or other images of {origin.dataset} "
            f"(--val_size={origin.val_size}) than this run's (--val_size={config.val_size}), so it may have seen the "
            "validation images: use the same data and --val_size for both"
            + (", and let your function return the same each time" if is_code(origin.dataset) else "")
        )
    sha256 = processes.on_rank0(lambda: files.sha256(checkpoint.path))
    record = TeacherRecord(runs.checkpoint_name(checkpoint.path), sha256, recorded.accuracy)
    logits_of = _predictor(checkpoint, config, data, device=device)
    if config.control == RANDOM:
        record = untrained_record(record, split=data.splits.hash)
        logits_of = untrained_predictor(checkpoint, data, key=record.sha256, device=device, amp=config.teacher_amp)
    if config.teacher_outputs == "probabilities":
        logits_of = log_probabilities(logits_of)
    loaded = LoadedTeacher(logits_of, record, checkpoint.description.preprocessing.size)
    outcome = evaluate_teacher(loaded, config, data, root=root, device=device)
    accuracy = outcome.num_correct / len(outcome.labels)
    who = f"{record.name}: " if len(config.teachers) > 1 else ""
    before = "" if config.control == RANDOM else f", {recorded.accuracy:.2%} when it was saved"
    say(f"teacher   {who}{accuracy:.2%} on validation{before}")
    if not config.allow_weak_teacher and config.control is None:
        expected = None if config.fast_dev_run else recorded
        check_accuracy(outcome, expected, who=str(checkpoint.path), advice=TRAIN_LONGER)
    if config.teacher_outputs is None:
        check_logits(outcome.logits, who=str(checkpoint.path))
    if config.control != RANDOM:
        _warn(origin, config, outcome)
    return loaded._replace(teacher_record=record._replace(accuracy=accuracy), outcome=outcome)


def _predictor(checkpoint: Checkpoint, config: DistillConfig, data: Data, *, device: torch.device) -> Predictor:
    """The network of a checkpoint, with the function among those of ``--teacher_arch`` that made it."""
    name, arch, again = checkpoint.description.architecture.name, config.teacher_arch, "--teacher_arch="
    if len(config.teachers) > 1:
        again = f"{again}{arch}," if arch else again
        arch = name if name in (arch or "").split(",") else None
    return load_predictor(
        checkpoint,
        classes=data.source.classes,
        device=device,
        arch=arch,
        again=again,
        amp=config.teacher_amp,
    )


def _check_dataset(checkpoint: Checkpoint, config: DistillConfig) -> None:
    trained_on = checkpoint.description.origin.dataset
    if config.dataset is not None and not _could_be_same(config.dataset, trained_on):
        raise UserError(
            f"{checkpoint.path} was trained on {trained_on}, not on {config.dataset}: leave out --dataset, "
            "or choose another --teacher"
        )


def _same_place(one: str, other: str) -> bool:
    """Whether two names mean the same data; a path may be spelt in many ways."""
    for prefix in PATHS:
        if one.startswith(prefix) and other.startswith(prefix):
            here, there = (files.typed_path(name.removeprefix(prefix)).resolve() for name in (one, other))
            return here == there
    return one == other


def _could_be_same(one: str, other: str) -> bool:
    """Files move: whether the images are the same is checked by their fingerprint."""
    return one == other or all(name.startswith(tuple(PATHS)) for name in (one, other))


def _warn(origin: Origin, config: DistillConfig, outcome: Outcome) -> None:
    if origin.partial:
        say("warning   the teacher was trained on part of its images only")
    if origin.command == "adopt":
        say("warning   an adopted teacher may have been trained on the validation images: trust the test accuracy")
    if (temperature := config.temperature) is None:
        return
    if origin.command == "adopt":
        doubt = underconfidence_warning(outcome.logits, outcome.labels, temperature)
    else:
        doubt = label_smoothing_warning(origin.label_smoothing, temperature)
    if doubt:
        say(f"warning   {doubt}")
