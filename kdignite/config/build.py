"""Configs from presets, and to and from JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar

from kdignite.config.checks import check_preset
from kdignite.config.fields import Config, Value
from kdignite.config.methods import parameter_names, with_method
from kdignite.config.presets import PRESETS
from kdignite.data.registry import is_code
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, name_of

C = TypeVar("C", bound=Config)


def configure(kind: type[C], *, preset: str = "standard", **given: Value) -> C:
    """A config from a preset and the values that differ from it.

    Args:
        kind: a class with a ``preset``: of a training command, `ReproduceConfig` or `SweepConfig`.
        preset: ``standard``, ``quick``, ``reference`` or ``original``.
        given: single values, which win over the preset; a ``method`` may be a function of your own, and its
            keyword-only arguments are values too.

    Returns:
        The config, checked.

    Raises:
        UserError: if the preset is unknown or a value is outside its domain.
    """
    check_preset(preset)
    if callable(given.get("method")):
        given["method"] = name_of(given["method"])
    if is_code(given.get("method")):
        kind = with_method(kind, given["method"])
    values = {**_of_preset(preset, kind, given), **given}
    if any(one.name == "given" for one in fields(kind)):
        values["given"] = tuple(values)
    return kind(**values, preset=preset)  # type: ignore[call-arg]


def _of_preset(preset: str, kind: type[C], given: Mapping[str, Value]) -> dict[str, Value]:
    """The values of a preset, without the parameters of its method where another was asked for."""
    values = PRESETS[preset].get(kind.command, {})
    apart = parameter_names(kind) if given.get("method", DEFAULT) != values.get("method", DEFAULT) else []
    return {name: value for name, value in values.items() if name not in apart}


def to_json(config: Config) -> dict[str, Value]:
    """The flags of a config as JSON values (tuples become lists)."""
    values = {one.name: getattr(config, one.name) for one in fields(config) if "help" in one.metadata}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def from_json(kind: type[C], values: Mapping[str, Value]) -> C:
    unknown = sorted(set(values) - {one.name for one in fields(kind) if "help" in one.metadata})
    if unknown:
        raise UserError(f"the config of {kind.command} has no {', '.join(unknown)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
