"""``search``: settings of a method and the learning rate chosen on validation, by Optuna."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine

from kdignite import files, handlers, processes, runs, stopping, trials
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.pages import SEARCH
from kdignite.commands.stages import StudyState, open_study, open_taught_study, reporting, with_amp
from kdignite.comparison.search import SearchSummary, summarize_search
from kdignite.config import (
    INHERITED,
    NEWEST,
    DistillConfig,
    Search,
    TrainConfig,
    defaults,
    search_identity,
    trial_config,
)
from kdignite.console import say
from kdignite.errors import RunFailed
from kdignite.reports.figures import save_figure
from kdignite.reports.page import REPORT, search_page, study_page, write_page
from kdignite.reports.search import chosen_text, search_csv, search_figure, search_json, search_text, values_text
from kdignite.training.extensions import RunView
from kdignite.training.model import check_and_fetch_model
from kdignite.training.teacher import inherit_from_newest


@processes.process_group()
def search(config: Search, *, root: Path = runs.ROOT) -> runs.Finished:
    """Choose settings on the validation images: TPE says what is tried, and what falls behind is stopped early.

    Each trial is a run folder inside the study's folder. A search of the same settings goes on where it was stopped,
    its open trials included, and several processes may work at one: whoever ends a trial writes the report anew.

    Args:
        config: a `SearchConfig`: a method, the number of trials, a range for each setting that is searched, and any
            flag of ``distill``.
        root: the folder of all runs, in which the study gets a folder with its trials inside.

    Returns:
        The folder and what its ``search.json`` holds.

    Raises:
        UserError: before anything is trained, if something asked for cannot be had.
        RunFailed: if no trial came to its end.
    """
    trials.check_optuna()
    first = trial_config(config, defaults(config), name=None)
    config = with_amp(config, first)
    check_and_fetch_model(first)
    study, fixed = processes.on_rank0(lambda: _open(config, root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped, also in several processes")

    @cache  # of the process that asks
    def opened() -> trials.Trials:
        return trials.open_trials(config, study.folder, study.manifest["settings"], place=study.manifest["id"])

    summary = processes.on_rank0(lambda: _report(config, study, opened()))
    while _run_next(opened, config, study.folder, fixed):
        summary = processes.on_rank0(lambda: _report(config, study, opened()))
    if summary is None:
        raise RunFailed(f"no trial of {study.folder} has come to its end: give other ranges, or more --trials")
    say(search_text(summary))
    names = f"{REPORT}, search.md, search.png, search.csv, {SEARCH}"
    say(f"files       {study.folder}/ ({names}, and a folder for each trial)")
    return runs.Finished(study.folder, search_json(summary))


def _open(config: Search, *, root: Path) -> tuple[StudyState, dict[str, Any]]:
    """The study, and what its trials share that only files know: the teachers, or the data of the newest teacher."""
    first, identity = trial_config(config, defaults(config), name=None), search_identity(config)
    if isinstance(first, DistillConfig):
        study, teachers = open_taught_study(config, first, identity, root=root)
        return study, {"teacher": teachers}
    inherited = inherit_from_newest(first, root=root)
    fixed = {name: getattr(inherited, name) for name in INHERITED}
    return open_study(config, {**identity, **fixed}, root=root), fixed


def _run_next(opened: Callable[[], trials.Trials], config: Search, folder: Path, fixed: dict[str, Any]) -> bool:
    """Run a trial that was left open, or a new one; False: there are as many as asked for."""
    with ExitStack() as held:
        trial = processes.on_rank0(lambda: trials.next_trial(opened(), held))
        if trial is None:
            return False
        say(f"\n--- trial {trial.number}: {values_text(trial.values)}")
        one = replace(trial_config(config, trial.values, name=f"trial-{trial.number}"), resume=NEWEST, **fixed)
        ended = _run(one, partial(_is_behind, opened, trial.number), root=folder)
        processes.on_rank0(lambda: trials.close_trial(opened(), trial.number, **ended))
        if ended["state"] == "pruned":  # only now: while it is open it may be resumed
            for name in (runs.LAST, runs.PREVIOUS):
                (folder / str(one.name) / name).unlink(missing_ok=True)
        stopping.raise_if_noted()
    return True


def _is_behind(opened: Callable[[], trials.Trials], number: int, row: handlers.Row) -> bool:
    epoch, accuracy = int(row["epoch"] or 0), float(row["accuracy_val"] or 0.0)
    return processes.on_rank0(lambda: trials.is_behind(opened(), number, epoch=epoch, accuracy=accuracy))


def _run(config: TrainConfig, is_behind: Callable[[handlers.Row], bool], *, root: Path) -> dict[str, Any]:
    """Train to the end, or until others are ahead; returns how the trial ended."""
    rows: list[handlers.Row] = []

    def attach(engine: Engine, view: RunView) -> None:
        nonlocal rows
        rows = view.rows
        handlers.attach_pruning(engine, rows, is_behind=is_behind)

    try:
        command = distill if isinstance(config, DistillConfig) else baseline
        run = command(config, root=root, handlers=[attach])
    except handlers.Pruned as error:
        say(f"pruned    {error}")
        return {"state": "pruned", "epochs": len(rows)}
    except handlers.LossNotFinite as error:
        say(f"failed    {error}")
        return {"state": "fail", "epochs": len(rows)}
    return {"state": "complete", "accuracy": run.result["val"]["accuracy"], "epochs": run.result["epochs"]}


def _report(config: Search, study: StudyState, opened: trials.Trials) -> SearchSummary | None:
    """Write the report of all trials, once one is complete."""
    folder, first = study.folder, trial_config(config, defaults(config), name=None)
    is_partial = first.fast_dev_run or first.limit_train is not None
    with reporting(folder):
        summary = summarize_search(trials.rows_of(opened), config, partial=is_partial)
        if summary is not None:
            save_figure(search_figure(summary), folder / "search.png")
            text = f"# {summary.method}\n\n![{chosen_text(summary)}](search.png)\n\n{search_text(summary)}"
            files.write_text(folder / "search.md", text)
            files.write_text(folder / "search.csv", search_csv(summary))
            files.write_json(folder / SEARCH, search_json(summary))
            write_page(study_page(folder, study.manifest, search_page(summary, folder)), folder)
    return summary
