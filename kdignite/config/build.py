"""Configs from presets, and to and from JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TypeVar

from kdignite.config.checks import check_preset
from kdignite.config.fields import Config, Value
from kdignite.config.presets import PRESETS
from kdignite.errors import UserError

C = TypeVar("C", bound=Config)


def configure(kind: type[C], *, preset: str = "standard", **given: Value) -> C:
    """A config from a preset and the values that differ from it.

    Args:
        kind: a class with a ``preset``: of a training command, `ReproduceConfig` or `SweepConfig`.
        preset: ``standard``, ``quick``, ``reference`` or ``original``.
        given: single values, which win over the preset.

    Returns:
        The config, checked.

    Raises:
        UserError: if the preset is unknown or a value is outside its domain.
    """
    check_preset(preset)
    values = {**PRESETS[preset].get(kind.command, {}), **given}
    if any(one.name == "given" for one in fields(kind)):
        values["given"] = tuple(values)
    return kind(**values, preset=preset)  # type: ignore[call-arg]


def to_json(config: Config) -> dict[str, Value]:
    """The flags of a config as JSON values (tuples become lists)."""
    values = {one.name: getattr(config, one.name) for one in fields(config) if "help" in one.metadata}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def from_json(kind: type[C], values: Mapping[str, Value]) -> C:
    """The config that `to_json` wrote."""
    unknown = sorted(set(values) - {one.name for one in fields(kind) if "help" in one.metadata})
    if unknown:
        raise UserError(f"the config of {kind.command} has no {', '.join(unknown)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
