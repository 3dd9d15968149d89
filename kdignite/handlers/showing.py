"""Handlers that show the run: CSV file, TensorBoard, progress bar, table."""

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from torch.utils.tensorboard import SummaryWriter

from kdignite import files
from kdignite.handlers.saving import reason
from kdignite.handlers.state import COLUMNS, History, Row, parts_of, tag_of

BAR_EVERY = 10  # iterations
WARM_UP = 3  # iterations that choose kernels and allocate memory
TIMED_S = 3.0  # seconds of steps from which the time of a run is estimated
NOT_PLOTTED = ("epoch", "seconds")
# TensorBoard's custom scalars: curves of one kind in one chart; the same in every run, since it merges them
CHARTS = {
    "training": {
        "accuracy": ["Multiline", ["accuracy/(train|val|teacher)$"]],
        "loss": ["Multiline", ["loss/(train|val)$"]],
        "parts of the loss": ["Multiline", ["loss/(?!(train|val)$)"]],
        "recall of the classes": ["Multiline", ["recall/"]],
    }
}


def attach_metrics_csv(trainer: Engine, history: History, *, path: Path, say: Callable[[str], None] = print) -> None:
    """Write the history to a CSV file, whole, after every epoch: it never disagrees with the history."""
    write = _tolerating_full_disk(lambda: write_csv(path, history.rows), what=str(path), say=say)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, write)


def write_csv(path: Path, rows: Iterable[Row]) -> None:
    """Write rows of a history, completely or not at all."""
    text, rows = io.StringIO(newline=""), list(rows)
    epoch, loss, *others = COLUMNS
    writer = csv.DictWriter(text, [epoch, loss, *parts_of(rows), *others], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(path, text.getvalue())


def attach_tensorboard(
    trainer: Engine, history: History, writer: SummaryWriter, *, say: Callable[[str], None] = print
) -> None:
    """Write every row by torch's writer: Ignite's logger has another layout where tensorboardX is installed."""

    def plot_last() -> None:
        _plot(writer, history.rows[-1])
        writer.flush()

    def plot_earlier() -> None:
        writer.add_custom_scalars(CHARTS)
        for row in history.rows:
            _plot(writer, row)
        writer.flush()

    _tolerating_full_disk(plot_earlier, what="TensorBoard's file", say=say)()
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, _tolerating_full_disk(plot_last, what="TensorBoard's file", say=say)
    )


def attach_progress_bar(trainer: Engine, *, every: int = BAR_EVERY) -> Callable[[str], None]:
    """A bar for each epoch with the loss and the time that the whole run still needs; off without a terminal."""
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
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=every), show)
        bar.attach(trainer, event_name=Events.ITERATION_COMPLETED(every=every), state_attributes=["loss", "run_left"])

    def say(line: str) -> None:
        bar.log_message(line)
        sys.stdout.flush()

    return say


class Remaining(NamedTuple):
    """What a run still has to do."""

    steps: float  # evaluations included
    spent_s: float = 0.0  # seconds that cached teacher logits have taken so far, of which steps are free
    cache_s: float = 0.0  # seconds that those which are missing will take


class Look(NamedTuple):
    """The time after a step."""

    iteration: int
    at: float  # seconds
    remaining: Remaining


def attach_time_estimate(
    trainer: Engine, remaining: Callable[[int], Remaining], *, every: int, say: Callable[[str], None]
) -> None:
    """Print once how long the rest of the run takes, from its first steps; with a terminal the bar shows it."""
    first, looks = trainer.state.iteration + WARM_UP, list[Look]()

    def look(engine: Engine) -> None:
        iteration, now = engine.state.iteration, time.perf_counter()
        if len(looks) == 2 or iteration < first or (looks and now < looks[0].at + TIMED_S):
            return
        looks.append(Look(iteration, now, remaining(iteration)))
        if len(looks) == 2:
            left, steps = duration(_seconds_left(*looks)), f"{looks[0].iteration + 1:,} to {iteration:,}"
            say(f"time      about {left} left on this machine, estimated from steps {steps}")

    if not sys.stderr.isatty():
        trainer.add_event_handler(Events.ITERATION_COMPLETED(every=every), look)


def _seconds_left(before: Look, now: Look) -> float:
    in_steps = now.at - before.at - (now.remaining.spent_s - before.remaining.spent_s)
    a_step = in_steps / (before.remaining.steps - now.remaining.steps)
    return a_step * now.remaining.steps + now.remaining.cache_s


def attach_epoch_table(trainer: Engine, history: History, *, say: Callable[[str], None]) -> None:
    """Print a row after every epoch, and before the first of this process the names of the columns."""
    is_begun = False

    def show(engine: Engine) -> None:
        nonlocal is_begun
        row, parts = history.rows[-1], parts_of(history.rows)
        if not is_begun:
            names = "".join(f" {part:>8}" for part in parts)
            say(f"{'epoch':>7} {'loss':>8}{names} {'train':>8} {'val':>8} {'lr':>9} {'s':>7} {'images/s':>9}")
        is_begun = True
        epoch = f"{row['epoch']}/{engine.state.max_epochs}"
        values = "".join(f" {row[part]:{max(8, len(part))}.4f}" for part in parts)
        say(
            f"{epoch:>7} {row['loss']:8.4f}{values} {row['accuracy_train']:8.2%} "
            f"{row['accuracy_val']:8.2%} {row['lr']:9.2g} {row['seconds']:7.1f} {row['images_per_s']:9.0f}"
        )

    trainer.add_event_handler(Events.EPOCH_COMPLETED, show)


def duration(seconds: float) -> str:
    """A time for people."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _tolerating_full_disk(write: Callable[[], None], *, what: str, say: Callable[[str], None]) -> Callable[[], None]:
    """The same, but a log that cannot be written is one warning and does not stop the training."""
    warned = False

    def attempt() -> None:
        nonlocal warned
        try:
            write()
        except OSError as error:
            if not warned:
                say(f"warning   {what} cannot be written ({reason(error)}): the training goes on without")
            warned = True

    return attempt


def _plot(writer: SummaryWriter, row: Row) -> None:
    epoch = int(row["epoch"] or 0)
    for name, value in row.items():
        if name not in NOT_PLOTTED and value is not None and math.isfinite(value):
            writer.add_scalar(tag_of(name), value, epoch)
