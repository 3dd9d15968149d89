"""``sweep``: the flags of ``distill``, with several values of alpha and T."""

from dataclasses import dataclass, fields, make_dataclass
from typing import ClassVar

from kdignite.config.build import configure, to_json
from kdignite.config.checks import check_name
from kdignite.config.fields import Config, Value, flag, left_open, with_role
from kdignite.config.training import DistillConfig
from kdignite.errors import UserError

AXES = ("alpha", "T")
_OWN = ("preset", "name", "seed", "resume", *AXES)  # flags with another meaning here
_SHARED = tuple(one.name for one in fields(DistillConfig) if "help" in one.metadata and one.name not in _OWN)


@dataclass(frozen=True, kw_only=True)
class Sweep(Config):
    """Distil with every alpha and T of a grid, and choose on validation."""

    command: ClassVar[str] = "sweep"

    preset: str = flag(
        "standard", "a whole recipe by one name; any flag overrides one value of it", group="training", role="display"
    )
    name: str | None = flag(None, "name of the study's folder in runs/; unset: sweep-PRESET", role="display")
    alpha: tuple[float, ...] = flag(
        (0.5, 0.9, 1.0), "weights of the teacher's term", low=0, high=1, group="distillation"
    )
    T: tuple[float, ...] = flag((1.0, 2.0, 4.0, 8.0), "temperatures", above=0, high=1000, group="distillation")
    seed: int = flag(0, "the first seed", low=0)
    seeds: int = flag(1, "how often each alpha and T is trained, with the seeds from --seed on", low=1, role="display")

    def __post_init__(self) -> None:
        """Check each field, and with them the config of every run."""
        super().__post_init__()
        check_name(self.name)
        for name in AXES:
            values = getattr(self, name)
            long = [value for value in values if float(f"{value:g}") != value]
            if long:  # runs are named after them
                raise UserError(f"--{name} takes numbers of up to 6 digits, not {long[0]!r}")
            if len(set(values)) < len(values):
                raise UserError(f"--{name}={','.join(f'{value:g}' for value in values)} names a value twice")
        sweep_configs(self)


def sweep_configs(sweep: Sweep) -> tuple[DistillConfig, ...]:
    """The config of every run of a sweep."""
    given = {name: getattr(sweep, name) for name in _SHARED if getattr(sweep, name) is not None}
    return tuple(
        configure(DistillConfig, preset=sweep.preset, **given, alpha=alpha, T=T, seed=seed)
        for seed in range(sweep.seed, sweep.seed + sweep.seeds)
        for alpha in sweep.alpha
        for T in sweep.T
    )


def sweep_identity(sweep: Sweep) -> dict[str, Value]:
    """The settings that all runs of a sweep share."""
    apart = with_role(SweepConfig, "display", "place") | {*AXES, "seed", "resume"}
    return {name: value for name, value in to_json(sweep_configs(sweep)[0]).items() if name not in apart}


_FIELDS = {one.name: one for one in fields(DistillConfig)}
SweepConfig: type[Sweep] = make_dataclass(
    "SweepConfig",
    [left_open(name, _FIELDS[name]) for name in _SHARED],
    bases=(Sweep,),
    namespace={"__doc__": Sweep.__doc__, "__module__": __name__},
    frozen=True,
    kw_only=True,
)
