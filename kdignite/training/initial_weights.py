"""The weights that a training starts from: published ones, those of a file, or new ones; and what a head is."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdignite import checkpoints, files, processes
from kdignite.checkpoints import Architecture
from kdignite.config import TrainConfig
from kdignite.console import say
from kdignite.errors import UserError, listed
from kdignite.models.libraries import converted, pretrained_weights
from kdignite.models.options import parse_options
from kdignite.models.outline import meta_state_dict
from kdignite.models.registry import MODELS, build_model
from kdignite.models.weights import head_keys, pretrained_file, problems_of, transfer_weights
from kdignite.plugins import is_library
from kdignite.streams import unchanged_generators

NONE, PRETRAINED = "none", "pretrained"


def architecture_of(config: Any) -> Architecture:
    """What the config says of the model: its name, and the options that were set."""
    options = {"widths": config.widths, "stem": config.stem}
    own = {key: value for key, value in options.items() if value is not None}
    return Architecture(config.arch, own | parse_options(config.arch_options))


def check_and_fetch_weights(config: TrainConfig) -> None:
    """Refuse weights that cannot be had, and fetch published ones."""
    if config.weights == PRETRAINED and config.stem == "cifar":
        raise UserError("--weights=pretrained are made for --stem=imagenet: leave out --stem=cifar, or --weights")
    if config.key and config.weights in (NONE, PRETRAINED):
        raise UserError(f"--key={config.key} is for a file of weights: --weights=FILE")
    if config.weights not in (NONE, PRETRAINED) and not Path(config.weights).is_file():
        raise UserError(f"--weights must be none, pretrained or a file; {checkpoints.no_file(Path(config.weights))}")
    if config.weights == PRETRAINED:
        processes.local_rank0_first(lambda: _published(config))


def content_of(weights: str) -> str:
    """What ``--weights`` names, by content: the hash of a file."""
    return weights if weights in (NONE, PRETRAINED) else files.sha256(Path(weights))


def load_initial_weights(model: nn.Module, config: TrainConfig, *, head: list[str] | None = None) -> None:
    """Load what ``--weights`` names into a new model; a head of other classes stays new; None: the last layer."""
    if config.weights == NONE:
        return
    found = _published(config) if config.weights == PRETRAINED else Path(config.weights)
    path = found if isinstance(found, Path) else Path(config.arch)
    content = checkpoints.read_foreign(found) if isinstance(found, Path) else found
    foreign = checkpoints.foreign_weights(content, model, path=path, key=config.key)
    weights, notes = _as_its_library_does(model, foreign.weights, name=config.arch, head=head or [])
    new = transfer_weights(model, weights, source=config.weights, head=head)
    with_head = f"; a new head: {', '.join(new)}" if new else ""
    say(f"weights   {config.weights}{with_head}")
    for note in (*foreign.notes, *notes):
        say(f"note      {note}")


def head_of(model: nn.Module, architecture: Architecture, *, num_classes: int, size: int) -> list[str]:
    """The parameters whose shape the number of classes decides; none of one's own network with a fixed number."""
    name, options = architecture
    if name in MODELS:
        return head_keys(model)
    larger: dict[str, Any] = {"num_classes": num_classes + 1, "size": size, "options": options}
    other = meta_state_dict(name, **larger)
    if other is None:
        with unchanged_generators(), suppress(UserError):
            other = build_model(name, **larger).state_dict()
    other = other or {}
    return [key for key, value in model.state_dict().items() if key in other and other[key].shape != value.shape]


def _published(config: TrainConfig) -> Path | dict[str, Tensor]:
    name, options = architecture_of(config)
    if name.startswith("timm:"):
        return pretrained_weights(name, size=config.size, options=options)
    return pretrained_file(name)


def _as_its_library_does(
    model: nn.Module, weights: dict[str, Tensor], *, name: str, head: list[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """Weights that do not fit as they are, converted by the library of the model, where that mends them."""
    own = model.state_dict()
    if not is_library(name) or not problems_of(own, weights, head=head):
        return weights, []
    new = converted(name, model, weights)
    if problems_of(own, new, head=head):
        return weights, []
    library = name.partition(":")[0]
    changed = [key for key, value in weights.items() if key not in new or new[key].shape != value.shape]
    return new, [f"{library} renames, resizes or leaves out {len(changed)} tensors of the file: {listed(changed)}"]
