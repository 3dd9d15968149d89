"""The folder of a run: opened, and put where the run was stopped."""

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from kdignite import files, processes, runs
from kdignite.config import Difference, differences, differences_text, to_json
from kdignite.console import say
from kdignite.errors import UserError
from kdignite.runs.lock import LOCK
from kdignite.training.identity import MACHINE, recorded_epochs, sources_of
from kdignite.training.results import LEFT
from kdignite.training.spec import RunSpec
from kdignite.training.state import TrainerState, restore

EVENTS = "events.out.tfevents.*"
ROOM = 3  # complete states that must fit on the disk: the last, the previous, and the one being written
STATES_OF_ADAMW = 3  # a complete state holds at most the weights and two moments of each


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
            _write_start(run, folder)
        elif (folder / runs.RESULT).exists() and recorded_epochs(folder) == run.config.epochs:
            raise UserError(f"{folder} has just been finished by another process")
        yield folder


def _write_start(run: RunSpec, folder: Path) -> None:
    """Write what makes a new folder that of a run, or remove it: without that it could never be resumed."""
    try:
        files.write_json(folder / runs.ENVIRONMENT, runs.environment(run.device) | sources_of(run))
        _write_config(run, folder)
    except BaseException:
        for name in (runs.ENVIRONMENT, runs.CONFIG, LOCK):
            (folder / name).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        raise


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
    for name in (runs.RESULT, *LEFT):  # of the shorter run that is made longer
        (folder / name).unlink(missing_ok=True)
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


def _check_room(run: RunSpec, place: Path) -> None:
    """Refuse a disk that cannot hold what the run will save."""
    while not place.exists():
        place = place.parent
    weights = sum(value.numel() * value.element_size() for value in run.trained.state_dict().values())
    needed, free = ROOM * STATES_OF_ADAMW * weights, shutil.disk_usage(place).free
    if free < needed:
        raise UserError(
            f"the disk of {place} has {free / 1e6:.0f} MB free, checkpoints of this run need up to "
            f"{needed / 1e6:.0f} MB: make room first"
        )


def _write_config(run: RunSpec, folder: Path) -> None:
    config = to_json(dataclasses.replace(run.config, resume=None))
    files.write_json(folder / runs.CONFIG, {"command": run.config.command} | config)
