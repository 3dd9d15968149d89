"""The classification models of torchvision."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

import torchvision
from torch import Tensor, nn
from torchvision.models.vision_transformer import interpolate_embeddings

from kdignite.models.libraries import Input

SIZE_OPTIONS = ("image_size",)
RESERVED = {"weights", "progress", "num_classes", "weights_backbone"}
# Published weights were trained with these; without auxiliary heads, which only training uses.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": True}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
# names of densenet's published files, from a time in which names could have dots
_OLD_NAME = re.compile(r"(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)")


def names() -> list[str]:
    """The models for classification, not those of detection, segmentation or video."""
    return list(torchvision.models.list_models(module=torchvision.models))


def variants() -> list[str]:
    """Of weights: torchvision has one for a name, its default."""
    return []


def has_variant(name: str) -> bool:
    return "." not in name


def create(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> nn.Module:
    """A model with new weights; a transformer is made for ``size``."""
    given = keywords(name, size=size, options=options)
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **given)
    known = inspect.signature(type(model)).parameters
    unknown = [option for option in options if option not in known and "kwargs" in known]
    if unknown:  # some classes take whatever comes, and leave it
        raise TypeError(f"unexpected keyword argument '{unknown[0]}'")
    return model


def keywords(name: str, *, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the library's function is called with, but for the number of classes."""
    sized: dict[str, Any] = {}
    if name.startswith("vit_"):
        sized = {"image_size": size}
    if name == "maxvit_t":
        sized = {"input_size": (size, size)}
    usual = _INCEPTION if name in ("googlenet", "inception_v3") else {}
    return {**usual, **sized, **options}


def own_input(name: str) -> Input:
    """As the transforms of its weights say, but for the larger square that they cut the image from."""
    own = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Input(own.crop_size[0], tuple(own.mean), tuple(own.std), own.interpolation.value)


def converted(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without auxiliary heads, under today's names, and with positions for the size of the model's images."""
    own = model.state_dict()
    new = {
        _OLD_NAME.sub(r"\1\2", name): value
        for name, value in weights.items()
        if name in own or not name.startswith(_AUXILIARY)
    }
    position = "encoder.pos_embedding"
    if position in new and position in own and new[position].shape[1] != own[position].shape[1]:
        new = interpolate_embeddings(model.image_size, model.patch_size, new)
    return new
