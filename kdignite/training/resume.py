"""Resuming a run that was stopped: which one, whether it still has the same settings, and its folder."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
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
)
from kdignite.console import say
from kdignite.data.registry import is_code
from kdignite.errors import UserError, listed
from kdignite.training.identity import MACHINE, NOT_IDENTITY, USERS_CODE, identity_of, recorded_identity, sources_of
from kdignite.training.spec import RunSpec
from kdignite.training.state import TrainerState, restore
from kdignite.training.teacher import fitting_teachers

C = TypeVar("C", bound=TrainConfig)
EVENTS = "events.out.tfevents.*"
ROOM = 3  # complete states that must fit on the disk: the last, the previous, and the one being written
STATES_OF_ADAMW = 3  # a complete state holds at most the weights and two moments of each


def resumable(command: Callable[..., runs.Finished]) -> Callable[..., runs.Finished]:
    """A training command that all processes run, with ``--resume``."""

    @functools.wraps(command)
    def call(config: TrainConfig, *, root: Path = runs.ROOT, **own: Any) -> runs.Finished:
        with processes.process_group():
            found = config if config.resume is None else processes.on_rank0(lambda: resumed(config, root=root))
            return found if isinstance(found, runs.Finished) else command(found, root=root, **own)

    return call


def resumed(config: C, *, root: Path) -> C | runs.Finished:
    """What ``--resume`` decides before data are loaded: the settings and teacher to go on with, or a finished run."""
    if config.resume != NEWEST:
        folder = _named(config, root=root)
        return _finished(folder) or _recorded_config(config, folder, root=root)
    if not isinstance(config, DistillConfig) or config.teacher is not None:
        return config
    folders = _unfinished(config, root=root)[:1]
    teachers = [_teacher_of(folder, fitting_teachers(config, root=root)) for folder in folders]
    return dataclasses.replace(config, teacher=teachers[0]) if teachers else config


def find(run: RunSpec, *, root: Path) -> Path | runs.Finished | None:
    """The folder of the run to resume; data and teacher are known by their content, which has to be loaded before."""
    config = run.config
    if config.resume is None:
        return None
    if config.resume != NEWEST:
        _check_same(run, Path(config.resume))
        return Path(config.resume)
    if config.name is not None and (root / config.name / runs.CONFIG).is_file():
        _check_ours(config, root / config.name)
        _check_same(run, root / config.name)
        return _finished(root / config.name) or root / config.name
    now, earlier = identity_of(run), _recorded(config, root)
    same = [folder for folder in earlier if _is_same(folder, now)]
    unfinished = [folder for folder in same if not (folder / runs.RESULT).exists()]
    if unfinished:
        return unfinished[0]
    if same:
        return _finished(same[0])
    say(f"resume    {root}/ has no run of these settings: this is a new one")
    return None


@contextmanager
def opened(run: RunSpec, earlier: Path | None, *, root: Path) -> Iterator[Path]:
    """The folder of a run, locked: an earlier one as it is, or a new one with its settings written."""
    with ExitStack() as held:
        yield processes.on_rank0(lambda: held.enter_context(_opened(run, earlier, root=root)))


@contextmanager
def _opened(run: RunSpec, earlier: Path | None, *, root: Path) -> Iterator[Path]:
    _check_room(run, root if earlier is None else earlier)
    folder = earlier or runs.create(root, name=run.config.name, default=runs.default_name(run.config))
    with runs.locked(folder):
        if earlier is None:
            files.write_json(folder / runs.ENVIRONMENT, runs.environment(run.device) | sources_of(run))
            _write_config(run, folder)
        elif (folder / runs.RESULT).exists():
            raise UserError(f"{folder} has just been finished by another process")
        yield folder


def apply(trainer_state: TrainerState, folder: Path) -> None:
    """Put a run where it was stopped, and make the folder that of this process."""
    restore(trainer_state, folder)
    iteration = trainer_state.trainer.state.iteration
    processes.on_rank0(lambda: record_resume(trainer_state.run, folder, iteration=iteration))


def record_resume(run: RunSpec, folder: Path, *, iteration: int) -> None:
    """Remove half-written files and event files, which are written anew; record and print where the run is resumed."""
    for pattern in (f"{files.TEMPORARY}*", EVENTS):
        for path in folder.glob(pattern):
            path.unlink()  # of a link: the link itself
    before = files.read_json(folder / runs.CONFIG)
    _write_config(run, folder)
    say(f"resume    after iteration {iteration:,} of {run.config.epochs * run.epoch_length:,}")
    path = folder / runs.ENVIRONMENT
    recorded, now = files.read_json(path), runs.environment(run.device)
    keys = ("device", "cuda", "processes", "threads", "cpu", "processor", "kdignite", "packages")
    changed = {key: now[key] for key in keys if recorded.get(key) != now[key]}
    entry = {"iteration": iteration, "at": files.now(), "changed": changed}
    files.write_json(path, recorded | {"resumed": [*recorded.get("resumed", []), entry]})
    moved = [one for one in differences(before, to_json(run.config)) if one.name in MACHINE and one.name not in changed]
    if changed or moved:
        found = [Difference(key, recorded.get(key), value) for key, value in changed.items() if key != "packages"]
        different = differences_text(found + moved) or "other packages"
        say(f"note      another machine than before ({different}): from here on the numbers are")
        say("          not bit-equal to those of a run that was never stopped")


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


def _finished(folder: Path) -> runs.Finished | None:
    if not (folder / runs.RESULT).is_file():
        return None
    result = files.read_json(folder / runs.RESULT)
    say(f"resume    {folder} has already finished ({result.get('epochs')} epochs): nothing is done")
    return runs.Finished(folder, result)


def _recorded_config(config: C, folder: Path, *, root: Path) -> C:
    """The settings that a run recorded, with those that are given now."""
    recorded = files.read_json(folder / runs.CONFIG)
    del recorded["command"]  # checked already
    given = set(to_json(config)) if config.given is None else set(config.given)
    for name in sorted(USERS_CODE):
        value = recorded.get(name)
        if is_code(value) and getattr(config, name) != value:
            raise UserError(
                f"{folder} uses code of your own, and a file never names code to run: repeat its name, --{name}={value}"
            )
    try:
        before = from_json(type(config), recorded)
    except (UserError, TypeError) as error:
        raise UserError(f"{folder / runs.CONFIG}: {error}") from error
    now = {name: getattr(config, name) for name in given} | {"resume": str(folder)}
    if recorded.get("teacher", "") is None:  # it was the newest one then, which another may be now
        now = {"teacher": _teacher_of(folder, runs.finished_teachers(root))} | now
    return dataclasses.replace(before, **now)


def _teacher_of(folder: Path, teachers: Iterable[runs.Finished]) -> str | None:
    """The teacher that a run had, where it is among these."""
    had = files.read_json(folder / runs.ENVIRONMENT).get("teacher") or {}
    paths = (teacher.folder / runs.BEST for teacher in teachers)
    return next((str(path) for path in paths if files.sha256(path) == had.get("sha256")), None)


def _unfinished(config: TrainConfig, *, root: Path) -> list[Path]:
    """Runs that are not finished and have the settings given, the newest first; those left open may be any there."""
    apart, left_open = NOT_IDENTITY | MACHINE, (None, "auto")  # recorded as what they came to
    given = {name: value for name, value in to_json(config).items() if name not in apart and value not in left_open}
    same = (
        folder
        for folder, values in _recorded(config, root).items()
        if all(values.get(name) == given[name] for name in given)
    )
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


def _is_same(folder: Path, identity: dict[str, Any]) -> bool:
    try:
        return not differences(recorded_identity(folder), identity, besides=MACHINE)
    except UserError as error:
        runs.skipped(folder, error)
        return False


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


def _check_room(run: RunSpec, place: Path) -> None:
    """Refuse a disk that cannot hold what the run will save."""
    while not place.exists():
        place = place.parent
    weights = sum(value.numel() * value.element_size() for value in run.model.network.state_dict().values())
    needed, free = ROOM * STATES_OF_ADAMW * weights, shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"the disk of {place} has {free / 1e6:.0f} MB free, checkpoints of this run need up to "
            f"{needed / 1e6:.0f} MB: make room first"
        )


def _write_config(run: RunSpec, folder: Path) -> None:
    config = to_json(dataclasses.replace(run.config, resume=None))
    files.write_json(folder / runs.CONFIG, {"command": run.config.command} | config)
