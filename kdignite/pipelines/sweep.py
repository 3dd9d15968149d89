"""``sweep``: the same distillation with every alpha and T of a grid; the validation images choose."""

import dataclasses
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from kdignite import claims, processes, runs
from kdignite.config import Sweep, cells, common
from kdignite.errors import UserError, brief
from kdignite.pipelines.distill import distill
from kdignite.pipelines.setup import choose_device, say
from kdignite.pipelines.study import Progress, open_study, train_once
from kdignite.pipelines.teaching import choose_teacher
from kdignite.reports.figures import save_figure
from kdignite.reports.sweep import chosen_text, sweep_csv, sweep_figure, sweep_text

MAY_CHANGE = ("data_root", "teacher", "allow_weak_teacher")  # the teacher's sha256 says whether it is the same one
REPORT = "sweep.json"


@processes.joined()
def sweep(config: Sweep, *, root: Path = runs.ROOT) -> runs.Finished:
    """Distil once for each alpha, T and seed, and say which alpha and T were best on the validation images.

    A sweep of the same settings goes on in the folder of an earlier one, whatever its alphas, temperatures and seeds:
    finished runs are skipped, and the report is of all runs in the folder.

    Args:
        config: a `SweepConfig`: the grid, the number of seeds, and any flag of ``distill``.
        root: the folder of all runs, in which the study gets a folder with its runs inside.

    Returns:
        The folder and what its ``sweep.json`` holds.

    Raises:
        UserError: before anything is trained, if something asked for cannot be had.
        RunFailed: if a training fails.
    """
    plan = cells(config)
    choose_device(plan[0].device, threads=plan[0].threads)
    study, teacher = processes.on_first(lambda: _open(config, root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped")
    for cell in plan:
        taught = dataclasses.replace(cell, teacher=str(teacher))
        train_once(study, taught, distill, stage=runs.default_name(cell))
    summary = processes.on_first(lambda: _report(study))
    return runs.Finished(study.folder, summary)


def _open(config: Sweep, *, root: Path) -> tuple[Progress, Path]:
    """The study, and the teacher of all its runs."""
    teacher = choose_teacher(cells(config)[0], root=root).path
    study = open_study(
        {**common(config), "teacher_sha256": runs.sha256(teacher)},
        command=config.command,
        preset=config.preset,
        name=config.name,
        root=root,
        free=MAY_CHANGE,
    )
    return study, teacher


def _report(study: Progress) -> dict[str, Any]:
    """Write what all runs of the study say together."""
    summary = _summary(study)
    save_figure(sweep_figure(summary), study.folder / "sweep.png")
    text = sweep_text(summary)
    for name, content in (
        ("sweep.md", f"# alpha and T\n\n![{chosen_text(summary)}](sweep.png)\n\n{text}"),
        ("sweep.csv", sweep_csv(summary)),
    ):
        (study.folder / name).write_text(content, encoding="utf-8")
    runs.write_json(study.folder / REPORT, summary)
    say(text)
    say(f"files       {study.folder}/ (sweep.md, sweep.png, sweep.csv, {REPORT}, and a folder for each run)")
    return summary


def _summary(study: Progress) -> dict[str, Any]:
    """Plain JSON values: validation accuracies by alpha and T, and the best of those with the most seeds."""
    accuracies: dict[tuple[float, float], dict[int, float]] = defaultdict(dict)
    partial = False
    for record in study.stages.values():
        folder = study.folder / record["folder"]
        try:
            config, result = runs.read_json(folder / runs.CONFIG), runs.read_json(folder / runs.RESULT)
            key = claims.number(config, "alpha"), claims.number(config, "T")
            accuracy = claims.number(claims.part(result, "val"), "accuracy")
            accuracies[key][claims.count(result, "seed")] = accuracy
            partial |= claims.flag(result, "partial")
        except ValueError as error:
            raise UserError(f"{folder} is damaged ({brief(error)}): remove it from {runs.MANIFEST}") from error
    found = [_cell(alpha, T, of_seed) for (alpha, T), of_seed in sorted(accuracies.items())]
    chosen = max(found, key=lambda cell: (len(cell["seeds"]), cell["mean"]))
    return {
        "settings": study.manifest["settings"],
        "cells": found,
        "chosen": chosen,
        "notes": _notes(chosen, partial=partial),
    }


def _cell(alpha: float, T: float, of_seed: dict[int, float]) -> dict[str, Any]:
    seeds = sorted(of_seed)
    values = [of_seed[seed] for seed in seeds]
    std = statistics.stdev(values) if len(values) > 1 else None
    return {
        **{"alpha": alpha, "T": T, "seeds": seeds, "accuracies": values},
        **{"mean": statistics.mean(values), "std": std},
    }


def _notes(chosen: dict[str, Any], *, partial: bool) -> list[str]:
    notes = ["The test images decided nothing here. The best of many is a little lucky: compare it on other seeds."]
    if len(chosen["seeds"]) == 1:
        notes.append("With one seed, neighbours that are a few tenths of a point apart may change places: --seeds=3.")
    if partial:
        notes.append("These runs saw only part of their images: nothing to quote.")
    return notes
