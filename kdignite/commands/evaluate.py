"""``evaluate``: the scores of a checkpoint, with its own preprocessing."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from kdignite import checkpoints, files, processes, runs, schema
from kdignite.checkpoints import Checkpoint, Origin, Validation
from kdignite.config import DoctorConfig, EvaluateConfig, ExportConfig
from kdignite.console import say
from kdignite.data.batches import evaluation_batches
from kdignite.data.registry import is_code
from kdignite.data.splits import HasValidation
from kdignite.doctor.conclusions import lost_lines
from kdignite.errors import UserError
from kdignite.evaluation import Outcome
from kdignite.evaluation import evaluate as run_evaluation
from kdignite.reports.tables import evaluation_table
from kdignite.teachers.outputs import flattened_warning
from kdignite.training import results
from kdignite.training.data import Data, named_by, open_data, share
from kdignite.training.device import set_up_device
from kdignite.training.model import load_predictor


class Evaluated(NamedTuple):
    """A checkpoint, the data it was evaluated on, and the outcome."""

    checkpoint: Checkpoint
    data: Data
    outcome: Outcome


def evaluate(config: EvaluateConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Evaluate a checkpoint on the test or the validation images of its data set.

    Args:
        config: the checkpoint and the split.
        root: the folder of all runs, where a folder for the figures is made.

    Returns:
        The new folder and the summary.

    Raises:
        UserError: if the checkpoint cannot be used as it is.
    """
    runs.check_name(root, config.name)
    checkpoint, data, outcome = evaluate_checkpoint(config, root=root)
    who = runs.checkpoint_name(checkpoint.path)
    folder = runs.create(root, name=config.name, default=f"evaluate-{who}-{config.split}")
    outcomes = {config.split: outcome}
    summary: dict[str, Any] = results.write_evaluation(folder, outcomes, classes=data.source.classes, title=who)
    files.write_json(folder / "evaluation.json", {"run": who, "split": config.split, **summary[config.split]})
    title = f"{results.SPLIT_NAMES[config.split].capitalize()} images, {who}"
    say(evaluation_table(summary[config.split], title=title))
    if config.split == "val":
        say(f"recorded    {checkpoint.description.validation.accuracy:.2%} on validation when it was saved")
    doubt = flattened_warning(outcome.logits, who=str(checkpoint.path))
    for line in [*_lost(checkpoint, data, outcome, split=config.split), *([doubt] if doubt else [])]:
        say(f"warning     {line}")
    say(f"files       {folder}/ (confusion_matrix.png, classification_report.png, predictions.npz, evaluation.json)")
    return runs.Finished(folder, summary[config.split])


def _lost(checkpoint: Checkpoint, data: Data, outcome: Outcome, *, split: str) -> list[str]:
    """A line where the accuracy that the checkpoint, or its run, recorded for the same images no longer comes."""
    (name, _), _, _, origin, recorded = checkpoint.description
    result = checkpoint.path.with_name(runs.RESULT)
    if split == "test":
        if not result.is_file() or checkpoint.path.name != runs.BEST:
            return []
        with schema.checked(result, advice="make the run again"):
            test = schema.mapping(files.read_json(result), "test")
            recorded = Validation(schema.count(test, "num_correct"), schema.count(test, "num_images"), 0)
    if origin.split != data.splits.hash or recorded.num_images != len(outcome.labels):
        return []
    right = (outcome.logits.argmax(dim=1) == outcome.labels).numpy()
    return lost_lines(recorded, right, part=results.SPLIT_NAMES[split], own_code=is_code(name))


def evaluate_checkpoint(config: EvaluateConfig, *, root: Path) -> Evaluated:
    """Evaluate a checkpoint on the images of a split; nothing is written."""
    checkpoint = processes.on_rank0(lambda: checkpoints.load_checkpoint(runs.find_checkpoint(config.run, root=root)))
    origin = checkpoint.description.origin
    device = set_up_device(config.device, threads=config.threads)
    data = open_as_recorded(config, origin, device)
    logits_of = load_predictor(checkpoint, classes=data.source.classes, device=device, arch=config.arch)
    if origin.split != data.splits.hash:
        say("note      other data or another split than the model was trained on: it may have seen these images")
    if origin.partial:
        say("note      the model was trained on part of its images only")
    part, size = getattr(data.splits, config.split), checkpoint.description.preprocessing.size
    batches = evaluation_batches(part, size=size, share=share())
    outcome = run_evaluation(logits_of, batches, num_classes=len(data.source.classes))
    return Evaluated(checkpoint, data, results.checked(outcome, who=str(checkpoint.path)))


def open_as_recorded(
    config: EvaluateConfig | DoctorConfig | ExportConfig, origin: Origin, device: torch.device
) -> Data:
    """The data that a checkpoint names, or those of ``--dataset``, which may not have the recorded split."""
    opened = partial(
        open_data,
        named_by(config.run, origin.dataset, asked=config.dataset),
        data_root=config.data_root,
        image_size=origin.image_size,
        device=device,
        skip_broken=config.skip_broken,
    )
    try:
        return opened(val_size=origin.val_size)
    except UserError as error:
        if config.dataset in (None, origin.dataset) and not isinstance(error, HasValidation):
            raise
        data = opened(val_size=None)
        say(f"note      {error}; evaluated on the parts that {data.source.name} has itself")
        return data
