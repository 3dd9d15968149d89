"""``reproduce``: data, teacher, student, baseline, evaluation and comparison, in one folder."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdignite import checkpoints, files, processes, runs, schema
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.data import data
from kdignite.commands.distill import distill
from kdignite.commands.evaluate import evaluate_checkpoint
from kdignite.commands.pages import COMPARISON, write_study_page
from kdignite.commands.stages import StudyState, locked_study, open_study, run_stage, save, train_stage, with_amp
from kdignite.commands.teacher import teacher
from kdignite.config import (
    INHERITED,
    BaselineConfig,
    CompareConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    Stages,
    Study,
    TrainConfig,
    prefixed_errors,
    stages,
    study_identity,
)
from kdignite.console import say
from kdignite.data.batches import image_side
from kdignite.data.registry import is_code
from kdignite.errors import RunFailed, UserError
from kdignite.reports.published import published
from kdignite.teachers import RANDOM, tolerance
from kdignite.training.data import DATASET, named_by
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
    config = with_amp(config, stages(config).teacher)
    plan = stages(config)
    needed = _check(plan, root=root)
    classes, image_size = processes.on_rank0(lambda: _classes_and_side(needed))
    if plan.teacher.image_size is None and plan.first.teacher is None:
        plan = _with_image_size(plan, image_size)
    if config.reference:
        published(classes)
    study = processes.on_rank0(lambda: open_study(config, study_identity(config), root=root))
    say(f"study     {study.folder}; the same command goes on where it was stopped")
    with locked_study(study):
        teachers = _teachers(plan, study, root=root)
        for link in plan.chain:
            teachers = [_train(study, _with_teachers(link, teachers), distill, stage=link.name).folder / runs.BEST]
        compared: list[Path] = []
        for student_config, baseline_config in zip(plan.students, plan.baselines, strict=True):
            student = _train(study, _with_teachers(student_config, teachers), distill)
            same_data = processes.on_rank0(partial(_with_data_of, student, baseline_config))
            compared += [student.folder, _train(study, same_data, baseline).folder]
        settings = _comparison(config, [*_shown(teachers, plan.students[0], student), *compared])
        stage = "-".join(["compare", *([config.reference] if config.reference else []), f"{config.seeds}-seeds"])
        comparing = partial(processes.on_rank0, partial(compare, settings, root=study.folder))
        comparison = run_stage(study, stage, comparing, result=COMPARISON)
        page = processes.on_rank0(lambda: write_study_page(study.folder, settings, root=root))
    say(f"study     {study.folder}/ ({page.name}, {runs.MANIFEST}, and a folder for each run)")
    return runs.Finished(study.folder, comparison.result)


def _shown(teachers: Sequence[Path], config: DistillConfig, student: runs.Finished) -> list[Path]:
    """The runs of the teachers, where they are those of as many test images as the students': not of a dry run."""
    if config.control == RANDOM or not all(path.name == runs.BEST for path in teachers):
        return []
    results = [path.with_name(runs.RESULT) for path in teachers]
    if not all(path.is_file() for path in results):
        return []
    tested = [files.read_json(path).get("test") for path in results]
    images = student.result["test"]["num_images"]
    is_same = all(isinstance(one, dict) and one.get("num_images") == images for one in tested)
    return [path.parent for path in teachers] if is_same else []


def _comparison(config: Study, compared: Sequence[Path]) -> CompareConfig:
    first = stages(config).first
    own = first.dataset if is_code(first.dataset) else None  # which no file may name
    return CompareConfig(
        runs=tuple(map(str, compared)), reference=config.reference, dataset=own, data_root=first.data_root
    )


def _check(plan: Stages, *, root: Path) -> DataConfig:
    """Refuse what can be known to fail before hours are spent on the first stage; returns the data that is needed."""
    first = plan.first
    for one in (*plan.chain, plan.baselines[0]):
        check_and_fetch_model(one)
    if first.teacher is not None:
        paths = [runs.find_checkpoint(name, root=root) for name in first.teachers]
        origin = processes.on_rank0(lambda: checkpoints.load_checkpoint(paths[0]).description.origin)
        dataset = named_by(first.teacher, origin.dataset, asked=first.dataset)
        image_size = origin.image_size
    else:
        with prefixed_errors():
            check_and_fetch_model(plan.teacher)
        dataset = plan.teacher.dataset or DATASET
        image_size = plan.teacher.image_size or max(plan.teacher.size, plan.baselines[0].size)
    return DataConfig(
        dataset=dataset,
        data_root=plan.teacher.data_root,
        skip_broken=plan.teacher.skip_broken,
        image_size=image_size,
    )


def _classes_and_side(needed: DataConfig) -> tuple[tuple[str, ...], int]:
    source = data(needed)
    return source.classes, image_side(source.train)


def _with_image_size(plan: Stages, image_size: int) -> Stages:
    """The plan with images as large as the larger of teacher and student takes them."""
    return Stages(
        dataclasses.replace(plan.teacher, image_size=image_size),
        tuple(dataclasses.replace(one, image_size=image_size) for one in plan.chain),
        tuple(dataclasses.replace(one, image_size=image_size) for one in plan.students),
        tuple(dataclasses.replace(one, image_size=image_size) for one in plan.baselines),
    )


def _teachers(plan: Stages, study: StudyState, *, root: Path) -> list[Path]:
    """The checkpoints of the teachers: those that were named, or that of the study."""
    if plan.first.teacher is not None:
        return processes.on_rank0(lambda: [runs.find_checkpoint(name, root=root) for name in plan.first.teachers])
    with prefixed_errors():
        return [_train(study, plan.teacher, teacher).folder / runs.BEST]


def _with_teachers(config: DistillConfig, paths: Sequence[Path]) -> DistillConfig:
    weak = config.allow_weak_teacher or config.fast_dev_run  # after two steps every teacher is weak
    return dataclasses.replace(config, teacher=",".join(map(str, paths)), allow_weak_teacher=weak)


def _with_data_of(student: runs.Finished, config: BaselineConfig) -> BaselineConfig:
    """The baseline with the data settings that the student inherited from its teacher."""
    path = student.folder / runs.CONFIG
    resolved = files.read_json(path)
    try:
        dataset = schema.text(resolved, "dataset")
        named_by(path, dataset, asked=config.dataset if config.dataset == dataset else None)
        inherited: dict[str, Any] = {name: resolved.get(name) for name in INHERITED}
        return dataclasses.replace(config, **inherited)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _train(
    study: StudyState, config: TrainConfig, command: Callable[..., runs.Finished], *, stage: str | None = None
) -> runs.Finished:
    """A finished training whose saved model, loaded from its file alone, was evaluated once more."""
    stage = stage or runs.default_name(config)
    finished = train_stage(study, config, command, stage=stage)
    if "evaluated" not in study.stages[stage]:
        study.stages[stage]["evaluated"] = _evaluate(config, finished)
        save(study)
    return finished


def _evaluate(config: TrainConfig, finished: runs.Finished) -> dict[str, int]:
    """Counts of the test images, which have to be those that the run recorded."""
    with schema.checked(finished.folder / runs.RESULT, advice="make the run again"):
        test = schema.mapping(finished.result, "test")
        expected_images, expected = (schema.count(test, name) for name in ("num_images", "num_correct"))
    again = EvaluateConfig(
        run=str(finished.folder),
        arch=config.arch if is_code(config.arch) else None,
        dataset=config.dataset if is_code(config.dataset) else None,
        data_root=config.data_root,
        skip_broken=config.skip_broken,
        device=config.device,
        threads=config.threads,
    )
    outcome = evaluate_checkpoint(again, root=runs.ROOT).outcome
    correct, num_images = outcome.num_correct, len(outcome.labels)
    text = f"{correct:,} of {num_images:,} test images from {finished.folder}/{runs.BEST} alone"
    if num_images == expected_images:  # a dry run counts a few images only
        if abs(correct - expected) > tolerance(num_images):
            raise RunFailed(f"{text}, but its run recorded {expected:,}: the file is another model")
        text += f", {expected:,} in its run"
    say(f"evaluated {text}")
    return {"num_correct": correct, "num_images": num_images}
