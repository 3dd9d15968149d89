"""A study: runs inside one folder, with a manifest of what is finished, that goes on where it was stopped."""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kdignite import files, processes, runs, schema
from kdignite.config import (
    NEWEST,
    AnyStudy,
    DistillConfig,
    MethodsStudy,
    Search,
    Study,
    Sweep,
    TrainConfig,
    difference_text,
    differences,
    to_json,
    with_role,
)
from kdignite.console import say
from kdignite.errors import UserError, brief
from kdignite.methods.registry import short_name
from kdignite.training.device import choose_amp, set_up_device
from kdignite.training.teacher import choose_teachers, fitting_teachers, inherit

S = TypeVar("S", Study, Sweep, Search, MethodsStudy)


class StudyState(NamedTuple):
    folder: Path
    manifest: dict[str, Any]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        stages: dict[str, dict[str, Any]] = self.manifest["stages"]
        return stages


def find_study(config: AnyStudy, settings: Mapping[str, Any], *, root: Path) -> StudyState | None:
    """An earlier study of the same settings."""
    folders = [root / config.name] if config.name else sorted(root.glob(f"{default_name(config)}*"), reverse=True)
    for path in (folder / runs.MANIFEST for folder in folders):
        try:
            manifest = files.read_json(path) if path.exists() else {}
        except UserError as error:
            if config.name:
                raise
            runs.skipped(path.parent, error)
            continue
        if manifest.get("settings") == settings:
            return StudyState(path.parent, read_manifest(path.parent))
    return None


def default_name(config: AnyStudy) -> str:
    """The name of a study that was given none: ``sweep-standard``, ``search-dkd-standard``."""
    of = f"-{short_name(config.method_name)}" if isinstance(config, Search) else ""
    return f"{config.command}{of}-{config.preset}"


def open_study(config: AnyStudy, settings: Mapping[str, Any], *, root: Path) -> StudyState:
    """An earlier study of the same settings, else a new one."""
    found = find_study(config, settings, root=root)
    if found is not None:
        return _continued(found, config)
    path = root / (config.name or "") / runs.MANIFEST
    if config.name and path.exists():
        changed = sorted(differences(read_manifest(path.parent)["settings"], settings))
        texts = "; ".join(f"--{difference_text(one)}" for one in changed)
        raise UserError(f"{path.parent} is a study with other settings: {texts}; choose another --name")
    runs.make_root(root)
    with runs.locked(root, file=".studies.lock", wait=True):
        return find_study(config, settings, root=root) or _new_study(config, settings, root=root)


def _new_study(config: AnyStudy, settings: Mapping[str, Any], *, root: Path) -> StudyState:
    folder = runs.create(root, name=config.name, default=default_name(config))
    study = StudyState(folder, _manifest(config, settings))
    save(study)
    return study


def _manifest(config: AnyStudy, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a new study records: the settings that make it this one, and what was typed for it."""
    opened = {"command": config.command, "typed": _typed(config), "settings": dict(settings)}
    return {**opened, "id": secrets.token_hex(8), "started_at": files.now(), "stages": {}}


def _typed(config: AnyStudy) -> dict[str, Any]:
    """What was typed for a study, for its page: how to repeat it."""
    changed = {one.name for one in fields(config) if getattr(config, one.name) != one.default}
    typed = {name: value for name, value in to_json(config).items() if name in changed}
    # places are of this machine, and that of a database may hold a password
    return typed | dict.fromkeys(with_role(type(config), "place") & changed, "PATH")


def _continued(study: StudyState, config: AnyStudy) -> StudyState:
    """An earlier study, with what was typed now: more seeds, say."""
    if study.manifest.get("typed") != (typed := _typed(config)):
        with runs.locked(study.folder, file=".manifest.lock", wait=True):
            refresh(study)
            study.manifest["typed"] = typed
            save(study)
    return study


def open_taught_study(
    config: AnyStudy, first: DistillConfig, identity: Mapping[str, Any], *, root: Path
) -> tuple[StudyState, str]:
    """The study and its teachers: an earlier one of these settings even if there is a newer teacher, else a new one."""

    def settings(paths: Sequence[Path]) -> dict[str, Any]:
        return {**identity, "teacher": ",".join(map(files.sha256, paths))}

    if first.teacher is None:
        for run in fitting_teachers(first, root=root):
            found = find_study(config, settings([run.folder / runs.BEST]), root=root)
            if found is not None:
                return _continued(found, config), str(run.folder / runs.BEST)
    chosen = choose_teachers(first, root=root)
    inherit(first, chosen[0].description.origin)
    paths = [one.path for one in chosen]
    return open_study(config, settings(paths), root=root), ",".join(map(str, paths))


def with_amp(config: S, stage: TrainConfig) -> S:
    """The study with one setting of mixed precision for all its runs, whatever processor it is resumed on."""
    device = set_up_device(stage.device, threads=stage.threads)
    amp: dict[str, Any] = {"amp": choose_amp(stage.amp, device=device)}
    return replace(config, **amp)


@contextmanager
def locked_study(study: StudyState) -> Iterator[None]:
    """Keep other commands out of the study, and read its manifest again."""
    with ExitStack() as locks:
        study.manifest.update(processes.on_rank0(lambda: _locked(study, locks)))
        yield


def _locked(study: StudyState, locks: ExitStack) -> dict[str, Any]:
    locks.enter_context(runs.locked(study.folder))
    return read_manifest(study.folder)


def run_stage(study: StudyState, stage: str, run: Callable[[], runs.Finished], *, result: str) -> runs.Finished:
    """The result of a stage, which runs unless it is finished already."""
    record = study.stages.get(stage)
    if record is not None:
        folder = study.folder / record["folder"]
        say(f"finished  {folder}")
        return runs.Finished(folder, processes.on_rank0(lambda: files.read_json(folder / result)))
    say(f"\n--- {stage}")
    started = time.perf_counter()
    finished = run()
    seconds = round(time.perf_counter() - started, 1)
    record = {"folder": finished.folder.name, "seconds": seconds, "finished_at": files.now()}
    study.manifest.update(processes.on_rank0(partial(_record, study, stage, record)))
    return finished


def _record(study: StudyState, stage: str, record: dict[str, Any]) -> dict[str, Any]:
    """Add a stage to the manifest, to which other processes may have added theirs; returns the manifest."""
    with runs.locked(study.folder, file=".manifest.lock", wait=True):
        refresh(study)
        study.stages[stage] = record
        save(study)
    return study.manifest


@contextmanager
def reporting(folder: Path) -> Iterator[None]:
    """Read what is done and write the report of it in here: else a process could write what another has outdated."""
    with runs.locked(folder, file=".report.lock", wait=True):
        yield


def refresh(study: StudyState) -> None:
    """Read the manifest again."""
    study.manifest.update(read_manifest(study.folder))


def train_stage(
    study: StudyState, config: TrainConfig, command: Callable[..., runs.Finished], *, stage: str
) -> runs.Finished:
    """A finished training of a study, resumed where it was stopped."""
    run = partial(command, replace(config, resume=NEWEST), root=study.folder)
    return run_stage(study, stage, run, result=runs.RESULT)


def save(study: StudyState) -> None:
    if processes.is_rank0():
        files.write_json(study.folder / runs.MANIFEST, study.manifest)


def read_manifest(study: Path) -> dict[str, Any]:
    """What a study records, checked: its stages are folders inside it."""
    path = study / runs.MANIFEST
    manifest = files.read_json(path)
    with schema.checked(path, advice="repair or remove it"):
        schema.mapping(manifest, "settings")
        if "command" in manifest:
            schema.name(manifest, "command")
        if "typed" in manifest:
            schema.mapping(manifest, "typed")
        stages = schema.mapping(manifest, "stages")
        for stage in stages:
            record = schema.mapping(stages, stage)
            folder = schema.name(record, "folder")
            if folder.startswith(".") or Path(folder).name != folder or (study / folder).is_symlink():
                raise ValueError(f"{brief(folder)!r} is no folder of the study")
            _check_stage(record)
    return manifest


def _check_stage(record: Mapping[str, Any]) -> None:
    """What a page tells of a stage."""
    if "seconds" in record:
        schema.number(record, "seconds")
    if "evaluated" in record:
        counts = schema.mapping(record, "evaluated")
        schema.count(counts, "num_correct", high=schema.count(counts, "num_images", low=1))
