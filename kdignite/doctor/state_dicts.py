"""Why a state dict does not load: which keys fit, what ``strict=False`` would have hidden, and what to do."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.checkpoints import prefixes
from kdignite.errors import BRIEF, listed
from kdignite.models.weights import KeyMatch, match_keys

COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch before 0.4.1 had none
Tensors = Mapping[str, Tensor]


class Renaming(NamedTuple):
    """``key -> add + key.removeprefix(strip)`` for every key."""

    strip: str
    add: str


class StateDictComparison(NamedTuple):
    """How a state dict fits a model: as it is, and under the renaming that makes most tensors fit."""

    as_is: KeyMatch
    renaming: Renaming  # twice the empty text: none helps
    num_prefixed: int  # keys that begin with what is stripped
    renamed: KeyMatch  # after the renaming
    num_model: int  # tensors of the model
    num_file: int  # tensors of the file
    num_values: int  # numbers in the model's tensors
    num_loaded: int  # those that strict=False overwrites, as the file is
    head_only: bool  # whether nothing but the last linear layer is wrong after the renaming
    classes: tuple[int, int] | None  # outputs of model and file, where the head differs in their number alone
    dtypes: dict[str, str]  # key that matches as it is -> its dtype instead of the model's
    cast: bool  # whether a dtype differs after the renaming that ``adopt`` does not convert
    non_finite: list[str]  # keys as they are

    @property
    def adoptable(self) -> bool:
        """Whether ``adopt`` takes the file, with ``--strip_prefix`` where something has to be stripped."""
        by_flag = not self.renaming.add and self.num_prefixed == self.num_file
        return by_flag and not (self.non_finite or _is_other_architecture(self.renamed) or _repairs(self))


def compare_state_dicts(own: Tensors, given: Tensors) -> StateDictComparison:
    """Compare the state dict of a model with that of a file.

    ``load_state_dict(strict=False)`` copies what has the same key and shape, in whatever dtype, skips every other key
    silently, and raises where a shape differs: ``as_is.matched`` is what it loads.

    Renamings that are tried: strip any prefix that ends in a dot from the keys that have it; add a prefix that some of
    the model's keys have; or both, and then add one that the model's first key has. The one under which most tensors
    fit is taken, of equals the one of fewest parts; none, unless more tensors fit than as the file is, and more
    than half of those of model or file: two networks have some names in common by chance.
    """
    as_is, renaming = match_keys(own, given), _find_renaming(own, given)
    renamed = match_keys(own, _rename(given, renaming))
    if len(renamed.matched) <= max(len(as_is.matched), min(len(own), len(given)) // 2):
        renaming, renamed = Renaming("", ""), as_is
    file, head, wrong = _rename(given, renaming), _head(own), {*renamed.missing, *renamed.shapes}
    halves = [(half, torch.float32) for half in (torch.float16, torch.bfloat16)]
    return StateDictComparison(
        as_is=as_is,
        renaming=renaming,
        num_prefixed=sum(key.startswith(renaming.strip) for key in given),
        renamed=renamed,
        num_model=len(own),
        num_file=len(given),
        num_values=sum(value.numel() for value in own.values()),
        num_loaded=sum(own[key].numel() for key in as_is.matched),
        head_only=bool(wrong) and wrong <= {*head} and not renamed.unexpected,
        classes=_classes(own, file, head=head),
        dtypes={
            key: f"{_dtype(given[key])} instead of {_dtype(own[key])}"
            for key in as_is.matched
            if given[key].dtype != own[key].dtype
        },
        cast=any(
            file[key].dtype != own[key].dtype and (file[key].dtype, own[key].dtype) not in halves
            for key in renamed.matched
        ),
        non_finite=[key for key, value in given.items() if not bool(torch.isfinite(value).all())],
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
        *_renaming_lines(fit),
        *_fix_lines(fit, file=shlex.quote(file), adopt=adopt),
    ]


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _rename(given: Tensors, renaming: Renaming) -> dict[str, Tensor]:
    return {renaming.add + key.removeprefix(renaming.strip): value for key, value in given.items()}


def _find_renaming(own: Tensors, given: Tensors) -> Renaming:
    """The renaming under which most tensors fit; keys without the stripped prefix count as they are."""
    hits = _hits(own, given)

    def rank(one: Renaming) -> tuple[int, int]:
        rest = {key for key in hits.get(("", one.add), set()) if not key.removeprefix(one.add).startswith(one.strip)}
        return len(hits[one] | rest), -"".join(one).count(".")

    return max([Renaming("", ""), *map(Renaming._make, hits)], key=rank)


def _hits(own: Tensors, given: Tensors) -> Mapping[tuple[str, str], Set[str]]:
    """(strip, add) -> the keys of the model that fit under it."""
    hits: dict[tuple[str, str], set[str]] = defaultdict(set)

    def count(strip: str, add: str, key: str) -> None:
        name = add + key.removeprefix(strip)
        if name in own and key in given and own[name].shape == given[key].shape:
            hits[strip, add].add(name)

    for add in ("", *_prefixes(next(iter(own), ""))):  # of every key's: thousands of pairs
        for key in given:
            for strip in ("", *_prefixes(key)):
                count(strip, add, key)
    for name in own:
        for add in _prefixes(name):
            count("", add, name.removeprefix(add))
    return hits


def _prefixes(key: str) -> Iterator[str]:
    """Those that can be typed on a command line."""
    return (prefix for prefix in prefixes(key[:BRIEF]) if prefix.isprintable())


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


def _renaming_lines(fit: StateDictComparison) -> list[str]:
    strip, add = fit.renaming
    whose = "every key has" if fit.num_prefixed == fit.num_file else f"{fit.num_prefixed} of {fit.num_file} keys have"
    steps = [f"without the prefix {strip!r}, which {whose}"] if strip else []
    steps += [f"with {add!r} in front of every key"] if add else []
    return [f"{' and '.join(steps)}: {len(fit.renamed.matched)} of {fit.num_model} tensors fit"] if steps else []


def _fix_lines(fit: StateDictComparison, *, file: str, adopt: str) -> list[str]:
    command, repairs = f"python -m kdignite adopt {file} {adopt}", _repairs(fit)
    if fit.non_finite:
        return ["adopt refuses NaN and infinity: use an earlier checkpoint of that model"]
    if fit.head_only:
        return _head_lines(fit, file=file)
    if _is_other_architecture(fit.renamed):
        return ["this is another architecture, or the same with other options: adopt cannot, check --arch first"]
    if fit.adoptable:
        flag = shlex.quote(f"--strip_prefix={fit.renaming.strip}") if fit.renaming.strip else ""
        return [f"{command} {flag}".rstrip()]
    start = "adopt can only strip one prefix from all keys; do this to the file's state dict and save it:"
    return [start, *_renaming_code(fit), *repairs, f"then: {command} (with the new file's name)"]


def _head_lines(fit: StateDictComparison, *, file: str) -> list[str]:
    if fit.classes:
        what = f"only the head differs: the model has {fit.classes[0]} classes, the file {fit.classes[1]}"
    else:
        what = "only the head is missing or differs"
    start = f"adopt cannot, training can start from it with a new head: python -m kdignite teacher --weights={file}"
    first = ["rename the keys of the state dict and save it first:", *_renaming_code(fit)] if any(fit.renaming) else []
    return [what, *first, f"{start} (and the same --arch)"]


def _is_other_architecture(match: KeyMatch) -> bool:
    """Whether the model has tensors that no renaming makes fit."""
    return bool(match.shapes) or not all(key.endswith(COUNTER) for key in match.missing)


def _repairs(fit: StateDictComparison) -> list[str]:
    """Statements after which ``adopt`` takes the renamed state dict."""
    lines = []
    if fit.renamed.unexpected:
        lines.append("weights = {key: value for key, value in weights.items() if key in model.state_dict()}")
    if fit.renamed.missing:
        counters = f"{{key: torch.tensor(0) for key in model.state_dict() if key.endswith({COUNTER!r})}}"
        lines.append(f"weights = {counters} | weights")
    if fit.cast:
        lines.append("weights = {key: value.to(model.state_dict()[key].dtype) for key, value in weights.items()}")
    return lines


def _renaming_code(fit: StateDictComparison) -> list[str]:
    strip, add = fit.renaming
    key = (f"{add!r} + " if add else "") + (f"key.removeprefix({strip!r})" if strip else "key")
    return [f"weights = {{{key}: value for key, value in weights.items()}}"] if any(fit.renaming) else []
