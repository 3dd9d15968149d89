"""The run that teacher, baseline and distill share: train, evaluate what was saved, report."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch.utils.tensorboard import SummaryWriter

from kdignite import checkpoints, files, handlers, processes, runs, stopping
from kdignite.checkpoints import Description, Validation
from kdignite.config import TrainConfig, command_line, setting_text
from kdignite.console import say
from kdignite.data.batches import evaluation_batch_size, run_batches
from kdignite.data.registry import is_code
from kdignite.devices import is_accelerator
from kdignite.errors import RunFailed, UserError
from kdignite.evaluation import Outcome, evaluate, measure_batch_norms, predictor
from kdignite.memory import oom_as_failure
from kdignite.training import folder as run_folder
from kdignite.training import results, resume
from kdignite.training.announce import announce, remaining
from kdignite.training.backbone import step_of
from kdignite.training.data import pictures_of
from kdignite.training.extensions import Attach, view_of_run
from kdignite.training.finish import evaluated, finish_run
from kdignite.training.identity import USERS_CODE
from kdignite.training.model import origin_of
from kdignite.training.spec import RunSpec
from kdignite.training.state import HostCopy, Saver, TrainerState, has_state

LOSS_GROUP = "distillation"  # of flags


@oom_as_failure("try a smaller --batch_size, or end other programs")
def execute(run: RunSpec, *, root: Path, own: Sequence[Attach] = ()) -> runs.Finished:
    """Announce the run, train it, evaluate what it saved, and write its results."""
    earlier = processes.on_rank0(lambda: resume.find(run, root=root))
    if isinstance(earlier, runs.Finished):
        return earlier
    announce(run)
    with run_folder.opened(run, earlier, root=root) as folder:
        say(f"run       {folder}")
        trainer_state = build_trainer(run, folder, resumed=earlier is not None)
        with _resume_hint(run, folder), open_writer(folder) as writer:
            for attach in own:
                attach(trainer_state.trainer, view_of_run(trainer_state, folder))
            train(trainer_state, folder, writer)
            result = finish_run(trainer_state, folder)
            if writer is not None:
                with results.reported("TensorBoard's summary"), suppress(OSError):  # a log: a warning was printed
                    epoch, pictures = len(trainer_state.history.rows), pictures_of(run.data.splits.test.images)
                    results.plot(writer, folder, result, config=run.config, epoch=epoch, pictures=pictures)
        processes.on_rank0(lambda: _finish(run, folder, result))
    say(results.closing_lines(folder, result))
    return runs.Finished(folder, result)


def _finish(run: RunSpec, folder: Path, result: dict[str, Any]) -> None:
    """Write the result, with which a run is a finished one, and remove what only a run to be resumed needs."""
    files.write_json(folder / runs.RESULT, result)
    results.write_report(folder, pictures_of(run.data.splits.test.images))
    if not run.config.keep_last:
        for name in (runs.LAST, runs.PREVIOUS):
            (folder / name).unlink(missing_ok=True)


def build_trainer(run: RunSpec, folder: Path, *, resumed: bool) -> TrainerState:
    """The engine of a run with everything that remembers something; a resumed run is put where it was stopped."""
    config, device = run.config, run.device
    trainer = Engine(step_of(run))
    trainer.logger.disabled = True  # errors are raised, and printed once by the caller
    handlers.attach_learning_rate(trainer, run.optimizer, lr_at=run.lr_at)
    handlers.attach_step_seed(trainer, seed=config.seed, device=device)
    sums = handlers.attach_epoch_sums(trainer, device=device)
    handlers.attach_nan_guard(trainer, sums, advice=_advice(config))
    clock = handlers.attach_clock(trainer)
    handlers.attach_validation(trainer, validate=_validation(run, lambda: trainer.state.iteration))
    history = handlers.attach_history(
        trainer,
        sums,
        clock,
        lr_at=run.lr_at,
        classes=run.data.source.classes,
        accuracy_teacher=run.teacher_record.accuracy if run.teacher_record else None,
    )
    best, host_copy = handlers.BestFile(folder / runs.BEST, say=say), HostCopy(run, trainer, history)
    if processes.is_rank0():
        payload = partial(_payload, run, trainer, host_copy)
        handlers.attach_best_checkpoint(trainer, best, payload=payload)
    patience = handlers.attach_early_stopping(trainer, patience=config.patience) if config.patience else None
    trainer_state = TrainerState(run, trainer, sums, clock, history, best, host_copy, patience)
    if resumed:
        run_folder.apply(trainer_state, folder)
        best.score = _recorded_score(best.path, history) if processes.is_rank0() and has_state(folder) else None
    return trainer_state


def train(trainer_state: TrainerState, folder: Path, writer: SummaryWriter | None) -> None:
    """Everything that shows and saves a run, in the order in which it acts; then the run, from where it stands."""
    trainer, table = trainer_state.trainer, folder / runs.METRICS
    if writer is not None:
        _show(trainer_state, table, writer)
    save, roll_back = Saver(trainer_state, folder), handlers.attach_iteration_rollback(trainer)
    handlers.attach_saving(trainer, save, every_s=trainer_state.run.config.save_every_s)
    handlers.attach_stop(trainer)
    try:
        with stopping.graceful_stop():
            _run_engine(trainer_state)
    except stopping.Stopped:
        roll_back()
        if trainer.state.iteration:
            processes.on_all_ranks(save)  # a launcher may end all others as soon as one has ended
        raise
    except handlers.LossNotFinite as error:
        if processes.is_rank0():
            with suppress(OSError):
                undefined: handlers.Row = {"epoch": trainer.state.epoch, "loss": error.loss}
                handlers.write_csv(table, [*trainer_state.history.rows, undefined])
        raise
    finally:
        save.close()


def _show(trainer_state: TrainerState, table: Path, writer: SummaryWriter) -> None:
    trainer, history = trainer_state.trainer, trainer_state.history
    # a GPU is waited for when the loss is checked anyway
    waits = handlers.GUARD_EVERY if is_accelerator(trainer_state.run.device) else None
    log = handlers.attach_progress_bar(trainer, every=waits or handlers.BAR_EVERY)
    left = partial(remaining, trainer_state.run)
    handlers.attach_time_estimate(trainer, left, every=waits or 1, say=log)
    handlers.attach_metrics_csv(trainer, history, path=table, say=log)
    handlers.attach_tensorboard(trainer, history, writer, say=log)
    handlers.attach_epoch_table(trainer, history, say=log)


def _run_engine(trainer_state: TrainerState) -> None:
    """Run the engine from the iteration after the last one that was done to the end."""
    run, trainer, config = trainer_state.run, trainer_state.trainer, trainer_state.run.config
    done = trainer.state.iteration
    if len(trainer_state.history.rows) < done // run.epoch_length:
        handlers.close_epoch(trainer)
    stopped_early = (
        trainer_state.patience is not None and trainer_state.patience.counter >= trainer_state.patience.patience
    )
    if done < config.epochs * run.epoch_length and not stopped_early:
        stream = run_batches(run.batches, epochs=config.epochs, epoch_length=run.epoch_length, first_iteration=done)
        trainer.run(stream, max_epochs=config.epochs, epoch_length=run.epoch_length)


def _validation(run: RunSpec, iteration: Callable[[], int]) -> Callable[[], Outcome]:
    logits_of = predictor(run.model.network, prepare=run.model.prepare)
    num_classes, part = len(run.data.source.classes), run.data.splits.val
    batch_size = evaluation_batch_size(part.images, run.config.size)
    checks = math.ceil(len(part.indices) / batch_size / processes.world_size())

    def validate() -> Outcome:
        if run.is_early(iteration()):
            inputs = map(run.model.prepare, (batch.images for batch in islice(run.batches(0, 0), run.epoch_length)))
            measure_batch_norms(run.model.network, inputs)
        processes.broadcast_buffers(run.model.network)
        return evaluate(logits_of, stopping.interruptible(evaluated(run, part), checks=checks), num_classes=num_classes)

    return validate


def _payload(run: RunSpec, trainer: Engine, host_copy: HostCopy) -> dict[str, Any]:
    scored = trainer.state.metrics
    description = Description(
        architecture=run.model.architecture,
        classes=run.data.source.classes,
        preprocessing=run.model.preprocessing,
        origin=origin_of(run.config, run.data),
        validation=Validation(scored["correct_val"], scored["images_val"], trainer.state.epoch),
    )
    return checkpoints.to_payload(description, host_copy()["model"])


def _recorded_score(best: Path, history: handlers.History) -> handlers.Score | None:
    """What the best checkpoint of a resumed run scored; None: the next epoch's is better."""
    if not best.exists():
        return None
    try:
        validation = checkpoints.load_checkpoint(best).description.validation
    except UserError as error:
        say(f"warning   {error}; the best of the epochs to come takes its place")
        return None
    # an epoch that the state has not seen yet is done again, with the same score: it then takes the file's place
    loss = {row["epoch"]: row["loss_val"] for row in history.rows}.get(validation.epoch)
    return handlers.Score(validation.accuracy, -math.inf if loss is None else -loss)


def _advice(config: TrainConfig) -> str:
    values = {one.name: getattr(config, one.name) for one in fields(config) if one.metadata.get("group") == LOSS_GROUP}
    numbers = {"lr": config.lr} | {name: value for name, value in values.items() if isinstance(value, float)}
    return ", ".join(f"{name}={setting_text(value)}" for name, value in numbers.items())


@contextmanager
def _resume_hint(run: RunSpec, folder: Path) -> Iterator[None]:
    """Within the block being stopped ends with the line that resumes, a full disk with what to do."""
    own = {name: getattr(run.config, name, None) for name in sorted(USERS_CODE)}
    again = {name: value for name, value in own.items() if is_code(value)}
    again |= getattr(run.config, "parameters", {}) if "method" in again else {}  # which that function may require
    resume = command_line(run.config.command, resume=folder, **again)
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise RunFailed(f"{error}: fix that (free space on a full disk), then resume with {resume}") from error
    except Exception:
        raise
    except BaseException:
        say(f"stopped   resume with: {resume}")
        raise


@contextmanager
def open_writer(folder: Path) -> Iterator[SummaryWriter | None]:
    """A writer that is closed whatever happens: an engine's COMPLETED does not fire when it fails; one is enough."""
    if not processes.is_rank0():
        yield None
        return
    with _quiet_writer_thread():
        writer = SummaryWriter(str(folder))
        try:
            yield writer
        finally:
            with suppress(OSError):
                writer.close()


@contextmanager
def _quiet_writer_thread() -> Iterator[None]:
    """Within the block TensorBoard's thread prints no traceback of a full disk: the next log raises it in the run."""
    before = threading.excepthook

    def hook(died: threading.ExceptHookArgs) -> None:
        if not (isinstance(died.exc_value, OSError) and type(died.thread).__module__.startswith("tensorboard.")):
            before(died)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
