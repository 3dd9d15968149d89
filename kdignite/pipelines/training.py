"""The run that teacher, baseline and distill share: train, evaluate what was saved, report."""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch.utils.tensorboard import SummaryWriter

from kdignite import checkpoints, handlers, processes, runs, stopping
from kdignite.checkpoints import Description, Validation
from kdignite.config import TrainConfig, command_line, setting_text
from kdignite.data.batches import EVALUATION_BATCH, run_batches
from kdignite.devices import is_accelerator
from kdignite.errors import RunFailed, UserError
from kdignite.evaluation import Outcome, evaluate, fed
from kdignite.memory import shortage_told
from kdignite.pipelines import results, resuming
from kdignite.pipelines.announcing import announce, estimate
from kdignite.pipelines.building import origin_of
from kdignite.pipelines.concluding import conclude, evaluated
from kdignite.pipelines.extending import Attach, view_of_run
from kdignite.pipelines.identity import USERS_CODE
from kdignite.pipelines.preparing import Run
from kdignite.pipelines.setup import is_code, say
from kdignite.pipelines.state import Copied, Engaged, Saver, has_state, restore

LOSS_GROUP = "distillation"  # of flags


@shortage_told("try a smaller --batch_size, or end other programs")
def execute(run: Run, *, root: Path, own: Sequence[Attach] = ()) -> runs.Finished:
    """Announce the run, train it, evaluate what it saved, and write its results.

    Args:
        run: as `prepare_run` made it.
        root: the folder of all runs.
        own: handlers of the user's own, which act after an epoch is in the history and before anything is saved.

    Returns:
        The folder and the result.

    Raises:
        UserError: if a run is to be resumed that cannot be.
        RunFailed: if the loss stops being a number, memory runs out, or the saved model is not what was trained.
    """
    earlier = processes.on_first(lambda: resuming.find(run, root=root))
    if isinstance(earlier, runs.Finished):
        return earlier
    announce(run)
    seconds = estimate(run)
    with resuming.opened(run, earlier, root=root) as folder:
        say(f"run       {folder}")
        engaged = engage(run, folder, resumed=earlier is not None)
        iteration = engaged.trainer.state.iteration
        if earlier is not None:
            processes.on_first(lambda: resuming.take_over(run, folder, iteration=iteration))
        left = handlers.duration(seconds * (1 - iteration / (run.config.epochs * run.epoch_length)))
        say(f"time      about {left} on this machine, from a few steps of a copy")
        with _told_how_to_go_on(run, folder), open_writer(folder) as writer:
            for attach in own:
                attach(engaged.trainer, view_of_run(engaged, folder))
            train(engaged, folder, writer)
            result = conclude(engaged, folder)
            if writer is not None:
                with suppress(OSError):  # a log, told already
                    results.plot(writer, folder, result, config=run.config, epoch=len(engaged.history.rows))
        processes.on_first(lambda: _finish(run, folder, result))
    say(results.closing_lines(folder, result))
    return runs.Finished(folder, result)


def _finish(run: Run, folder: Path, result: dict[str, Any]) -> None:
    """Write the result, with which a run is a finished one, and remove what only a run to be resumed needs."""
    runs.write_json(folder / runs.RESULT, result)
    if not run.config.keep_last:
        for name in (runs.LAST, runs.PREVIOUS):
            (folder / name).unlink(missing_ok=True)


def engage(run: Run, folder: Path, *, resumed: bool) -> Engaged:
    """The engine of a run with everything that remembers something, where the run stands.

    Args:
        run: about to start, or to go on.
        folder: of the run.
        resumed: whether it goes on from the state in its folder.

    Returns:
        The run, engaged.
    """
    config, device = run.config, run.device
    model = processes.parallel(run.student.model, device=device, sync_bn=config.sync_bn)
    trainer = Engine(run.make_step(model, run.optimizer, prepare=run.student.prepare, scaler=run.scaler))
    trainer.logger.disabled = True  # errors are raised and told once, by whoever called
    handlers.attach_learning_rate(trainer, run.optimizer, lr_at=run.lr_at)
    handlers.attach_step_seed(trainer, seed=config.seed, device=device)
    sums = handlers.attach_epoch_sums(trainer, device=device)
    handlers.attach_nan_guard(trainer, sums, advice=_advice(config))
    clock = handlers.attach_clock(trainer)
    handlers.attach_validation(trainer, validate=_validation(run))
    history = handlers.attach_history(
        trainer,
        sums,
        clock,
        lr_at=run.lr_at,
        classes=run.data.source.classes,
        accuracy_teacher=run.taught.accuracy if run.taught else None,
    )
    best, copied = handlers.BestFile(folder / runs.BEST, say=say), Copied(run, trainer, history)
    if processes.is_first():
        score = _recorded_score(best.path) if resumed and has_state(folder) else None
        payload = partial(_payload, run, trainer, copied)
        handlers.attach_best_checkpoint(trainer, best, payload=payload, score=score)
    patience = handlers.attach_early_stopping(trainer, patience=config.patience) if config.patience else None
    engaged = Engaged(run, trainer, sums, clock, history, best, copied, patience)
    if resumed:
        restore(engaged, folder)
    return engaged


def train(engaged: Engaged, folder: Path, writer: SummaryWriter | None) -> None:
    """Everything that shows and saves a run, in the order in which it acts; then the run, from where it stands.

    Args:
        engaged: the run.
        folder: of the run.
        writer: for TensorBoard; None in a process that only works for the one that shows.
    """
    trainer, table = engaged.trainer, folder / "metrics.csv"
    if writer is not None:
        _show(engaged, table, writer)
    save, take_back = Saver(engaged, folder), handlers.attach_taking_back(trainer)
    handlers.attach_saving(trainer, save, every_s=engaged.run.config.save_every_s)
    handlers.attach_stop(trainer)
    try:
        with stopping.listening():
            _go_on(engaged)
    except stopping.Stopped:
        take_back()
        if trainer.state.iteration:
            processes.together(save)  # a launcher may end all others as soon as one has ended
        raise
    except handlers.LossNotFinite as error:
        if processes.is_first():
            with suppress(OSError):
                undefined: handlers.Row = {"epoch": trainer.state.epoch, "loss": error.loss}
                handlers.write_csv(table, [*engaged.history.rows, undefined])
        raise
    finally:
        save.close()


def _show(engaged: Engaged, table: Path, writer: SummaryWriter) -> None:
    trainer, history = engaged.trainer, engaged.history
    # a GPU is waited for when the loss is checked anyway
    every = handlers.GUARD_EVERY if is_accelerator(engaged.run.device) else handlers.BAR_EVERY
    tell = handlers.attach_progress_bar(trainer, every=every)
    handlers.attach_metrics_csv(trainer, history, path=table, say=tell)
    handlers.attach_tensorboard(trainer, history, writer, say=tell)
    handlers.attach_epoch_table(trainer, history, say=tell)


def _go_on(engaged: Engaged) -> None:
    """Run the engine from the iteration after the last one that was done to the end."""
    run, trainer, config = engaged.run, engaged.trainer, engaged.run.config
    done = trainer.state.iteration
    if len(engaged.history.rows) < done // run.epoch_length:
        handlers.close_epoch(trainer)
    stopped_early = engaged.patience is not None and engaged.patience.counter >= engaged.patience.patience
    if done < config.epochs * run.epoch_length and not stopped_early:
        stream = run_batches(run.batches, epochs=config.epochs, epoch_length=run.epoch_length, first_iteration=done)
        trainer.run(stream, max_epochs=config.epochs, epoch_length=run.epoch_length)


def _validation(run: Run) -> Callable[[], Outcome]:
    logits_of = fed(run.student.model, prepare=run.student.prepare)
    num_classes, part = len(run.data.source.classes), run.data.splits.val
    checks = math.ceil(len(part.indices) / EVALUATION_BATCH / processes.world())

    def validate() -> Outcome:
        processes.share_buffers(run.student.model)
        return evaluate(logits_of, stopping.heeding(evaluated(run, part), checks=checks), num_classes=num_classes)

    return validate


def _payload(run: Run, trainer: Engine, copied: Copied) -> dict[str, Any]:
    """What ``best.pt`` holds at this moment."""
    scored = trainer.state.metrics
    description = Description(
        architecture=run.student.architecture,
        classes=run.data.source.classes,
        preprocessing=run.student.preprocessing,
        origin=origin_of(run.config, run.data),
        validation=Validation(scored["correct_val"], scored["images_val"], trainer.state.epoch),
    )
    return checkpoints.to_payload(description, copied()["model"])


def _recorded_score(best: Path) -> float | None:
    """The validation accuracy of the ``best.pt`` of a run that goes on; None: the next epoch's is better."""
    if not best.exists():
        return None
    try:
        return checkpoints.load(best).description.validation.accuracy
    except UserError as error:
        say(f"warning   {error}; the best of the epochs to come takes its place")
        return None


def _advice(config: TrainConfig) -> str:
    values = {one.name: getattr(config, one.name) for one in fields(config) if one.metadata.get("group") == LOSS_GROUP}
    numbers = {"lr": config.lr} | {name: value for name, value in values.items() if isinstance(value, float)}
    return ", ".join(f"{name}={setting_text(value)}" for name, value in numbers.items())


@contextmanager
def _told_how_to_go_on(run: Run, folder: Path) -> Iterator[None]:
    """Within the block being stopped ends with the line that resumes, a full disk with what to do."""
    own = {name: getattr(run.config, name, None) for name in sorted(USERS_CODE)}
    again = {name: value for name, value in own.items() if value and is_code(value)}
    resume = command_line(run.config.command, resume=folder, **again)
    try:
        yield
    except BrokenPipeError:  # nobody reads what is printed
        raise
    except OSError as error:
        raise RunFailed(f"{error}: mend that (make room on a full disk), then resume with {resume}") from error
    except Exception:
        raise
    except BaseException:
        say(f"stopped   resume with: {resume}")
        raise


@contextmanager
def open_writer(folder: Path) -> Iterator[SummaryWriter | None]:
    """A writer that is closed whatever happens: an engine's COMPLETED does not fire when it fails; one is enough.

    Args:
        folder: of the run.

    Yields:
        The writer, in the first process.
    """
    if not processes.is_first():
        yield None
        return
    with _thread_told_once():
        writer = SummaryWriter(str(folder))
        try:
            yield writer
        finally:
            with suppress(OSError):
                writer.close()


@contextmanager
def _thread_told_once() -> Iterator[None]:
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
