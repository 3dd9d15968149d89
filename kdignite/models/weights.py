"""Initial weights from elsewhere: torchvision's published ones, or any state dict that fits."""

import re
import sys
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdignite.errors import UserError, listed, reason
from kdignite.network import ANSWER_SECONDS, socket_timeout

IMAGENET_MODELS = ("resnet18", "resnet34", "resnet50")


class Misfit(NamedTuple):
    """Where a state dict does not fit a model: keys, and for shapes what each has and should have."""

    missing: list[str]
    unexpected: list[str]
    shapes: list[str]


def imagenet_file(name: str) -> Path:
    """torchvision's ImageNet weights of a model, fetched once into the folder of ``torch.hub``.

    ``IMAGENET1K_V1`` and not torchvision's newer ``DEFAULT``: these exist for all three models and are what
    ``pretrained=True`` meant, so what published experiments started from. A file is checked against the part of its
    SHA-256 that its name ends in, before it gets that name.

    Args:
        name: ``resnet18``, ``resnet34`` or ``resnet50``.

    Returns:
        The file, which holds a state dict.

    Raises:
        UserError: if the model has no ImageNet weights, or they cannot be fetched.
    """
    if name not in IMAGENET_MODELS:
        have = ", ".join(IMAGENET_MODELS)
        raise UserError(f"{name} has no ImageNet weights, {have} have; give --weights=FILE or --weights=none")
    import torchvision  # here: a second of start-up that other runs need not wait for

    url: str = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        _fetch(url, file, name=name)
    return file


def transfer_weights(model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load a foreign state dict as initial weights: all of it or nothing, save for a head of another shape.

    The head is the model's last ``nn.Linear``. If the state dict has no head of the same shape, the model keeps its
    own, as initialised. BatchNorm's counters ``num_batches_tracked`` may be missing, and then stay at what they are:
    PyTorch before 0.4.1 had none, and nothing here computes with them.

    Args:
        model: the model that is changed.
        state_dict: tensors by key; each is copied to the dtype and the device of the model's.
        source: what to call it in an error message, such as ``--weights=FILE``.

    Returns:
        The head's keys that were left as initialised; empty if everything was loaded.

    Raises:
        UserError: if keys are missing or unexpected, shapes or kinds of numbers differ, or a value is not finite.
            Nothing has been loaded then.
    """
    own: dict[str, Tensor] = model.state_dict()
    head = _head_keys(model)
    misfit = _misfit(own, state_dict, head=head)
    if any(misfit):
        raise UserError(_told(misfit, source=source, prefix=_prefix_that_helps(own, state_dict, head=head)))
    strange = [key for key in own if key in state_dict and not _can_become(state_dict[key], own[key])]
    if strange:
        raise UserError(f"{source} holds values that are no finite numbers of the model's kind: {listed(strange)}")
    kept = [] if _fits(own, state_dict, head) else head
    model.load_state_dict({**own, **{key: value for key, value in state_dict.items() if key not in kept}})
    return kept


def _fetch(url: str, file: Path, *, name: str) -> None:
    sha256 = file.stem.rpartition("-")[2]  # its first digits
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with socket_timeout(ANSWER_SECONDS):
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256, progress=sys.stderr.isatty())
    except (OSError, HTTPException, RuntimeError) as error:  # RuntimeError: the wrong hash
        raise UserError(
            f"the ImageNet weights of {name} cannot be fetched ({reason(error)}); "
            f"give --weights=FILE (a state dict of torchvision's {name}) or --weights=none"
        ) from error


def _head_keys(model: nn.Module) -> list[str]:
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [".".join(filter(None, (name, key))) for name, module in linear[-1:] for key, _ in module.named_parameters()]


def _fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], keys: Iterable[str]) -> bool:
    return all(key in given and given[key].shape == own[key].shape for key in keys)


def _can_become(given: Tensor, own: Tensor) -> bool:
    """Whether values can be copied into a tensor and stay what they are, but for precision."""
    same_kind = given.is_floating_point() == own.is_floating_point() and given.is_complex() == own.is_complex()
    return same_kind and bool(torch.isfinite(given).all())


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, head: list[str]) -> Misfit:
    body = [key for key in own if key not in head]
    return Misfit(
        missing=[key for key in body if key not in given and not key.endswith("num_batches_tracked")],
        unexpected=[key for key in given if key not in own],
        shapes=[
            f"{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}"
            for key in body
            if key in given and given[key].shape != own[key].shape
        ],
    )


def _prefix_that_helps(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, head: list[str]) -> str:
    """What all keys begin with, up to a dot, and without which they fit; empty if there is no such thing."""
    first = next(iter(given), "")
    for prefix in (first[: dot.end()] for dot in re.finditer(r"\.", first)):
        stripped = {key.removeprefix(prefix): value for key, value in given.items()}
        if all(key.startswith(prefix) for key in given) and not any(_misfit(own, stripped, head=head)):
            return prefix
    return ""


def _told(misfit: Misfit, *, source: str, prefix: str) -> str:
    kinds = (("missing", misfit.missing), ("unexpected", misfit.unexpected), ("of another shape", misfit.shapes))
    told = "; ".join(f"{len(items)} {kind}: {listed(items)}" for kind, items in kinds if items)
    advice = f"all keys begin with {prefix!r} and fit without it: strip that" if prefix else "is it the same model?"
    return f"{source} does not fit the model, nothing was loaded; {advice} ({told})"
