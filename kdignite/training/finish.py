"""The end of a run: what it saved is evaluated as anybody would who gets the file, and written down."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdignite import checkpoints, files, processes
from kdignite.checkpoints import Checkpoint, Validation
from kdignite.data.batches import evaluation_batches
from kdignite.data.splits import Part
from kdignite.errors import RunFailed
from kdignite.evaluation import Outcome, evaluate
from kdignite.handlers import LossNotFinite
from kdignite.models.layout import memory_format
from kdignite.teachers import tolerance
from kdignite.training import results
from kdignite.training.data import DEV_STEPS, is_partial, share
from kdignite.training.model import load_predictor
from kdignite.training.spec import RunSpec
from kdignite.training.state import TrainerState


def finish_run(trainer_state: TrainerState, folder: Path) -> dict[str, Any]:
    """Evaluate the saved model, from its file alone, and write everything but the result itself."""
    run, best = trainer_state.run, trainer_state.best.path
    checkpoint = processes.on_rank0(lambda: _best(trainer_state, folder))
    config, classes = run.config, run.data.source.classes
    logits_of = load_predictor(checkpoint, classes=classes, device=run.device, arch=config.arch)
    outcomes = {
        split: results.checked(evaluate(logits_of, evaluated(run, part), num_classes=len(classes)), who=str(best))
        for split, part in (("val", run.data.splits.val), ("test", run.data.splits.test))
    }
    saved = checkpoint.description.validation
    _check_saved(outcomes["val"], saved, best)
    return processes.on_rank0(lambda: _result(trainer_state, folder, outcomes, checkpoint))


def evaluated(run: RunSpec, part: Part) -> Iterator[Any]:
    """The batches of an evaluation that this process does: all of them, or those of a dry run."""
    limit = DEV_STEPS if run.config.fast_dev_run else None
    return evaluation_batches(part, size=run.config.size, limit=limit, share=share())


def _best(trainer_state: TrainerState, folder: Path) -> Checkpoint:
    best = trainer_state.best.path
    trainer_state.best.flush()
    if trainer_state.best.pending is not None:
        raise RunFailed(f"{best} cannot be written ({trainer_state.best.write_error}): fix that, then resume the run")
    if not best.is_file():
        if not any(math.isfinite(row["accuracy_val"] or 0.0) for row in trainer_state.history.rows):
            raise LossNotFinite(f"no epoch of {folder} had a finite validation result: try a lower --lr")
        raise RunFailed(f"{best} was removed: start a new run")
    return checkpoints.load_checkpoint(best)


def _result(
    trainer_state: TrainerState, folder: Path, outcomes: dict[str, Outcome], checkpoint: Checkpoint
) -> dict[str, Any]:
    """Write the evaluation of the saved model; returns what `runs.RESULT` will hold."""
    run, history, config = trainer_state.run, trainer_state.history, trainer_state.run.config
    summaries = results.write_evaluation(folder, outcomes, classes=run.data.source.classes, title=folder.name)
    return {
        "command": config.command,
        "name": folder.name,
        "finished_at": files.now(),
        "partial": is_partial(config, run.data),
        "seed": config.seed,
        "method": getattr(config, "method", None),
        "dataset": config.dataset,
        "fingerprint": run.data.source.fingerprint,
        "split": run.data.splits.hash,
        "val_size": config.val_size,
        "arch": config.arch,
        "cost": results.cost_of(checkpoint),
        "memory_format": memory_format(run.model.network),
        "epochs": len(history.rows),
        "best_epoch": checkpoint.description.validation.epoch,
        "graph": run.capture.outcome if run.capture else None,
        "wall_seconds": round(trainer_state.clock.run(), 1),
        "train_seconds": round(sum(row["seconds"] or 0.0 for row in history.rows), 1),
        "teacher": run.teacher_record.to_json() if run.teacher_record else None,
        **summaries,
    }


def _check_saved(outcome: Outcome, recorded: Validation, path: Path) -> None:
    if abs(outcome.num_correct - recorded.num_correct) > tolerance(recorded.num_images):
        raise RunFailed(
            f"{path} scores {outcome.num_correct} of {recorded.num_images} validation images, "
            f"it scored {recorded.num_correct} while training: the file is not the model that was trained; what a "
            "model keeps outside its state_dict, in a buffer with persistent=False or an attribute, is not in the file"
        )
