"""Handlers that save a run, or stop it early."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping

from kdignite import checkpoints, processes, stopping


class Score(NamedTuple):
    """What an epoch scored on validation; the larger is the better: of equal accuracies that with the lower loss."""

    accuracy: float
    negative_loss: float


class BestFile:
    """The best checkpoint; one that cannot be written (the disk is full, say) is kept in memory and tried again."""

    def __init__(self, path: Path, *, say: Callable[[str], None]) -> None:
        self.path, self.say = path, say
        self.score: Score | None = None  # of the epoch that it holds; None: the next one is better
        self.pending: Mapping[str, Any] | None = None
        self.write_error = ""  # why one is pending

    def put(self, payload: Mapping[str, Any]) -> None:
        """Write a payload in place of the earlier one."""
        self.pending = payload
        self.flush()
        if self.pending is not None:
            self.pending = copy.deepcopy(payload)  # the weights go on changing

    def flush(self) -> None:
        """Write what is pending, or print why it cannot be written, once for each reason."""
        if self.pending is None:
            return
        try:
            checkpoints.write(self.path, self.pending)
        except OSError as error:
            if self.write_error != reason(error):
                self.say(
                    f"warning   {self.path} cannot be written ({reason(error)}): it is tried again after each epoch"
                )
            self.write_error = reason(error)
        else:
            self.pending, self.write_error = None, ""


def attach_best_checkpoint(trainer: Engine, file: BestFile, *, payload: Callable[[], dict[str, Any]]) -> None:
    """Write the best checkpoint; epochs with a score of NaN are left out.

    Ignite's Checkpoint compares one number, which cannot say that of equal accuracies the lower loss is better.
    """

    def save(engine: Engine) -> None:
        file.flush()
        if file.score and file.pending is None and not file.path.exists():
            file.say(f"warning   {file.path} is gone: the best of the epochs to come takes its place")
            file.score = None
        score = Score(float(engine.state.metrics["accuracy_val"]), -float(engine.state.metrics["loss_val"]))
        if math.isfinite(score.accuracy) and (file.score is None or score > file.score):
            file.score = score
            file.put(payload())

    trainer.add_event_handler(Events.EPOCH_COMPLETED, save)


def attach_saving(trainer: Engine, save: Callable[[], None], *, every_s: float) -> None:
    """Save the complete state after every epoch and every so many seconds, which Ignite's Checkpoint cannot count."""
    saved_at, largest = time.monotonic(), processes.ThrottledMax()

    def save_now() -> None:
        nonlocal saved_at
        save()
        saved_at = time.monotonic()

    due = Events.ITERATION_COMPLETED(event_filter=lambda *_: bool(largest(time.monotonic() - saved_at >= every_s)))
    trainer.add_event_handler(Events.EPOCH_COMPLETED | due, save_now)


def attach_stop(trainer: Engine) -> None:
    """Stop after the iteration in which a signal arrived; several processes stop together, up to a second later."""
    largest = processes.ThrottledMax()
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: stopping.raise_if_requested(largest))


def attach_iteration_rollback(trainer: Engine) -> Callable[[], None]:
    """The function that sets the iteration back to the last complete one: Ignite counts it when it begins."""
    done = trainer.state.iteration

    def note(engine: Engine) -> None:
        nonlocal done
        done = engine.state.iteration

    def roll_back() -> None:
        trainer.state.iteration = done

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note)
    return roll_back


def attach_early_stopping(trainer: Engine, *, patience: int) -> EarlyStopping:
    """Stop after ``patience`` epochs without a better validation accuracy; NaN counts as the worst."""

    def score(engine: Engine) -> float:
        accuracy = float(engine.state.metrics["accuracy_val"])
        return accuracy if math.isfinite(accuracy) else -math.inf

    handler = EarlyStopping(patience=patience, score_function=score, trainer=trainer)
    # not handler.attach: that also resets the counter whenever the engine starts
    trainer.add_event_handler(Events.EPOCH_COMPLETED, handler)
    return handler


def close_epoch(trainer: Engine) -> None:
    """Run the handlers of the end of an epoch, for a run that was stopped just before them."""
    trainer.fire_event(Events.EPOCH_COMPLETED)


def reason(error: OSError) -> str:
    """Why a file cannot be written, without its path."""
    return error.strerror or str(error)
