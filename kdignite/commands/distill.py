"""``distill``: train a student with the help of a teacher."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from kdignite import files, processes, runs
from kdignite.comparison.pairing import typed_line
from kdignite.config import DistillConfig, setting_text
from kdignite.console import say
from kdignite.handlers import COLUMNS
from kdignite.methods.registry import bind_method, constant_parts, find_method
from kdignite.methods.terms import Features, Loss, check_terms
from kdignite.steps import distill_step
from kdignite.training.data import Data, class_weights, open_training_data
from kdignite.training.device import check_amp, choose_amp, set_up_device
from kdignite.training.ensemble import TeacherSource, combine_teachers, make_teacher
from kdignite.training.extensions import Attach
from kdignite.training.features import load_features, with_features, with_layers
from kdignite.training.model import check_and_fetch_model
from kdignite.training.resume import resumable
from kdignite.training.spec import RunSpec, build_spec, resolve
from kdignite.training.teacher import choose_teachers, inherit, load_checked_teacher
from kdignite.training.trainer import execute


@resumable
def distill(config: DistillConfig, *, root: Path = runs.ROOT, handlers: Sequence[Attach] = ()) -> runs.Finished:
    """Train a student on the labels and the outputs of a teacher, by the method of the config.

    Args:
        config: what to train, and how; ``configure(DistillConfig, method=...)`` takes a function of your own too.
        root: the folder of all runs.
        handlers: functions of your own ``(engine, view)``, called once each before the training, which attach what they
            like to the events of the engine.

    Returns:
        The run folder and its result.

    Raises:
        UserError: before anything is written, if something asked for cannot be had or the teacher is refused.
        RunFailed: if the loss stops being a number.
    """
    check_and_fetch_model(config)
    device = set_up_device(config.device, threads=config.threads)
    check_amp(config, device=device)
    chosen = processes.on_rank0(lambda: choose_teachers(config, root=root))
    config = inherit(config, chosen[0].description.origin)
    data = open_training_data(config, device=device)
    config = with_layers(resolve(config, data, device=device), teacher=chosen[0].description)
    if not config.uses_features:  # those are tried with features, once the networks are there
        _check_method(config, data)
    choose_amp(config.teacher_amp, device=device, flag="teacher_amp")
    loaded = [load_checked_teacher(one, config, data, root=root, device=device) for one in chosen]
    source = combine_teachers(loaded, config)
    method = find_method(config.method)
    shown = {name: value for name, value in config.parameters.items() if value is not False}
    values = "".join(f", {name}={setting_text(value)}" for name, value in shown.items())
    say(f"method    {config.method}: {method.equation or method.idea}{values}")
    if config.uses_features:
        features = load_features(chosen[0], config, data, device=device)
        taught = loaded[0]._replace(features=features, logits_of=lambda images: features.outputs_of(images).logits)
        source = source._replace(members=(taught, *source.members[1:]))
    finished = execute(assemble(config, data, source, root=root, device=device), root=root, own=handlers)
    if not (root / runs.MANIFEST).is_file():  # a study makes its baselines itself
        processes.on_rank0(lambda: _say_baseline(finished.folder))
    return finished


def assemble(config: DistillConfig, data: Data, source: TeacherSource, *, root: Path, device: torch.device) -> RunSpec:
    """The spec of a distillation, from a resolved config and a checked teacher."""
    teacher = make_teacher(source, config, data, root=root, device=device)
    features, extended = source.members[0].features, None
    if features is not None:
        extended = partial(with_features, config, features, check=partial(_check_method, config, data))
    make_step = partial(distill_step, method=_bound(config, data), grad_clip=config.grad_clip, amp=config.amp)
    return build_spec(
        config,
        data,
        device=device,
        make_step=partial(make_step, teacher=teacher),
        teacher=teacher,
        teacher_record=source.teacher_record,
        extended=extended,
    )


def _say_baseline(folder: Path) -> None:
    """What trains the student alone with the same settings, those of the data included, which are the teacher's."""
    line = typed_line("baseline", files.read_json(folder / runs.CONFIG))
    say(f"to compare  it takes a baseline: {line}")


def _check_method(config: DistillConfig, data: Data, features: tuple[Features, Features] = ({}, {})) -> None:
    """Refuse a method that cannot teach here, and say which of its parts cannot."""
    num_classes = len(data.source.classes)
    num_images = min(config.batch_size, len(data.train.indices)) // processes.world_size()
    reserved = {*COLUMNS, "correct"}
    parts = check_terms(
        _bound(config, data),
        config.method,
        num_classes=num_classes,
        reserved=reserved,
        mixed=config.mix is not None,
        features=features,
    )
    for line in constant_parts(config.method, config.parameters, parts, num_classes=num_classes, num_images=num_images):
        say(f"warning   {line}")


def _bound(config: DistillConfig, data: Data) -> Loss:
    training = {"label_smoothing": config.label_smoothing, "class_weights": class_weights(config, data)}
    method: Loss = bind_method(config.method, config.parameters, **training)
    return method
