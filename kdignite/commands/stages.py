"""A study: runs inside one folder, with a manifest of what is finished, that goes on where it was stopped."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from kdignite import files, processes, runs, schema
from kdignite.config import NEWEST, Study, Sweep, TrainConfig, difference_text, differences
from kdignite.console import say
from kdignite.errors import UserError, brief
from kdignite.training.device import choose_amp, set_up_device

S = TypeVar("S", Study, Sweep)


class StudyState(NamedTuple):
    folder: Path
    manifest: dict[str, Any]

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        stages: dict[str, dict[str, Any]] = self.manifest["stages"]
        return stages


def find_study(config: Study | Sweep, settings: Mapping[str, Any], *, root: Path) -> StudyState | None:
    """An earlier study of the same settings."""
    default = f"{config.command}-{config.preset}*"
    folders = [root / config.name] if config.name else sorted(root.glob(default), reverse=True)
    for path in (folder / runs.MANIFEST for folder in folders):
        try:
            manifest = files.read_json(path) if path.exists() else {}
        except UserError as error:
            if config.name:
                raise
            runs.skipped(path.parent, error)
            continue
        if manifest.get("settings") == settings:
            return StudyState(path.parent, _read(path))
    return None


def open_study(config: Study | Sweep, settings: Mapping[str, Any], *, root: Path) -> StudyState:
    """An earlier study of the same settings, else a new one."""
    found = find_study(config, settings, root=root)
    if found is not None:
        return found
    path = root / (config.name or "") / runs.MANIFEST
    if config.name and path.exists():
        changed = sorted(differences(_read(path)["settings"], settings))
        texts = "; ".join(f"--{difference_text(one)}" for one in changed)
        raise UserError(f"{path.parent} is a study with other settings: {texts}; choose another --name")
    folder = runs.create(root, name=config.name, default=f"{config.command}-{config.preset}")
    study = StudyState(folder, {"settings": dict(settings), "started_at": files.now(), "stages": {}})
    save(study)
    return study


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
    return _read(study.folder / runs.MANIFEST)


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
    study.stages[stage] = {"folder": finished.folder.name, "seconds": seconds, "finished_at": files.now()}
    save(study)
    return finished


def train_stage(
    study: StudyState, config: TrainConfig, command: Callable[..., runs.Finished], *, stage: str
) -> runs.Finished:
    """A finished training of a study, resumed where it was stopped."""
    run = partial(command, replace(config, resume=NEWEST), root=study.folder)
    return run_stage(study, stage, run, result=runs.RESULT)


def save(study: StudyState) -> None:
    if processes.is_rank0():
        files.write_json(study.folder / runs.MANIFEST, study.manifest)


def _read(path: Path) -> dict[str, Any]:
    """The manifest, checked: the stages of a study are folders inside it."""
    manifest = files.read_json(path)
    with schema.checked(path, advice="repair or remove it"):
        schema.mapping(manifest, "settings")
        stages = schema.mapping(manifest, "stages")
        for stage in stages:
            folder = schema.name(schema.mapping(stages, stage), "folder")
            if folder.startswith(".") or Path(folder).name != folder or (path.parent / folder).is_symlink():
                raise ValueError(f"{brief(folder)!r} is no folder of the study")
    return manifest
