"""Why a state dict does not load: which keys fit, what ``strict=False`` would have hidden, and what to do."""

import shlex
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from kdignite.checkpoints import ForeignWeights, not_finite
from kdignite.checkpoints.foreign import dtype_name
from kdignite.errors import listed
from kdignite.models.weights import KeyMatch, match_keys

Tensors = Mapping[str, Tensor]


class StateDictComparison(NamedTuple):
    """How a state dict fits a model: as it is, and as ``adopt`` reads it."""

    as_is: KeyMatch
    adopted: KeyMatch  # under the model's names
    notes: list[str]  # what ``adopt`` changes
    num_model: int  # tensors of the model
    num_file: int  # tensors of the file
    num_values: int  # numbers in the model's tensors
    num_loaded: int  # those that strict=False overwrites, as the file is
    head_only: bool  # whether nothing but the last linear layer is wrong in what ``adopt`` reads
    classes: tuple[int, int] | None  # outputs of model and file, where the head differs in their number alone
    dtypes: dict[str, str]  # key that matches as it is -> its dtype instead of the model's
    kinds: dict[str, str]  # key -> a dtype that ``adopt`` does not convert to the model's
    non_finite: list[str]

    @property
    def adoptable(self) -> bool:
        """Whether ``adopt`` takes the file."""
        match = self.adopted
        return not (match.missing or match.unexpected or match.shapes or self.kinds or self.non_finite)


def compare_state_dicts(own: Tensors, given: Tensors, adopted: ForeignWeights) -> StateDictComparison:
    """Compare the state dict of a model with that of a file, and with what ``adopt`` makes of it.

    ``load_state_dict(strict=False)`` copies what has the same key and shape, in whatever dtype, skips every other key
    silently, and raises where a shape differs: ``as_is.matched`` is what it loads.
    """
    as_is, match = match_keys(own, given), match_keys(own, adopted.weights)
    head, wrong = _head(own), {*match.missing, *match.shapes}
    return StateDictComparison(
        as_is=as_is,
        adopted=match,
        notes=adopted.notes,
        num_model=len(own),
        num_file=len(given),
        num_values=sum(value.numel() for value in own.values()),
        num_loaded=sum(own[key].numel() for key in as_is.matched),
        head_only=bool(wrong) and wrong <= {*head} and not match.unexpected,
        classes=_classes(own, adopted.weights, head=head),
        dtypes=_other_types(own, given, as_is.matched),
        kinds=_other_types(own, adopted.weights, match.matched),
        non_finite=not_finite(adopted.weights),
    )


def comparison_lines(fit: StateDictComparison, *, file: str, adopt: str) -> list[str]:
    """A comparison as lines, with the command or the change that makes the file usable."""
    matched = len(fit.as_is.matched)
    lines = [f"{file}: {matched} of the model's {fit.num_model} tensors fit (the file has {fit.num_file})"]
    kinds = (
        ("missing in the file", fit.as_is.missing),
        ("not in the model", fit.as_is.unexpected),
        ("of another shape", [f"{key} {text}" for key, text in fit.as_is.shapes.items()]),
        ("of another dtype", [f"{key} {text}" for key, text in fit.dtypes.items()]),
        ("with NaN or infinity", fit.non_finite),
    )
    lines += [f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds if keys]
    return [
        *lines,
        *_strict_false_lines(fit),
        *_adopted_lines(fit),
        *_fix_lines(fit, file=shlex.quote(file), adopt=adopt),
    ]


def _other_types(own: Tensors, given: Tensors, keys: list[str]) -> dict[str, str]:
    pairs = {key: (dtype_name(given[key]), dtype_name(own[key])) for key in keys}
    return {key: f"{theirs} instead of {ours}" for key, (theirs, ours) in pairs.items() if theirs != ours}


def _head(own: Tensors) -> list[str]:
    layers = [key.rpartition(".")[0] for key, value in own.items() if value.dim() == 2]
    return [key for key in own if key.rpartition(".")[0] in layers[-1:]]


def _classes(own: Tensors, given: Tensors, *, head: list[str]) -> tuple[int, int] | None:
    weight = next((key for key in head if own[key].dim() == 2), "")
    if weight not in given or given[weight].dim() != 2:
        return None
    (ours, width), (theirs, same) = own[weight].shape, given[weight].shape
    return (ours, theirs) if width == same and ours != theirs else None


def _strict_false_lines(fit: StateDictComparison) -> list[str]:
    """What ``strict=False`` does with the file as it is, unless it does no harm."""
    now, count = fit.as_is, len(fit.as_is.matched)
    loaded = f"{count} of {fit.num_model} tensors ({fit.num_loaded:,} of {fit.num_values:,} numbers)"
    if now.shapes:
        which = f"the {len(now.shapes)} of another shape, after it has loaded {loaded}"
        return [f"strict=False would not have helped: load_state_dict raises for {which}"]
    if now.missing:
        left = f"the other {len(now.missing)} stay as initialised" if count else "the model stays random"
        return [f"strict=False would have loaded {loaded} silently: {left}"]
    if now.unexpected:
        return [f"strict=False would have loaded {loaded} and dropped the file's other {len(now.unexpected)} silently"]
    return []


def _adopted_lines(fit: StateDictComparison) -> list[str]:
    """What ``adopt`` changes, and how much fits then."""
    return [*fit.notes, f"so {len(fit.adopted.matched)} of {fit.num_model} tensors fit"] if fit.notes else []


def _fix_lines(fit: StateDictComparison, *, file: str, adopt: str) -> list[str]:
    if fit.non_finite:
        return ["adopt refuses NaN and infinity: use an earlier checkpoint of that model"]
    if fit.head_only:
        return _head_lines(fit, file=file, adopt=adopt)
    if fit.adoptable:
        return [f"python -m kdignite adopt {file} {adopt}"]
    if fit.adopted.shapes or fit.adopted.missing:
        return ["this is another architecture, or the same with other options: adopt cannot, check --arch first"]
    wrong = [*fit.adopted.unexpected, *fit.kinds]
    return [f"adopt refuses it for {listed(wrong)}: save the state dict without what the model does not have"]


def _head_lines(fit: StateDictComparison, *, file: str, adopt: str) -> list[str]:
    if fit.classes:
        what = f"only the head differs: the model has {fit.classes[0]} classes, the file {fit.classes[1]}"
    else:
        what = "only the head is missing or differs"
    flags = [flag for flag in shlex.split(adopt) if not flag.startswith(("--mean=", "--std=")) and "..." not in flag]
    line = f"python -m kdignite teacher --weights={file} {shlex.join(flags)}"
    return [what, f"adopt cannot, training can start from it with a new head: {line.rstrip()}"]
