"""Models: new ones with their initial weights, and those that a checkpoint describes."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdignite import checkpoints
from kdignite.checkpoints import Architecture, Checkpoint, Origin
from kdignite.config import TrainConfig
from kdignite.data.batches import evaluation_batch_size, pixel_batches
from kdignite.data.preprocess import STATISTICS_IMAGES, Prepare, Statistics, measure_statistics, preparer, sample
from kdignite.data.registry import is_code
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, INTERPOLATION, Preprocessing
from kdignite.data.splits import Part
from kdignite.errors import UserError, listed
from kdignite.evaluation import Predictor, predictor
from kdignite.models.layout import place
from kdignite.models.libraries import own_input
from kdignite.models.outline import meta_state_dict
from kdignite.models.registry import MODELS, build_model, check_model, init_from_data
from kdignite.plugins import import_function, is_library
from kdignite.streams import seeded
from kdignite.training.data import Data, is_partial
from kdignite.training.initial_weights import (
    PRETRAINED,
    architecture_of,
    check_and_fetch_weights,
    head_of,
    load_initial_weights,
)
from kdignite.training.rehearsal import Rehearsal, rehearse_evaluation, rehearse_training

CPU = torch.device("cpu")
FIT_IMAGES = 2_000  # enough for second moments of pixels


class PreparedModel(NamedTuple):
    """A model to be trained, with its preprocessing."""

    network: nn.Module
    prepare: Prepare
    preprocessing: Preprocessing
    architecture: Architecture
    backbone: tuple[nn.Parameter, ...]  # what is trained, but for the head


def prepare_model(config: TrainConfig, data: Data, *, device: torch.device) -> PreparedModel:
    """The model of a run with its initial weights, a function of the seed."""
    architecture = architecture_of(config)
    num_classes = len(data.source.classes)
    build = partial(
        build_model, architecture.name, num_classes=num_classes, size=config.size, options=architecture.options
    )
    with seeded("init", config.seed):
        model = build()
    checkpoints.check_storable(model.state_dict(), source=f"--arch={architecture.name}")
    statistics = _statistics(config, data)
    preprocessing = Preprocessing(config.size, statistics.mean, statistics.std, interpolation_of(architecture))
    prepare = preparer(preprocessing, device=device)
    if architecture.name not in MODELS:
        rehearse_training(model, Rehearsal(architecture.name, build, prepare, config.size, num_classes, device), config)
    init_from_data(
        model, architecture.name, map(prepare, sampled_pixels(data.splits.train, FIT_IMAGES, size=config.size))
    )
    head = head_of(model, architecture, num_classes=num_classes, size=config.size)
    _check_head(config, head)
    load_initial_weights(model, config, head=head)
    backbone = tuple(one for key, one in model.named_parameters() if key not in head and one.requires_grad)
    return PreparedModel(place(model, device), prepare, preprocessing, architecture, backbone)


def _check_head(config: TrainConfig, head: list[str]) -> None:
    flag = "freeze_epochs" if config.freeze_epochs else "backbone_lr_mult" if config.backbone_lr_mult != 1 else None
    if flag and not head:
        raise UserError(
            f"--{flag} is for all layers but the head, and the number of classes decides the shape of no layer of "
            f"--arch={config.arch}: leave it out"
        )


def interpolation_of(architecture: Architecture) -> str:
    """How images are resized for a model: as its library says, else as for all."""
    if not is_library(architecture.name):
        return INTERPOLATION
    return f"{own_input(*architecture).interpolation}, antialiased"


def check_and_fetch_model(config: TrainConfig) -> None:
    """Refuse a model that cannot be built, and fetch its pretrained weights where they are wanted, before data are."""
    architecture = architecture_of(config)
    check_model(config.arch, size=config.size, options=architecture.options)
    if is_code(config.arch):
        import_function(config.arch, flag="arch")
    if config.normalize == "model" and not is_library(config.arch):
        raise UserError(f"--normalize=model is for timm:NAME and torchvision:NAME, not --arch={config.arch}")
    if is_library(config.arch):  # which of the options it takes, only building it shows
        meta_state_dict(config.arch, num_classes=2, size=config.size, options=architecture.options)
    check_and_fetch_weights(config)


def load_model(checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint on the CPU; weights are compared with the description before it takes memory."""
    name, options = checkpoint.description.architecture
    num_classes, size = len(checkpoint.description.classes), checkpoint.description.preprocessing.size
    try:
        described = meta_state_dict(name, num_classes=num_classes, size=size, options=options)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from None
    if described is not None:
        checkpoints.check_fit(described, checkpoint.weights, source=str(checkpoint.path))
    model = new_model(checkpoint)
    checkpoints.load_weights(model, checkpoint.weights, source=str(checkpoint.path))
    return model


def load_placed(checkpoint: Checkpoint, *, device: torch.device = CPU, amp: str = "off") -> nn.Module:
    """The model of a checkpoint on a device, in its memory layout; one of the user's own is rehearsed first."""
    description = checkpoint.description
    name, preprocessing = description.architecture.name, description.preprocessing
    model = load_model(checkpoint)
    if name not in MODELS:
        build, prepare = partial(new_model, checkpoint), preparer(preprocessing, device=device)
        rehearse_evaluation(
            model, Rehearsal(name, build, prepare, preprocessing.size, len(description.classes), device, amp)
        )
    return place(model, device)


def new_model(checkpoint: Checkpoint) -> nn.Module:
    """Another model as a checkpoint describes it, on the CPU and with new weights."""
    (name, options), size = checkpoint.description.architecture, checkpoint.description.preprocessing.size
    return build_model(name, num_classes=len(checkpoint.description.classes), size=size, options=options)


def load_predictor(
    checkpoint: Checkpoint,
    *,
    classes: tuple[str, ...] | None = None,
    device: torch.device = CPU,
    arch: str | None = None,
    again: str = "--arch=",
    amp: str = "off",
) -> Predictor:
    """A model as a function, from its checkpoint alone: architecture, weights, preprocessing, order of classes.

    Args:
        checkpoint: as `load_checkpoint` reads it.
        classes: of the outputs, in their order; None: that of the checkpoint.
        device: that computes.
        arch: of a model of the user's own, which a file never names by itself: ``package.module:function``, repeated.
        again: the flag that repeats it, for the error.
        amp: ``off``, or the mixed precision that the model multiplies in.

    Returns:
        From uint8 images (N, 3, S, S) to logits (N, C) float32, in eval mode and without gradient.

    Raises:
        UserError: if the model cannot be built, its weights do not fit, or the classes are others.
    """
    description = checkpoint.description
    check_arch(checkpoint, arch=arch, again=again)
    model, prepare = load_placed(checkpoint, device=device, amp=amp), preparer(description.preprocessing, device=device)
    order = None if classes is None else class_order(checkpoint, classes, device)
    return predictor(model, prepare=prepare, order=order, amp=amp)


def check_arch(checkpoint: Checkpoint, *, arch: str | None, again: str = "--arch=") -> None:
    """Refuse code that a file names and nobody typed, before it is imported, and another model than the file's."""
    name = checkpoint.description.architecture.name
    if not is_code(name) and arch not in (None, name):
        raise UserError(f"{checkpoint.path} holds a {name}, not a {arch}: leave that out")
    if is_code(name) and arch != name:
        raise UserError(
            f"{checkpoint.path} was made with a model of your own, and a file never names code to run: "
            f"repeat its name: {again}{name}"
        )


def origin_of(config: TrainConfig, data: Data) -> Origin:
    """What a checkpoint says of the run it comes from."""
    return Origin(
        command=config.command,
        dataset=data.source.name,
        fingerprint=data.source.fingerprint,
        split=data.splits.hash,
        val_size=config.val_size,
        image_size=data.image_size,
        augment=str(config.augment),
        label_smoothing=config.label_smoothing,
        partial=is_partial(config, data),
    )


def usual_statistics(config: TrainConfig) -> str:
    """What ``--normalize`` is, where it was left open."""
    if is_library(config.arch):
        return "model"
    return "imagenet" if config.weights == PRETRAINED else "data"


def _statistics(config: TrainConfig, data: Data) -> Statistics:
    if config.normalize == "imagenet":
        return Statistics(IMAGENET_MEAN, IMAGENET_STD)
    if config.normalize == "model":
        own = own_input(*architecture_of(config))
        return Statistics(own.mean, own.std)
    return measure_statistics(sampled_pixels(data.splits.train, STATISTICS_IMAGES))


def sampled_pixels(part: Part, num_images: int, *, size: int = 0) -> Iterator[Tensor]:
    """The pixels of at most so many images of a part, in batches that are small enough for a model's input."""
    batches = sample(part.indices, num_images).split(evaluation_batch_size(part.images, size))
    return pixel_batches(part.images, batches)


def class_order(checkpoint: Checkpoint, classes: tuple[str, ...], device: torch.device) -> Tensor | None:
    """For each class of the data the output that stands for it; None where the order is the same."""
    own = checkpoint.description.classes
    if own == classes:
        return None
    if sorted(own) != sorted(classes):
        different = listed(sorted(set(own) ^ set(classes)))
        raise UserError(
            f"{checkpoint.path} has other classes than the data ({len(own)} against {len(classes)}): {different}"
        )
    return torch.tensor([own.index(name) for name in classes], device=device)
