"""Methods on features in a run: which layers, what is learnt beside the student, and a teacher that has features."""

import dataclasses
import pkgutil
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdignite.checkpoints import Architecture, Checkpoint, Description
from kdignite.config import DistillConfig
from kdignite.console import say
from kdignite.data.batches import image_side
from kdignite.data.preprocess import preparer
from kdignite.errors import UserError
from kdignite.methods.registry import find_method
from kdignite.methods.taps import FeatureExtractor, unnamed_layers
from kdignite.methods.terms import Features, Outputs, OutputsOf
from kdignite.models.layers import default_layers
from kdignite.models.layout import place
from kdignite.models.registry import MODELS, build_model
from kdignite.models.trial import unchanged
from kdignite.plugins import is_library
from kdignite.streams import seeded, stream, unchanged_generators
from kdignite.teachers import outputs_with_features
from kdignite.training.data import Data
from kdignite.training.initial_weights import architecture_of
from kdignite.training.model import PreparedModel, class_order, load_placed

Check = Callable[[tuple[Features, Features]], None]  # of the features of two images, of student and teacher


class FeatureTeacher(NamedTuple):
    """A teacher whose features are compared."""

    outputs_of: OutputsOf
    images: Tensor  # two, of noise
    features: Features  # of these


def with_layers(config: DistillConfig, *, teacher: Description) -> DistillConfig:
    """The config with the usual layers of its models where it names none."""
    if not config.uses_features:
        return config
    student = config.student_layers or _usual_layers(config, architecture_of(config), size=config.size)
    fixed = config.teacher_layers or _usual_layers(config, teacher.architecture, size=teacher.preprocessing.size)
    return dataclasses.replace(config, student_layers=student or None, teacher_layers=fixed or None)


def _usual_layers(config: DistillConfig, architecture: Architecture, *, size: int) -> tuple[str, ...]:
    """The layers in a model's row, or of a library's model, that the method compares; empty: which is not known."""
    name, options = architecture
    if name in MODELS:
        layers = MODELS[name].layers
    elif is_library(name):
        with unchanged_generators():
            layers = default_layers(build_model(name, num_classes=2, size=size, options=options), size=size)
    else:
        return ()
    found = tuple(layers[i] for i in find_method(config.method).layers) if layers else ()
    return found if len(set(found)) == len(found) else ()  # fewer stages than the method compares


def load_features(checkpoint: Checkpoint, config: DistillConfig, data: Data, *, device: torch.device) -> FeatureTeacher:
    """A teacher with the features of its layers, or a `UserError` that lists those there are."""
    network = load_placed(checkpoint, device=device, amp=config.teacher_amp)
    extractor = _extractor(network, config.teacher_layers, flag="teacher_layers", who=f"the teacher {checkpoint.path}")
    outputs_of = outputs_with_features(
        extractor,
        prepare=preparer(checkpoint.description.preprocessing, device=device),
        order=class_order(checkpoint, data.source.classes, device),
        amp=config.teacher_amp,
        probabilities=config.teacher_outputs == "probabilities",
    )
    side = image_side(data.train.images)
    images = torch.randint(256, (2, 3, side, side), generator=stream("rehearsal"), dtype=torch.uint8).to(device)
    with unchanged(network):
        features = outputs_of(images).features
    _check_features(extractor, features, config, flag="teacher_layers")
    return FeatureTeacher(outputs_of, images, features)


def with_features(config: DistillConfig, teacher: FeatureTeacher, model: PreparedModel, *, check: Check) -> nn.Module:
    """A student whose features are compared with a teacher's, and what its method learns beside it.

    Raises:
        UserError: if the layers cannot be compared, saying what they are.
    """
    extractor = _extractor(model.network, config.student_layers, flag="student_layers", who=f"--arch={config.arch}")
    if config.sync_bn and (norms := [one.name for one in extractor.taps if _is_norm(extractor, one.name)]):
        raise UserError(f"--sync_bn replaces {norms[0]}, a BatchNorm: name the layer after it in --student_layers")
    images, method = model.prepare(teacher.images), find_method(config.method)
    features = _evaluated(extractor, images)
    _check_features(extractor, features, config, flag="student_layers")
    if len(features) != len(teacher.features):
        raise UserError(
            f"{_named('student_layers', features)} and {_named('teacher_layers', teacher.features)} are not as many: "
            "name a layer of the teacher for each of the student"
        )
    if method.init:
        with seeded("projector", config.seed):
            build = pkgutil.resolve_name(method.init)
            projector: nn.Module = build(_shapes(features), _shapes(teacher.features), **config.parameters)
        extractor.projector = place(projector, images.device)
    check((_evaluated(extractor, images), teacher.features))
    _announce(extractor, features, teacher.features)
    return extractor


def _extractor(network: nn.Module, layers: tuple[str, ...] | None, *, flag: str, who: str) -> FeatureExtractor:
    if layers is None:
        raise unnamed_layers(network, flag=flag, who=who)
    return FeatureExtractor(network, layers, flag=flag, who=who)


def _evaluated(extractor: FeatureExtractor, images: Tensor) -> Features:
    with unchanged(extractor):
        outputs: Outputs = extractor(images)
    return outputs.features


def _check_features(extractor: FeatureExtractor, features: Features, config: DistillConfig, *, flag: str) -> None:
    """Refuse layers that give nothing, or not what the method compares."""
    least = find_method(config.method).pixels
    for name in (tap.name for tap in extractor.taps):
        if name not in features:
            raise UserError(f"--{flag}: {name} is not called in the forward pass: name another layer")
        shape = tuple(features[name].shape)
        if len(shape) < 2 or shape[0] != 2:
            raise UserError(f"--{flag}: {name} returns {shape} for two images, not (2, ...): name another layer")
        if least and len(shape) != 4:
            raise UserError(
                f"--method={config.method} compares maps (channels, height, width), but {name} of --{flag} returns "
                f"{shape[1:]}: name another layer"
            )
        if least and shape[2] * shape[3] < least:
            raise UserError(
                f"--method={config.method} compares maps of {least} pixels or more, but {name} of --{flag} returns "
                f"{shape[1:]}: name an earlier layer, or choose a larger --size"
            )


def _is_norm(extractor: FeatureExtractor, name: str) -> bool:
    return isinstance(extractor.network.get_submodule(name), _BatchNorm)


def _shapes(features: Features) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape[1:]) for name, one in features.items()}


def _named(flag: str, features: Features) -> str:
    return f"--{flag}={','.join(features)}"


def _announce(extractor: FeatureExtractor, student: Features, teacher: Features) -> None:
    """Print which layers are compared, and what is learnt beside the student."""
    sides = (
        [f"{name} {'x'.join(map(str, shape))}" for name, shape in _shapes(one).items()] for one in (student, teacher)
    )
    say(f"features  {'; '.join(f'{own} to {other}' for own, other in zip(*sides, strict=False))}")
    if extractor.projector is not None:
        count = sum(parameter.numel() for parameter in extractor.projector.parameters())
        say(f"          and {count:,} parameters that are learnt beside the student, and are in no checkpoint of it")
