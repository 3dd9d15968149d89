"""``reproduce``: data, teacher, student, baseline, evaluation and comparison, in one folder."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kdignite import checkpoints, files, processes, runs, schema
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.data import data
from kdignite.commands.distill import distill
from kdignite.commands.evaluate import evaluate_checkpoint
from kdignite.commands.study import Place, Progress, held, once, open_study, save, train_once
from kdignite.commands.teacher import teacher
from kdignite.config import (
    INHERITED,
    BaselineConfig,
    CompareConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    ReproduceConfig,
    Stages,
    Study,
    TrainConfig,
    prefixed_errors,
    stages,
    study_settings,
    with_role,
)
from kdignite.console import say
from kdignite.data.registry import is_code
from kdignite.errors import RunFailed, UserError, brief
from kdignite.reports.published import published
from kdignite.teachers import tolerance
from kdignite.training.data import DATASET, named_by
from kdignite.training.device import choose_amp, set_up_device
from kdignite.training.model import check_and_fetch_model


@processes.process_group()
def reproduce(config: Study, *, root: Path = runs.ROOT) -> runs.Finished:
    """Train a teacher, distil it, train the student without it, and compare the two, for one seed or several.

    Run again with the same settings, a study goes on where it was: finished stages are skipped.

    Args:
        config: a `ReproduceConfig`: a preset, the number of seeds, and any flag of any stage.
        root: the folder of all runs, in which the study gets a folder with its runs inside.

    Returns:
        The folder of the study, and the comparison as ``compare`` returns it.

    Raises:
        UserError: before anything is trained, if something asked for cannot be had.
        RunFailed: if a training fails, or a saved model does not score what its run recorded.
    """
    config = _resolved(config)
    plan = stages(config)
    needed = _check(plan, root=root)
    study = processes.on_rank0(lambda: _open(config, root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped")
    classes = processes.on_rank0(lambda: data(needed).classes)
    if config.reference:
        published(classes)
    with held(study):
        loaded = _teacher(plan, study, root=root)
        compared = [loaded.parent] if _is_of_run(loaded) else []
        for of_student, of_baseline in zip(plan.students, plan.baselines, strict=True):
            taught = _taught_by(loaded, of_student)
            student = _trained(study, taught, distill)
            alone = _trained(study, processes.on_rank0(partial(_on_the_same_data, of_baseline, student)), baseline)
            compared += [student.folder, alone.folder]
        settings = CompareConfig(runs=tuple(map(str, compared)), reference=config.reference)
        stage = "-".join(["compare", *([config.reference] if config.reference else []), f"{config.seeds}-seeds"])
        comparing = partial(processes.on_rank0, partial(compare, settings, root=study.folder))
        comparison = once(study, stage, comparing, result="compare.json")
    say(f"study     {study.folder}/ ({runs.MANIFEST}, and a folder for each run)")
    return runs.Finished(study.folder, comparison.result)


def _resolved(config: Study) -> Study:
    """The study with one type of products for all its runs, on whatever processor it may go on."""
    first = stages(config).teacher
    device = set_up_device(first.device, threads=first.threads)
    amp: dict[str, Any] = {"amp": choose_amp(first.amp, device=device)}
    return dataclasses.replace(config, **amp)


def _check(plan: Stages, *, root: Path) -> DataConfig:
    """Refuse what can be known to fail before hours are spent on the first stage; returns the data that is needed."""
    named = plan.students[0].teacher
    check_and_fetch_model(plan.baselines[0])
    if named is not None:
        origin = processes.on_rank0(lambda: checkpoints.load(runs.find_checkpoint(named, root=root)).description.origin)
        dataset = named_by(named, origin.dataset, asked=plan.students[0].dataset)
        image_size = origin.image_size
    else:
        with prefixed_errors():
            check_and_fetch_model(plan.teacher)
        dataset, image_size = plan.teacher.dataset or DATASET, plan.teacher.image_size or plan.teacher.size
    return DataConfig(dataset=dataset, data_root=plan.teacher.data_root, image_size=image_size)


def _open(config: Study, *, root: Path) -> Progress:
    # a study goes on where it was with more seeds, from another place, and with what its trainings do not depend on
    apart = with_role(ReproduceConfig, "display", "place")
    settings = {name: value for name, value in study_settings(config).items() if name not in apart}
    return open_study(settings, Place(root, config.name, f"{config.command}-{config.preset}"))


def _is_of_run(checkpoint: Path) -> bool:
    """Whether a checkpoint is the one that a finished run is known by."""
    return checkpoint.name == runs.BEST and checkpoint.with_name(runs.RESULT).is_file()


def _teacher(plan: Stages, study: Progress, *, root: Path) -> Path:
    """The checkpoint of the teacher: the one that was named, or that of the study."""
    named = plan.students[0].teacher
    if named is not None:
        return processes.on_rank0(lambda: runs.find_checkpoint(named, root=root))
    with prefixed_errors():
        run = _trained(study, plan.teacher, teacher)
    return run.folder / runs.BEST


def _taught_by(loaded: Path, config: DistillConfig) -> DistillConfig:
    weak = config.allow_weak_teacher or config.fast_dev_run  # after two steps every teacher is weak
    return dataclasses.replace(config, teacher=str(loaded), allow_weak_teacher=weak)


def _on_the_same_data(config: BaselineConfig, student: runs.Finished) -> BaselineConfig:
    """The baseline gets what the student inherited from its teacher."""
    path = student.folder / runs.CONFIG
    resolved = files.read_json(path)
    try:
        dataset = schema.text(resolved, "dataset")
        named_by(path, dataset, asked=config.dataset if config.dataset == dataset else None)
        inherited: dict[str, Any] = {name: resolved.get(name) for name in INHERITED}
        return dataclasses.replace(config, **inherited)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _trained(study: Progress, config: TrainConfig, command: Callable[..., runs.Finished]) -> runs.Finished:
    """A finished training whose saved model has shown once more, from its file alone, that it scores what it did."""
    stage = runs.default_name(config)
    finished = train_once(study, config, command, stage=stage)
    record = study.stages[stage]
    if "evaluated" not in record:
        arch = config.arch if ":" in config.arch else None
        again = EvaluateConfig(
            run=str(finished.folder),
            arch=arch,
            dataset=config.dataset if is_code(config.dataset or "") else None,
            data_root=config.data_root,
            device=config.device,
            threads=config.threads,
        )
        record["evaluated"] = _evaluated(again, finished)
        save(study)
    return finished


def _evaluated(config: EvaluateConfig, finished: runs.Finished) -> dict[str, int]:
    recorded = _recorded(finished)
    outcome = evaluate_checkpoint(config, root=runs.ROOT).outcome
    counted = {"num_correct": outcome.num_correct, "num_images": len(outcome.labels)}
    told = f"{outcome.num_correct:,} of {len(outcome.labels):,} test images from {finished.folder}/{runs.BEST} alone"
    if counted["num_images"] == recorded["num_images"]:  # a dry run counts a few images only
        if abs(counted["num_correct"] - recorded["num_correct"]) > tolerance(recorded["num_images"]):
            raise RunFailed(f"{told}, but its run recorded {recorded['num_correct']:,}: the file is another model")
        told += f", {recorded['num_correct']:,} in its run"
    say(f"evaluated {told}")
    return counted


def _recorded(finished: runs.Finished) -> dict[str, int]:
    """How many test images a run had, and how many right."""
    try:
        test = schema.mapping(finished.result, "test")
        return {name: schema.count(test, name) for name in ("num_images", "num_correct")}
    except ValueError as error:
        raise UserError(f"{finished.folder / runs.RESULT} is damaged ({brief(error)}): make the run again") from error
