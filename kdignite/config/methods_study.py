"""``study``: several methods on equal terms, with the flags that all of their trainings share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from kdignite.config import shared
from kdignite.config.build import configure, method_of, planned
from kdignite.config.distillation import LAYERS, DistillConfig
from kdignite.config.fields import (
    Config,
    Value,
    extended,
    flag,
    flag_fields,
    given_values,
    left_open,
    renamed_errors,
    with_role,
)
from kdignite.config.methods import parameter_names
from kdignite.config.presets import PRESETS
from kdignite.config.search import BASELINE, TRAINING, Search, SearchConfig
from kdignite.config.settings import command_line
from kdignite.config.study import Study
from kdignite.config.sweep import Sweep
from kdignite.config.training import BaselineConfig, TrainConfig
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, METHODS, find_method, short_name

LOGIT_METHODS = tuple(name for name, row in METHODS.items() if row.needs == "logits")
SMOOTHED = "label_smoothing"  # the control that has no teacher
SMOOTHING = 0.1  # without a search
SMOOTHINGS = (0.01, 0.3)  # that a search tries
CONTROLS = ("shuffled", "random", SMOOTHED)
TRIAL_SEED = 1000  # of a search's trials: none of the seeds that are compared
_APART = ("preset", "name", "seed", "resume", "method", "control", *LAYERS, "lr", SMOOTHED)
_FIELDS = {
    name: one
    for name, one in flag_fields(DistillConfig).items()
    if not one.metadata["parameter"] and name not in _APART
}
_BASELINE = [name for name in flag_fields(BaselineConfig) if name in _FIELDS]


class Entry(NamedTuple):
    """A row of the table: a method, the baseline, or a control."""

    name: str
    method: str  # `BASELINE`: none
    control: str | None = None

    @property
    def searched_as(self) -> str:
        """Whose settings it has: a control of a teacher has those of its method."""
        return self.name if self.control in (None, SMOOTHED) else self.method


@dataclass(frozen=True, kw_only=True)
class MethodsStudy(Config):
    """Compare methods on equal terms: as many trials for each, then seeds."""

    command: ClassVar[str] = "study"

    preset: str = shared.preset()
    name: str | None = shared.run_name("name of the study's folder in runs/; unset: study-PRESET")
    methods: tuple[str, ...] = flag(
        LOGIT_METHODS, "methods that are compared; the baseline is always there", group="distillation", role="display"
    )
    controls: tuple[str, ...] | None = flag(
        None,
        f"what a gain has to beat to be knowledge: of {', '.join(CONTROLS)}; the first two with the settings of kd",
        group="distillation",
        role="display",
    )
    trials: int = flag(
        0,
        "trials of the settings, learning rate included, that each method and the baseline get; 0: the defaults",
        low=0,
        group="distillation",
    )
    search_epochs: int | None = flag(None, "epochs of a trial; unset: --epochs", low=1, group="distillation")
    seed: int = flag(0, "the first seed", low=0)
    seeds: int = flag(5, "how often each is trained, with the seeds from --seed on", low=1, role="display")

    def __post_init__(self) -> None:
        """Check each field, and with them the config of every training."""
        super().__post_init__()
        for name, one in (("methods", self.methods), ("controls", self.controls or ())):
            if len(set(one)) < len(one):
                raise UserError(f"--{name}={','.join(one)} names one twice")
        if strange := [one for one in self.controls or () if one not in CONTROLS]:
            raise UserError(f"--controls takes {', '.join(CONTROLS)}, not {strange[0]!r}")
        if self.search_epochs and not self.trials:
            raise UserError("--search_epochs is for --trials=N, which says how many trials each method gets")
        with renamed_errors(lambda name: f"{name}{'s' * (name in ('method', 'control'))}"):
            for method in self.methods:
                find_method(method)
            _check_equal_terms(self)
            _check_names(self)
            for entry in entries(self):
                final_config(self, entry, {}, seed=self.seed)
                if self.trials:
                    search_of(self, entry)


def _check_equal_terms(study: MethodsStudy) -> None:
    """No preset may have settings of one of several methods."""
    recipe, parameters = PRESETS[study.preset]["distill"], parameter_names(DistillConfig)
    own = [name for name in recipe if name in parameters]
    if own and len({entry.method for entry in entries(study)} - {BASELINE}) > 1:
        others = {name: value for name, value in recipe.items() if name not in {*own, "method"}}
        raise UserError(
            f"methods are compared on equal terms, and --preset={study.preset} has {' and '.join(own)} of "
            f"{method_of(study.preset)}: type the rest of it instead, {command_line(study.command, **others)}"
        )


def _check_names(study: MethodsStudy) -> None:
    """Rows, and the runs of each, are named after their functions."""
    names = [entry.name for entry in entries(study)]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"--methods has two rows named {twice[0]!r}: give your function another name")


def entries(study: MethodsStudy) -> tuple[Entry, ...]:
    """What is compared, the baseline first; controls of a teacher need the method whose settings they have."""
    methods = (
        study.methods
        if DEFAULT in study.methods or not {*(study.controls or ())} - {SMOOTHED}
        else (DEFAULT, *study.methods)
    )
    controls = [
        Entry("label-smoothing", BASELINE, SMOOTHED) if one == SMOOTHED else Entry(f"{DEFAULT}-{one}", DEFAULT, one)
        for one in study.controls or ()
    ]
    return (Entry(BASELINE, BASELINE), *(Entry(short_name(one), one) for one in methods), *controls)


def search_of(study: MethodsStudy, entry: Entry) -> Search:
    """The search for the settings of an entry: as many trials for each."""
    given = given_values(study, _BASELINE if entry.method == BASELINE else _FIELDS)
    given = {name: (value,) if name in TRAINING else value for name, value in given.items()}  # one value is fixed
    given |= {"epochs": study.search_epochs} if study.search_epochs else {}
    given |= {SMOOTHED: SMOOTHINGS} if entry.control == SMOOTHED else {}
    return configure(
        SearchConfig,
        preset=study.preset,
        **given,
        method=entry.method,
        name=f"search-{entry.name}",
        trials=study.trials,
        seed=TRIAL_SEED,
    )


def final_config(study: MethodsStudy, entry: Entry, chosen: Mapping[str, Value], *, seed: int) -> TrainConfig:
    """The config of a training that is compared, with the settings that a search chose."""
    is_baseline = entry.method == BASELINE
    given = given_values(study, _BASELINE if is_baseline else _FIELDS)
    if entry.control == SMOOTHED:
        given |= {SMOOTHED: SMOOTHING, "name": f"{entry.name}-seed{seed}" if seed else entry.name}
    if not is_baseline:
        given |= {"method": entry.method, "control": entry.control}
    settings = {**given, **chosen, "seed": seed}
    return configure(BaselineConfig if is_baseline else DistillConfig, preset=study.preset, **settings)


def study_settings(study: MethodsStudy) -> dict[str, Value]:
    """The settings that all trainings of a study share, and what each method gets to choose its own."""
    names = _FIELDS.keys() - with_role(MethodsStudyConfig, "display", "place")
    shared = planned(final_config(study, entries(study)[1], {}, seed=study.seed))
    own = {"trials": study.trials, "search_epochs": study.search_epochs}
    return {name: value for name, value in shared.items() if name in names} | own


MethodsStudyConfig: type[MethodsStudy] = extended(
    MethodsStudy, "MethodsStudyConfig", [left_open(name, one) for name, one in _FIELDS.items()]
)

AnyStudy = Study | Sweep | Search | MethodsStudy  # the commands that make a folder of runs
