"""Somebody else's weights as those of a model: chosen, renamed and converted, with a line for each change."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdignite import schema
from kdignite.checkpoints.names import Tensors, match_names, num_fitting
from kdignite.checkpoints.weights import COUNTER, check_storable, is_plain
from kdignite.errors import LISTED, UserError, brief, listed

# what averaged models, operation counters and training modules keep beside a network
BOOKKEEPING = re.compile(
    r"(.*\.)?(n_averaged|total_ops|total_params)|(criterion|criteria|loss|loss_fn|loss_func|loss_function)\..*"
)
DEEPEST = 8  # levels of dicts and lists in which a state dict is looked for


class ForeignWeights(NamedTuple):
    """Tensors under the names and in the types of a model as far as they fit it, and what was changed."""

    weights: dict[str, Tensor]
    notes: list[str]  # one line each


class _Part(NamedTuple):
    tensors: dict[str, Tensor]
    others: list[str]  # names of what is no tensor and holds none


def foreign_weights(
    content: Any, model: nn.Module, *, path: Path, key: str = "", strip_prefix: str = ""
) -> ForeignWeights:
    """The weights for a model in what `read_foreign` read, by whatever names and in whatever types they are.

    Nothing is left out or converted without a line; what does not fit keeps its name, for the strict loading that
    follows to refuse. The model is left as it was.

    Args:
        content: of the file.
        model: whose weights they are to be.
        path: of the file, for the errors.
        key: where in the file they are, dotted: ``ema`` or ``models.student``; or what their names begin with.
        strip_prefix: what is taken off their names; others are left out unless the model needs them.

    Raises:
        UserError: if there are none, or several that fit equally; or if no checkpoint can hold the model.
    """
    own: dict[str, Tensor] = model.state_dict()
    check_storable(own, source="the model")
    given, notes = state_dict_in(content, path, own=own, key=key)
    if strip_prefix:
        given, left = _stripped(given, strip_prefix, own=own, path=path)
        notes += left
    found = fit_state_dict(own, given, source=str(path))
    return _as_the_model_loads(model, ForeignWeights(found.weights, notes + found.notes))


def state_dict_in(content: Any, path: Path, *, own: Tensors, key: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """The state dict in somebody else's file that is a model's, wherever in nested dicts it is; and what is left out.

    With several of them, the only one that fits more than half of the model is taken.
    """
    found = _parts(content)
    if key and found:
        inside = {where: part for where, one in found.items() if (part := _below(key, where, one)).tensors}
        if not inside:
            raise UserError(f"{path} has no tensors at --key={brief(key)}; there are {_choices(found)}")
        found = inside
    chosen = {where: one for where, one in found.items() if _fits(own, one.tensors)} if len(found) > 1 else found
    if not chosen:
        most = max((len(one.tensors) for one in found.values()), default=0)
        chosen = {where: one for where, one in found.items() if 2 * len(one.tensors) > most}
    if not chosen:
        raise UserError(f"{path} must hold one state dict (names to tensors); found none: save that one alone")
    if len(chosen) > 1:
        raise UserError(f"{path} must hold one state dict (names to tensors); choose one with {_choices(chosen)}")
    [(where, (tensors, others))] = chosen.items()
    odd = [f"{name} is {_odd(value)}" for name, value in tensors.items() if not is_plain(value)]
    if odd:
        raise UserError(
            f"{path} must hold one state dict of dense tensors in usual types, without expanded ones; {listed(odd)}"
        )
    passed = [other for other in found if other not in ("", where)]
    notes = [f"{where or 'the tensors beside them'} taken from the file, not {listed(passed)}"] if passed else []
    return tensors, notes + ([f"left out, as they are no tensors: {listed(others)}"] if others else [])


def fit_state_dict(own: Tensors, given: Tensors, *, source: str) -> ForeignWeights:
    """A state dict under the names and in the types of a model, as far as it fits."""
    names, outside = match_names(own, given, source=source)
    inside_last = sorted(given, key=lambda key: key not in outside)  # these count where both have a name
    by_name = {names[key]: key for key in inside_last}
    found = {name: by_name[name] for name in own if name in by_name}
    rest = [key for key in given if found.get(names[key]) != key]
    left = [key for key in rest if key in outside or BOOKKEEPING.fullmatch(names[key])]
    weights = {name: _converted(given[key], own[name]) for name, key in found.items()}
    counters = {
        name: torch.zeros_like(value)
        for name, value in own.items()
        if f"{name.removesuffix(COUNTER)}running_mean" in weights
        and name.endswith(COUNTER)
        and not (name in weights and bool(torch.isfinite(weights[name]).all()))
    }
    types = Counter(
        f"from {dtype_name(given[key])} to {dtype_name(weights[name])}"
        for name, key in found.items()
        if name not in counters and given[key].dtype != weights[name].dtype
    )
    notes = [
        *_renaming_notes(found, num_given=len(given)),
        *([f"left out, as the model has no such tensors: {listed(left)}"] if left else []),
        *(
            [f"set to 0: {len(counters)} counters {COUNTER} of BatchNorm, which are missing or overflowed"]
            if counters
            else []
        ),
        *(f"{count} tensors are converted {types}" for types, count in types.items()),
    ]
    return ForeignWeights({**weights, **counters, **{names[key]: given[key] for key in rest if key not in left}}, notes)


def _as_the_model_loads(model: nn.Module, found: ForeignWeights) -> ForeignWeights:
    """Where names differ, what hooks of the model make of them: those of ``parametrizations`` take older names."""
    own: dict[str, Tensor] = model.state_dict()
    if found.weights.keys() == own.keys():
        return found
    before = {key: value.clone() for key, value in own.items()}
    try:
        model.load_state_dict(found.weights, strict=True)
        loaded = {key: value.clone() for key, value in model.state_dict().items()}
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):  # hooks may be the user's
        return found
    finally:
        model.load_state_dict(before)
    names = listed(sorted(found.weights.keys() - loaded.keys()))
    return ForeignWeights(loaded, [*found.notes, f"the model itself converts older names: {names}"])


def _parts(content: Any) -> dict[str, _Part]:
    """Every dict with tensors in nested dicts and lists, by its place; lists of pairs are dicts."""
    found: dict[str, _Part] = {}
    seen: set[int] = set()
    level = [("", content)]
    for _ in range(DEEPEST):
        below = []
        for where, value in level:
            if id(value) in seen:
                continue
            seen.add(id(value))
            items = [(name, one) for name, one in _items(value) if schema.is_name(name)]
            tensors = {name: one for name, one in items if isinstance(one, Tensor)}
            if tensors:
                found[where] = _Part(tensors, [name for name, one in items if not isinstance(one, Tensor)])
            below += [(f"{where}.{name}" if where else name, one) for name, one in items]
        level = below
    return found


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Of a dict, whose methods a pickle may have replaced; of pairs; of another list by number, without tensors."""
    if isinstance(value, dict):
        return [*dict.items(value)]
    if isinstance(value, list | tuple) and all(isinstance(one, list | tuple) and len(one) == 2 for one in value):
        return [(one[0], one[1]) for one in value]
    listed = value if isinstance(value, list | tuple) else []
    return [(str(index), one) for index, one in enumerate(listed) if not isinstance(one, Tensor)]


def _below(key: str, where: str, part: _Part) -> _Part:
    """What of a part lies under a key: all of it, or what has names that begin with the key."""
    start, prefix = f"{key}.", f"{where}." if where else ""
    tensors = {
        full.removeprefix(start): value
        for name, value in part.tensors.items()
        if (full := f"{prefix}{name}").startswith(start)
    }
    return _Part(tensors, part.others if prefix.startswith(start) else [])


def _fits(own: Tensors, given: Tensors) -> bool:
    """Whether a state dict has more than half of a model's tensors, its counters apart."""
    needed = {key: value for key, value in own.items() if not key.endswith(COUNTER)}
    return 2 * len(given) > len(needed) and 2 * num_fitting(needed, given) > len(needed)


def _choices(parts: Mapping[str, _Part]) -> str:
    """The flags that choose, the largest part first."""
    ordered = sorted((where for where in parts if where), key=lambda where: -len(parts[where].tensors))
    return " or ".join(shlex.quote(f"--key={where}") for where in ordered[:LISTED]) or "the tensors themselves"


def _stripped(given: Tensors, prefix: str, *, own: Tensors, path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Names without a prefix, and what else the model has under its name as it is."""
    inside = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    if not inside:
        raise UserError(f"no key of {path} starts with {prefix!r}: {listed([*given])}")
    others = [key for key in given if not key.startswith(prefix)]
    left = [key for key in others if key in inside or key not in own]
    notes = [f"without the prefix {prefix!r}: {len(inside)} of {len(given)} tensors"]
    notes += [f"left out, as they do not begin with it: {listed(left)}"] if left else []
    return {**{key: given[key] for key in others if key not in left}, **inside}, notes


def _renaming_notes(found: Mapping[str, str], *, num_given: int) -> list[str]:
    """In words, which names were changed: one prefix, or some name for all."""
    changed = [(key, name) for name, key in found.items() if key != name]
    if not changed:
        return []
    whose = "every key has" if len(changed) == num_given else f"{len(changed)} of {num_given} keys have"
    key, name = changed[0]
    strip, add = key.removesuffix(name), name.removesuffix(key)
    if all(key == strip + name for key, name in changed):
        return [f"without the prefix {strip!r}, which {whose}"]
    if all(name == add + key for key, name in changed):
        return [f"with {add!r} in front of every key"]
    return [f"{len(changed)} of {num_given} keys are renamed, such as {key} to {name}"]


def _converted(value: Tensor, like: Tensor) -> Tensor:
    """A tensor in the type of another where that loses no meaning, else as it is: whole numbers stay exact."""
    if value.dim() == 1 and value.numel() == 1 and like.dim() == 0:
        value = value[0]  # of torch before 0.4, which had no scalars
    if value.dtype == like.dtype:
        return value
    converted = value.to(like.dtype) if value.is_complex() <= like.is_complex() else value
    if like.is_floating_point() or like.is_complex():
        same_kind = value.is_floating_point() == like.is_floating_point() and value.is_complex() == like.is_complex()
        return converted if same_kind else value
    return converted if torch.equal(converted.to(value.dtype), value) else value


def _odd(value: Tensor) -> str:
    layout = str(value.layout).removeprefix("torch.")
    shown = "" if layout == "strided" else f" ({layout})"
    return f"{dtype_name(value)}{shown}{' without numbers' if value.is_meta else ''}"


def dtype_name(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
