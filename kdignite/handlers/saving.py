"""Handlers that save the run, or stop it early."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping

from kdignite import checkpoints, processes, stopping
from kdignite.handlers.state import Snapshot


class BestFile:
    """The best checkpoint: one that cannot be written now (a full disk, say) is kept in memory and tried again."""

    def __init__(self, path: Path, *, say: Callable[[str], None]) -> None:
        """Nothing is owed yet."""
        self.path, self.say = path, say
        self.pending: Mapping[str, Any] | None = None
        self.why = ""  # it is owed

    def put(self, payload: Mapping[str, Any], _filename: str) -> None:
        """Write a payload in place of all earlier ones, as Ignite's Checkpoint asks for."""
        self.pending = payload
        self.flush()
        if self.pending is not None:
            self.pending = copy.deepcopy(payload)  # the weights go on changing

    def flush(self) -> None:
        """Write what is owed, or say why it cannot be written, unless that has been said."""
        if self.pending is None:
            return
        try:
            checkpoints.write(self.path, self.pending)
        except OSError as error:
            if self.why != (why := reason(error)):
                self.say(f"warning   {self.path} cannot be written ({why}): it is tried again after each epoch")
            self.why = why
        else:
            self.pending, self.why = None, ""


def attach_best_checkpoint(
    trainer: Engine, file: BestFile, *, payload: Callable[[], dict[str, Any]], score: float | None = None
) -> None:
    """Write the best checkpoint whenever the validation accuracy is better than ever before.

    Ignite keeps a first score that is not a number for ever; epochs without a finite score are left out here.
    """

    def accuracy(engine: Engine) -> float:
        return float(engine.state.metrics["accuracy_val"])

    handler = Checkpoint(
        {"best": Snapshot(payload)},
        file.put,
        filename_pattern=file.path.name,
        score_function=accuracy,
    )
    if score is not None:
        handler.load_state_dict({"_saved": [(score, file.path.name)]})

    def look_after() -> None:
        file.flush()
        if handler.last_checkpoint and file.pending is None and not file.path.exists():
            file.say(f"warning   {file.path} is gone: the best of the epochs to come takes its place")
            handler.reset()

    finite = Events.EPOCH_COMPLETED(event_filter=lambda engine, _: math.isfinite(accuracy(engine)))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, look_after)
    trainer.add_event_handler(finite, handler)


def attach_saving(trainer: Engine, save: Callable[[], None], *, every_s: float) -> None:
    """Save the complete state after every epoch, and in between when it is due; attached last, so nothing is missing.

    Ignite's Checkpoint is driven by counts of events and cannot save at a time, nor where a run is stopped between two.
    Several processes save together, when it is due in any of them.
    """
    saved_at, agree = time.monotonic(), processes.Agreement()

    def save_now() -> None:
        nonlocal saved_at
        save()
        saved_at = time.monotonic()

    due = Events.ITERATION_COMPLETED(event_filter=lambda *_: bool(agree(time.monotonic() - saved_at >= every_s)))
    trainer.add_event_handler(Events.EPOCH_COMPLETED | due, save_now)


def attach_stop(trainer: Engine) -> None:
    """Stop after the iteration in which somebody asked for it; several processes stop together, a moment later."""
    agree = processes.Agreement()
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: stopping.check(agree))


def attach_iteration_rollback(trainer: Engine) -> Callable[[], None]:
    """Know which iteration was the last one that was done: Ignite counts an iteration when it begins."""
    done = trainer.state.iteration

    def note(engine: Engine) -> None:
        nonlocal done
        done = engine.state.iteration

    def take_back() -> None:
        trainer.state.iteration = done

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    return take_back


def attach_early_stopping(trainer: Engine, *, patience: int) -> EarlyStopping:
    """Stop after ``patience`` epochs without a better validation accuracy; no number counts as the worst."""

    def score(engine: Engine) -> float:
        accuracy = float(engine.state.metrics["accuracy_val"])
        return accuracy if math.isfinite(accuracy) else -math.inf

    handler = EarlyStopping(patience=patience, score_function=score, trainer=trainer)
    # not handler.attach: that also resets the counter whenever the engine starts
    trainer.add_event_handler(Events.EPOCH_COMPLETED, handler)
    return handler


def close_epoch(trainer: Engine) -> None:
    """Do what comes after the last iteration of an epoch: for a run that was stopped between the two."""
    trainer.fire_event(Events.EPOCH_COMPLETED)


def reason(error: OSError) -> str:
    """Why a file cannot be written."""
    return error.strerror or str(error)
