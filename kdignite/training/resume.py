"""Resuming a run that was stopped: which one, and whether it still has the same settings."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

from kdignite import files, processes, runs
from kdignite.config import (
    COMMANDS,
    NEWEST,
    Config,
    Difference,
    DistillConfig,
    TrainConfig,
    command_line,
    differences,
    differences_text,
    from_json,
    to_json,
    typed_flags,
    with_role,
    with_use,
)
from kdignite.console import say
from kdignite.data.registry import is_code
from kdignite.errors import UserError, counted, listed
from kdignite.training.data import named_by
from kdignite.training.identity import (
    MACHINE,
    NOT_IDENTITY,
    USERS_CODE,
    identity_of,
    recorded_epochs,
    recorded_identity,
)
from kdignite.training.spec import RunSpec
from kdignite.training.state import has_state
from kdignite.training.teacher import fitting_teachers

C = TypeVar("C", bound=TrainConfig)
NO_NUMBER = with_role(DistillConfig, "display", "place", "machine")  # of a finished run these change nothing any more
FILLED = with_use(DistillConfig, "filled")  # recorded as what they came to, where they were left open


def resumable(command: Callable[..., runs.Finished]) -> Callable[..., runs.Finished]:
    """A training command that all processes run, with ``--resume``."""

    @functools.wraps(command)
    def call(config: TrainConfig, *, root: Path = runs.ROOT, **own: Any) -> runs.Finished:
        with processes.process_group():
            if config.resume is None:
                processes.on_rank0(lambda: runs.check_name(root, config.name))
            found = config if config.resume is None else processes.on_rank0(lambda: resumed(config, root=root))
            return found if isinstance(found, runs.Finished) else command(found, root=root, **own)

    return call


def resumed(config: C, *, root: Path) -> C | runs.Finished:
    """What ``--resume`` decides before data are loaded: the settings and teacher to go on with, or a finished run."""
    if config.resume != NEWEST:
        folder = _named(config, root=root)
        if (folder / runs.RESULT).is_file() and not _changed(config, folder, names=_given(config), besides=NO_NUMBER):
            return _finished(folder)
        return _recorded_config(config, folder, root=root)
    if not isinstance(config, DistillConfig) or config.teacher is not None:
        return config
    folders = _unfinished(config, root=root)[:1] if config.name is None else _of_name(config, root=root)
    teachers = [_teacher_of(folder, fitting_teachers(config, root=root)) for folder in folders]
    return dataclasses.replace(config, teacher=teachers[0]) if teachers else config


def find(run: RunSpec, *, root: Path) -> Path | runs.Finished | None:
    """The folder of the run to resume; data and teacher are known by their content, which has to be loaded before."""
    config = run.config
    if config.resume is None:
        return None
    if config.resume != NEWEST:
        return _checked(run, Path(config.resume))
    for folder in [] if config.name is None else _of_name(config, root=root):
        return _checked(run, folder)
    now, earlier = identity_of(run), _recorded(config, root)
    apart = {folder: found for folder in earlier if (found := _differences(folder, now)) is not None}
    same = [folder for folder, found in apart.items() if not found]
    unfinished = [folder for folder in same if not (folder / runs.RESULT).exists()]
    shorter = [folder for folder, found in apart.items() if _is_shorter(found, config) and has_state(folder)]
    finished = [folder for folder in same if folder not in unfinished]
    # a run that has a name of its own is none of these, but has the numbers of one that has finished
    for folder in finished if config.name else unfinished or finished or shorter:
        return _checked(run, folder)
    others = sorted(folder.name for folder in apart if not (folder / runs.RESULT).exists())
    named, apart_in = (config.name, "") if config.name else ("of these settings", ", of other settings")
    besides = f"; unfinished{apart_in}: {listed(others)}" if others else ""
    say(f"resume    {root}/ has no run {named}: this is a new one{besides}")
    return None


def _named(config: TrainConfig, *, root: Path) -> Path:
    for path in (Path(str(config.resume)), root / str(config.resume)):
        folder = path.parent if path.is_file() else path
        if (folder / runs.CONFIG).is_file():
            _check_ours(config, folder)
            return folder
    have = [folder.name for folder in _recorded(config, root) if not (folder / runs.RESULT).exists()]
    raise UserError(
        f"there is no run {config.resume!r} to resume; unfinished runs of {config.command} in {root}/: "
        f"{listed(sorted(have))}"
    )


def _of_name(config: TrainConfig, *, root: Path) -> list[Path]:
    """The run that ``--name`` names, if there is one."""
    folder = root / str(config.name)
    if not (folder / runs.CONFIG).is_file():
        return []
    _check_ours(config, folder)
    return [folder]


def _check_ours(config: TrainConfig, folder: Path) -> None:
    """Refuse a link, and a run of another command."""
    if folder.is_symlink():
        raise UserError(f"{folder} is a link: resume the folder that it points to, {folder.resolve()}")
    command = files.read_json(folder / runs.CONFIG).get("command")
    if command == config.command:
        return
    if not issubclass(COMMANDS.get(str(command), Config), TrainConfig):
        raise UserError(f"{folder} is no run of a training: there is nothing to resume")
    raise UserError(f"{folder} is a run of {command}: {command_line(str(command), resume=folder)}")


def _checked(run: RunSpec, folder: Path) -> Path | runs.Finished:
    """The folder of a run that goes on, also of a finished one that is to be longer; or a finished run."""
    _check_same(run, folder)
    if not (folder / runs.RESULT).is_file():
        return folder
    before, epochs = recorded_epochs(folder), run.config.epochs
    if epochs == before:
        return _finished(folder)
    done = files.read_json(folder / runs.RESULT).get("epochs", 0)
    why = f"has finished with {counted(done, 'epoch')}, --epochs={epochs}"
    if epochs < before:
        raise UserError(f"{folder} {why} is too few: leave it out, or start a new run")
    if done != before:
        raise UserError(f"{folder} {why} changes nothing: --patience={run.config.patience} stopped it")
    if not has_state(folder):
        raise UserError(f"{folder} {why} needs its {runs.LAST}, which --keep_last keeps: start a new run")
    return folder


def _is_shorter(found: list[Difference], config: TrainConfig) -> bool:
    """Whether a run differs in its epochs alone, and can be made longer."""
    is_longer = [one.name for one in found] == ["epochs"] and found[0].before < found[0].now
    return is_longer and config.schedule == "constant"


def _finished(folder: Path) -> runs.Finished:
    result = files.read_json(folder / runs.RESULT)
    say(f"resume    {folder} has already finished ({counted(result.get('epochs', 0), 'epoch')}): nothing is done")
    return runs.Finished(folder, result)


def _recorded_config(config: C, folder: Path, *, root: Path) -> C:
    """The settings that a run recorded, with those that are given now."""
    recorded = files.read_json(folder / runs.CONFIG)
    del recorded["command"]  # checked already
    for name in sorted(USERS_CODE):
        value = recorded.get(name)
        if is_code(value) and getattr(config, name) != value:
            raise UserError(
                f"{folder} uses code of your own, and a file never names code to run: repeat its name, "
                f"{typed_flags(**{name: value})}"
            )
    try:
        before = from_json(type(config), recorded)
    except (UserError, TypeError) as error:
        raise UserError(f"{folder / runs.CONFIG}: {error}") from error
    given = _given(config)
    if recorded.get("dataset") is not None:
        named_by(folder, str(recorded["dataset"]), asked=config.dataset if "dataset" in given else None)
    now = {name: getattr(config, name) for name in given} | {"resume": str(folder)}
    if recorded.get("teacher", "") is None:  # it was the newest one then, which another may be now
        now = {"teacher": _teacher_of(folder, runs.finished_teachers(root))} | now
    return dataclasses.replace(before, **now)


def _given(config: TrainConfig) -> set[str]:
    return set(to_json(config) if config.given is None else config.given)


def _changed(config: TrainConfig, folder: Path, *, names: Collection[str], besides: Collection[str]) -> bool:
    """Whether one of some settings is not what a run recorded; those left open may be any there."""
    recorded = files.read_json(folder / runs.CONFIG)
    values = {name: value for name, value in to_json(config).items() if name in names and name not in besides}
    return any(
        recorded.get(name) != value
        for name, value in values.items()
        if value != "auto" and (value is not None or name not in FILLED)
    )


def _teacher_of(folder: Path, teachers: Iterable[runs.Finished]) -> str | None:
    """The teacher that a run had, where it is among these."""
    had = files.read_json(folder / runs.ENVIRONMENT).get("teacher") or {}
    shas = [one.get("sha256") for one in had.get("members") or [had]]  # of files
    paths = (teacher.folder / runs.BEST for teacher in teachers)
    return next((str(path) for path in paths if [files.sha256(path)] == shas), None)


def _unfinished(config: TrainConfig, *, root: Path) -> list[Path]:
    """Runs that are not finished and have the settings given, the newest first."""
    names, apart = to_json(config), NOT_IDENTITY | MACHINE | ({"epochs"} if config.min_steps else set())
    same = (folder for folder in _recorded(config, root) if not _changed(config, folder, names=names, besides=apart))
    return [folder for folder in same if not (folder / runs.RESULT).exists()]


def _recorded(config: TrainConfig, root: Path) -> dict[Path, dict[str, Any]]:
    """What runs of the same command recorded, by folder, the newest first; what cannot be read is skipped."""
    found = {}
    paths = (path for path in root.glob(f"*/{runs.CONFIG}") if not path.parent.is_symlink())
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path), reverse=True):
        try:
            found[path.parent] = files.read_json(path)
        except UserError as error:
            runs.skipped(path.parent, error)
    return {folder: values for folder, values in found.items() if values.get("command") == config.command}


def _differences(folder: Path, identity: dict[str, Any]) -> list[Difference] | None:
    """What a run does not share; None: it cannot be read, and is skipped."""
    try:
        return differences(recorded_identity(folder), identity, besides=MACHINE)
    except UserError as error:
        runs.skipped(folder, error)
        return None


def _check_same(run: RunSpec, folder: Path) -> None:
    found = differences(recorded_identity(folder), identity_of(run), besides=MACHINE)
    if run.config.schedule == "constant":
        found = [one for one in found if one.name != "epochs"]
    if not found:
        return
    why = ""
    if any(one.name == "epochs" for one in found):
        why = f"; under --schedule={run.config.schedule} the learning rate of every step depends on --epochs"
    raise UserError(
        f"{folder} has other settings: {differences_text(found)}{why}; resume it with its own, or start a new run"
    )
