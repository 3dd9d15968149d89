"""The parameters of methods as flags: those of the table on every config, those of one's own where it is named."""

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, TypeVar

from kdignite.config.fields import Config, Value, bare_type, check_number, extended, flag
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, METHODS, check_method, find_method
from kdignite.methods.rows import Parameter

C = TypeVar("C", bound=Config)
OF_SEVERAL_VALUES = ("sweep", "search")  # commands that take several values of a parameter


def method_flags(kind: type[C]) -> type[C]:
    """A class decorator, below ``@dataclass``: a flag, unset, for each parameter of any method of the table."""
    rows = {name: _of_all_methods(name) for method in METHODS.values() for name in method.parameters}
    for name, one in rows.items():
        setattr(kind, name, _flag(one, shown=name in METHODS[DEFAULT].parameters and not one.minor))
    kind.__annotations__ = kind.__annotations__ | {name: one.type | None for name, one in rows.items()}
    return kind


def _of_all_methods(name: str) -> Parameter:
    """A parameter as its flag says it: what it means in each method, and the limits that it has in all of them."""
    rows = {method: row.parameters[name] for method, row in METHODS.items() if name in row.parameters}
    first, *others = rows.values()
    users: dict[str, list[str]] = {}
    for method, one in rows.items():
        users.setdefault(one.help, []).append(method)
    meaning = "; ".join(f"{', '.join(methods)}: {text}" for text, methods in users.items())
    limits: dict[str, Any] = {
        key: value for key, value in first.domain.items() if all(one.domain[key] == value for one in others)
    }
    text = first.help if len(users) == 1 else meaning
    return Parameter(first.default, text, minor=first.minor, **limits)


def averaged_at(method: str) -> str:
    """The parameter that is the temperature at which several teachers are averaged; ``T`` of one's own method."""
    rows = METHODS[method].parameters if method in METHODS else {}
    return next((name for name, row in rows.items() if row.softens and row.softens.power == 1), "T")


def with_method(kind: type[C], method: str) -> type[C]:
    """A config class with a flag for each parameter of a method of one's own that the class lacks."""
    known, own = {one.name for one in fields(kind)}, find_method(method).parameters
    if taken := [name for name in own if name in known.difference(parameter_names(kind))]:
        raise UserError(
            f"--method={method}: {taken[0]} is a setting of every training: give the parameter another name"
        )
    rows = {name: one for name, one in own.items() if name not in known}
    if not rows:
        return kind
    extra = [(name, one.type | None, _flag(one)) for name, one in rows.items()]
    if kind.command in OF_SEVERAL_VALUES:
        extra = [axis(*one) for one in extra]
    return extended(kind, kind.__name__, extra)


def axis(name: str, annotation: Value, one: Any, **changed: str) -> tuple[str, Value, Any]:
    """A number of a training as an axis of a sweep or a search: several values; --NAME alone is true."""
    item = bare_type(annotation)
    alone = {"alone": "true" if item is bool else ""}
    return name, tuple[item, ...] | None, field(default=None, metadata={**one.metadata, **alone, **changed})  # type: ignore[valid-type]


def parameter_names(kind: type[Config] | Config) -> list[str]:
    return [one.name for one in fields(kind) if one.metadata.get("parameter")]


def checked_parameters(method: str, given: dict[str, Value]) -> dict[str, Value]:
    """The parameters of a method, its defaults where none is given, each within its domain."""
    values, rows = check_method(method, given), find_method(method).parameters
    for name, value in values.items():
        check_number(name, value, rows[name].domain)
    return values


def check_softening(method: str, typed: Mapping[str, Value], usual: Mapping[str, Value]) -> None:
    """Refuse a temperature that was typed where all that it softens has weight 0, as it has by default.

    Args:
        method: its name.
        typed: parameters, of one run or several values of each. A weight of one run that was typed as 0 is meant: what
            a sweep or a search chose can be typed again.
        usual: the weights that a run has without being told; those of runs that are checked by themselves are left out.
    """

    def is_used(weight: str) -> bool:
        value = typed.get(weight)
        return any(value) if isinstance(value, tuple) else value is not None or bool(usual.get(weight, True))

    rows = find_method(method).parameters
    for name, one in rows.items():
        weights = one.softens.weights if one.softens and typed.get(name) is not None else ()
        if weights and not any(rows[weight].default or is_used(weight) for weight in weights):
            raise UserError(
                f"--method={method} uses --{name} where --{weights[0]} is above 0: add --{weights[0]}, or leave out "
                f"--{name}"
            )


def check_mix(mix: str | None, method: str, *, control: str | None) -> None:
    """Refuse mixed images where something asks for the one class of an image."""
    if mix is None:
        return
    if find_method(method).one_class:
        others = ", ".join(name for name, one in METHODS.items() if not one.one_class)
        raise UserError(
            f"--method={method} asks for the one class of an image, and --mix={mix} gives it two: leave out --mix, or "
            f"choose one of {others}"
        )
    if control == "shuffled":
        raise UserError(f"--control=shuffled keeps the class of an image, and --mix={mix} gives it two: leave one out")


def _flag(one: Parameter, *, shown: bool = True) -> Any:
    return flag(
        None,
        one.help,
        low=one.low,
        high=one.high,
        above=one.above,
        below=one.below,
        group="distillation",
        shown=shown,
        parameter=True,
    )
