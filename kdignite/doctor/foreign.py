"""Why somebody else's state dict does not load: which keys fit, what a loose load would have hidden, and the remedy."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.checkpoints import prefixes
from kdignite.errors import BRIEF, listed

COUNTER = "num_batches_tracked"  # of BatchNorm; PyTorch before 0.4.1 had none
Tensors = Mapping[str, Tensor]


class Match(NamedTuple):
    """Which keys of a model a state dict fits; texts tell what a tensor is and should be."""

    matched: list[str]  # same key and shape, whatever the dtype
    missing: list[str]
    unexpected: list[str]
    shapes: dict[str, str]
    dtypes: dict[str, str]  # of matched keys
    half: list[str]  # those of them that are float16 or bfloat16 instead of float32, which `adopt` converts


class Renaming(NamedTuple):
    """``key -> add + key.removeprefix(strip)`` for every key."""

    strip: str
    add: str


class Fit(NamedTuple):
    """How a state dict fits a model: as it stands, and under the renaming that makes most tensors fit."""

    now: Match
    renaming: Renaming  # twice the empty text: none helps
    num_carrying: int  # keys that begin with what is stripped
    then: Match  # after the renaming
    num_own: int  # tensors of the model
    num_given: int  # tensors of the file
    num_values: int  # numbers in the model's tensors
    num_loaded: int  # those that strict=False overwrites, as the file stands
    head_only: bool  # whether nothing but the last linear layer is wrong after the renaming
    classes: tuple[int, int] | None  # outputs of model and file, where the head differs in their number alone
    non_finite: list[str]  # keys as they stand

    @property
    def adoptable(self) -> bool:
        """Whether ``adopt`` takes the file, with ``--strip_prefix`` where something has to be stripped."""
        by_flag = not self.renaming.add and self.num_carrying == self.num_given
        return by_flag and not (self.non_finite or _is_foreign(self.then) or _repairs(self))


def explain(own: Tensors, given: Tensors) -> Fit:
    """Compare the state dict of a model with somebody else's.

    ``load_state_dict(strict=False)`` copies what has the same key and shape, in whatever dtype, skips every other key
    without a word, and raises where a shape differs: ``now.matched`` is what it loads.

    Renamings that are tried: strip any prefix that ends in a dot from the keys that carry it; add a prefix that some of
    the model's keys have; or both, and then add one that the model's first key has. The one under which most tensors
    fit is taken, of equals the one of fewest parts; none, unless more tensors fit than as the file stands, and more
    than half of those of model or file: two networks have some names in common by chance.
    """
    now, renaming = _match(own, given), _renaming(own, given)
    then = _match(own, _renamed(given, renaming))
    if len(then.matched) <= max(len(now.matched), min(len(own), len(given)) // 2):
        renaming, then = Renaming("", ""), now
    head = _head(own)
    wrong = {*then.missing, *then.shapes}
    return Fit(
        now=now,
        renaming=renaming,
        num_carrying=sum(key.startswith(renaming.strip) for key in given),
        then=then,
        num_own=len(own),
        num_given=len(given),
        num_values=sum(value.numel() for value in own.values()),
        num_loaded=sum(own[key].numel() for key in now.matched),
        head_only=bool(wrong) and wrong <= {*head} and not then.unexpected,
        classes=_classes(own, _renamed(given, renaming), head=head),
        non_finite=[key for key, value in given.items() if not bool(torch.isfinite(value).all())],
    )


def fit_lines(fit: Fit, *, file: str, adopt: str) -> list[str]:
    """What to print of a fit, and the command or the change that makes the file usable."""
    matched = len(fit.now.matched)
    lines = [
        f"{file}: {matched} of the model's {fit.num_own} tensors fit as the file stands, which has {fit.num_given}"
    ]
    kinds = (
        ("missing in the file", fit.now.missing),
        ("not in the model", fit.now.unexpected),
        ("of another shape", [f"{key} {text}" for key, text in fit.now.shapes.items()]),
        ("of another dtype", [f"{key} {text}" for key, text in fit.now.dtypes.items()]),
        ("with NaN or infinity", fit.non_finite),
    )
    lines += [f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in kinds if keys]
    return [*lines, *_loose(fit), *_prefix(fit), *_remedy(fit, file=shlex.quote(file), adopt=adopt)]


def _match(own: Tensors, given: Tensors) -> Match:
    matched = [key for key, value in own.items() if key in given and given[key].shape == value.shape]
    others = [key for key in own if key in given and given[key].shape != own[key].shape]
    dtypes = {key: (_dtype(given[key]), _dtype(own[key])) for key in matched if given[key].dtype != own[key].dtype}
    return Match(
        matched=matched,
        missing=[key for key in own if key not in given],
        unexpected=[key for key in given if key not in own],
        shapes={key: f"{tuple(given[key].shape)} instead of {tuple(own[key].shape)}" for key in others},
        dtypes={key: f"{have} instead of {want}" for key, (have, want) in dtypes.items()},
        half=[key for key, pair in dtypes.items() if pair in (("float16", "float32"), ("bfloat16", "float32"))],
    )


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _renamed(given: Tensors, renaming: Renaming) -> dict[str, Tensor]:
    return {renaming.add + key.removeprefix(renaming.strip): value for key, value in given.items()}


def _renaming(own: Tensors, given: Tensors) -> Renaming:
    """The renaming under which most tensors fit; keys that do not carry what is stripped count as they then are."""
    hits = _hits(own, given)

    def rank(one: Renaming) -> tuple[int, int]:
        rest = {key for key in hits.get(("", one.add), set()) if not key.removeprefix(one.add).startswith(one.strip)}
        return len(hits[one] | rest), -"".join(one).count(".")

    return max([Renaming("", ""), *map(Renaming._make, hits)], key=rank)


def _hits(own: Tensors, given: Tensors) -> Mapping[tuple[str, str], Set[str]]:
    """(strip, add) -> the model's keys that it gives to tensors of their shape."""
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
    """Those that can be typed."""
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


def _loose(fit: Fit) -> list[str]:
    """What ``strict=False`` does with the file as it stands, unless it does no harm."""
    now, count = fit.now, len(fit.now.matched)
    loaded = f"{count} of {fit.num_own} tensors ({fit.num_loaded:,} of {fit.num_values:,} numbers)"
    if now.shapes:
        which = f"the {len(now.shapes)} of another shape, after it has loaded {loaded}"
        return [f"strict=False would have helped nothing: load_state_dict raises all the same for {which}"]
    if now.missing:
        left = f"the other {len(now.missing)} stay as initialised" if count else "the model stays random"
        return [f"strict=False would have loaded {loaded} and said nothing: {left}"]
    if now.unexpected:
        return [f"strict=False would have loaded {loaded} and dropped the file's other {len(now.unexpected)} silently"]
    return []


def _prefix(fit: Fit) -> list[str]:
    strip, add = fit.renaming
    whose = "every key has" if fit.num_carrying == fit.num_given else f"{fit.num_carrying} of {fit.num_given} keys have"
    steps = [f"without the prefix {strip!r}, which {whose}"] if strip else []
    steps += [f"with {add!r} in front of every key"] if add else []
    return [f"{' and '.join(steps)}: {len(fit.then.matched)} of {fit.num_own} tensors fit"] if steps else []


def _remedy(fit: Fit, *, file: str, adopt: str) -> list[str]:
    command, repairs = f"python -m kdignite adopt {file} {adopt}", _repairs(fit)
    if fit.non_finite:
        return ["no renaming mends NaN or infinity, adopt refuses it: take an earlier checkpoint of that model"]
    if fit.head_only:
        return _headless(fit, file=file)
    if _is_foreign(fit.then):
        return ["this is another architecture, or the same with other options: adopt cannot, check --arch first"]
    if fit.adoptable:
        flag = shlex.quote(f"--strip_prefix={fit.renaming.strip}") if fit.renaming.strip else ""
        return [f"{command} {flag}".rstrip()]
    start = (
        "adopt takes one prefix off all keys and changes nothing else; do this to the file's state dict and save it:"
    )
    return [start, *_rename(fit), *repairs, f"then: {command} (with the new file's name)"]


def _headless(fit: Fit, *, file: str) -> list[str]:
    if fit.classes:
        what = f"only the head differs: the model has {fit.classes[0]} classes, the file {fit.classes[1]}"
    else:
        what = "only the head is missing or differs"
    start = f"adopt cannot, training can start from it with a new head: python -m kdignite teacher --weights={file}"
    first = ["rename the keys of the state dict and save it first:", *_rename(fit)] if any(fit.renaming) else []
    return [what, *first, f"{start} (and the same --arch)"]


def _is_foreign(match: Match) -> bool:
    """Whether the model has tensors that no change of names makes fit."""
    return bool(match.shapes) or not all(key.endswith(COUNTER) for key in match.missing)


def _repairs(fit: Fit) -> list[str]:
    """Statements that make a state dict, once it is renamed, one that ``adopt`` takes."""
    lines = []
    if fit.then.unexpected:
        lines.append("weights = {key: value for key, value in weights.items() if key in model.state_dict()}")
    if fit.then.missing:
        counters = f"{{key: torch.tensor(0) for key in model.state_dict() if key.endswith({COUNTER!r})}}"
        lines.append(f"weights = {counters} | weights")
    if set(fit.then.dtypes) - set(fit.then.half):
        lines.append("weights = {key: value.to(model.state_dict()[key].dtype) for key, value in weights.items()}")
    return lines


def _rename(fit: Fit) -> list[str]:
    strip, add = fit.renaming
    key = (f"{add!r} + " if add else "") + (f"key.removeprefix({strip!r})" if strip else "key")
    return [f"weights = {{{key}: value for key, value in weights.items()}}"] if any(fit.renaming) else []
