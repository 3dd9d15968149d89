"""``search``: the flags of ``distill``, with a range for each number that is searched."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from kdignite.config import shared
from kdignite.config.build import configure, method_of, planned
from kdignite.config.distillation import DistillConfig
from kdignite.config.fields import Config, Value, extended, flag, flag_fields, given_values, left_open, with_role
from kdignite.config.methods import axis, check_softening, parameter_names
from kdignite.config.settings import command_line, setting_text
from kdignite.config.training import BaselineConfig, TrainConfig
from kdignite.errors import UserError
from kdignite.methods.registry import check_method, find_method
from kdignite.methods.rows import REQUIRED, Parameter

STANDARD = "standard"  # the preset where none is typed
BASELINE = "baseline"  # --method: the student without a teacher
# settings of every training that may be searched; the learning rate is, unless one value is given
TRAINING = ("lr", "weight_decay", "momentum", "label_smoothing")
AROUND_LR = (0.1, 2.0)  # times the model's own learning rate: methods differ in the size of their gradient
WIDE = 5.0  # a range whose ends differ by this factor is searched on a logarithmic scale
_OWN = ("preset", "name", "seed", "resume")
_FIELDS = {name: one for name, one in flag_fields(DistillConfig).items() if name not in _OWN}
_END = "the lowest and the highest"
_ENDS = {"lr": f"{_END}; unset: {AROUND_LR[0]:g} to {AROUND_LR[1]:g} times that of the model or preset"}
_METHOD_HELP = f"the method whose settings are searched, or {BASELINE}, the student without a teacher"


class Range(NamedTuple):
    """The values that a setting may take: from low to high, or true and false."""

    low: float
    high: float
    is_flag: bool = False

    @property
    def log(self) -> bool:
        return self.low > 0 and self.high >= WIDE * self.low


@dataclass(frozen=True, kw_only=True)
class Search(Config):
    """Choose a method's settings and the learning rate on validation."""

    command: ClassVar[str] = "search"

    preset: str = shared.preset()
    name: str | None = shared.run_name("name of the study's folder in runs/; unset: search-METHOD-PRESET")
    seed: int = flag(0, "seed of initial weights and order in every trial, and of what is tried", low=0)
    trials: int = flag(
        30, "trials of all processes together; more of them go on in the same folder", low=1, role="display"
    )
    prune: bool = flag(True, "stop a trial that is below the median of the earlier ones at the same epoch")
    storage: str | None = flag(
        None,
        "database of the trials, as a URL that SQLAlchemy takes; unset: search.db in the study's folder",
        role="place",
    )

    def __post_init__(self) -> None:
        """Check each field, and with them the ranges and the config of a trial."""
        super().__post_init__()
        if self.is_baseline:
            given = [name for name in _FIELDS if name not in _BASELINE and getattr(self, name) is not None]
            if strange := [name for name in given if name != "method"]:
                raise UserError(f"--method={BASELINE} has no teacher: leave out --{strange[0]}")
        else:
            typed = given_values(self, parameter_names(self))
            check_method(self.method_name, typed)
            check_softening(self.method_name, typed, {})
        for name, values in self._given.items():
            _check_range(name, values)
        if not self.ranges:
            raise UserError("nothing is left to search: give a range, such as --lr=0.01,0.2, to a setting")
        for end in (0, 1):
            trial_config(self, {name: one[end] for name, one in self.ranges.items()}, name=None)

    @property
    def method_name(self) -> str:
        return getattr(self, "method", None) or method_of(self.preset)

    @property
    def is_baseline(self) -> bool:
        return self.method_name == BASELINE

    @property
    def _given(self) -> dict[str, tuple[float, ...]]:
        """The settings that have one value or two ends."""
        return given_values(self, (*TRAINING, *_rows(self)))

    @property
    def fixed(self) -> dict[str, Value]:
        """The settings that were given one value."""
        return {name: values[0] for name, values in self._given.items() if len(values) == 1}

    @property
    def ranges(self) -> dict[str, Range]:
        """What is searched: the ranges that are given, else those of the method's row and of the learning rate."""
        rows = _rows(self)
        own = {name: (min(one.grid), max(one.grid)) for name, one in rows.items() if one.grid}
        lr = configure(BaselineConfig, preset=self.preset, **given_values(self, ("arch",))).lr
        own["lr"] = (AROUND_LR[0] * lr, AROUND_LR[1] * lr)
        found = {**own, **self._given}
        return {name: Range(v[0], v[1], isinstance(v[0], bool)) for name, v in found.items() if len(v) > 1}


def _check_range(name: str, values: tuple[float, ...]) -> None:
    if len(values) > 2:
        raise UserError(f"--{name} takes one value, or the lowest and the highest that are tried, not {len(values)}")
    if len(values) > 1 and values[0] == values[1]:
        raise UserError(f"--{name}={values[0]:g},{values[1]:g} is one value: write --{name}={values[0]:g}")
    if len(values) > 1 and values[0] > values[1]:
        low, high = map(setting_text, sorted(values))
        raise UserError(f"--{name}={high},{low} has its ends the wrong way round: write --{name}={low},{high}")


def defaults(search: Search) -> dict[str, Value]:
    """What is tried first: the defaults, moved to the nearest end of their ranges where they lie outside."""
    ranges = search.ranges
    usual = trial_config(search, {name: ranges[name].low for name in _required(search)}, name=None)
    values = {name: getattr(usual, name) for name in ranges}
    return {
        name: value if ranges[name].is_flag else min(max(value, ranges[name].low), ranges[name].high)
        for name, value in values.items()
    }


def setting_limits(search: Search, name: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value that a setting may have at all; None: it has no such limit."""
    rows = _rows(search)
    domain = rows[name].domain if name in rows else _FIELDS[name].metadata
    return domain["low"], domain["high"]


def _rows(search: Search) -> Mapping[str, Parameter]:
    """The parameters of the method."""
    return {} if search.is_baseline else find_method(search.method_name).parameters


def _required(search: Search) -> list[str]:
    """The parameters that are searched and have no default."""
    rows = _rows(search)
    return [name for name in search.ranges if name in rows and rows[name].default is REQUIRED]


def trial_config(search: Search, values: Mapping[str, Value], *, name: str | None) -> TrainConfig:
    """The config of a trial: what is fixed, and the values that are tried."""
    kind = BaselineConfig if search.is_baseline else DistillConfig
    names = [key for key in (_BASELINE if search.is_baseline else _FIELDS) if key not in search._given]
    settings = {**given_values(search, names), **search.fixed, **values, "seed": search.seed, "name": name}
    return configure(kind, preset=search.preset, **settings)


def search_line(search: Search, values: Mapping[str, Value]) -> str:
    """What to type to train with values that a search chose."""
    names = [name for name in _FIELDS if name not in search._given and not (search.is_baseline and name == "method")]
    preset = {} if search.preset == STANDARD else {"preset": search.preset}
    kind = BaselineConfig if search.is_baseline else DistillConfig
    return command_line(kind.command, **preset, **given_values(search, names), **search.fixed, **values)


def search_identity(search: Search) -> dict[str, Value]:
    """The settings that all trials of a search share, and its ranges."""
    apart = with_role(SearchConfig, "display", "place") | {*search.ranges, "resume"}
    settings = planned(trial_config(search, defaults(search), name=None))
    shared = {name: value for name, value in settings.items() if name not in apart}
    ranges = {name: list(one[:2]) for name, one in search.ranges.items()}
    return {**shared, **ranges, "method": search.method_name, "prune": search.prune}


_BASELINE = [name for name in flag_fields(BaselineConfig) if name in _FIELDS]
SearchConfig: type[Search] = extended(
    Search,
    "SearchConfig",
    [
        axis(name, one.type, one, help=f"{one.metadata['help']}; one value, or {_ENDS.get(name, _END)}")
        if one.metadata["parameter"] or name in TRAINING
        else left_open(name, one, help=_METHOD_HELP if name == "method" else None)
        for name, one in _FIELDS.items()
    ],
)
