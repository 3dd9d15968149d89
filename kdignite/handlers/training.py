"""Handlers that act on the training itself: rate, seeds, sums, guard, validation, history."""

import math
from collections.abc import Callable

import torch
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from kdignite import metrics, processes
from kdignite.errors import RunFailed
from kdignite.evaluation import Outcome
from kdignite.handlers.state import RECALL, Clock, EpochSums, History, Row, per_image
from kdignite.schedules import LearningRate, set_learning_rate
from kdignite.streams import seed_device

GUARD_EVERY = 50  # iterations between two looks at the loss: each look waits for a GPU
RECALL_CLASSES = 20  # above that, a curve for each class is no help


class LossNotFinite(RunFailed):
    """The mean loss of the open epoch is no number any more, or no epoch had a validation loss that is one."""

    def __init__(self, message: str, loss: float = math.nan) -> None:
        super().__init__(message)
        self.loss = loss


def attach_learning_rate(trainer: Engine, optimizer: Optimizer, *, lr_at: LearningRate) -> None:
    """Set the learning rate of every step as a function of its number: there is no scheduler's state to resume."""

    def set_rate(engine: Engine) -> None:
        set_learning_rate(optimizer, lr_at(engine.state.iteration - 1))

    trainer.add_event_handler(Events.ITERATION_STARTED, set_rate)


def attach_step_seed(trainer: Engine, *, seed: int, device: torch.device) -> None:
    """Seed Dropout and its kind before every step, from (seed, iteration), and the rank where it is not 0."""
    of_rank = () if processes.is_rank0() else (processes.rank(),)
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda engine: seed_device(device, "step", seed, engine.state.iteration, *of_rank)
    )


def attach_epoch_sums(trainer: Engine, *, device: torch.device) -> EpochSums:
    """Sum the parts that the step returns over the images of each epoch."""
    sums = EpochSums(device)

    def add(engine: Engine) -> None:
        sums.add(engine.state.output, num_images=len(engine.state.batch.labels))

    trainer.add_event_handler(Events.ITERATION_COMPLETED, add)
    return sums


def attach_nan_guard(trainer: Engine, sums: EpochSums, *, advice: str) -> None:
    """Stop a run whose loss is no number any more, before anything of it is saved.

    A sum that took in one infinite or undefined loss stays so; reading it every `GUARD_EVERY` iterations and at the end
    of an epoch is enough. (Ignite's TerminateOnNan ends a run as if it had succeeded.)
    """

    def guard(engine: Engine) -> None:
        loss = sums.means()["loss"]
        if not math.isfinite(loss):
            state = engine.state
            raise LossNotFinite(
                f"the loss is not a finite number any more (epoch {state.epoch}, iteration {state.iteration}, "
                f"{advice}): try a lower --lr, or --grad_clip=1; checkpoints of earlier epochs are kept",
                loss=loss,
            )

    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=GUARD_EVERY) | Events.EPOCH_COMPLETED, guard)


def attach_clock(trainer: Engine) -> Clock:
    """Measure the time of the steps of each epoch; attached before the validation, it leaves that out."""
    clock = Clock()
    trainer.add_event_handler(Events.EPOCH_STARTED, clock.start)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, clock.pause)
    return clock


def attach_validation(trainer: Engine, *, validate: Callable[[], Outcome]) -> None:
    """Evaluate on the validation images after every epoch, into ``trainer.state.metrics``."""

    def run(engine: Engine) -> None:
        outcome = validate()
        scores = metrics.class_scores(outcome.confusion.numpy())
        recall = zip(scores.recall.tolist(), scores.support.tolist(), strict=True)
        engine.state.metrics.update(
            accuracy_val=outcome.num_correct / len(outcome.labels) if outcome.is_finite else math.nan,
            correct_val=outcome.num_correct,
            images_val=len(outcome.labels),
            loss_val=outcome.loss,
            recall_val=[value if support else None for value, support in recall],
        )

    trainer.add_event_handler(Events.EPOCH_COMPLETED, run)


def attach_history(
    trainer: Engine,
    sums: EpochSums,
    clock: Clock,
    *,
    lr_at: LearningRate,
    classes: tuple[str, ...],
    accuracy_teacher: float | None,
) -> History:
    """Make a row of every epoch, from the sums of its steps and the validation after it."""
    history = History()

    def record(engine: Engine) -> None:
        state, seconds, totals = engine.state, clock.epoch(), sums.totals()
        means = per_image(totals)
        loss, correct = means.pop("loss"), means.pop("correct")
        row: Row = {
            "epoch": state.epoch,
            "loss": loss,
            **means,
            "accuracy_train": correct,
            "loss_val": state.metrics["loss_val"],
            "accuracy_val": state.metrics["accuracy_val"],
            "accuracy_teacher": accuracy_teacher,
            "lr": lr_at(state.iteration - 1),
            "seconds": round(seconds, 3),
            "images_per_s": round(totals["images"] / seconds, 1),
        }
        recall = zip(classes, state.metrics["recall_val"], strict=True)
        row |= {f"{RECALL}{name}": value for name, value in recall if len(classes) <= RECALL_CLASSES}
        history.rows.append(row)
        sums.reset()
        clock.reset()

    trainer.add_event_handler(Events.EPOCH_COMPLETED, record)
    return history
