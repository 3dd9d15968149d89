"""``reproduce``: data, teacher, student, baseline, evaluation and comparison, in one folder."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kdignite import runs
from kdignite.config import (
    BaselineConfig,
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    Stages,
    Study,
    TrainConfig,
    settled,
    stages,
    told_as_typed,
)
from kdignite.errors import RunFailed, UserError
from kdignite.pipelines.baseline import baseline
from kdignite.pipelines.building import check_architecture
from kdignite.pipelines.compare import compare
from kdignite.pipelines.data import data
from kdignite.pipelines.distill import distill
from kdignite.pipelines.evaluate import answer
from kdignite.pipelines.setup import DATASET, say
from kdignite.pipelines.teacher import teacher
from kdignite.teachers import tolerance

MANIFEST = "manifest.json"
MAY_CHANGE = ("name", "data_root", "seeds")  # a study goes on in another place, and for more seeds


class Progress(NamedTuple):
    """A study under way: its folder, and what its manifest says."""

    folder: Path
    manifest: dict[str, Any]


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
    plan = stages(config)
    _check(plan)
    study = _open(config, root=root)
    say(f"study     {study.folder}")
    data(_data_config(plan.teacher))
    teaching = _teacher(plan, study, root=root)
    compared = [teaching.parent] if (teaching.parent / runs.RESULT).is_file() else []
    for of_student, of_baseline in zip(plan.students, plan.baselines, strict=True):
        taught = dataclasses.replace(of_student, teacher=str(teaching))
        student = _trained(study, taught, partial(distill, taught, root=study.folder))
        untaught = _on_the_same_data(of_baseline, student)
        alone = _trained(study, untaught, partial(baseline, untaught, root=study.folder))
        compared += [student.folder, alone.folder]
    settings = CompareConfig(runs=tuple(map(str, compared)), reference=config.reference)
    stage = "compare" + f"-{config.seeds}-seeds" * (config.seeds > 1)
    comparison = _once(study, stage, partial(compare, settings, root=study.folder), result="compare.json")
    say(f"study     {study.folder}/ ({MANIFEST}, and a folder for each run)")
    return runs.Finished(study.folder, comparison.result)


def _check(plan: Stages) -> None:
    """Refuse models that cannot be built before hours are spent on the first of them."""
    if plan.students[0].teacher is None:
        with told_as_typed():
            check_architecture(plan.teacher)
    check_architecture(plan.baselines[0])


def _open(config: Study, *, root: Path) -> Progress:
    """The folder of the study: an earlier one of the same settings, else a new one."""
    settings = {name: value for name, value in settled(config).items() if name not in MAY_CHANGE}
    default = f"{config.command}-{config.preset}"
    named = [root / config.name] if config.name else []
    for path in sorted((folder / MANIFEST for folder in named or root.glob(f"{default}*")), reverse=True):
        manifest = runs.read_json(path) if path.is_file() else {}
        if manifest.get("settings") == settings:
            return Progress(path.parent, manifest)
        if named and manifest:
            raise UserError(f"{path.parent} is a study with other settings: {_differences(manifest, settings)}")
    folder = runs.create(root, name=config.name, default=default)
    study = Progress(folder, {"settings": settings, "started_at": runs.now(), "stages": {}})
    _save(study)
    return study


def _differences(manifest: dict[str, Any], settings: dict[str, Any]) -> str:
    before = manifest.get("settings", {})
    names = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    told = (f"--{name} was {_shown(before.get(name))}, is {_shown(settings.get(name))}" for name in names)
    return f"{'; '.join(told)}; choose another --name"


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _data_config(config: TrainConfig) -> DataConfig:
    return DataConfig(
        dataset=config.dataset or DATASET, data_root=config.data_root, image_size=config.image_size or config.size
    )


def _teacher(plan: Stages, study: Progress, *, root: Path) -> Path:
    """The checkpoint of the teacher: the one that was named, or that of the study."""
    named = plan.students[0].teacher
    if named is not None:
        return runs.find_checkpoint(named, root=root)
    with told_as_typed():
        run = _trained(study, plan.teacher, partial(teacher, plan.teacher, root=study.folder))
    return run.folder / runs.BEST


def _on_the_same_data(config: BaselineConfig, student: runs.Finished) -> BaselineConfig:
    """The baseline gets what the student inherited from its teacher."""
    resolved = runs.read_json(student.folder / "config.json")
    return dataclasses.replace(
        config, **{name: resolved[name] for name in ("dataset", "val_size", "image_size", "augment")}
    )


def _trained(study: Progress, config: TrainConfig, run: Callable[[], runs.Finished]) -> runs.Finished:
    """A finished training whose saved model has shown once more, from its file alone, that it scores what it did."""
    stage = runs.default_name(config)
    finished = _once(study, stage, run, result=runs.RESULT)
    record = study.manifest["stages"][stage]
    if "evaluated" not in record:
        arch = config.arch if ":" in config.arch else None
        again = EvaluateConfig(
            run=str(finished.folder),
            arch=arch,
            data_root=config.data_root,
            device=config.device,
            threads=config.threads,
        )
        record["evaluated"] = _evaluated(again, finished)
        _save(study)
    return finished


def _evaluated(config: EvaluateConfig, finished: runs.Finished) -> dict[str, int]:
    outcome, recorded = answer(config, root=runs.ROOT).outcome, finished.result["test"]
    counted = {"num_correct": outcome.num_correct, "num_images": len(outcome.labels)}
    told = f"{outcome.num_correct:,} of {len(outcome.labels):,} test images from {finished.folder}/{runs.BEST} alone"
    if counted["num_images"] == recorded["num_images"]:  # a dry run counts a few images only
        if abs(counted["num_correct"] - recorded["num_correct"]) > tolerance(recorded["num_images"]):
            raise RunFailed(f"{told}, but its run recorded {recorded['num_correct']:,}: the file is another model")
        told += f", {recorded['num_correct']:,} in its run"
    say(f"evaluated {told}")
    return counted


def _once(study: Progress, stage: str, run: Callable[[], runs.Finished], *, result: str) -> runs.Finished:
    """The result of a stage, which runs unless it is finished already."""
    record = study.manifest["stages"].get(stage)
    if record is not None:
        folder = study.folder / record["folder"]
        say(f"finished  {folder}")
        return runs.Finished(folder, runs.read_json(folder / result))
    say(f"\n--- {stage}")
    started = time.perf_counter()
    finished = run()
    seconds = round(time.perf_counter() - started, 1)
    study.manifest["stages"][stage] = {
        "folder": finished.folder.name,
        "seconds": seconds,
        "finished_at": runs.now(),
    }
    _save(study)
    return finished


def _save(study: Progress) -> None:
    runs.write_json(study.folder / MANIFEST, study.manifest)
