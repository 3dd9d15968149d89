"""The run that teacher, baseline and distill share: train, evaluate what was saved, report."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ignite.engine import Engine
from torch.utils.tensorboard import SummaryWriter

from kdignite import checkpoints, handlers, runs
from kdignite.checkpoints import Description, Validation
from kdignite.config import TrainConfig, to_json
from kdignite.data.batches import evaluation_batches, run_batches
from kdignite.data.splits import Part
from kdignite.errors import RunFailed
from kdignite.evaluation import Outcome, evaluate, fed
from kdignite.pipelines import results
from kdignite.pipelines.announcing import announce, estimate
from kdignite.pipelines.building import origin_of, revive
from kdignite.pipelines.preparing import Run
from kdignite.pipelines.setup import DEV_STEPS, is_partial, say
from kdignite.teachers import tolerance


def execute(run: Run, *, root: Path) -> runs.Finished:
    """Announce the run, train it, evaluate what it saved, and write its results.

    Args:
        run: as `prepare_run` made it.
        root: the folder of all runs.

    Returns:
        The folder and the result.

    Raises:
        RunFailed: if the loss stops being a number, or the saved model is not the one that was trained.
    """
    announce(run)
    say(f"time      about {handlers.duration(estimate(run))} on this machine, from a few steps of a copy")
    folder = runs.create(root, name=run.config.name, default=runs.default_name(run.config))
    say(f"run       {folder}")
    runs.write_json(folder / "config.json", to_json(run.config))
    runs.write_json(folder / "environment.json", _environment(run))
    started = time.perf_counter()
    with _writer(folder) as writer:
        history = _train(run, folder, writer)
        seconds = time.perf_counter() - started
        result = _conclude(run, folder, history, seconds=seconds)
        results.plot(writer, folder, result, config=run.config, epoch=len(history.rows))
    if not run.config.keep_last:
        (folder / "last.pt").unlink(missing_ok=True)
    runs.write_json(folder / "result.json", result)  # last: a run that has a result is a finished one
    say(results.closing_lines(folder, result))
    return runs.Finished(folder, result)


def _train(run: Run, folder: Path, writer: SummaryWriter) -> handlers.History:
    """All handlers of a run in the order in which they act."""
    config, device, data = run.config, run.device, run.data
    trainer = Engine(run.make_step(run.student.model, run.optimizer, prepare=run.student.prepare))
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
        classes=data.source.classes,
        accuracy_teacher=run.taught.accuracy if run.taught else None,
    )
    handlers.attach_metrics_csv(trainer, history, path=folder / "metrics.csv")
    handlers.attach_tensorboard(trainer, history, writer)
    bar = handlers.attach_progress_bar(trainer)
    handlers.attach_epoch_table(trainer, history, say=bar.log_message)
    state = {"model": run.student.model, "optimizer": run.optimizer, "trainer": trainer, "sums": sums}
    state |= {"history": history, "about": handlers.Snapshot(lambda: _about(run))}
    state["best"] = handlers.attach_best_checkpoint(trainer, folder, payload=lambda: _payload(run, trainer))
    if config.patience is not None:
        state["early_stopping"] = handlers.attach_early_stopping(trainer, patience=config.patience)
    handlers.attach_last_checkpoint(trainer, folder, state=state)
    stream = run_batches(run.batches, epochs=config.epochs, epoch_length=run.epoch_length)
    trainer.run(stream, max_epochs=config.epochs, epoch_length=run.epoch_length)
    return history


def _conclude(run: Run, folder: Path, history: handlers.History, *, seconds: float) -> dict[str, Any]:
    """Evaluate the saved model as anybody would who gets the file, and write everything but the result itself."""
    best = folder / "best.pt"
    if not best.is_file():
        raise RunFailed(f"no epoch of {folder} had a finite validation result: try a lower --lr")
    checkpoint = checkpoints.load(best)
    config, classes = run.config, run.data.source.classes
    logits_of = revive(checkpoint, classes=classes, device=run.device, arch=config.arch, again="--arch=")
    outcomes = {
        split: results.checked(evaluate(logits_of, _evaluated(run, part), num_classes=len(classes)), who=str(best))
        for split, part in (("val", run.data.splits.val), ("test", run.data.splits.test))
    }
    _check_saved(outcomes["val"], checkpoint.description.validation, best)
    summaries = results.write_evaluation(folder, outcomes, classes=classes, title=folder.name)
    return {
        "command": config.command,
        "name": folder.name,
        "finished_at": runs.now(),
        "partial": is_partial(config, run.data),
        "seed": config.seed,
        "loss": run.loss,
        "dataset": config.dataset,
        "fingerprint": run.data.source.fingerprint,
        "split": run.data.splits.hash,
        "val_size": config.val_size,
        "arch": config.arch,
        "cost": results.cost_of(run.student.model, size=config.size, file=best),
        "epochs": len(history.rows),
        "best_epoch": checkpoint.description.validation.epoch,
        "wall_seconds": round(seconds, 1),
        "train_seconds": round(sum(row["seconds"] or 0.0 for row in history.rows), 1),
        "teacher": run.taught._asdict() if run.taught else None,
        **summaries,
    }


def _validation(run: Run) -> Callable[[], Outcome]:
    logits_of = fed(run.student.model, prepare=run.student.prepare)
    num_classes = len(run.data.source.classes)
    return lambda: evaluate(logits_of, _evaluated(run, run.data.splits.val), num_classes=num_classes)


def _evaluated(run: Run, part: Part) -> Iterator[Any]:
    return evaluation_batches(part, limit=DEV_STEPS if run.config.fast_dev_run else None)


def _payload(run: Run, trainer: Engine) -> dict[str, Any]:
    """What ``best.pt`` holds at this moment."""
    scored = trainer.state.metrics
    description = Description(
        architecture=run.student.architecture,
        classes=run.data.source.classes,
        preprocessing=run.student.preprocessing,
        origin=origin_of(run.config, run.data),
        validation=Validation(scored["correct_val"], scored["images_val"], trainer.state.epoch),
    )
    return checkpoints.to_payload(description, run.student.model.state_dict())


def _about(run: Run) -> dict[str, Any]:
    """What a resumed run has to agree with."""
    return {"format": checkpoints.FORMAT, "config": to_json(run.config), "split": run.data.splits.hash}


def _check_saved(outcome: Outcome, recorded: Validation, path: Path) -> None:
    if abs(outcome.num_correct - recorded.num_correct) > tolerance(recorded.num_images):
        raise RunFailed(
            f"{path} scores {outcome.num_correct} of {recorded.num_images} validation images, "
            f"it scored {recorded.num_correct} while training: the file is not the model that was trained"
        )


def _advice(config: TrainConfig) -> str:
    names = ("lr", "alpha", "T")
    return ", ".join(f"{name}={getattr(config, name):g}" for name in names if hasattr(config, name))


def _environment(run: Run) -> dict[str, Any]:
    taught = run.taught._asdict() if run.taught else None
    found = {"data": run.data.source.fingerprint, "weights": _initial_weights(run.config), "teacher": taught}
    return runs.environment(run.device) | found


def _initial_weights(config: TrainConfig) -> str:
    """What identifies them: a word, or the sha256 of the file, whose path says nothing of what it holds."""
    return config.weights if config.weights in ("none", "imagenet") else runs.sha256(Path(config.weights))


@contextmanager
def _writer(folder: Path) -> Iterator[SummaryWriter]:
    """A writer that is closed whatever happens: an engine's COMPLETED does not fire when it fails."""
    writer = SummaryWriter(str(folder))
    try:
        yield writer
    finally:
        with suppress(OSError):
            writer.close()
