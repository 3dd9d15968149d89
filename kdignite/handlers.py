"""What happens around the training steps: handlers attached to the events of an engine.

Each ``attach_*`` takes the engine first, registers what it does, and returns what others may want to read or save. They
run in the order in which they are attached, so a pipeline lists them in one visible place.
"""

import csv
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping, ProgressBar, Timer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from kdignite import checkpoints, metrics
from kdignite.errors import RunFailed
from kdignite.evaluation import Outcome
from kdignite.schedules import LearningRate
from kdignite.streams import seed_device

GUARD_EVERY = 50  # iterations between two looks at the loss: each look waits for a GPU
BAR_EVERY = 10  # iterations
COLUMNS = {
    "epoch": "epoch",
    "loss": "loss/train",
    "ce": "loss/ce",
    "kd": "loss/kd",
    "accuracy_train": "accuracy/train",
    "loss_val": "loss/val",
    "accuracy_val": "accuracy/val",
    "accuracy_teacher": "accuracy/teacher",
    "lr": "lr",
    "seconds": "seconds",
    "images_per_s": "images_per_s",
}  # column of metrics.csv -> tag in TensorBoard
NOT_PLOTTED = ("epoch", "seconds")
RECALL_CLASSES = 20  # above that, a curve for each class is no help

Row = dict[str, float | None]


class EpochSums:
    """Sums over the images of the open epoch, kept on the device in float64 so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Start an epoch."""
        self.sums = {}

    def add(self, parts: Mapping[str, Tensor], *, num_images: int) -> None:
        """Add the output of a step: means are weighted by the number of images, ``correct`` is a count already."""
        for name, value in parts.items():
            weighted = value.double() if name == "correct" else value.double() * num_images
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        count = torch.tensor(float(num_images), dtype=torch.float64)
        self.sums["images"] = self.sums["images"] + count if "images" in self.sums else count

    def means(self) -> dict[str, float]:
        """Mean of every part over the images seen so far."""
        num_images = float(self.sums["images"])
        return {name: float(value) / num_images for name, value in self.sums.items() if name != "images"}

    def state_dict(self) -> dict[str, Tensor]:
        """The open sums."""
        return {name: value.cpu() for name, value in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums."""
        self.sums = {name: value.to("cpu" if name == "images" else self.device) for name, value in state.items()}


class History:
    """One row an epoch; the table, the CSV file and TensorBoard all show these rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved rows."""
        self.rows = [dict(row) for row in state["rows"]]


class Snapshot:
    """Something with a ``state_dict`` for Ignite's Checkpoint, computed when it saves."""

    def __init__(self, take: Callable[[], dict[str, Any]]) -> None:
        self.state_dict = take


def attach_learning_rate(trainer: Engine, optimizer: Optimizer, *, lr_at: LearningRate) -> None:
    """Set the learning rate before every step, from the number of the step alone.

    A function of the iteration has no state, which torch's and Ignite's schedulers have: resuming is exact for free.

    Args:
        trainer: the training engine.
        optimizer: all of whose groups share the rate.
        lr_at: from the step (counted from 0) to the rate.
    """

    def set_rate(engine: Engine) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr_at(engine.state.iteration - 1)

    trainer.add_event_handler(Events.ITERATION_STARTED, set_rate)


def attach_step_seed(trainer: Engine, *, seed: int, device: torch.device) -> None:
    """Seed what modules such as Dropout draw from, before every step, from (seed, iteration).

    Args:
        trainer: the training engine.
        seed: of the run.
        device: that computes.
    """
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: seed_device(device, "step", seed, engine.state.iteration)
    )


def attach_epoch_sums(trainer: Engine, *, device: torch.device) -> EpochSums:
    """Sum the parts that the step returns over the images of each epoch.

    Args:
        trainer: the training engine.
        device: that computes.

    Returns:
        The sums.
    """
    sums = EpochSums(device)

    def add(engine: Engine) -> None:
        sums.add(engine.state.output, num_images=len(engine.state.batch.labels))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, add)
    return sums


def attach_nan_guard(trainer: Engine, sums: EpochSums, *, advice: str) -> None:
    """Stop a run whose loss is no number any more, before anything of it is saved.

    A sum that took in one infinite or undefined loss stays so; reading it every `GUARD_EVERY` iterations and at the end
    of an epoch is enough. (Ignite's TerminateOnNan ends a run as if it had succeeded.)

    Args:
        trainer: the training engine.
        sums: of the open epoch.
        advice: what to try, for the message.

    Raises:
        RunFailed: from the engine's ``run``.
    """

    def guard(engine: Engine) -> None:
        if not math.isfinite(sums.means()["loss"]):
            state = engine.state
            raise RunFailed(
                f"the loss is not a finite number any more (epoch {state.epoch}, iteration {state.iteration}, "
                f"{advice}): try a lower --lr, or --grad_clip=1; checkpoints of earlier epochs are kept"
            )

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=GUARD_EVERY) | Events.EPOCH_COMPLETED, guard)


def attach_clock(trainer: Engine) -> Timer:
    """Measure the time of the steps of each epoch; attached before the validation, it leaves that out.

    Args:
        trainer: the training engine.

    Returns:
        The timer; ``value()`` is in seconds.
    """
    timer = Timer()
    timer.attach(trainer, start=Events.EPOCH_STARTED, pause=Events.EPOCH_COMPLETED)
    return timer


def attach_validation(trainer: Engine, *, validate: Callable[[], Outcome]) -> None:
    """Evaluate on the validation images after every epoch, into ``trainer.state.metrics``.

    Args:
        trainer: the training engine.
        validate: runs the evaluation.
    """

    def run(engine: Engine) -> None:
        outcome = validate()
        engine.state.metrics.update(
            accuracy_val=outcome.num_correct / len(outcome.labels) if outcome.is_finite else math.nan,
            correct_val=outcome.num_correct,
            images_val=len(outcome.labels),
            loss_val=outcome.loss,
            recall_val=metrics.class_scores(outcome.confusion.numpy()).recall,
        )

    trainer.add_event_handler(Events.EPOCH_COMPLETED, run)


def attach_history(
    trainer: Engine,
    sums: EpochSums,
    clock: Timer,
    *,
    lr_at: LearningRate,
    classes: tuple[str, ...],
    accuracy_teacher: float | None,
) -> History:
    """Make a row of every epoch, from the sums of its steps and the validation after it.

    Args:
        trainer: the training engine, with clock and validation attached before.
        sums: of the open epoch; started anew afterwards.
        clock: of the open epoch.
        lr_at: the learning rate by step.
        classes: names, for the recall of each.
        accuracy_teacher: the teacher's validation accuracy, where there is one.

    Returns:
        The history.
    """
    history = History()

    def record(engine: Engine) -> None:
        state, means, seconds = engine.state, sums.means(), clock.value()
        row: Row = {
            "epoch": state.epoch,
            "loss": means["loss"],
            "ce": means["ce"],
            "kd": means.get("kd"),
            "accuracy_train": means["correct"],
            "loss_val": state.metrics["loss_val"],
            "accuracy_val": state.metrics["accuracy_val"],
            "accuracy_teacher": accuracy_teacher,
            "lr": lr_at(state.iteration - 1),
            "seconds": round(seconds, 3),
            "images_per_s": round(float(sums.sums["images"]) / seconds, 1),
        }
        recall = zip(classes, state.metrics["recall_val"].tolist(), strict=True)
        row |= {f"recall/{name}": value for name, value in recall if len(classes) <= RECALL_CLASSES}
        history.rows.append(row)
        sums.reset()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, record)
    return history


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


def attach_metrics_csv(trainer: Engine, history: History, *, path: Path) -> None:
    """Write the history to a CSV file, whole, after every epoch: it never disagrees with the history.

    Args:
        trainer: the training engine.
        history: one row an epoch.
        path: the file.
    """

    def write(engine: Engine) -> None:
        del engine
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(history.rows)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, write)


def attach_tensorboard(trainer: Engine, history: History, writer: SummaryWriter) -> None:
    """Write every row of the history to TensorBoard, under the same tags in every run; x is the epoch.

    torch's writer is used, not Ignite's logger, which writes another file layout where tensorboardX is installed.

    Args:
        trainer: the training engine.
        history: one row an epoch; rows that are there at the start are written too.
        writer: closed by whoever opened it.
    """
    for row in history.rows:
        _plot(writer, row)

    def plot(engine: Engine) -> None:
        del engine
        _plot(writer, history.rows[-1])
        writer.flush()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, plot)


def attach_progress_bar(trainer: Engine) -> ProgressBar:
    """A bar for each epoch with the loss and the time that the whole run still needs; off without a terminal.

    Args:
        trainer: the training engine.

    Returns:
        The bar, whose ``log_message`` prints without tearing it.
    """
    started: dict[str, float] = {}

    def start(engine: Engine) -> None:
        started.update(at=time.perf_counter(), iteration=engine.state.iteration)

    def show(engine: Engine) -> None:
        state = engine.state
        done = state.iteration - started["iteration"]
        left = state.max_epochs * state.epoch_length - state.iteration
        state.run_left = duration((time.perf_counter() - started["at"]) / done * left)
        state.loss = f"{float(state.output['loss']):.3f}"

    bar = ProgressBar(bar_format="{desc} {percentage:3.0f}%|{bar}|{postfix}", ncols=80, disable=None)
    if sys.stderr.isatty():
        trainer.add_event_handler(Events.STARTED, start)
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=BAR_EVERY), show)
        bar.attach(
            trainer, event_name=Events.ITERATION_COMPLETED(every=BAR_EVERY), state_attributes=["loss", "run_left"]
        )
    return bar


def attach_epoch_table(trainer: Engine, history: History, *, say: Callable[[str], None]) -> None:
    """Print a row of the table after every epoch, and the header before the first.

    Args:
        trainer: the training engine.
        history: one row an epoch.
        say: prints a line.
    """
    header = f"{'epoch':>7} {'loss':>8} {'ce':>8} {'kd':>8} {'train':>8} {'val':>8} {'lr':>9} {'s':>7} {'images/s':>9}"
    trainer.add_event_handler(Events.STARTED, lambda _: say(header))

    def show(engine: Engine) -> None:
        row = history.rows[-1]
        kd = f"{row['kd']:8.4f}" if row["kd"] is not None else f"{'-':>8}"
        epoch = f"{row['epoch']}/{engine.state.max_epochs}"
        say(
            f"{epoch:>7} {row['loss']:8.4f} {row['ce']:8.4f} {kd} {row['accuracy_train']:8.2%} "
            f"{row['accuracy_val']:8.2%} {row['lr']:9.2g} {row['seconds']:7.1f} {row['images_per_s']:9.0f}"
        )

    trainer.add_event_handler(Events.EPOCH_COMPLETED, show)


def duration(seconds: float) -> str:
    """A time for people.

    Args:
        seconds: at least 0.

    Returns:
        ``m:ss`` or ``h:mm:ss``.
    """
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _writer(run_dir: Path) -> Callable[[Mapping[str, Any], str], None]:
    """A save handler that replaces a file by renaming; Ignite's deletes the old file before it writes the new one."""

    def write(payload: Mapping[str, Any], filename: str) -> None:
        checkpoints.write(run_dir / filename, payload)

    return write


def _plot(writer: SummaryWriter, row: Row) -> None:
    epoch = int(row["epoch"] or 0)
    for name, value in row.items():
        tag = COLUMNS.get(name, name)
        if name not in NOT_PLOTTED and value is not None and math.isfinite(value):
            writer.add_scalar(tag, value, epoch)
