"""The trials of a search, kept by Optuna in a database that several processes share."""

import importlib
import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdignite import runs
from kdignite.config import Range, Search, defaults
from kdignite.errors import UserError, brief
from kdignite.streams import seed_of

if TYPE_CHECKING:
    import optuna

DATABASE, LOCK = "search.db", ".search.lock"
STARTUP = 5  # trials before which nothing is pruned, and what is tried is drawn at random
DIGITS = 3  # of a value that is tried, so that it can be typed
WAIT_S = 60  # of a process for the database
SETTINGS, PLACE, EPOCHS = "settings", "place", "epochs"  # attributes of the study, of a trial


class TrialRow(NamedTuple):
    """A trial as reports show it."""

    number: int
    state: str  # complete, pruned, fail or running
    values: dict[str, Any]  # of the settings that are searched
    accuracy: float | None  # on validation, of the best epoch; None: no epoch is over, or none gave a number
    epochs: int  # that are over


class Trials(NamedTuple):
    """An open search."""

    study: "optuna.Study"
    search: Search
    folder: Path
    place: str  # of this folder: a database may hold trials of other machines


def check_optuna() -> None:
    """Refuse a search where Optuna is missing."""
    try:
        importlib.import_module("optuna").logging.set_verbosity(30)  # warnings; what happens is printed here
    except ModuleNotFoundError as error:
        raise UserError(f"search needs {error.name}: pip install {error.name}") from error


def open_trials(search: Search, folder: Path, settings: Mapping[str, Any], *, place: str) -> Trials:
    """The database of a search, new or as it was left; the first trial has the defaults."""
    import optuna

    database = f"--storage={search.storage}" if search.storage else str(folder / DATABASE)
    with runs.locked(folder, file=LOCK, wait=True):  # two processes would make the same tables
        try:
            study = optuna.create_study(
                study_name=folder.name,
                storage=_storage(search, folder),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=1)
                if search.prune
                else optuna.pruners.NopPruner(),
                direction="maximize",
                load_if_exists=True,
            )
        except Exception as error:
            raise UserError(f"{database} cannot be opened: {brief(error)}") from error
        recorded = study.user_attrs.get(SETTINGS)
        if recorded is None:
            study.set_user_attr(SETTINGS, dict(settings))
            study.enqueue_trial(defaults(search))
        elif recorded != settings:
            raise UserError(f"{database} has a search {folder.name!r} of other settings: choose another --name")
    return Trials(study, search, folder, place)


class OpenTrial(NamedTuple):
    """A trial that this process works at."""

    number: int
    values: dict[str, Any]


def next_trial(trials: Trials, held: ExitStack) -> OpenTrial | None:
    """A trial whose process has ended, else a new one, locked; None: there are as many as asked for."""
    import optuna

    with runs.locked(trials.folder, file=LOCK, wait=True):
        number = _left_open(trials, held)
        if number is None:
            begun = [one for one in trials.study.get_trials(deepcopy=False) if one.state.name != "WAITING"]
            if len(begun) >= trials.search.trials:
                return None
            trial = trials.study.ask()
            trial.set_user_attr(PLACE, trials.place)
            number = trial.number
            _claim(trials, number, held)
        # a new sampler for each: what is tried depends on the trials before it, not on who asked how often
        seed = seed_of("search", trials.search.seed, number) % 2**32
        trials.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
        return OpenTrial(number, _values(trials, _trial(trials, number)))


def is_behind(trials: Trials, number: int, *, epoch: int, accuracy: float) -> bool:
    """Record an epoch, once, and say whether the trial is below the median of the others there."""
    trial = _trial(trials, number)
    if epoch not in _recorded(trials, number).intermediate_values:
        trial.report(accuracy, epoch)
    return trial.should_prune()


def close_trial(trials: Trials, number: int, state: str, *, accuracy: float | None = None, epochs: int = 0) -> None:
    """Record how a trial ended: complete, pruned or fail."""
    from optuna.trial import TrialState

    _trial(trials, number).set_user_attr(EPOCHS, epochs)
    trials.study.tell(number, accuracy, state=TrialState[state.upper()])


def _left_open(trials: Trials, held: ExitStack) -> int | None:
    """A trial that a process of this folder began and did not end."""
    for one in trials.study.get_trials(deepcopy=False):
        ours = one.user_attrs.get(PLACE, trials.place) == trials.place
        if one.state.name == "RUNNING" and ours and _claim(trials, one.number, held):
            return one.number
    return None


def _recorded(trials: Trials, number: int) -> "optuna.trial.FrozenTrial":
    return trials.study.get_trials(deepcopy=False)[number]


def _trial(trials: Trials, number: int) -> "optuna.Trial":
    import optuna

    return optuna.Trial(trials.study, _recorded(trials, number)._trial_id)


def _values(trials: Trials, trial: "optuna.Trial") -> dict[str, Any]:
    """What a trial tries, in numbers that can be typed."""
    drawn = {
        name: trial.suggest_categorical(name, (False, True))
        if one.is_flag
        else trial.suggest_float(name, one.low, one.high, log=one.log)
        for name, one in trials.search.ranges.items()
    }
    return typed(drawn, trials.search.ranges)


def typed(values: Mapping[str, Any], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """Values rounded to three digits, within their ranges."""
    return {
        name: value
        if ranges[name].is_flag
        else min(max(float(f"{value:.{DIGITS}g}"), ranges[name].low), ranges[name].high)
        for name, value in values.items()
    }


def rows_of(trials: Trials) -> list[TrialRow]:
    """All trials that were begun, in their order."""
    rows, ranges = [], trials.search.ranges
    for one in trials.study.get_trials(deepcopy=False):
        if ranges.keys() <= one.params.keys():
            accuracies = [value for value in one.intermediate_values.values() if math.isfinite(value)]
            # Optuna takes the last epoch of a trial that was pruned for its value
            accuracy = one.value if one.state.name == "COMPLETE" else max(accuracies, default=None)
            values = typed({name: one.params[name] for name in ranges}, ranges)
            epochs = one.user_attrs.get(EPOCHS, len(one.intermediate_values))
            rows.append(TrialRow(one.number, one.state.name.lower(), values, accuracy, epochs))
    return rows


def _storage(search: Search, folder: Path) -> Any:
    import optuna
    from sqlalchemy.engine import URL

    if search.storage is not None:
        return optuna.storages.RDBStorage(search.storage)
    url = URL.create("sqlite", database=str((folder / DATABASE).absolute()))
    waiting = {"connect_args": {"timeout": WAIT_S}}
    return optuna.storages.RDBStorage(url.render_as_string(), engine_kwargs=waiting)


def _claim(trials: Trials, number: int, held: ExitStack) -> bool:
    try:
        held.enter_context(runs.locked(trials.folder, file=f".trial-{number}.lock"))
    except UserError:
        return False
    return True
