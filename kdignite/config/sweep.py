"""``sweep``: the flags of ``distill``, with several values of the parameters of its method."""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.build import configure, method_of, planned
from kdignite.config.distillation import DistillConfig
from kdignite.config.fields import Config, Value, extended, flag, flag_fields, given_values, left_open, with_role
from kdignite.config.methods import axis, check_softening, parameter_names
from kdignite.errors import UserError
from kdignite.methods.registry import check_method, find_method

# what means something else here
_OWN = ("preset", "name", "seed", "resume")
_FIELDS = {name: one for name, one in flag_fields(DistillConfig).items() if name not in _OWN}
MAP = 2  # axes that a map has


@dataclass(frozen=True, kw_only=True)
class Sweep(Config):
    """Distil with every value of a method's parameters on a grid, and choose on validation."""

    command: ClassVar[str] = "sweep"

    preset: str = shared.preset()
    name: str | None = shared.run_name("name of the study's folder in runs/; unset: sweep-PRESET")
    seed: int = flag(0, "the first seed", low=0)
    seeds: int = flag(
        1, "how often each point of the grid is trained, with the seeds from --seed on", low=1, role="display"
    )

    def __post_init__(self) -> None:
        """Check each field, and with them the config of every run; what was left open of the grid is the method's."""
        super().__post_init__()
        method = find_method(self.method_name)
        typed = given_values(self, parameter_names(self))
        check_method(self.method_name, typed)
        check_softening(self.method_name, typed, {})
        for name, one in method.parameters.items():
            if getattr(self, name) is None and not one.minor:
                object.__setattr__(self, name, one.grid or (one.default,))
        for name, values in self.axes.items():
            _check_axis(name, values)
        several = [f"--{name}" for name, values in self.axes.items() if len(values) > 1]
        if len(several) > MAP:
            raise UserError(f"a sweep is a map of two parameters: give one value to one of {', '.join(several)}")
        sweep_configs(self)

    @property
    def method_name(self) -> str:
        return getattr(self, "method", None) or method_of(self.preset)

    @property
    def axes(self) -> dict[str, tuple[float, ...]]:
        """The values of each parameter of the method; of a minor one, where they are given."""
        return given_values(self, find_method(self.method_name).parameters)


def _check_axis(name: str, values: tuple[float, ...]) -> None:
    long = [value for value in values if float(f"{value:g}") != value]
    if long:  # runs are named after them
        raise UserError(f"--{name} takes numbers of up to 6 digits, not {long[0]!r}")
    if len(set(values)) < len(values):
        raise UserError(f"--{name}={','.join(f'{value:g}' for value in values)} names a value twice")


def sweep_configs(sweep: Sweep) -> tuple[DistillConfig, ...]:
    """The config of every run of a sweep: all of a seed before the next, so that a whole map is there early."""
    shared = given_values(sweep, _FIELDS)
    points = [dict(zip(sweep.axes, values, strict=True)) for values in product(*sweep.axes.values())]
    return tuple(
        configure(DistillConfig, preset=sweep.preset, **(shared | point), seed=seed)
        for seed in range(sweep.seed, sweep.seed + sweep.seeds)
        for point in points
    )


def sweep_identity(sweep: Sweep) -> dict[str, Value]:
    """The settings that all runs of a sweep share."""
    apart = with_role(SweepConfig, "display", "place") | {*sweep.axes, "seed", "resume"}
    return {name: value for name, value in planned(sweep_configs(sweep)[0]).items() if name not in apart}


SweepConfig: type[Sweep] = extended(
    Sweep,
    "SweepConfig",
    [axis(name, one.type, one) if one.metadata["parameter"] else left_open(name, one) for name, one in _FIELDS.items()],
)
