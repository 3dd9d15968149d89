"""``sweep``: the same distillation at every point of a grid of its method's parameters; validation chooses."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdignite import files, handlers, processes, runs, schema
from kdignite.commands.distill import distill
from kdignite.commands.stages import StudyState, find_study, locked_study, open_study, train_stage, with_amp
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.comparison.sweep import SweepSummary, summarize_sweep
from kdignite.config import DistillConfig, Sweep, setting_text, sweep_configs, sweep_identity
from kdignite.console import say
from kdignite.reports.figures import save_figure
from kdignite.reports.sweep import chosen_text, sweep_csv, sweep_figure, sweep_json, sweep_text
from kdignite.training.model import check_and_fetch_model
from kdignite.training.teacher import choose_teachers, fitting_teachers, inherit

REPORT = "sweep.json"


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
    study, teachers = processes.on_rank0(lambda: _open(config, plan[0], root=root))
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
                diverged = error
                continue
            if is_new and one is not plan[-1]:
                report()
        if diverged is not None and not study.stages:
            raise diverged
        summary = report()
    say(sweep_text(summary))
    say(f"files       {study.folder}/ (sweep.md, sweep.png, sweep.csv, {REPORT}, and a folder for each run)")
    return runs.Finished(study.folder, sweep_json(summary))


def _open(config: Sweep, first: DistillConfig, *, root: Path) -> tuple[StudyState, str]:
    """The study and its teachers: an earlier one of these settings even if there is a newer teacher, else a new one."""
    if first.teacher is None:
        for run in fitting_teachers(first, root=root):
            found = find_study(config, _settings(config, [run.folder / runs.BEST]), root=root)
            if found is not None:
                return found, str(run.folder / runs.BEST)
    chosen = choose_teachers(first, root=root)
    inherit(first, chosen[0].description.origin)
    paths = [one.path for one in chosen]
    return open_study(config, _settings(config, paths), root=root), ",".join(map(str, paths))


def _settings(config: Sweep, teachers: Sequence[Path]) -> dict[str, Any]:
    return sweep_identity(config) | {"teacher": ",".join(map(files.sha256, teachers))}


def _report(study: StudyState, method: str, names: list[str]) -> SweepSummary:
    """Write the report of all runs of the study."""
    found = [_read(study.folder / record["folder"], names) for record in study.stages.values()]
    summary = summarize_sweep(found, method, names)
    save_figure(sweep_figure(summary), study.folder / "sweep.png")
    title = f"# {method}: {' and '.join(names)}"
    _write(study.folder / "sweep.md", f"{title}\n\n![{chosen_text(summary)}](sweep.png)\n\n{sweep_text(summary)}")
    _write(study.folder / "sweep.csv", sweep_csv(summary))
    files.write_json(study.folder / REPORT, sweep_json(summary))
    return summary


def _write(path: Path, text: str) -> None:
    files.write_atomically(path, lambda file: file.write(text.encode()))


def _read(folder: Path, names: list[str]) -> RunFiles:
    run = read_run(folder, label=folder.name)
    with schema.checked(folder, advice=f"remove that folder, and its entry in {runs.MANIFEST}"):
        for name in names:
            check = schema.flag if isinstance(run.config.get(name), bool) else schema.number
            check(run.config, name)
        schema.number(schema.mapping(run.result, "val"), "accuracy")
    return run
