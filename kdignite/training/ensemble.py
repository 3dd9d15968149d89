"""The teacher of a run: one network or several, as they are or as a control."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from kdignite.checkpoints import Checkpoint
from kdignite.config import DistillConfig, averaged_at, setting_text
from kdignite.console import say
from kdignite.data.batches import SMALLEST_BATCH, chunks, evaluation_batch_size, pixel_batches
from kdignite.data.preprocess import preparer, sample
from kdignite.evaluation import Predictor, measure_batch_norms, predictor
from kdignite.losses import standardized
from kdignite.models.layout import place_like
from kdignite.models.registry import init_from_data
from kdignite.steps import Teacher
from kdignite.streams import seeded
from kdignite.teachers import SHUFFLED, Ensemble, ShuffledTeacher, mean_logits, shares, shuffle_wrong_classes
from kdignite.teachers.soft_targets import uniform_warning
from kdignite.training.data import Data
from kdignite.training.model import FIT_IMAGES, load_placed, new_model, sampled_pixels
from kdignite.training.spec import Member, TeacherRecord
from kdignite.training.teacher_cache import LoadedTeacher, make_teachers

TOLD = {
    "random": "the teacher's network with new weights knows nothing of the data: a gain from it is no knowledge",
    "shuffled": "probabilities of the wrong classes are permuted, another way for each image: a gain from them is no "
    "knowledge of which classes are alike",
}


class TeacherSource(NamedTuple):
    """The networks that teach a run, and what it records of them."""

    members: tuple[LoadedTeacher, ...]
    teacher_record: TeacherRecord


def combine_teachers(loaded: Sequence[LoadedTeacher], config: DistillConfig) -> TeacherSource:
    """Loaded teachers as the one of a run, with its accuracy on the validation images as the student sees it."""
    weights, T = shares(config.teacher_shares, count=len(loaded)), _temperature(config)
    standardize = _standardizes(config)
    outcomes = [one.outcome for one in loaded if one.outcome is not None]
    (_, labels, indices, *_), several = outcomes[0], len(loaded) > 1
    each = [one.logits for one in outcomes]
    logits = mean_logits(each, weights, T=T, standardize=standardize) if several else each[0]
    if config.control == SHUFFLED:
        logits = shuffle_wrong_classes(logits, labels, indices, seed=config.seed)
    accuracy = int((logits.argmax(1) == labels).sum()) / len(labels)
    shown = f"{accuracy:.2%} on validation"
    if several:
        flag = averaged_at(config.method)
        of = f" and {flag}={T:g}" if flag in config.parameters else ""
        say(f"teachers  mean of {len(loaded)} with weights {setting_text([round(w, 4) for w in weights])}{of}: {shown}")
    if config.control is not None:
        say(f"control   {config.control}, {shown}: {TOLD[config.control]}")
    compared = standardized(logits) if standardize else logits
    if config.temperature and (doubt := uniform_warning(compared, labels, config.temperature)):
        say(f"warning   {doubt}")
    return TeacherSource(tuple(loaded), _record([one.teacher_record for one in loaded], weights, accuracy, config))


def make_teacher(
    source: TeacherSource, config: DistillConfig, data: Data, *, root: Path, device: torch.device
) -> Teacher:
    """The teacher of a run as a function of a batch."""
    members = make_teachers(source.members, config, data, root=root, device=device)
    teacher = members[0]
    if len(members) > 1:
        weights = shares(config.teacher_shares, count=len(members))
        teacher = Ensemble(members, weights, T=_temperature(config), standardize=_standardizes(config))
    return ShuffledTeacher(teacher, seed=config.seed) if config.control == SHUFFLED else teacher


def untrained_record(record: TeacherRecord, *, split: str) -> TeacherRecord:
    """The record of the untrained network of a teacher: its hash is of the file and of the data it was fitted to."""
    sha256 = _digest("untrained", record.sha256, split)
    member = Member(record.name, record.sha256, record.accuracy, 1.0)
    return TeacherRecord(f"{record.name}, untrained", sha256, record.accuracy, "random", (member,))


def untrained_predictor(checkpoint: Checkpoint, data: Data, *, key: str, device: torch.device, amp: str) -> Predictor:
    """The network of a checkpoint as a training would begin it, with weights drawn from a key.

    What it takes from the data is as in a training: the initial weights that are fitted to images, and the statistics
    of BatchNorm, without which logits of an untrained network overflow or are all alike.
    """
    preprocessing = checkpoint.description.preprocessing
    prepare = preparer(preprocessing, device=device)
    with seeded("control", key):
        model = new_model(checkpoint)
    part = data.splits.train
    fitted = sampled_pixels(part, FIT_IMAGES, size=preprocessing.size)
    init_from_data(model, checkpoint.description.architecture.name, map(prepare, fitted))
    model = place_like(load_placed(checkpoint, device=device, amp=amp), model)
    batch_size = max(SMALLEST_BATCH, evaluation_batch_size(part.images, preprocessing.size))
    measured = pixel_batches(part.images, chunks(sample(part.indices, FIT_IMAGES), batch_size))
    measure_batch_norms(model, map(prepare, measured))
    return predictor(model, prepare=prepare, amp=amp)


def _temperature(config: DistillConfig) -> float:
    """At which several teachers are averaged: that of the method, 1 where it has none."""
    return float(config.parameters.get(averaged_at(config.method), 1.0))


def _standardizes(config: DistillConfig) -> bool:
    return bool(config.parameters.get("standardize"))


def _record(
    records: Sequence[TeacherRecord], weights: Sequence[float], accuracy: float, config: DistillConfig
) -> TeacherRecord:
    first = records[0]
    if len(records) == 1 and config.control != SHUFFLED:
        return first
    members = [
        (one.members or (Member(one.name, one.sha256, one.accuracy, 1.0),))[0]._replace(weight=weight)
        for one, weight in zip(records, weights, strict=True)
    ]
    name = "+".join(one.name for one in records)
    if config.control == SHUFFLED:
        name += ", shuffled"
    of = [f"{one.sha256} {weight!r}" for one, weight in zip(records, weights, strict=True)]
    sha256 = first.sha256 if len(records) == 1 else _digest("mean", *of)
    return TeacherRecord(name, sha256, accuracy, config.control, tuple(members))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
