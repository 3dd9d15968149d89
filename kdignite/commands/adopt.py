"""``adopt``: a run folder from a foreign state dict, after an evaluation."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint, Description, Origin, Validation
from kdignite.commands.doctor import model_under_test
from kdignite.commands.mending import adopt_again
from kdignite.config import AdoptConfig, DistillConfig, command_line, to_json, typed_flags
from kdignite.console import say
from kdignite.data.batches import evaluation_batches
from kdignite.data.layout import class_name
from kdignite.data.registry import is_code
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, check_class_names
from kdignite.doctor.conclusions import better_order, better_setting, better_text, is_far_below_chance
from kdignite.doctor.images import sample_images
from kdignite.doctor.settings import run_settings
from kdignite.errors import UserError, listed, reason
from kdignite.evaluation import Outcome, evaluate
from kdignite.models.libraries import own_input
from kdignite.models.options import option_flags
from kdignite.models.registry import build_model, check_model
from kdignite.plugins import is_library
from kdignite.teachers import check_accuracy
from kdignite.teachers.outputs import log_of_probabilities, probabilities_warning
from kdignite.teachers.soft_targets import underconfidence_warning, uniform_warning
from kdignite.training import results
from kdignite.training.data import Data, open_data
from kdignite.training.device import set_up_device
from kdignite.training.initial_weights import architecture_of
from kdignite.training.model import interpolation_of, load_predictor

PROBED = 500  # images on which other preprocessing is tried


def adopt(config: AdoptConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Make a run folder from a foreign state dict, if its accuracy on validation images shows the right preprocessing.

    Args:
        config: the file, its architecture and its preprocessing.
        root: the folder of all runs.

    Returns:
        The run folder and its result.

    Raises:
        UserError: if keys do not match, the classes are others, or the accuracy is near chance.
    """
    runs.check_name(root, config.name)
    config = _as_made(config)
    path, architecture = Path(config.file), architecture_of(config)
    check_model(config.arch, size=config.size or 0, options=architecture.options)
    device = set_up_device(config.device, threads=config.threads)
    content = checkpoints.read_foreign(path)
    data = open_data(
        config.dataset,
        data_root=config.data_root,
        val_size=config.val_size,
        image_size=config.image_size or config.size or 0,
        device=device,
        skip_broken=config.skip_broken,
    )
    description = _description(config, data)
    weights = _weights(config, content, description)
    adopted = Checkpoint(description, weights, path)
    outcomes = _evaluate(adopted, data, device, arch=config.arch)
    validation = Validation(outcomes["val"].num_correct, len(outcomes["val"].labels), 0)
    say(f"evaluated {path}: {validation.accuracy:.2%} on the validation images of {data.source.name}")
    if doubt := probabilities_warning(outcomes["val"].logits, who=str(path)):
        say(f"warning   {doubt}")
    _say_how_it_teaches(outcomes["val"], is_probabilities=bool(doubt))
    _check_settings(config, adopted, data, outcomes["val"], device=device)
    folder = runs.create(root, name=config.name, default=f"adopted-{config.arch.rpartition(':')[2]}")
    description = description._replace(validation=validation)
    checkpoints.write(folder / runs.BEST, checkpoints.to_payload(description, weights))
    files.write_json(folder / runs.CONFIG, to_json(config))
    files.write_json(folder / runs.ENVIRONMENT, runs.environment(device) | {"data": data.source.fingerprint})
    summaries = results.write_evaluation(folder, outcomes, classes=data.source.classes, title=folder.name)
    cost = results.cost_of(adopted._replace(path=folder / runs.BEST))
    result = _result(description, folder) | {"cost": cost} | summaries
    files.write_json(folder / runs.RESULT, result)
    again = _distill_line(config, folder, outputs="probabilities" if doubt else None)
    say(f"run       {folder}: a teacher for {again}")
    return runs.Finished(folder, result)


def _say_how_it_teaches(outcome: Outcome, *, is_probabilities: bool) -> None:
    """Warn of targets that teach little at the temperature that ``distill`` has by default."""
    temperature = DistillConfig().temperature
    logits = log_of_probabilities(outcome.logits) if is_probabilities else outcome.logits
    if temperature is not None and bool(torch.isfinite(logits).all()):
        for warn in (uniform_warning, underconfidence_warning):
            if told := warn(logits, outcome.labels, temperature):
                say(f"warning   {told}")


def _as_made(config: AdoptConfig) -> AdoptConfig:
    """The config with what the library of a model says of its input, where no flag does."""
    if not is_library(config.arch):
        return config
    own = own_input(*architecture_of(config))
    open_ = {name: getattr(own, name) for name in ("size", "mean", "std") if getattr(config, name) is None}
    if open_:
        say(f"note      {config.arch} is fed as it says: {typed_flags(**open_)}")
    return dataclasses.replace(config, **open_)


def _distill_line(config: AdoptConfig, folder: Path, *, outputs: str | None) -> str:
    """How a student learns from it: code of one's own is named again, as a file never names it."""
    return command_line(
        "distill",
        teacher=folder,
        teacher_arch=config.arch if is_code(config.arch) else None,
        teacher_outputs=outputs,
        dataset=config.dataset if is_code(config.dataset) else None,
        skip_broken=config.skip_broken or None,
    )


def _check_settings(
    config: AdoptConfig, adopted: Checkpoint, data: Data, outcome: Outcome, *, device: torch.device
) -> None:
    """Refuse a model that is near chance, or scores far better fed or read in another way, and say why."""
    path, classes, own = adopted.path, data.source.classes, adopted.description.classes
    labels, predicted = outcome.labels.numpy(), outcome.logits.argmax(dim=1).numpy()
    order = better_order(outcome.logits.numpy(), labels, classes=classes, own=own)
    weak = None if config.allow_weak_teacher else _weakness(outcome, path)
    if order is None and weak is None:
        return
    found = [] if order is None else [(order, predicted, labels)]
    sample = sample_images(data.splits.val, num_images=PROBED, augment="")
    results = run_settings(model_under_test(adopted, data, device=device), sample, draws=0).logits
    if (setting := better_setting(results, sample.labels.numpy())) is not None:
        found.append((setting, results[0].predicted[0].numpy(), sample.labels.numpy()))
    if not found:
        low = ", far below chance" if is_far_below_chance(predicted, labels) else ""
        raise UserError(f"{weak}{low}; is it --size, --mean, --std or --classes?") from weak
    cause = max(found, key=lambda one: one[0].accuracy)
    told = f"{path} scores {better_text(*cause)}: {adopt_again(to_json(config), cause[0])}"
    if not config.allow_weak_teacher:
        raise UserError(f"{told} (--allow_weak_teacher goes on anyway)")
    say(f"warning   {told}")


def _weakness(outcome: Outcome, path: Path) -> UserError | None:
    """What is refused in the accuracy of a model; None where nothing is."""
    try:
        check_accuracy(outcome, None, who=str(path))
    except UserError as error:
        return error
    return None


def _description(config: AdoptConfig, data: Data) -> Description:
    """Of weights that are not evaluated yet."""
    return Description(
        architecture=architecture_of(config),
        classes=_class_names(config, data.source.classes),
        preprocessing=Preprocessing(
            config.size or 0, config.mean or (), config.std or (), interpolation_of(architecture_of(config))
        ),
        origin=Origin(
            command=config.command,
            dataset=data.source.name,
            fingerprint=data.source.fingerprint,
            split=data.splits.hash,
            val_size=None if data.source.val is not None else config.val_size or data.source.default_val_size,
            image_size=data.image_size,
            augment="",  # not known
            label_smoothing=0.0,
            partial=False,
        ),
        validation=Validation(0, 1, 0),
    )


def _class_names(config: AdoptConfig, own: tuple[str, ...]) -> tuple[str, ...]:
    """What ``--classes`` says, or the lines of the file that it names."""
    names = config.classes or own
    if config.classes and len(config.classes) == 1:
        try:
            lines = Path(config.classes[0]).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(
                f"--classes={config.classes[0]} must be class names separated by commas, or a file of text with one "
                f"in each line ({reason(error)})"
            ) from error
        names = tuple(filter(None, map(str.strip, lines)))
        check_class_names(names)
    if len(names) != len(own):
        raise UserError(
            f"--classes has {len(names)} names, {config.dataset} has {len(own)} classes ({listed(own)}); names with "
            "commas go into a file, one in each line: --classes=FILE"
        )
    return tuple(map(class_name, names))


def _weights(config: AdoptConfig, content: Any, description: Description) -> dict[str, torch.Tensor]:
    """The weights of the file as those of the model."""
    name, options = description.architecture
    classes, size = description.classes, description.preprocessing.size
    model = build_model(name, num_classes=len(classes), size=size, options=options)
    found = checkpoints.foreign_weights(
        content, model, path=Path(config.file), key=config.key, strip_prefix=config.strip_prefix
    )
    for note in found.notes:
        say(f"note      {note}")
    own = model.state_dict()
    wrong = [key for key in own if key in found.weights and found.weights[key].shape != own[key].shape]
    heads = {len(found.weights[key]) for key in wrong if found.weights[key].shape[1:] == own[key].shape[1:]}
    if heads and all(own[key].shape[:1] == (len(classes),) for key in wrong):
        imagenet = (config.mean, config.std) == (IMAGENET_MEAN, IMAGENET_STD)
        again = command_line(
            "teacher",
            weights=config.file,
            key=config.key or None,
            arch=config.arch,
            dataset=config.dataset,
            data_root=config.data_root,
            skip_broken=config.skip_broken or None,
            val_size=config.val_size,
            image_size=config.image_size,
            size=config.size,
            normalize="imagenet" if imagenet else None,
            **option_flags(name, options),
        )
        raise UserError(
            f"{config.file} has {max(heads)} outputs, {config.dataset} has {len(classes)} classes: it can teach "
            f"on data of its own classes, or a training starts from it with a new head: {again}"
        )
    checkpoints.check_fit(own, found.weights, source=config.file)
    return found.weights


def _evaluate(adopted: Checkpoint, data: Data, device: torch.device, *, arch: str) -> dict[str, Outcome]:
    classes, size = data.source.classes, adopted.description.preprocessing.size
    logits_of = load_predictor(adopted, classes=classes, device=device, arch=arch)
    return {
        split: results.checked(
            evaluate(logits_of, evaluation_batches(part, size=size), num_classes=len(classes)), who=str(adopted.path)
        )
        for split, part in (("val", data.splits.val), ("test", data.splits.test))
    }


def _result(description: Description, folder: Path) -> dict[str, Any]:
    recorded = ("command", "partial", "dataset", "fingerprint", "split", "val_size")
    return {
        "name": folder.name,
        "finished_at": files.now(),
        "arch": description.architecture.name,
        **{name: getattr(description.origin, name) for name in recorded},
    }
