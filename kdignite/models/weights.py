"""Pretrained weights: torchvision's published ones, or any state dict that fits."""

import sys
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdignite.errors import UserError, listed, reason
from kdignite.models.libraries import cannot_be_fetched
from kdignite.network import ANSWER_SECONDS, socket_timeout

PRETRAINED_MODELS = ("resnet18", "resnet34", "resnet50")


class KeyMatch(NamedTuple):
    """Which keys of a model a state dict has, with the same shape."""

    matched: list[str]  # same key and shape, whatever the dtype
    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, str]  # key -> its shape instead of the model's


def match_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> KeyMatch:
    """Compare the state dict of a model with another one by key and shape."""
    wrong = [key for key in own if key in given and given[key].shape != own[key].shape]
    return KeyMatch(
        matched=[key for key in own if key in given and given[key].shape == own[key].shape],
        missing=[key for key in own if key not in given],
        unexpected=[key for key in given if key not in own],
        shapes={key: f"{tuple(given[key].shape)} instead of {tuple(own[key].shape)}" for key in wrong},
    )


def pretrained_file(name: str) -> Path:
    """torchvision's ImageNet weights of a model, downloaded once into the folder of ``torch.hub``.

    Of ``torchvision:NAME`` the weights that torchvision calls the best; of the package's own names ``IMAGENET1K_V1``,
    which are what ``pretrained=True`` meant in published experiments. A download is verified by the start of its
    SHA-256, which is in its name.
    """
    import torchvision  # a second of start-up that other runs do not need

    library, _, bare = name.rpartition(":")
    if library != "torchvision" and name not in PRETRAINED_MODELS:
        have = ", ".join(PRETRAINED_MODELS)
        raise UserError(
            f"{name} has no pretrained weights; {have} have, and most of timm:NAME and torchvision:NAME; give "
            "--weights=FILE or --weights=none"
        )
    published = torchvision.models.get_model_weights(bare)
    url: str = (published.DEFAULT if library else published["IMAGENET1K_V1"]).url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        _fetch(url, file, name=name)
    return file


def transfer_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str, head: list[str] | None = None
) -> list[str]:
    """Load a state dict as initial weights, all of it except a head of another shape, or raise a `UserError`.

    The head is what ``head`` names, or the model's last ``nn.Linear``. If the state dict has no head of the same shape,
    the model keeps its own, as initialised. BatchNorm's counters ``num_batches_tracked`` may be missing, and then stay
    as they are: PyTorch before 0.4.1 had none, and they change no result here. Returns the keys of the head that were
    kept.
    """
    own: dict[str, Tensor] = model.state_dict()
    head = head_keys(model) if head is None else head
    if problems := problems_of(own, state_dict, head=head):
        raise UserError(
            f"{source} does not fit the model, nothing was loaded; is it the same model? ({'; '.join(problems)})"
        )
    invalid = [key for key in own if key in state_dict and not _can_be_copied(state_dict[key], own[key])]
    if invalid:
        raise UserError(f"{source} holds values that are no finite numbers of the model's kind: {listed(invalid)}")
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
        what = f"a state dict of torchvision's {name.rpartition(':')[2]}"
        raise cannot_be_fetched(name, reason(error), file=what, where=url) from error


def head_keys(model: nn.Module) -> list[str]:
    """The parameters of a network's last linear layer."""
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    return [".".join(filter(None, (name, key))) for name, module in linear[-1:] for key, _ in module.named_parameters()]


def _fits(own: Mapping[str, Tensor], given: Mapping[str, Tensor], keys: Iterable[str]) -> bool:
    return all(key in given and given[key].shape == own[key].shape for key in keys)


def _can_be_copied(given: Tensor, own: Tensor) -> bool:
    """Whether values are finite and of the same kind (floating point, complex, integer) as the model's."""
    same_kind = given.is_floating_point() == own.is_floating_point() and given.is_complex() == own.is_complex()
    return same_kind and bool(torch.isfinite(given).all())


def problems_of(own: Mapping[str, Tensor], given: Mapping[str, Tensor], *, head: list[str]) -> list[str]:
    """What keeps a state dict from being loaded, apart from the head."""
    body, rest = ({key: value for key, value in one.items() if key not in head} for one in (own, given))
    match = match_keys(body, rest)
    kinds = {
        "missing": [key for key in match.missing if not key.endswith("num_batches_tracked")],
        "unexpected": match.unexpected,
        "of another shape": [f"{key} {shapes}" for key, shapes in match.shapes.items()],
    }
    return [f"{len(items)} {kind}: {listed(items)}" for kind, items in kinds.items() if items]
