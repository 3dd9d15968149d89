"""``study``: methods compared on equal terms: the same number of trials for each, then several paired seeds."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdignite import files, handlers, processes, runs, schema, stopping, trials
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.pages import METHODS
from kdignite.commands.pages import SEARCH as SEARCH_REPORT
from kdignite.commands.search import search
from kdignite.commands.stages import StudyState, open_taught_study, refresh, reporting, run_stage, train_stage, with_amp
from kdignite.comparison.methods import Budget, MethodsSummary, summarize_methods
from kdignite.comparison.recipes import recipe_name
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.config import (
    INHERITED,
    TRIAL_SEED,
    DistillConfig,
    Entry,
    MethodsStudy,
    entries,
    final_config,
    search_of,
    study_settings,
)
from kdignite.console import say
from kdignite.errors import RunFailed, UserError, listed
from kdignite.methods.registry import DEFAULT
from kdignite.reports.figures import save_figure
from kdignite.reports.methods import methods_csv, methods_figure, methods_headline, methods_json, methods_text
from kdignite.reports.page import REPORT, methods_page, study_page, write_page
from kdignite.training.model import check_and_fetch_model
from kdignite.training.teacher import choose_teachers, inherit

SEARCH = "search-"  # of the names of stages that choose settings


class Stage(NamedTuple):
    """A part of a study that one process does: a search, or a training."""

    name: str
    entry: Entry
    seed: int | None = None  # None: the search


@processes.process_group()
def study(config: MethodsStudy, *, root: Path = runs.ROOT) -> runs.Finished:
    """Compare distillation methods with one another and with the student alone, each with settings of its own.

    With ``trials`` every method and the baseline first get as many trials of settings, learning rate included, on the
    validation images; then each is trained with every seed. The same command goes on where it was stopped, with more
    methods, controls or seeds too, and several processes may work at one study.

    Args:
        config: a `MethodsStudyConfig`: methods, controls, trials, seeds, and any flag of ``distill`` that all share.
        root: the folder of all runs, in which the study gets a folder with everything inside.

    Returns:
        The folder and what its ``methods.json`` holds.

    Raises:
        UserError: before anything is trained, if something asked for cannot be had.
        RunFailed: if a training fails in another way than by a loss that is no number.
    """
    if config.trials:
        trials.check_optuna()
    plan = list(_plan(config))
    first = _first(config)
    config = with_amp(config, first)
    check_and_fetch_model(first)
    state, shared = processes.on_rank0(lambda: _open(config, first, root=root))
    say(f"study     {state.folder}; the same command goes on where it was stopped, also in several processes")
    teachers = [Path(one) for one in shared["distill"]["teacher"].split(",")]
    pending = plan
    # after each stage from the start, since another process may have chosen settings; a stage that fails is not retried
    while (done := next((stage for stage in pending if _run_next(config, state, stage, shared)), None)) is not None:
        pending = [stage for stage in pending if stage is not done]
        processes.on_rank0(partial(_reported, config, state, teachers))
    return processes.on_rank0(partial(_finish, config, state, plan, teachers))


def _plan(config: MethodsStudy) -> Iterator[Stage]:
    """All searches, then all trainings of a seed before the next, so that a whole table is there early."""
    if config.trials:
        for entry in entries(config):
            if entry.searched_as == entry.name:
                yield Stage(_search_name(entry), entry)
    for seed in range(config.seed, config.seed + config.seeds):
        for entry in entries(config):
            yield Stage(f"{entry.name}-seed{seed}", entry, seed)


def _search_name(entry: Entry) -> str:
    return f"{SEARCH}{entry.searched_as}"


def _first(config: MethodsStudy) -> DistillConfig:
    configs = (final_config(config, entry, {}, seed=config.seed) for entry in entries(config))
    return next(one for one in configs if isinstance(one, DistillConfig))


def _open(config: MethodsStudy, first: DistillConfig, *, root: Path) -> tuple[StudyState, dict[str, dict[str, Any]]]:
    """The study, and what its trainings share that only files know: the teacher, and for a baseline its data."""
    state, teachers = open_taught_study(config, first, study_settings(config), root=root)
    origin = choose_teachers(replace(first, teacher=teachers), root=root)[0].description.origin
    inherited = inherit(first, origin)
    data = {name: getattr(inherited, name) for name in INHERITED}
    return state, {"distill": {"teacher": teachers}, "baseline": data}


def _run_next(config: MethodsStudy, state: StudyState, stage: Stage, shared: Mapping[str, dict[str, Any]]) -> bool:
    """Do a stage, unless it is done, another process is at it, or its settings are not chosen yet."""
    with ExitStack() as held:
        is_ours = processes.on_rank0(lambda: _claim(config, state, stage, held))
        if is_ours:
            _run(config, state, stage, shared)
    return is_ours


def _claim(config: MethodsStudy, state: StudyState, stage: Stage, held: ExitStack) -> bool:
    try:
        held.enter_context(runs.locked(state.folder, file=f".{stage.name}.lock"))
    except UserError:
        return False
    refresh(state)
    is_ready = stage.seed is None or not config.trials or _search_name(stage.entry) in state.stages
    return is_ready and stage.name not in state.stages


def _run(config: MethodsStudy, state: StudyState, stage: Stage, shared: Mapping[str, dict[str, Any]]) -> None:
    if stage.seed is None:
        wanted = search_of(config, stage.entry)
        wanted = replace(wanted, **shared["baseline" if wanted.is_baseline else "distill"])
        run_stage(state, stage.name, partial(search, wanted, root=state.folder), result=SEARCH_REPORT)
        return
    chosen = _chosen(state, stage.entry) if config.trials else {}
    one = final_config(config, stage.entry, chosen, seed=stage.seed)
    one = replace(one, **shared[one.command])
    try:
        train_stage(state, one, distill if isinstance(one, DistillConfig) else baseline, stage=stage.name)
    except handlers.LossNotFinite as error:
        say(f"failed    {error}")
        stopping.raise_if_noted()


def _finish(config: MethodsStudy, state: StudyState, plan: Sequence[Stage], teachers: Sequence[Path]) -> runs.Finished:
    """Print the table, and what is missing in it."""
    summary = _reported(config, state, teachers)
    if summary is None:
        raise RunFailed(f"no training of {state.folder} has come to its end beside its baseline")
    say(methods_text(summary))
    missing = [stage.name for stage in plan if stage.name not in state.stages]
    if missing:
        say(f"missing   {listed(missing)}: in another process, or its loss was no number")
    names = f"{REPORT}, methods.md, methods.png, methods.csv, {METHODS}"
    say(f"files       {state.folder}/ ({names}, and a folder for each run)")
    return runs.Finished(state.folder, methods_json(summary))


def _reported(config: MethodsStudy, state: StudyState, teachers: Sequence[Path]) -> MethodsSummary | None:
    with reporting(state.folder):
        refresh(state)
        return _report(config, state, teachers)


def _report(config: MethodsStudy, state: StudyState, teachers: Sequence[Path]) -> MethodsSummary | None:
    """Write the report of all trainings, once there are a baseline and another."""
    folders = [state.folder / one["folder"] for name, one in state.stages.items() if not name.startswith(SEARCH)]
    found = [read_run(folder, label=folder.name) for folder in folders]
    if not {"student", "baseline"} <= {run.role for run in found}:
        write_page(study_page(state.folder, state.manifest, None), state.folder)
        return None
    are_runs = all(path.name == runs.BEST and path.with_name(runs.RESULT).is_file() for path in teachers)
    taught_by = [read_run(path.parent, label=path.parent.name) for path in teachers if are_runs]
    if any(len(one.labels) != len(found[0].labels) for one in taught_by):  # of a dry run
        taught_by = []
    summary = summarize_methods(found, teachers=taught_by, against=DEFAULT, budget=_budget(config, found))
    save_figure(methods_figure(summary), state.folder / "methods.png")
    text = f"# Methods on {summary.dataset}\n\n![{methods_headline(summary)}](methods.png)\n\n{methods_text(summary)}"
    files.write_text(state.folder / "methods.md", text)
    files.write_text(state.folder / "methods.csv", methods_csv(summary))
    files.write_json(state.folder / METHODS, methods_json(summary))
    write_page(study_page(state.folder, state.manifest, methods_page(summary, state.folder)), state.folder)
    return summary


def _budget(config: MethodsStudy, found: Sequence[RunFiles]) -> Budget | None:
    """What each row had to choose its settings."""
    if not config.trials:
        return None
    tuned = [run for run in found if not run.config.get("control")]
    return Budget(
        tuned=("lr",),
        trials={recipe_name(run.config): config.trials for run in tuned},
        epochs=config.search_epochs,
        seeds=(TRIAL_SEED,),
    )


def _chosen(state: StudyState, entry: Entry) -> dict[str, Any]:
    """What the search of an entry chose."""
    path = state.folder / _search_name(entry) / SEARCH_REPORT
    report = files.read_json(path)
    with schema.checked(path, advice="remove that folder, and make the search again"):
        chosen = schema.mapping(schema.mapping(report, "chosen"), "values")
        return {
            name: chosen[name] if isinstance(chosen[name], bool) else schema.number(chosen, name) for name in chosen
        }
