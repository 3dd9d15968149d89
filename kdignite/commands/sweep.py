"""``sweep``: the same distillation at every point of a grid of its method's parameters; validation chooses."""

import dataclasses
from functools import partial
from pathlib import Path

from kdignite import files, handlers, processes, runs, schema, stopping
from kdignite.commands.distill import distill
from kdignite.commands.pages import GRID
from kdignite.commands.stages import StudyState, locked_study, open_taught_study, train_stage, with_amp
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.comparison.sweep import SweepSummary, summarize_sweep
from kdignite.config import Sweep, setting_text, sweep_configs, sweep_identity
from kdignite.console import say
from kdignite.reports.figures import save_figure
from kdignite.reports.page import REPORT, study_page, write_page
from kdignite.reports.sweep import chosen_text, sweep_csv, sweep_figure, sweep_json, sweep_text
from kdignite.training.model import check_and_fetch_model


@processes.process_group()
def sweep(config: Sweep, *, root: Path = runs.ROOT) -> runs.Finished:
    """Distil once for each point of a grid and each seed, and say which point was best on the validation images.

    A sweep of the same settings goes on in the folder of an earlier one, whatever the points of its grid and its seeds:
    finished runs are skipped, and the report, written again after each run, is of all runs in the folder. A run whose
    loss stops being a number is left out of it.

    Args:
        config: a `SweepConfig`: the grid, the number of seeds, and any flag of ``distill``.
        root: the folder of all runs, in which the study gets a folder with its runs inside.

    Returns:
        The folder and what its ``sweep.json`` holds.

    Raises:
        UserError: before anything is trained, if something asked for cannot be had.
        RunFailed: if a training fails in another way, or all of them did.
    """
    config = with_amp(config, sweep_configs(config)[0])
    plan = sweep_configs(config)
    check_and_fetch_model(plan[0])
    study, teachers = processes.on_rank0(lambda: open_taught_study(config, plan[0], sweep_identity(config), root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped")
    report = partial(processes.on_rank0, partial(_report, study, config.method_name, list(config.axes)))
    diverged: handlers.LossNotFinite | None = None
    with locked_study(study):
        for number, one in enumerate(plan, 1):
            point = ", ".join(f"{name} {setting_text(one.parameters[name])}" for name in config.axes)
            say(f"student   {number} of {len(plan)}: {point}, seed {one.seed}")
            stage = runs.default_name(one)
            is_new = stage not in study.stages
            try:
                train_stage(study, dataclasses.replace(one, teacher=teachers), distill, stage=stage)
            except handlers.LossNotFinite as error:
                say(f"failed    {error}")
                stopping.raise_if_noted()
                diverged = error
                continue
            if is_new and one is not plan[-1]:
                report()
        if diverged is not None and not study.stages:
            raise diverged
        summary = report()
    say(sweep_text(summary))
    say(f"files       {study.folder}/ ({REPORT}, sweep.md, sweep.png, sweep.csv, {GRID}, and a folder for each run)")
    return runs.Finished(study.folder, sweep_json(summary))


def _report(study: StudyState, method: str, names: list[str]) -> SweepSummary:
    """Write the report of all runs of the study."""
    found = [_read(study.folder / record["folder"], names) for record in study.stages.values()]
    summary = summarize_sweep(found, method, names)
    save_figure(sweep_figure(summary), study.folder / "sweep.png")
    title = f"# {method}: {' and '.join(names)}"
    text = f"{title}\n\n![{chosen_text(summary)}](sweep.png)\n\n{sweep_text(summary)}"
    files.write_text(study.folder / "sweep.md", text)
    files.write_text(study.folder / "sweep.csv", sweep_csv(summary))
    files.write_json(study.folder / GRID, sweep_json(summary))
    write_page(study_page(study.folder, study.manifest, summary), study.folder)
    return summary


def _read(folder: Path, names: list[str]) -> RunFiles:
    run = read_run(folder, label=folder.name)
    with schema.checked(folder, advice=f"remove that folder, and its entry in {runs.MANIFEST}"):
        for name in names:
            check = schema.flag if isinstance(run.config.get(name), bool) else schema.number
            check(run.config, name)
        schema.number(schema.mapping(run.result, "val"), "accuracy")
    return run
