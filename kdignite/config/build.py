"""Configs from presets, and to and from JSON."""

from collections.abc import Mapping
from typing import TypeVar

from kdignite.config.checks import check_preset
from kdignite.config.distillation import DistillConfig
from kdignite.config.fields import Config, Value, flag_fields
from kdignite.config.methods import check_softening, parameter_names, with_method
from kdignite.config.presets import MIN_STEPS, PRESETS
from kdignite.config.training import TrainConfig
from kdignite.data.registry import is_code
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, name_of
from kdignite.models.options import parse_options
from kdignite.models.registry import OWN_FLAGS, default_size, recipe_of

C = TypeVar("C", bound=Config)


def configure(kind: type[C], *, preset: str = "standard", **given: Value) -> C:
    """A config from a preset and the values that differ from it.

    Args:
        kind: a class with a ``preset``: of a training command, `ReproduceConfig` or `SweepConfig`.
        preset: one of `PRESETS`.
        given: single values, which win over the preset; a ``method`` may be a function of your own, and its
            keyword-only arguments are values too. An ``arch`` brings its recipe (one of a library its ``size``), and
            without ``epochs`` a training has as many as the preset's fewest steps need.

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
    if issubclass(kind, TrainConfig):
        steps = 0 if "epochs" in given else MIN_STEPS[preset][kind.command]
        recipe = _of_model(values["arch"], values.get("arch_options")) if isinstance(values.get("arch"), str) else {}
        values = {**recipe, **values, "given": tuple(values), "min_steps": steps}
    config = kind(**values, preset=preset)  # type: ignore[call-arg]
    if isinstance(config, DistillConfig):
        check_softening(config.method, given, config.parameters)
    return config


def _of_preset(preset: str, kind: type[C], given: Mapping[str, Value]) -> dict[str, Value]:
    """The values of a preset, without the parameters of its method and of its model where another was asked for."""
    values = PRESETS[preset].get(kind.command, {})
    parameters = {"method": parameter_names(kind), "arch": [*OWN_FLAGS, "arch_options"]}
    of_preset = {"method": DEFAULT, "arch": getattr(kind, "arch", None), **values}
    others = [one for one in parameters if given.get(one, of_preset[one]) != of_preset[one]]
    apart = {name for one in others for name in parameters[one]}
    return {name: value for name, value in values.items() if name not in apart}


def method_of(preset: str) -> str:
    """The method of a preset's students."""
    return str(PRESETS[preset]["distill"].get("method", DEFAULT))


def _of_model(arch: str, options: tuple[str, ...] | None) -> dict[str, Value]:
    """The recipe of a model, and the side of the images that one of a library is made for."""
    size = default_size(arch, parse_options(options))
    return {**recipe_of(arch)._asdict(), **({} if size is None else {"size": size})}


def planned(config: TrainConfig) -> dict[str, Value]:
    """The flags of a training before its data are known: epochs that may become more are no number yet."""
    epochs = f"{config.epochs}, or {config.min_steps} steps" if config.min_steps else config.epochs
    return {**to_json(config), "epochs": epochs}


def to_json(config: Config) -> dict[str, Value]:
    """The flags of a config as JSON values (tuples become lists)."""
    values = {name: getattr(config, name) for name in flag_fields(type(config))}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def from_json(kind: type[C], values: Mapping[str, Value]) -> C:
    unknown = sorted(values.keys() - flag_fields(kind))
    if unknown:
        raise UserError(f"the config of {kind.command} has no {', '.join(unknown)}")
    return kind(**values)
