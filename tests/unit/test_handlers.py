"""Handlers on engines whose steps return made-up numbers: nothing is trained here."""

import csv
import io
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from kdignite import checkpoints, files, handlers, stopping
from kdignite.errors import RunFailed
from kdignite.evaluation import Outcome
from kdignite.handlers import saving, showing, state
from kdignite.training import trainer as trainer_module

CPU = torch.device("cpu")
NAN = math.nan
SIZES = (4, 4, 2)  # images in the batches of an epoch: the last one is smaller


class FakeBatch(NamedTuple):
    labels: Tensor


def batches(epochs: int, sizes: tuple[int, ...] = SIZES) -> Iterator[FakeBatch]:
    return (FakeBatch(torch.zeros(size)) for _ in range(epochs) for size in sizes)


def run(trainer: Engine, epochs: int, sizes: tuple[int, ...] = SIZES, *, done: int = 0) -> Any:
    """Run to the end of an epoch; ``done`` epochs were run by another engine before."""
    return trainer.run(batches(epochs - done, sizes), max_epochs=epochs, epoch_length=len(sizes))


def parts(iteration: int) -> dict[str, float]:
    """What the step of an iteration returns; 0.25 + ... is exact in float32."""
    return {"loss": 0.25 * iteration, "ce": 3.5 - iteration, "kd": 0.125 * iteration**2, "correct": iteration % 3}


def step(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
    return {name: torch.tensor(value) for name, value in parts(engine.state.iteration).items()}


def silent(process: Callable[[Engine, Any], Any]) -> Engine:
    trainer = Engine(process)
    trainer.logger.disabled = True
    return trainer


@pytest.fixture
def trainer() -> Engine:
    return silent(step)


def loss_of(values: Mapping[int, float]) -> Engine:
    """An engine whose loss is 1, save for the given iterations."""
    return silent(lambda engine, _: {"loss": torch.tensor(values.get(engine.state.iteration, 1.0))})


def outcome(correct: int, total: int = 10, *, finite: bool = True, num_classes: int = 2) -> Outcome:
    """An evaluation in which the first images are right and the others wrong; all are of class 0."""
    predicted = torch.tensor([0] * correct + [1] * (total - correct))
    logits = torch.eye(num_classes)[predicted] if finite else torch.full((total, num_classes), NAN)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    confusion[0, 0], confusion[0, 1] = correct, total - correct
    labels = torch.zeros(total, dtype=torch.int64)
    return Outcome(logits, labels, torch.arange(total), confusion, 0.5 if finite else NAN)


def attach_scores(trainer: Engine, accuracies: list[float], losses: Sequence[float] | None = None) -> None:
    """In place of a validation: the accuracy and the loss of each epoch, the same in all where none are given."""

    def score(engine: Engine) -> None:
        at = engine.state.epoch - 1
        engine.state.metrics.update(accuracy_val=accuracies[at], loss_val=losses[at] if losses else 1.0)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, score)


def attach_rows(
    trainer: Engine,
    outcomes: list[Outcome],
    *,
    classes: tuple[str, ...] = ("cat", "dog"),
    accuracy_teacher: float | None = 0.75,
) -> handlers.History:
    """Everything that a row of the history needs."""
    sums = handlers.attach_epoch_sums(trainer, device=CPU)
    clock = handlers.attach_clock(trainer)
    handlers.attach_validation(trainer, validate=iter(outcomes).__next__)
    return handlers.attach_history(
        trainer, sums, clock, lr_at=lambda at: 0.5**at, classes=classes, accuracy_teacher=accuracy_teacher
    )


def resumed(trainer: Engine, *, epochs: int, epoch_length: int = len(SIZES)) -> Engine:
    """The engine as if it had run these epochs already."""
    trainer.load_state_dict({"iteration": epochs * epoch_length, "epoch_length": epoch_length, "max_epochs": 100})
    return trainer


def failing(error: BaseException) -> Callable[..., NoReturn]:
    def call(*_: object, **__: object) -> NoReturn:
        raise error

    return call


FULL = OSError(28, "No space left on device")


def attach_best(
    trainer: Engine,
    folder: Path,
    *,
    payload: Callable[[], dict[str, Any]] | None = None,
    score: handlers.Score | None = None,
    say: Callable[[str], object] = print,
) -> handlers.BestFile:
    """``best.safetensors``, which holds the number of its epoch where nothing else is asked for."""
    file = handlers.BestFile(folder / "best.safetensors", say=say)
    make = payload or (lambda: {"epoch": trainer.state.epoch})
    handlers.attach_best_checkpoint(trainer, file, payload=make)
    file.score = score
    return file


def attach_last(trainer: Engine, folder: Path, *, every_s: float = 3600.0, **parts: Any) -> None:
    """``last.safetensors`` with the states of all parts."""

    def save() -> None:
        states = {name: part.state_dict() for name, part in {"trainer": trainer, **parts}.items()}
        checkpoints.write(folder / "last.safetensors", states)

    handlers.attach_saving(trainer, save, every_s=every_s)


# --- learning rate and seeds


def rates_of(start: int, epochs: int) -> list[list[float]]:
    """Learning rates of both groups at every step from epoch ``start`` on."""
    values = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [value]} for value in values], lr=99.0)
    seen: list[list[float]] = []
    trainer = silent(lambda engine, batch: seen.append([group["lr"] for group in optimizer.param_groups]))
    handlers.attach_learning_rate(trainer, optimizer, lr_at=lambda at: 1 / (at + 1))
    run(resumed(trainer, epochs=start) if start else trainer, epochs, done=start)
    return seen


def test_the_rate_of_every_group_is_set_before_each_step_from_the_step_alone() -> None:
    assert rates_of(0, 2) == [[1 / (at + 1)] * 2 for at in range(6)]


def test_the_rate_goes_on_where_a_run_goes_on() -> None:
    assert rates_of(2, 4) == rates_of(0, 4)[6:]


def masks_of(seed: int, *, start: int = 0, epochs: int = 3, disturb: bool = False) -> list[Tensor]:
    """Dropout masks at every step."""
    masks: list[Tensor] = []

    def process(engine: Engine, batch: FakeBatch) -> None:
        masks.append(torch.nn.functional.dropout(torch.ones(64), 0.5))
        if disturb:
            torch.randn(int(engine.state.iteration) * 7)

    trainer = silent(process)
    handlers.attach_step_seed(trainer, seed=seed, device=CPU)
    if disturb:
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: torch.manual_seed(5))
    run(resumed(trainer, epochs=start) if start else trainer, epochs, done=start)
    return masks


def test_dropout_is_a_function_of_seed_and_iteration_alone() -> None:
    masks = masks_of(1)
    torch.manual_seed(1234)
    assert all(map(torch.equal, masks, masks_of(1, disturb=True)))
    assert all(map(torch.equal, masks[6:], masks_of(1, start=2)))
    assert len({tuple(mask.tolist()) for mask in masks + masks_of(2)}) == 2 * len(masks)


# --- sums


def test_means_are_weighted_by_images_and_correct_is_a_share(trainer: Engine) -> None:
    history = attach_rows(trainer, [outcome(5)] * 2)
    run(trainer, 2)
    for epoch, row in enumerate(history.rows):
        values = [parts(3 * epoch + index + 1) for index in range(3)]
        for column, name in (("loss", "loss"), ("ce", "ce"), ("kd", "kd")):
            expected = np.average([value[name] for value in values], weights=SIZES)
            assert row[column] == pytest.approx(expected, rel=1e-12)
        assert row["accuracy_train"] == pytest.approx(sum(value["correct"] for value in values) / sum(SIZES))


def test_sums_stay_exact_over_many_small_terms() -> None:
    sums = handlers.EpochSums(CPU)
    for _ in range(20_000):
        sums.add({"loss": torch.tensor(0.1), "correct": torch.tensor(1)}, num_images=3)
    assert sums.means()["loss"] == pytest.approx(float(torch.tensor(0.1)), rel=1e-11)
    assert sums.means()["correct"] == pytest.approx(1 / 3, rel=1e-15)


def test_sums_keep_no_graph_and_no_mean_of_the_images() -> None:
    sums = handlers.EpochSums(CPU)
    sums.add({"loss": torch.tensor(2.0)}, num_images=4)
    assert not sums.sums.requires_grad
    assert sums.means() == {"loss": 2.0}


def test_open_sums_go_on_from_a_file(tmp_path: Path) -> None:
    whole, first, second = (handlers.EpochSums(CPU) for _ in range(3))
    terms = [({"loss": torch.tensor(0.1 * index), "correct": torch.tensor(index)}, index + 1) for index in range(6)]
    for index, (term, num_images) in enumerate(terms):
        whole.add(term, num_images=num_images)
        (first if index < 3 else second).add(term, num_images=num_images)
        if index == 2:
            checkpoints.write(tmp_path / "last.safetensors", {"sums": first.state_dict()})
            second.load_state_dict(checkpoints.read(tmp_path / "last.safetensors")["sums"])
    assert second.means() == whole.means()
    assert first.means() != whole.means()


def test_saved_sums_may_come_in_another_order() -> None:
    parts = {"loss": torch.tensor(4.0), "kd": torch.tensor(2.0), "correct": torch.tensor(1)}
    first, second = handlers.EpochSums(CPU), handlers.EpochSums(CPU)
    first.add(parts, num_images=3)
    second.load_state_dict(dict(reversed(first.state_dict().items())))
    second.add(parts, num_images=3)
    assert second.means() == {"loss": 4.0, "kd": 2.0, "correct": 1 / 3}


def test_a_new_epoch_starts_with_empty_sums() -> None:
    sums = handlers.EpochSums(CPU)
    sums.add({"loss": torch.tensor(5.0)}, num_images=1)
    sums.reset()
    sums.add({"loss": torch.tensor(1.0)}, num_images=2)
    assert sums.means() == {"loss": 1.0}


# --- NaN guard


def guarded(trainer: Engine, *, advice: str = "lr=0.1") -> list[int]:
    """The epochs in which something after the guard acted."""
    acted: list[int] = []
    sums = handlers.attach_epoch_sums(trainer, device=CPU)
    handlers.attach_nan_guard(trainer, sums, advice=advice)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: acted.append(engine.state.epoch))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: sums.reset())
    return acted


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("broken", "length", "told"),
    [
        (1, 200, "epoch 1, iteration 50"),
        (50, 200, "epoch 1, iteration 50"),
        (51, 200, "epoch 1, iteration 100"),
        (5, 7, "epoch 1, iteration 7"),
        (10, 7, "epoch 2, iteration 14"),
        (120, 60, "epoch 2, iteration 120"),
    ],
)
def test_a_loss_that_is_no_number_stops_the_run_before_anything_acts_on_it(
    value: float, broken: int, length: int, told: str
) -> None:
    trainer = loss_of({broken: value})
    acted = guarded(trainer, advice="lr=0.1, alpha=0.9, T=4")
    with pytest.raises(RunFailed) as caught:
        run(trainer, 3, (2,) * length)
    assert str(caught.value) == (
        f"the loss is not a finite number any more ({told}, lr=0.1, alpha=0.9, T=4): "
        "try a lower --lr, or --grad_clip=1; checkpoints of earlier epochs are kept"
    )
    assert trainer.state.iteration < broken + handlers.GUARD_EVERY
    assert acted == list(range(1, (broken - 1) // length + 1))


def test_a_later_good_loss_does_not_hide_a_bad_one() -> None:
    trainer = loss_of({2: math.inf, 3: -math.inf})
    guarded(trainer)
    with pytest.raises(RunFailed):
        run(trainer, 1, (1,) * 10)


def test_a_finite_loss_however_large_goes_on() -> None:
    trainer = loss_of({2: 1e38, 3: -1e38})
    acted = guarded(trainer)
    run(trainer, 2, (4,) * 60)
    assert acted == [1, 2]


def test_files_of_earlier_epochs_stay_when_the_guard_stops_a_run(tmp_path: Path) -> None:
    trainer = loss_of({5: NAN})
    validated: list[int] = []
    sums = handlers.attach_epoch_sums(trainer, device=CPU)
    handlers.attach_nan_guard(trainer, sums, advice="lr=0.1")

    def validate() -> Outcome:
        validated.append(trainer.state.epoch)
        return outcome(5)

    handlers.attach_validation(trainer, validate=validate)
    attach_best(trainer, tmp_path)
    attach_last(trainer, tmp_path, sums=sums)
    with pytest.raises(RunFailed):
        run(trainer, 3)
    assert validated == [1]
    assert checkpoints.read(tmp_path / "best.safetensors")["epoch"] == 1
    assert checkpoints.read(tmp_path / "last.safetensors")["trainer"]["iteration"] == 3


# --- validation and history


def test_a_validation_gives_counts_and_recall(trainer: Engine) -> None:
    handlers.attach_validation(trainer, validate=lambda: outcome(7))
    found = run(trainer, 1).metrics
    assert (found["accuracy_val"], found["correct_val"], found["images_val"], found["loss_val"]) == (0.7, 7, 10, 0.5)
    assert found["recall_val"] == [0.7, None]  # of a class without images there is none


def test_a_validation_of_a_dead_model_has_no_accuracy(trainer: Engine) -> None:
    handlers.attach_validation(trainer, validate=lambda: outcome(10, finite=False))
    found = run(trainer, 1).metrics
    assert math.isnan(found["accuracy_val"])
    assert found["correct_val"] == 0


def test_each_epoch_is_validated_once_also_the_last_one(trainer: Engine) -> None:
    seen: list[int] = []

    def validate() -> Outcome:
        seen.append(trainer.state.epoch)
        return outcome(5)

    handlers.attach_validation(trainer, validate=validate)
    run(trainer, 3)
    assert seen == [1, 2, 3]


def test_a_row_holds_the_numbers_of_its_own_epoch(trainer: Engine) -> None:
    history = attach_rows(trainer, [outcome(2), outcome(8)])
    run(trainer, 2)
    first, second = history.rows
    names = [*with_parts("ce", "kd"), "recall/cat", "recall/dog"]
    assert list(first) == list(second) == names
    assert [row["epoch"] for row in history.rows] == [1, 2]
    assert [row["accuracy_val"] for row in history.rows] == [0.2, 0.8]
    assert [row["recall/cat"] for row in history.rows] == [0.2, 0.8]
    assert [row["lr"] for row in history.rows] == [0.5**2, 0.5**5]  # of the last step of the epoch
    assert [row["accuracy_teacher"] for row in history.rows] == [0.75, 0.75]


def test_a_run_without_a_teacher_has_neither_kd_nor_its_accuracy() -> None:
    trainer = silent(lambda engine, batch: {key: value for key, value in step(engine, batch).items() if key != "kd"})
    history = attach_rows(trainer, [outcome(5)], accuracy_teacher=None)
    run(trainer, 1)
    assert "kd" not in history.rows[0]
    assert history.rows[0]["accuracy_teacher"] is None


@pytest.mark.parametrize(("num_classes", "shown"), [(20, 20), (21, 0)])
def test_recall_has_a_column_for_each_of_few_classes_only(trainer: Engine, num_classes: int, shown: int) -> None:
    classes = tuple(f"c{index}" for index in range(num_classes))
    history = attach_rows(trainer, [outcome(5, num_classes=num_classes)], classes=classes)
    run(trainer, 1)
    assert sum(name.startswith("recall/") for name in history.rows[0]) == shown


def test_the_clock_measures_the_steps_of_one_epoch_without_its_validation() -> None:
    def slow_step(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        time.sleep(0.01)
        return step(engine, batch)

    trainer = silent(slow_step)
    sums, clock = handlers.attach_epoch_sums(trainer, device=CPU), handlers.attach_clock(trainer)

    def validate() -> Outcome:
        time.sleep(0.5)
        return outcome(5)

    handlers.attach_validation(trainer, validate=validate)
    history = handlers.attach_history(
        trainer, sums, clock, lr_at=lambda at: 0.1, classes=("cat", "dog"), accuracy_teacher=None
    )
    run(trainer, 2)
    for row in history.rows:
        assert 0.03 <= row["seconds"] < 0.5
        assert row["images_per_s"] == pytest.approx(sum(SIZES) / row["seconds"], rel=0.05)


class Watch:
    """A clock of which the test says how it runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5000.0
        monkeypatch.setattr(state, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def test_a_clock_counts_the_seconds_between_start_and_pause(watch: Watch) -> None:
    clock = handlers.Clock()
    watch.passes(1)
    assert (clock.epoch(), clock.run()) == (0, 1)
    clock.start()
    watch.passes(2)
    assert (clock.epoch(), clock.run()) == (2, 3)  # while it runs
    clock.pause()
    watch.passes(4)
    assert (clock.epoch(), clock.run()) == (2, 7)
    clock.start()
    watch.passes(8)
    clock.pause()
    clock.pause()
    assert (clock.epoch(), clock.run()) == (10, 15)
    clock.reset()
    assert (clock.epoch(), clock.run()) == (0, 15)
    clock.start()
    watch.passes(0.5)
    assert (clock.epoch(), clock.run()) == (0.5, 15.5)


@pytest.mark.parametrize("paused", [False, True])
def test_a_clock_goes_on_from_a_file_and_not_from_the_time_in_between(
    tmp_path: Path, watch: Watch, paused: bool
) -> None:
    first = handlers.Clock()
    watch.passes(3)
    first.start()
    watch.passes(4)
    if paused:
        first.pause()
    checkpoints.write(tmp_path / "last.safetensors", {"clock": first.state_dict()})
    assert checkpoints.read(tmp_path / "last.safetensors")["clock"] == {"epoch": 4, "run": 7}
    watch.now = 10.0  # another process, perhaps after a restart of the machine
    second = handlers.Clock()
    watch.passes(100)  # until the state is loaded
    second.load_state_dict(checkpoints.read(tmp_path / "last.safetensors")["clock"])
    assert (second.epoch(), second.run()) == (4, 7)
    watch.passes(2)
    assert (second.epoch(), second.run()) == (4, 9)  # its steps have not begun yet
    second.start()
    watch.passes(5)
    assert (second.epoch(), second.run()) == (9, 14)
    second.pause()
    assert second.state_dict() == {"epoch": 9, "run": 14}
    second.reset()
    assert second.state_dict() == {"epoch": 0, "run": 14}


def test_a_history_goes_on_from_a_file_and_shares_nothing_with_it(trainer: Engine, tmp_path: Path) -> None:
    history = attach_rows(trainer, [outcome(2), outcome(8, finite=False)])
    run(trainer, 2)
    checkpoints.write(tmp_path / "last.safetensors", {"history": history.state_dict()})
    again = handlers.History()
    again.load_state_dict(checkpoints.read(tmp_path / "last.safetensors")["history"])
    assert repr(again.rows) == repr(history.rows)  # NaN is in it, which equals nothing
    taken = history.state_dict()
    taken["rows"][0]["loss"] = -1.0
    assert history.rows[0]["loss"] != -1.0


# --- metrics.csv and TensorBoard


def test_the_csv_file_holds_the_rows(trainer: Engine, tmp_path: Path) -> None:
    history = attach_rows(trainer, [outcome(3), outcome(4, finite=False), outcome(9)], accuracy_teacher=None)
    handlers.attach_metrics_csv(trainer, history, path=tmp_path / "metrics.csv")
    lengths: list[int] = []
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: lengths.append(len((tmp_path / "metrics.csv").read_text().splitlines()))
    )
    run(trainer, 3)
    assert lengths == [2, 3, 4]
    with (tmp_path / "metrics.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == with_parts("ce", "kd")
    for row, texts in zip(history.rows, read, strict=True):
        for name, text in texts.items():
            value = row[name]
            assert text == "" if value is None else repr(float(text)) == repr(float(value))
    assert b"\r" not in (tmp_path / "metrics.csv").read_bytes()


def test_a_table_is_written_completely_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    handlers.write_csv(path, [{"epoch": 1, "loss": 0.5}])
    before = path.read_bytes()
    assert [row["loss"] for row in csv.DictReader(io.StringIO(before.decode()))] == ["0.5"]
    synced: list[bool] = []
    fsync = os.fsync

    def full_after_the_text(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(path.read_bytes() == before)
        raise FULL

    monkeypatch.setattr(os, "fsync", full_after_the_text)
    with pytest.raises(OSError, match="No space left"):
        handlers.write_csv(path, [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
    assert synced == [True]
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_row_of_a_table_may_lack_columns_and_have_others(tmp_path: Path) -> None:
    first: handlers.Row = {"epoch": 1, "loss": 1.0, "mse": 0.5, "lr": 0.1}
    rows = [first, {"epoch": 2, "loss": math.inf, "recall/cat": 0.5, "mse": None}]
    handlers.write_csv(tmp_path / "metrics.csv", rows)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        _, row = csv.DictReader(file)
    assert list(row) == with_parts("mse")
    assert {name: text for name, text in row.items() if text} == {"epoch": "2", "loss": "inf"}


def with_parts(*parts: str) -> list[str]:
    """The columns of a run whose loss has these parts."""
    epoch, loss, *others = handlers.COLUMNS
    return [epoch, loss, *parts, *others]


class Log(NamedTuple):
    """One of the logs of a run: how it is attached, what it writes with, and what it is called."""

    attach: Callable[[Engine, handlers.History, Path, SummaryWriter, list[str]], None]
    breaks: tuple[Any, str]
    name: str


LOGS = {
    "metrics.csv": Log(
        lambda trainer, history, folder, writer, said: handlers.attach_metrics_csv(
            trainer, history, path=folder / "metrics.csv", say=said.append
        ),
        (files, "write_atomically"),
        "{folder}/metrics.csv",
    ),
    "TensorBoard": Log(
        lambda trainer, history, folder, writer, said: handlers.attach_tensorboard(
            trainer, history, writer, say=said.append
        ),
        (SummaryWriter, "flush"),
        "TensorBoard's file",
    ),
}


@pytest.mark.parametrize("which", LOGS)
def test_a_log_that_cannot_be_written_is_told_once_and_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    log, trainer, said = LOGS[which], silent(step), []
    history = attach_rows(trainer, [outcome(correct) for correct in (3, 4, 5)])
    with SummaryWriter(str(tmp_path)) as writer:
        log.attach(trainer, history, tmp_path, writer, said)
        owner, name = log.breaks
        works = getattr(owner, name)
        full = failing(FULL)
        monkeypatch.setattr(owner, name, full)
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda _: monkeypatch.setattr(owner, name, works))
        run(trainer, 3)
        monkeypatch.setattr(owner, name, works)
    assert len(history.rows) == 3
    what = log.name.format(folder=tmp_path)
    assert said == [f"warning   {what} cannot be written (No space left on device): the training goes on without"]
    if which == "metrics.csv":  # where there is room again, nothing is missing
        assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("which", LOGS)
def test_a_bug_in_a_log_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    log, trainer, said = LOGS[which], silent(step), []
    history = attach_rows(trainer, [outcome(3)])
    with SummaryWriter(str(tmp_path)) as writer:
        log.attach(trainer, history, tmp_path, writer, said)
        with monkeypatch.context() as broken:
            broken.setattr(*log.breaks, failing(ValueError("a bug")))
            with pytest.raises(ValueError, match="a bug"):
                run(trainer, 1)
    assert said == []


def test_rows_of_a_run_that_goes_on_may_find_no_room_either(trainer: Engine, tmp_path: Path) -> None:
    history, said = handlers.History(), []
    history.load_state_dict({"rows": [{"epoch": 1, "loss": 9.0}]})
    with SummaryWriter(str(tmp_path)) as writer, pytest.MonkeyPatch.context() as full:
        full.setattr(SummaryWriter, "flush", failing(FULL))
        handlers.attach_tensorboard(trainer, history, writer, say=said.append)
    assert len(said) == 1


Curves = dict[str, list[tuple[int, float]]]


def curves_in(folder: Path) -> Curves:
    """What TensorBoard shows: tag -> (step, value) in the order of the file."""
    files = list(folder.glob("events.out.tfevents.*"))
    assert len(files) == 1
    events = EventAccumulator(str(files[0]), size_guidance={"scalars": 0}).Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def plotted(folder: Path, trainer: Engine, epochs: int, outcomes: list[Outcome], **options: Any) -> Curves:
    history = attach_rows(trainer, outcomes, **options)
    with SummaryWriter(str(folder)) as writer:
        handlers.attach_tensorboard(trainer, history, writer)
        run(trainer, epochs)
    curves = curves_in(folder)
    for tag, curve in curves.items():
        part = tag if tag.startswith("recall/") else tag.rpartition("/")[2]
        name = next((name for name, its in handlers.COLUMNS.items() if its == tag), part)
        assert curve == [
            (row["epoch"], pytest.approx(row[name], rel=1e-6))
            for row in history.rows
            if row[name] is not None and math.isfinite(row[name])
        ]
    return curves


SHARED = {"loss/train", "loss/ce", "loss/val", "accuracy/train", "accuracy/val", "lr", "images_per_s"}


def test_the_tags_are_those_of_every_run_and_the_steps_are_epochs(trainer: Engine, tmp_path: Path) -> None:
    curves = plotted(tmp_path, trainer, 3, [outcome(correct) for correct in (3, 5, 4)])
    assert set(curves) == SHARED | {"loss/kd", "accuracy/teacher", "recall/cat"}  # no dog is there
    assert all([at for at, _ in curve] == [1, 2, 3] for curve in curves.values())


def test_every_curve_of_a_run_has_a_place_in_the_custom_charts(trainer: Engine, tmp_path: Path) -> None:
    tags = plotted(tmp_path, trainer, 1, [outcome(3)])
    (charts,) = showing.CHARTS.values()
    shown = {tag for _, patterns in charts.values() for tag in tags if any(re.match(one, tag) for one in patterns)}
    assert shown == set(tags) - {"lr", "images_per_s"}
    events = EventAccumulator(str(next(tmp_path.glob("events*")))).Reload()
    (layout,) = events.Tensors("custom_scalars__config__")
    assert b"parts of the loss" in layout.tensor_proto.string_val[0]


def test_a_run_without_a_teacher_has_no_curves_of_one(tmp_path: Path) -> None:
    trainer = silent(lambda engine, batch: {key: value for key, value in step(engine, batch).items() if key != "kd"})
    curves = plotted(tmp_path, trainer, 1, [outcome(3)], accuracy_teacher=None)
    assert set(curves) == SHARED | {"recall/cat"}


def test_what_is_no_number_leaves_a_gap(trainer: Engine, tmp_path: Path) -> None:
    curves = plotted(tmp_path, trainer, 3, [outcome(3), outcome(3, finite=False), outcome(4)])
    assert [at for at, _ in curves["accuracy/val"]] == [1, 3]
    assert [at for at, _ in curves["loss/val"]] == [1, 3]
    assert [at for at, _ in curves["loss/train"]] == [1, 2, 3]


def test_rows_of_a_run_that_goes_on_are_plotted_again(trainer: Engine, tmp_path: Path) -> None:
    history = attach_rows(resumed(trainer, epochs=2), [outcome(6)])
    history.load_state_dict({"rows": [{"epoch": 1, "loss": 9.0}, {"epoch": 2, "loss": 8.0}]})
    with SummaryWriter(str(tmp_path)) as writer:
        handlers.attach_tensorboard(trainer, history, writer)
        run(trainer, 3, done=2)
    assert [at for at, _ in curves_in(tmp_path)["loss/train"]] == [1, 2, 3]


def test_a_curve_is_on_the_disk_after_each_epoch(trainer: Engine, tmp_path: Path) -> None:
    history = attach_rows(trainer, [outcome(correct) for correct in (6, 7, 8)])
    seen: list[int] = []
    with SummaryWriter(str(tmp_path)) as writer:
        handlers.attach_tensorboard(trainer, history, writer)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(len(curves_in(tmp_path)["accuracy/val"])))
        run(trainer, 3)
    assert seen == [1, 2, 3]


def test_the_writer_is_closed_and_keeps_its_curves_when_a_run_fails(tmp_path: Path) -> None:
    trainer = loss_of({5: NAN})
    sums = handlers.attach_epoch_sums(trainer, device=CPU)
    handlers.attach_nan_guard(trainer, sums, advice="lr=1")
    opened: list[SummaryWriter] = []

    def execute() -> None:
        with trainer_module.open_writer(tmp_path) as writer:
            opened.append(writer)
            trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: writer.add_scalar("x", trainer.state.epoch, 1))
            run(trainer, 3)

    with pytest.raises(RunFailed):
        execute()
    assert opened[0].all_writers is None  # what torch's writer sets when it is closed
    assert curves_in(tmp_path) == {"x": [(1, 1.0)]}


# --- best.safetensors and last.safetensors


def best_of(folder: Path, accuracies: list[float], losses: Sequence[float] | None = None) -> int | None:
    """The epoch whose weights are in ``best.safetensors``."""
    trainer = silent(step)
    attach_scores(trainer, accuracies, losses)
    attach_best(trainer, folder)
    run(trainer, len(accuracies))
    path = folder / "best.safetensors"
    return checkpoints.read(path)["epoch"] if path.exists() else None


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ([0.5, 0.9, 0.8], 2),
        ([0.5], 1),
        ([0.0, 0.0], 1),
        ([0.5, 0.9, 0.9, 0.9], 2),  # of equals the first
        ([0.50001, 0.50002, 0.50003], 3),  # equal at four digits
        ([NAN, 0.5, 0.9], 3),
        ([NAN, 0.0], 2),
        ([0.5, NAN, 0.4], 1),
        ([0.5, NAN, 0.6], 3),
        ([NAN, math.inf, 0.1], 3),
        ([NAN, NAN], None),
    ],
)
def test_the_first_best_epoch_with_a_finite_accuracy_is_kept(
    tmp_path: Path, accuracies: list[float], best: int | None
) -> None:
    assert best_of(tmp_path, accuracies) == best
    assert [file.name for file in tmp_path.iterdir()] == (["best.safetensors"] if best else [])


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ([0.5, 0.5, 0.5], [1.5, 1.2, 1.3], 2),
        ([0.5, 0.5, 0.5], [1.5, 1.5, 1.5], 1),
        ([0.5, 0.4, 0.5], [1.5, 0.1, 1.4], 3),  # the accuracy comes first
        ([NAN, 0.5, 0.5], [0.1, 1.5, 1.4], 3),
        ([0.5, 0.5], [1.5, NAN], 1),
    ],
)
def test_of_equal_accuracies_that_with_the_lower_loss_is_the_best(
    tmp_path: Path, accuracies: list[float], losses: list[float], best: int
) -> None:
    assert best_of(tmp_path, accuracies, losses) == best


@pytest.mark.parametrize(
    ("accuracy", "loss", "by"),
    [(0.7, 1.0, "first"), (0.8, 1.0, "first"), (0.8, 1.1, "first"), (0.8, 0.9, "second"), (0.81, 2.0, "second")],
)
def test_a_run_that_goes_on_knows_the_score_of_the_file_that_is_there(
    tmp_path: Path, accuracy: float, loss: float, by: str
) -> None:
    first, second = silent(step), resumed(silent(step), epochs=2)
    attach_scores(first, [0.4, 0.8])
    attach_best(first, tmp_path, payload=lambda: {"by": "first"})
    run(first, 2)
    attach_scores(second, [0.0, 0.0, accuracy], [1.0, 1.0, loss])
    attach_best(second, tmp_path, payload=lambda: {"by": "second"}, score=handlers.Score(0.8, -1.0))
    run(second, 3, done=2)
    assert checkpoints.read(tmp_path / "best.safetensors") == {"by": by}


@pytest.mark.parametrize("score", [None, handlers.Score(0.8, -1.0)])
def test_where_the_file_is_gone_the_best_epoch_to_come_takes_its_place(
    tmp_path: Path, score: handlers.Score | None
) -> None:
    trainer, said = silent(step), []
    attach_scores(trainer, [0.9, 0.3, 0.5, 0.4])
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=2), lambda _: (tmp_path / "best.safetensors").unlink(missing_ok=True)
    )
    attach_best(trainer, tmp_path, score=score, say=said.append)
    run(trainer, 4)
    assert checkpoints.read(tmp_path / "best.safetensors") == {"epoch": 3}
    gone = f"warning   {tmp_path / 'best.safetensors'} is gone: the best of the epochs to come takes its place"
    assert said == [gone] * (1 if score is None else 2)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_the_old_file_is_there_until_the_new_one_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    trainer, seen = silent(step), []
    attach_scores(trainer, [0.1, 0.2, 0.3])
    if name == "best.safetensors":
        attach_best(trainer, tmp_path)
    else:
        attach_last(trainer, tmp_path, history=handlers.History())
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        seen.append((tmp_path / name).exists())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    run(trainer, 3)
    assert seen == [False, True, True, True, True, True]  # file and folder, three times
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_best_file_that_cannot_be_made_is_a_bug_which_comes_out_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = silent(step)
    attach_scores(trainer, [0.1, 0.2])
    attach_best(trainer, tmp_path)
    run(trainer, 1)
    calls: list[Path] = []

    def fail(path: Path, payload: Mapping[str, Any]) -> None:
        calls.append(path)
        raise TypeError("no such thing")

    monkeypatch.setattr(checkpoints, "write", fail)
    with pytest.raises(TypeError, match="no such thing"):
        run(trainer, 2, done=1)
    assert calls == [tmp_path / "best.safetensors"]
    assert checkpoints.read(tmp_path / "best.safetensors") == {"epoch": 1}


class Owing(NamedTuple):
    """A run whose disk was full in some epochs: what it said in each, and which epoch its file held after each."""

    file: handlers.BestFile
    said: list[list[str]]
    held: list[int | None]


def owing(folder: Path, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], *, full: set[int]) -> Owing:
    trainer, weight = silent(step), torch.zeros(2)
    said: list[list[str]] = []
    held: list[int | None] = []
    write = checkpoints.write

    def disk(path: Path, payload: Mapping[str, Any]) -> None:
        if trainer.state.epoch in full:
            raise FULL
        write(path, payload)

    def look(_: Engine) -> None:
        path = folder / "best.safetensors"
        found = checkpoints.read(path) if path.exists() else None
        held.append(found["epoch"] if found else None)
        assert found is None or found["weights"]["w"].tolist() == [found["epoch"]] * 2

    monkeypatch.setattr(checkpoints, "write", disk)
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: said.append([]))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: weight.fill_(engine.state.epoch))
    attach_scores(trainer, accuracies)

    def make() -> dict[str, Any]:
        return {"epoch": trainer.state.epoch, "weights": {"w": weight}}

    file = attach_best(trainer, folder, payload=make, say=lambda line: said[-1].append(line))  # noqa: PLW0108 - late
    trainer.add_event_handler(Events.EPOCH_COMPLETED, look)
    run(trainer, len(accuracies))
    return Owing(file, said, held)


@pytest.mark.parametrize(
    ("accuracies", "full", "held"),
    [
        ([0.9, 0.8, 0.7], {1}, [None, 1, 1]),  # tried again though a worse one came, with the weights that it had
        ([0.9, 0.8, 0.7], {1, 2}, [None, None, 1]),
        ([0.5, 0.9, 0.7], {1, 2}, [None, None, 2]),  # of those owed the best one
        ([0.5, 0.9, 0.7], {2}, [1, 1, 2]),  # the earlier file stays until then
        ([0.5, 0.9, 0.95], {2}, [1, 1, 3]),
        ([0.9, NAN, 0.5], {1}, [None, 1, 1]),
        ([0.9, 0.8], {1, 2}, [None, None]),
    ],
)
def test_a_best_file_that_finds_no_room_is_kept_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accuracies: list[float], full: set[int], held: list[int | None]
) -> None:
    done = owing(tmp_path, monkeypatch, accuracies, full=full)
    assert done.held == held
    line = (
        f"warning   {tmp_path / 'best.safetensors'} cannot be written (No space left on device): "
        "it is tried again after each epoch"
    )
    assert done.said == [[line] if epoch == min(full) else [] for epoch in range(1, len(accuracies) + 1)]  # once
    assert (done.file.pending is None) == (len(accuracies) not in full)
    assert [path.name for path in tmp_path.iterdir()] == (["best.safetensors"] if done.held[-1] else [])


def test_another_reason_and_another_time_are_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    file = handlers.BestFile(tmp_path / "best.safetensors", say=said.append)
    denied = PermissionError(13, "Permission denied")
    for error, lines in ((FULL, 1), (FULL, 1), (denied, 2), (None, 2), (denied, 3)):
        with monkeypatch.context() as broken:
            if error:
                broken.setattr(checkpoints, "write", failing(error))
            file.put({"epoch": 1})
        assert len(said) == lines
        assert file.write_error == (error.strerror if error else "")


def test_a_best_file_owed_at_the_end_can_still_be_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = owing(tmp_path, monkeypatch, [0.4, 0.9], full={1, 2})
    monkeypatch.undo()
    done.file.flush()
    done.file.flush()
    assert checkpoints.read(tmp_path / "best.safetensors")["epoch"] == 2
    assert done.file.pending is None


@pytest.mark.parametrize(
    ("error", "told"),
    [(FULL, "No space left on device"), (OSError("PytorchStreamWriter failed"), "PytorchStreamWriter failed")],
)
def test_the_reason_why_a_file_cannot_be_written_is_told_in_words(error: OSError, told: str) -> None:
    assert handlers.reason(error) == told


# --- the complete state: when it is saved


def saves_of(every_s: float) -> list[str]:
    """What happens in a run, and where in it the state is saved."""
    trainer, log = silent(step), []
    handlers.attach_saving(trainer, lambda: log.append("save"), every_s=every_s)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: log.append(str(engine.state.iteration)))
    run(trainer, 2)
    return log


def test_without_a_pause_the_state_is_saved_after_every_step_and_again_when_the_epoch_is_over() -> None:
    first, second = (["1", "2", "3"], ["4", "5", "6"])
    expected = [[*(word for number in epoch for word in (number, "save")), "save"] for epoch in (first, second)]
    assert saves_of(0.0) == expected[0] + expected[1]


def test_with_a_long_pause_the_state_is_saved_when_an_epoch_is_over() -> None:
    assert saves_of(3600.0) == ["1", "2", "3", "save", "4", "5", "6", "save"]


def test_the_pause_is_counted_from_the_last_save(monkeypatch: pytest.MonkeyPatch) -> None:
    now, log = [100.0], []

    def timed(engine: Engine, batch: FakeBatch) -> None:
        now[0] += 10.0
        log.append(str(engine.state.iteration))

    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer = silent(timed)
    handlers.attach_saving(trainer, lambda: log.append("save"), every_s=20.0)
    run(trainer, 2, (1,) * 5)
    assert log == ["1", "2", "save", "3", "4", "save", "5", "save", "6", "7", "save", "8", "9", "save", "10", "save"]


def test_a_state_that_cannot_be_saved_comes_out_and_is_not_taken_for_saved() -> None:
    """What to do with it is for whoever saves to say."""
    trainer = silent(step)
    handlers.attach_saving(trainer, failing(FULL), every_s=0.0)
    with pytest.raises(OSError, match="No space left"):
        run(trainer, 1)
    assert trainer.state.iteration == 1


def test_the_last_file_holds_every_state_of_its_own_epoch(tmp_path: Path) -> None:
    trainer, model = silent(step), torch.nn.Linear(1, 1)
    history = attach_rows(trainer, [outcome(3), outcome(8), outcome(8)])
    patience = handlers.attach_early_stopping(trainer, patience=5)
    about = SimpleNamespace(state_dict=lambda: {"epoch": trainer.state.epoch})
    attach_last(trainer, tmp_path, model=model, history=history, early_stopping=patience, about=about)
    run(trainer, 3)
    found = checkpoints.read(tmp_path / "last.safetensors")
    assert set(found) == {"model", "trainer", "history", "early_stopping", "about"}
    assert torch.equal(found["model"]["weight"], model.weight)
    assert found["trainer"]["iteration"] == 9
    assert [row["epoch"] for row in found["history"]["rows"]] == [1, 2, 3]
    assert found["about"] == {"epoch": 3}
    assert (found["early_stopping"]["counter"], found["early_stopping"]["best_score"]) == (1, 0.8)


def test_within_an_epoch_the_state_has_its_open_sums_and_after_it_none(tmp_path: Path) -> None:
    trainer = silent(step)
    sums, clock = handlers.attach_epoch_sums(trainer, device=CPU), handlers.attach_clock(trainer)
    handlers.attach_validation(trainer, validate=lambda: outcome(5))
    history = handlers.attach_history(
        trainer, sums, clock, lr_at=lambda _: 0.1, classes=("cat", "dog"), accuracy_teacher=None
    )
    seen: list[tuple[int, float, int]] = []

    def save() -> None:
        seen.append((trainer.state.iteration, sums.totals()["images"], len(history.rows)))

    handlers.attach_saving(trainer, save, every_s=0.0)
    run(trainer, 2)
    assert seen == [
        *[(1, 4, 0), (2, 8, 0), (3, 10, 0), (3, 0, 1)],
        *[(4, 4, 1), (5, 8, 1), (6, 10, 1), (6, 0, 2)],
    ]


# --- stopping because somebody asked for it


def stopped(trainer: Engine, epochs: int = 3) -> int:
    """The number of the signal that stopped a run."""
    with pytest.raises(stopping.Stopped) as caught, stopping.graceful_stop():
        run(trainer, epochs)
    return caught.value.number


@pytest.mark.parametrize("iteration", [1, 2, 3, 4, 8])
def test_a_run_stops_after_the_iteration_in_which_it_was_asked_to(iteration: int) -> None:
    done: list[int] = []

    def asked(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        if engine.state.iteration == iteration:
            assert stopping.request_stop(signal.SIGTERM)
        return step(engine, batch)

    trainer = silent(asked)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: done.append(engine.state.iteration))
    handlers.attach_stop(trainer)
    assert stopped(trainer) == signal.SIGTERM
    assert done == list(range(1, iteration + 1))  # what else is due after the iteration is done first
    assert trainer.state.iteration == iteration


@pytest.mark.parametrize("iteration", [1, 2, 3, 4])
@pytest.mark.parametrize("within", [True, False])
def test_an_iteration_that_was_stopped_on_its_way_is_taken_back(iteration: int, within: bool) -> None:
    def asked(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        if engine.state.iteration == iteration:
            assert stopping.request_stop(signal.SIGTERM)
            if within:
                stopping.raise_if_requested()
        return step(engine, batch)

    trainer = silent(asked)
    roll_back = handlers.attach_iteration_rollback(trainer)
    handlers.attach_stop(trainer)
    stopped(trainer)
    assert trainer.state.iteration == iteration
    roll_back()
    assert trainer.state.iteration == iteration - within


def test_where_a_run_that_goes_on_is_stopped_in_its_first_step_nothing_more_is_done() -> None:
    def asked(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        assert stopping.request_stop(signal.SIGTERM)
        stopping.raise_if_requested()
        return step(engine, batch)

    trainer = resumed(silent(asked), epochs=2)
    before = trainer.state.iteration
    roll_back = handlers.attach_iteration_rollback(trainer)
    with pytest.raises(stopping.Stopped), stopping.graceful_stop():
        run(trainer, 3, done=2)
    roll_back()
    assert trainer.state.iteration == before > 0


def test_a_run_that_nobody_asks_goes_on() -> None:
    trainer = silent(step)
    handlers.attach_stop(trainer)
    with stopping.graceful_stop():
        assert run(trainer, 2).iteration == 6


def test_a_run_that_was_stopped_after_an_epochs_last_step_can_close_it() -> None:
    """Then it has the row that it would have had, and the next epoch follows."""
    whole, first = silent(step), silent(step)
    expected = attach_rows(whole, [outcome(3), outcome(8)])
    run(whole, 2)
    history = attach_rows(first, [outcome(3)])
    first.add_event_handler(Events.ITERATION_COMPLETED(once=3), failing(stopping.Stopped(2)))
    with pytest.raises(stopping.Stopped):
        run(first, 1)
    assert history.rows == []
    order: list[str] = []
    first.add_event_handler(Events.ITERATION_COMPLETED, lambda _: order.append("iteration"))
    first.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: order.append(f"epoch {engine.state.epoch}"))
    handlers.close_epoch(first)
    assert order == ["epoch 1"]
    timeless = [{name: row[name] for name in row if name not in ("seconds", "images_per_s")} for row in history.rows]
    assert timeless == [{name: value for name, value in expected.rows[0].items() if name in timeless[0]}]


# --- early stopping


def epochs_of(accuracies: list[float], *, patience: int) -> int:
    """Epochs until the run stops."""
    trainer = silent(step)
    attach_scores(trainer, accuracies)
    handlers.attach_early_stopping(trainer, patience=patience)
    return int(run(trainer, len(accuracies)).epoch)


@pytest.mark.parametrize(
    ("accuracies", "patience", "epochs"),
    [
        ([0.5] * 10, 2, 3),
        ([0.9, 0.8, 0.7, 0.6], 2, 3),
        ([0.1, 0.2, 0.3, 0.4, 0.5], 1, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.7], 2, 5),  # a better one starts the count anew
        ([0.5, 0.50000001, 0.50000002], 1, 3),
        ([NAN] * 6, 2, 3),
        ([NAN, 0.5, NAN, NAN, 0.9], 2, 4),
        ([0.5, NAN, 0.4, 0.9], 2, 3),  # 0.4 is no improvement, although it beats NaN
        ([0.5, 0.4, NAN, 0.9], 2, 3),
        ([0.5, math.inf, 0.4], 2, 3),
    ],
)
def test_a_run_stops_after_patience_epochs_without_a_better_one(
    accuracies: list[float], patience: int, epochs: int
) -> None:
    assert epochs_of(accuracies, patience=patience) == epochs


def test_the_count_goes_on_where_a_run_goes_on(tmp_path: Path) -> None:
    first, second = silent(step), resumed(silent(step), epochs=3)
    attach_scores(first, [0.9, 0.8, 0.8])
    attach_last(first, tmp_path, early_stopping=handlers.attach_early_stopping(first, patience=4))
    run(first, 3)
    attach_scores(second, [0.0] * 3 + [0.85] * 7)
    again = handlers.attach_early_stopping(second, patience=4)
    again.load_state_dict(checkpoints.read(tmp_path / "last.safetensors")["early_stopping"])
    assert again.counter == 2
    assert run(second, 10, done=3).epoch == 5


def test_what_is_attached_later_still_sees_the_epoch_in_which_a_run_stops(tmp_path: Path) -> None:
    trainer = silent(step)
    attach_scores(trainer, [0.5] * 9)
    handlers.attach_early_stopping(trainer, patience=1)
    attach_last(trainer, tmp_path)
    run(trainer, 9)
    assert checkpoints.read(tmp_path / "last.safetensors")["trainer"]["iteration"] == 6


# --- what is shown


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        return True


def test_without_a_terminal_there_is_no_bar(trainer: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    handlers.attach_progress_bar(trainer)
    state = run(trainer, 2, (4,) * 30)
    assert capfd.readouterr() == ("", "")
    assert not hasattr(state, "run_left")  # and the loss is not read, for which a GPU would wait


def test_a_line_can_be_printed_without_a_terminal(trainer: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    handlers.attach_progress_bar(trainer)("a line")
    assert capsys.readouterr() == ("a line\n", "")


def test_a_terminal_shows_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_step(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        time.sleep(0.012)  # a bar is drawn every tenth of a second at most
        return step(engine, batch)

    trainer, screen = silent(slow_step), Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    handlers.attach_progress_bar(trainer)
    run(trainer, 2, (4,) * 20)
    shown = screen.getvalue().split("\r")
    assert any(re.match(r"Epoch \[1/2\]: +50%\|.*loss=5\.000, run_left=0:00", line) for line in shown)
    assert any(re.match(r"Epoch \[2/2\]: +50%\|.*loss=10\.000, run_left=0:00", line) for line in shown)
    assert max(map(len, shown)) <= 80


def test_the_time_left_is_that_of_the_whole_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]

    def timed(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        now[0] += 3.0
        return step(engine, batch)

    trainer = resumed(silent(timed), epochs=1, epoch_length=10)
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(showing, "time", type("Clock", (), {"perf_counter": lambda: now[0]}))
    handlers.attach_progress_bar(trainer)
    seen: list[str] = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(engine.state.run_left))
    run(trainer, 4, (1,) * 10, done=1)
    assert seen == ["1:00", "0:30", "0:00"]  # 3 s a step, 10 steps an epoch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the handlers take for the time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(showing, "time", type("Clock", (), {"perf_counter": lambda: now[0]}))
    return now


def estimated(
    clock: list[float],
    *,
    seconds: Callable[[int], float],
    epochs: int = 4,
    done: int = 0,
    every: int = 1,
    remaining: Callable[[int], handlers.Remaining] | None = None,
) -> list[str]:
    """What is printed of a run with epochs of 25 steps, some of which another process did."""

    def timed(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        clock[0] += seconds(engine.state.iteration)
        return step(engine, batch)

    lines: list[str] = []
    trainer = resumed(silent(timed), epochs=done, epoch_length=25) if done else silent(timed)
    left = remaining or (lambda iteration: handlers.Remaining(25 * epochs - iteration + 20))
    handlers.attach_time_estimate(trainer, left, every=every, say=lines.append)
    run(trainer, epochs, (1,) * 25, done=done)
    return lines


def test_in_a_log_the_time_left_is_printed_once_after_the_first_seconds(clock: list[float]) -> None:
    """3 s of steps that take 0.5 s, after three that take longer; evaluations like 20 of them are still to come."""
    lines = estimated(clock, seconds=lambda iteration: 60.0 if iteration <= 3 else 0.5)
    assert lines == ["time      about 0:55 left on this machine, estimated from steps 4 to 9"]  # (100 - 9 + 20) / 2


def test_a_resumed_run_is_estimated_by_what_it_has_left(clock: list[float]) -> None:
    lines = estimated(clock, done=2, seconds=lambda iteration: 60.0 if iteration <= 53 else 0.5)
    assert lines == ["time      about 0:30 left on this machine, estimated from steps 54 to 59"]  # (100 - 59 + 20) / 2


def test_a_run_of_a_moment_prints_no_time(clock: list[float]) -> None:
    assert estimated(clock, seconds=lambda iteration: 0.02) == []


def test_the_clock_is_read_where_an_accelerator_is_waited_for(clock: list[float]) -> None:
    """Steps seem free until the loss is read."""
    lines = estimated(clock, every=10, seconds=lambda iteration: 10.0 if iteration % 10 == 0 else 0.0)
    assert lines == ["time      about 1:40 left on this machine, estimated from steps 11 to 20"]  # 100 steps of 1 s


def test_cached_logits_are_counted_by_themselves(clock: list[float]) -> None:
    """The first step of each epoch computes the teacher's logits of a view for 50 s, which two more epochs will do."""

    def remaining(iteration: int) -> handlers.Remaining:
        epoch = (iteration - 1) // 25
        return handlers.Remaining(75 - iteration, spent_s=50.0 * (epoch + 1), cache_s=50.0 * (2 - epoch))

    first = lambda iteration: 50.0 if iteration % 25 == 1 else 0.0  # noqa: E731
    lines = estimated(clock, epochs=3, remaining=remaining, seconds=lambda iteration: 1.0 + first(iteration))
    assert lines == ["time      about 2:49 left on this machine, estimated from steps 4 to 6"]  # 69 + 2 * 50
    across = estimated(clock, epochs=3, remaining=remaining, every=20, seconds=lambda iteration: 0.1 + first(iteration))
    assert across == ["time      about 0:53 left on this machine, estimated from steps 21 to 40"]  # 3.5 + 50


def test_with_a_terminal_the_bar_shows_it(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert estimated(clock, seconds=lambda iteration: 1.0) == []


def test_the_table_has_a_header_and_a_line_for_each_epoch(trainer: Engine) -> None:
    lines: list[str] = []
    history = attach_rows(trainer, [outcome(5), outcome(10, finite=False)])
    handlers.attach_epoch_table(trainer, history, say=lines.append)
    run(trainer, 2)
    assert lines[0].split() == ["epoch", "loss", "ce", "kd", "train", "val", "lr", "s", "images/s"]
    first, row = lines[1].split(), history.rows[0]
    assert first[0] == "1/2"
    assert [float(word) for word in first[1:4]] == [pytest.approx(row[key], abs=5e-5) for key in ("loss", "ce", "kd")]
    assert first[4:7] == ["30.00%", "50.00%", "0.25"]
    assert lines[2].split()[5] == "nan%"
    assert len(lines) == 3
    assert len({len(line) for line in lines[1:]}) == 1


def test_the_table_of_a_run_without_a_teacher_has_no_kd() -> None:
    lines: list[str] = []
    trainer = silent(lambda engine, batch: {key: value for key, value in step(engine, batch).items() if key != "kd"})
    history = attach_rows(trainer, [outcome(5)], accuracy_teacher=None)
    handlers.attach_epoch_table(trainer, history, say=lines.append)
    run(trainer, 1)
    assert lines[0].split() == ["epoch", "loss", "ce", "train", "val", "lr", "s", "images/s"]
    assert len(lines[1].split()) == 8


def test_every_part_of_a_method_has_a_column_that_its_name_fits_in() -> None:
    lines: list[str] = []
    trainer = silent(lambda engine, batch: step(engine, batch) | {"feature_distance": torch.tensor(2.0)})
    history = attach_rows(trainer, [outcome(5)])
    handlers.attach_epoch_table(trainer, history, say=lines.append)
    run(trainer, 1)
    assert history.rows[0]["feature_distance"] == 2.0
    assert lines[0].split()[4] == "feature_distance"
    assert lines[1].split()[4] == "2.0000"
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.99, "0:00"), (61, "1:01"), (3599.9, "59:59"), (3600, "1:00:00"), (90_061, "25:01:01")],
)
def test_times_read_well(seconds: float, text: str) -> None:
    assert handlers.duration(seconds) == text


# --- together


class Wired(NamedTuple):
    """An engine with every handler of a run, in the order of the pipeline."""

    trainer: Engine
    log: list[str]


def wired(folder: Path, writer: SummaryWriter, process: Callable[[Engine, Any], Any]) -> Wired:
    log: list[str] = []

    def noted(engine: Engine, batch: FakeBatch) -> Any:
        log.append(f"step at lr {optimizer.param_groups[0]['lr']}")
        return process(engine, batch)

    def validate() -> Outcome:
        log.append("validation")
        return outcome(engine.state.epoch)

    def take(name: str) -> Callable[[], dict[str, Any]]:
        def state() -> dict[str, Any]:
            log.append(name)
            return {"epoch": engine.state.epoch}

        return state

    engine = silent(noted)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=9.0)
    handlers.attach_learning_rate(engine, optimizer, lr_at=lambda at: at + 1.0)
    handlers.attach_step_seed(engine, seed=0, device=CPU)
    sums = handlers.attach_epoch_sums(engine, device=CPU)
    handlers.attach_nan_guard(engine, sums, advice="lr=1")
    clock = handlers.attach_clock(engine)
    handlers.attach_validation(engine, validate=validate)
    history = handlers.attach_history(
        engine, sums, clock, lr_at=lambda at: at + 1.0, classes=("cat", "dog"), accuracy_teacher=None
    )
    handlers.attach_metrics_csv(engine, history, path=folder / "metrics.csv")
    handlers.attach_tensorboard(engine, history, writer)
    handlers.attach_progress_bar(engine)
    handlers.attach_epoch_table(engine, history, say=lambda line: log.append(f"table {line.split()[0]}"))
    attach_best(engine, folder, payload=take("best"))
    handlers.attach_early_stopping(engine, patience=1)
    attach_last(engine, folder, history=history, about=SimpleNamespace(state_dict=take("last")))
    handlers.attach_stop(engine)
    return Wired(engine, log)


def test_everything_acts_in_the_order_in_which_it_was_attached(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        trainer, log = wired(tmp_path, writer, step)
        run(trainer, 2)
    epoch = ["validation", "table {}/2", "best", "last"]
    assert log == [
        *(f"step at lr {at}.0" for at in (1, 2, 3)),
        *("validation", "table epoch", "table 1/2", "best", "last"),
        *(f"step at lr {at}.0" for at in (4, 5, 6)),
        *(word.format(2) for word in epoch),
    ]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("terminal", [False, True])
def test_an_error_in_a_step_comes_out_and_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], terminal: bool
) -> None:
    if terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())

    def broken(engine: Engine, batch: FakeBatch) -> dict[str, Tensor]:
        if engine.state.iteration == 5:
            raise error
        return step(engine, batch)

    with SummaryWriter(str(tmp_path)) as writer:
        trainer, log = wired(tmp_path, writer, broken)
        with pytest.raises(error):
            run(trainer, 4)
    assert log[-1] == "step at lr 5.0"
    assert checkpoints.read(tmp_path / "last.safetensors")["trainer"]["iteration"] == 3


def test_an_error_in_the_validation_comes_out_and_nothing_is_saved(trainer: Engine, tmp_path: Path) -> None:
    def broken() -> Outcome:
        raise ZeroDivisionError

    handlers.attach_validation(trainer, validate=broken)
    attach_best(trainer, tmp_path, payload=dict)
    attach_last(trainer, tmp_path)
    with pytest.raises(ZeroDivisionError):
        run(trainer, 2)
    assert trainer.state.epoch == 1
    assert list(tmp_path.iterdir()) == []
