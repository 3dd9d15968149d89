"""The parameters of methods as flags: those of the table on every config, those of one's own where it is named."""

from dataclasses import fields, make_dataclass
from typing import Any, TypeVar

from kdignite.config.fields import Config, Value, check_number, flag
from kdignite.methods.registry import METHODS, check_method, find_method
from kdignite.methods.rows import Parameter

C = TypeVar("C", bound=Config)


def method_flags(kind: type[C]) -> type[C]:
    """A class decorator, below ``@dataclass``: a flag, unset, for each parameter of any method of the table."""
    rows: dict[str, Parameter] = {}
    for method in METHODS.values():
        rows = {**method.parameters, **rows}
    for name, one in rows.items():
        setattr(kind, name, _flag(one))
    kind.__annotations__ = kind.__annotations__ | dict.fromkeys(rows, float | None)
    return kind


def with_method(kind: type[C], method: str) -> type[C]:
    """A config class with a flag for each parameter of a method of one's own that the class lacks."""
    known = {one.name for one in fields(kind)}
    rows = {name: one for name, one in find_method(method).parameters.items() if name not in known}
    if not rows:
        return kind
    annotation = tuple[float, ...] if kind.command == "sweep" else float
    extra = [(name, annotation | None, _flag(one)) for name, one in rows.items()]
    made: type[C] = make_dataclass(
        kind.__name__,
        extra,
        bases=(kind,),
        namespace={"__doc__": kind.__doc__, "__module__": kind.__module__},
        frozen=True,
        kw_only=True,
    )
    return made


def parameter_names(kind: type[Config] | Config) -> list[str]:
    return [one.name for one in fields(kind) if one.metadata.get("parameter")]


def checked_parameters(method: str, given: dict[str, Value]) -> dict[str, Value]:
    """The parameters of a method, its defaults where none is given, each within its domain."""
    values, rows = check_method(method, given), find_method(method).parameters
    for name, value in values.items():
        check_number(name, value, rows[name].domain)
    return values


def _flag(one: Parameter) -> Any:
    return flag(
        None,
        one.help,
        low=one.low,
        high=one.high,
        above=one.above,
        below=one.below,
        group="distillation",
        shown=True,
        parameter=True,
    )
