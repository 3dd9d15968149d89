"""Models of timm, the library of image models."""

import functools
import inspect
import sys
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError

import timm
import timm.data
from timm.models import build_model_with_cfg, get_pretrained_cfg
from torch import Tensor, nn

from kdignite.errors import UserError, reason
from kdignite.models.libraries import Input, cannot_be_fetched
from kdignite.network import ANSWER_SECONDS
from kdignite.streams import unchanged_generators

SIZE_OPTIONS = ("img_size",)
# what the name, --weights, --size and the data decide
RESERVED = {
    *(*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters),
    *("num_classes", "in_chans", "features_only", "device", "dtype"),
}


@functools.cache
def names() -> list[str]:
    """All models, without the tags of their weights."""
    return list(timm.list_models())


@functools.cache
def variants() -> list[str]:
    """The names with the tag of their weights, ``resnet50.a1_in1k``."""
    return list(timm.list_pretrained())


def has_variant(name: str) -> bool:
    return "." not in name or name in variants()


def create(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> nn.Module:
    """A model with new weights; one whose images have a fixed size is made for ``size``."""
    sized = _for_size(name, size, options)
    try:
        return timm.create_model(name, num_classes=num_classes, **keywords(name, size=size, options=options))
    except TypeError as error:
        if sized and "'img_size'" in str(error):
            own = own_input(name).size
            raise UserError(
                f"timm:{name} takes images of {own} pixels only, not --size={size}: --size={own}"
            ) from error
        raise


def keywords(name: str, *, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the library's function is called with, but for the number of classes."""
    return {**options, **_for_size(name, size, options)}


def own_input(name: str) -> Input:
    """What its configuration says; ``crop_pct`` plays no part, since the whole square of a picture is used."""
    own = timm.data.resolve_data_config({}, pretrained_cfg=_config(name))
    interpolation = "bilinear" if own["interpolation"] == "bilinear" else "bicubic"
    return Input(own["input_size"][-1], tuple(own["mean"]), tuple(own["std"]), interpolation)


def pretrained_weights(name: str, *, size: int, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those that timm's configuration names, with the head that they were trained with."""
    config = _config(name)
    hub, url = config.get("hf_hub_id"), config.get("url")
    if not (hub or url or config.get("file")):
        raise UserError(f"timm:{name} has no pretrained weights: give --weights=FILE or --weights=none")
    where = f"the repository {hub} of the Hugging Face hub" if hub else str(url)
    try:
        _check_reachable(hub)
        with unchanged_generators():
            full = timm.create_model(name, pretrained=True, **options, **_for_size(name, size, options))
    except Exception as error:
        file = f"a state dict of timm's {name}"
        raise cannot_be_fetched(f"timm:{name}", reason(error), file=file, where=where) from error
    return full.state_dict()


def converted(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of an earlier or the original form, or of another size of images, as timm's own loading converts them."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return dict(weights)
    try:
        return dict(convert(dict(weights), model))
    except Exception:  # noqa: BLE001  # not made for these weights: they are refused as they are, with their names
        return dict(weights)


@functools.cache
def _config(name: str) -> dict[str, Any]:
    found = get_pretrained_cfg(name)
    return {} if found is None else found.to_dict()


def _for_size(name: str, size: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a model whose images have a fixed size needs to be told for another one."""
    other = bool(_config(name).get("fixed_input_size")) and size != own_input(name).size
    return {"img_size": size} if other and "img_size" not in options else {}


def _check_reachable(hub: str | None) -> None:
    """Ask once, where the weights are not cached: the hub's client asks for a minute."""
    from huggingface_hub import constants, try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    if hub is None or constants.HF_HUB_OFFLINE or any(isinstance(try_to_load_from_cache(hub, f), str) for f in files):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=ANSWER_SECONDS)
    except HTTPError:  # it answers
        return
