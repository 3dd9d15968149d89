"""Handlers that save the run, or stop it early."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping

from kdignite import checkpoints
from kdignite.handlers.state import Snapshot


def attach_best_checkpoint(trainer: Engine, run_dir: Path, *, payload: Callable[[], dict[str, Any]]) -> Checkpoint:
    """Write ``best.pt`` whenever the validation accuracy is better than ever before.

    Ignite keeps a first score that is not a number for ever; epochs without a finite score are left out here.

    Args:
        trainer: the training engine, with the validation attached before.
        run_dir: where to.
        payload: makes what the file holds.

    Returns:
        The handler, whose state belongs into the checkpoint of the run.
    """

    def accuracy(engine: Engine) -> float:
        return float(engine.state.metrics["accuracy_val"])

    handler = Checkpoint(
        {"best": Snapshot(payload)},
        _writer(run_dir),
        filename_pattern="best.pt",
        score_function=accuracy,
    )
    finite = Events.EPOCH_COMPLETED(event_filter=lambda engine, _: math.isfinite(accuracy(engine)))
    trainer.add_event_handler(finite, handler)
    return handler


def attach_last_checkpoint(trainer: Engine, run_dir: Path, *, state: Mapping[str, Any]) -> Checkpoint:
    """Write ``last.pt``, the complete state of the run, after every epoch; attached last, so that nothing is missing.

    Args:
        trainer: the training engine.
        run_dir: where to.
        state: names to objects with a ``state_dict``.

    Returns:
        The handler.
    """
    handler = Checkpoint(dict(state), _writer(run_dir), filename_pattern="last.pt")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, handler)
    return handler


def attach_early_stopping(trainer: Engine, *, patience: int) -> EarlyStopping:
    """Stop after ``patience`` epochs without a better validation accuracy; no number counts as the worst.

    Args:
        trainer: the training engine, with the validation attached before.
        patience: epochs.

    Returns:
        The handler, whose state belongs into the checkpoint of the run.
    """

    def score(engine: Engine) -> float:
        accuracy = float(engine.state.metrics["accuracy_val"])
        return accuracy if math.isfinite(accuracy) else -math.inf

    handler = EarlyStopping(patience=patience, score_function=score, trainer=trainer)
    # not handler.attach: that also resets the counter whenever the engine starts
    trainer.add_event_handler(Events.EPOCH_COMPLETED, handler)
    return handler


def _writer(run_dir: Path) -> Callable[[Mapping[str, Any], str], None]:
    """A save handler that replaces a file by renaming; Ignite's deletes the old file before it writes the new one."""

    def write(payload: Mapping[str, Any], filename: str) -> None:
        checkpoints.write(run_dir / filename, payload)

    return write
