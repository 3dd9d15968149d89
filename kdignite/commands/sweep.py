"""``sweep``: the same distillation at every point of a grid of its method's parameters; validation chooses."""

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdignite import files, handlers, processes, runs, schema
from kdignite.commands.distill import distill
from kdignite.commands.study import Place, Progress, find_study, held, open_study, train_once
from kdignite.comparison.match import check_students, machine_notes
from kdignite.comparison.runs import RunFiles, read_run
from kdignite.config import DistillConfig, Sweep, SweepConfig, cells, common, with_role
from kdignite.console import say
from kdignite.errors import UserError, brief
from kdignite.reports.figures import save_figure
from kdignite.reports.sweep import chosen_text, sweep_csv, sweep_figure, sweep_text
from kdignite.training.device import choose_amp, set_up_device
from kdignite.training.model import check_and_fetch_model
from kdignite.training.teacher import choose_teacher, fitting_teachers, inherit

REPORT = "sweep.json"


class Opened(NamedTuple):
    """A sweep under way, and the teacher of all its runs."""

    study: Progress
    teacher: Path


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
    first = cells(config)[0]
    device = set_up_device(first.device, threads=first.threads)
    amp: dict[str, Any] = {"amp": choose_amp(first.amp, device=device)}
    config = dataclasses.replace(config, **amp)  # the same in all its runs, on whatever processor it may go on
    plan = cells(config)
    check_and_fetch_model(first)
    study, teacher = processes.on_rank0(lambda: _open(config, plan[0], root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped")
    report = partial(_report, study, config.method_name, list(config.axes))
    diverged: handlers.LossNotFinite | None = None
    summary: dict[str, Any] | None = None
    with held(study):
        for number, cell in enumerate(plan, 1):
            point = ", ".join(f"{name} {value:g}" for name, value in cell.parameters.items())
            say(f"student   {number} of {len(plan)}: {point}, seed {cell.seed}")
            taught, stage = dataclasses.replace(cell, teacher=str(teacher)), runs.default_name(cell)
            is_new = stage not in study.stages
            try:
                train_once(study, taught, distill, stage=stage)
            except handlers.LossNotFinite as error:
                say(f"failed    {error}")
                diverged = error
                continue
            if is_new:
                summary = processes.on_rank0(report)
        if diverged is not None and not study.stages:
            raise diverged
        summary = summary or processes.on_rank0(report)
    say(sweep_text(summary))
    say(f"files       {study.folder}/ (sweep.md, sweep.png, sweep.csv, {REPORT}, and a folder for each run)")
    return runs.Finished(study.folder, summary)


def _open(config: Sweep, cell: DistillConfig, *, root: Path) -> Opened:
    """An earlier sweep of these settings, with its teacher even if there is a newer one; else a new one."""
    place = Place(root, config.name, f"{config.command}-{config.preset}")
    if cell.teacher is None:
        for run in fitting_teachers(cell, root=root):
            found = find_study(_settings(config, run.folder / runs.BEST), place)
            if found is not None:
                return Opened(found, run.folder / runs.BEST)
    teacher = choose_teacher(cell, root=root)
    inherit(cell, teacher.description.origin)
    return Opened(open_study(_settings(config, teacher.path), place), teacher.path)


def _settings(config: Sweep, teacher: Path) -> dict[str, Any]:
    """What the runs of a sweep share; the teacher is known by its sha256."""
    apart = with_role(SweepConfig, "display", "place")
    shared = {name: value for name, value in common(config).items() if name not in apart}
    return shared | {"teacher": files.sha256(teacher)}


def _report(study: Progress, method: str, names: list[str]) -> dict[str, Any]:
    """Write what all runs of the study say together."""
    found = [_read(study.folder / record["folder"], names) for record in study.stages.values()]
    summary = {"method": method, "parameters": names, **_summary(found, names)}
    save_figure(sweep_figure(summary), study.folder / "sweep.png")
    title = f"# {summary['method']}: {' and '.join(summary['parameters'])}"
    _write(study.folder / "sweep.md", f"{title}\n\n![{chosen_text(summary)}](sweep.png)\n\n{sweep_text(summary)}")
    _write(study.folder / "sweep.csv", sweep_csv(summary))
    files.write_json(study.folder / REPORT, summary)
    return summary


def _write(path: Path, text: str) -> None:
    files.write_atomically(path, lambda file: file.write(text.encode()))


def _read(folder: Path, names: Sequence[str]) -> RunFiles:
    run = read_run(folder, label=folder.name)
    try:
        for name in names:
            schema.number(run.config, name)
        schema.number(schema.mapping(run.result, "val"), "accuracy")
    except ValueError as error:
        raise UserError(
            f"{folder} is damaged ({brief(error)}): remove that folder, and its entry in {runs.MANIFEST}"
        ) from error
    return run


def _summary(found: Sequence[RunFiles], names: Sequence[str]) -> dict[str, Any]:
    """Plain JSON values: validation accuracies by parameters, and the best of those that have the most seeds."""
    check_students(found, besides=names)
    accuracies: dict[tuple[float, ...], dict[int, float]] = defaultdict(dict)
    for run in found:
        accuracies[tuple(run.config[name] for name in names)][run.seed] = run.result["val"]["accuracy"]
    pairs = [_cell(dict(zip(names, point, strict=True)), of_seed) for point, of_seed in sorted(accuracies.items())]
    seeds = max((cell["seeds"] for cell in pairs), key=lambda seeds: (len(seeds), _count(pairs, seeds)))
    chosen = max((cell for cell in pairs if cell["seeds"] == seeds), key=lambda cell: float(cell["mean"]))
    return {
        "cells": pairs,
        "chosen": chosen,
        "chosen_from": _count(pairs, seeds),
        "notes": [*_notes(found, chosen), *machine_notes(found)],
    }


def _cell(point: dict[str, float], of_seed: dict[int, float]) -> dict[str, Any]:
    seeds = sorted(of_seed)
    values = [of_seed[seed] for seed in seeds]
    std = statistics.stdev(values) if len(values) > 1 else None
    return {**point, "seeds": seeds, "accuracies": values, "mean": statistics.mean(values), "std": std}


def _count(pairs: Sequence[dict[str, Any]], seeds: list[int]) -> int:
    """How many pairs have just these seeds: only those are compared with one another."""
    return sum(cell["seeds"] == seeds for cell in pairs)


def _notes(found: Sequence[RunFiles], chosen: dict[str, Any]) -> list[str]:
    notes = ["The test images decided nothing here. The best of many is a little lucky: compare it on other seeds."]
    if len(chosen["seeds"]) == 1:
        notes.append("With one seed, neighbours that are a few tenths of a point apart may change places: --seeds=3.")
    if any(run.result["partial"] for run in found):
        notes.append("These runs saw only part of their images: nothing to quote.")
    return notes
