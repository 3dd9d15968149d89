"""Names of the tensors in somebody else's file, matched to those of a model."""

import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from torch import Tensor

from kdignite.checkpoints.weights import COUNTER, prefixes
from kdignite.errors import BRIEF, UserError

Tensors = Mapping[str, Tensor]
Hits = Mapping[tuple[str, str], Set[str]]  # (prefix to strip, prefix to add) -> the names in a model that fit then
# parts of names that DataParallel and DDP, torch.compile, FSDP and activation checkpointing add, wherever they wrap
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))


class Renaming(NamedTuple):
    """``name -> add + name.removeprefix(strip)`` for every name."""

    strip: str
    add: str

    def __call__(self, name: str) -> str:
        return self.add + name.removeprefix(self.strip)


class MatchedNames(NamedTuple):
    """Each name in a file -> that in the model, or its own; and those outside the part of the file that is used."""

    names: dict[str, str]
    outside: set[str]


def match_names(own: Tensors, given: Tensors, *, source: str) -> MatchedNames:
    """Find the names that tensors of a file have in a model.

    Parts that wrappers add are no part of a name. Beyond that, these renamings are tried: strip any prefix that ends
    in a dot from the names that have it; add a prefix that some of the model's names have; or both, and then add one
    that the model's first name has. The one under which most tensors fit is taken, of equals the one of fewest parts;
    none, unless more tensors fit than as the file is, and more than half of those of model or file: two networks have
    some names in common by chance.

    Raises:
        UserError: if another part of the file fits as well.
    """
    bare_own, bare = max(_variants(own, given), key=lambda bare: _num_fitting(*_renamed(own, given, *bare)))
    model, file = _renamed(own, given, bare_own, bare)
    renaming = _find_renaming(model, file)
    if renaming.strip and (others := _equally_good(model, file, renaming)):
        parts = sorted({shlex.quote(f"--key={_written(one.strip, bare)}") for one in (renaming, *others)})
        raise UserError(f"{source} holds several networks that fit: choose one, {' or '.join(parts)}")
    named = {name: key for key, name in bare_own.items()}
    new = {key: renaming(name) for key, name in bare.items()}
    return MatchedNames(
        {key: named.get(name, name if any(renaming) else key) for key, name in new.items()},
        {key for key, name in bare.items() if not name.startswith(renaming.strip)},
    )


def num_fitting(own: Tensors, given: Tensors) -> int:
    """How many tensors of a model a file has, under the names that make most of them fit."""
    return max(_num_fitting(*_renamed(own, given, *bare)) for bare in _variants(own, given))


def _variants(own: Tensors, given: Tensors) -> list[tuple[dict[str, str], dict[str, str]]]:
    """For model and file each name without what wrappers add, unless two would become one; and each name as it is."""
    short, whole = ([{key: name(key) for key in side} for side in (own, given)] for name in (_without_wrappers, str))
    distinct = all(len(set(one.values())) == len(one) for one in short)
    return [(short[0], short[1]), (whole[0], whole[1])] if distinct else [(whole[0], whole[1])]


def _without_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _renamed(own: Tensors, given: Tensors, bare_own: Mapping[str, str], bare: Mapping[str, str]) -> list[Tensors]:
    return [{names[key]: value for key, value in of.items()} for of, names in ((own, bare_own), (given, bare))]


def _num_fitting(own: Tensors, given: Tensors) -> int:
    hits = _hits(own, given)
    return _count(hits, _find_renaming(own, given))


def _find_renaming(own: Tensors, given: Tensors) -> Renaming:
    """The renaming under which most tensors fit; names without the stripped prefix count as they are."""
    hits, none = _hits(own, given), Renaming("", "")
    best = max([none, *map(Renaming._make, hits)], key=lambda one: (_count(hits, one), -"".join(one).count(".")))
    enough = _count(hits, best) > max(_count(hits, none), min(len(own), len(given)) // 2)
    return best if enough else none


def _count(hits: Hits, one: Renaming) -> int:
    """How many names fit under a renaming."""
    rest = {key for key in hits.get(("", one.add), set()) if not key.removeprefix(one.add).startswith(one.strip)}
    return len(hits.get(one, set()) | rest)


def _equally_good(own: Tensors, given: Tensors, best: Renaming) -> list[Renaming]:
    """Other renamings under which as many parameters come, all from other tensors."""
    hits = {one: {key for key in names if not key.endswith(COUNTER)} for one, names in _hits(own, given).items()}
    enough = max(len(hits[best]), len([key for key in own if not key.endswith(COUNTER)]) // 2 + 1)

    def sources(one: Renaming) -> Set[tuple[str, str]]:
        return {name: key for key in given if (name := one(key)) in own}.items()

    return [
        one
        for one in map(Renaming._make, hits)
        if one.strip and len(hits[one]) >= enough and not sources(one) & sources(best)
    ]


def _hits(own: Tensors, given: Tensors) -> Hits:
    """(strip, add) -> the names in the model that fit under it."""
    hits: dict[tuple[str, str], set[str]] = defaultdict(set)

    def count(strip: str, add: str, key: str) -> None:
        name = add + key.removeprefix(strip)
        if name in own and key in given and own[name].shape == given[key].shape:
            hits[strip, add].add(name)

    for add in ("", *_prefixes(next(iter(own), ""))):  # of every name's: thousands of pairs
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


def _written(strip: str, bare: Mapping[str, str]) -> str:
    """A prefix without what wrappers add as the file has it, with what they add."""
    key = next(key for key, name in bare.items() if name.startswith(strip))
    depth = strip.count(".")
    for prefix in prefixes(key):
        depth -= prefix[:-1].rpartition(".")[2] not in WRAPPERS
        if not depth:
            return prefix[:-1]
    return strip[:-1]
