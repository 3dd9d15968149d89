"""``doctor``: which mistake makes a model score less than it did in training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.commands.evaluate import open_as_recorded
from kdignite.commands.mending import conclusions
from kdignite.config import DoctorConfig, typed_flags
from kdignite.console import say
from kdignite.data.preprocess import measure_statistics
from kdignite.data.registry import load_source
from kdignite.doctor import matching
from kdignite.doctor.images import ImageSample, sample_images
from kdignite.doctor.predictions import Predictions, read_predictions
from kdignite.doctor.report import advice, doctor_figure, doctor_text
from kdignite.doctor.settings import PERMUTED, RECORDED, ModelUnderTest, SettingLogits, SettingResults, run_settings
from kdignite.doctor.state_dicts import compare_state_dicts, comparison_lines
from kdignite.errors import RunFailed, UserError
from kdignite.methods.rows import Temperature
from kdignite.models.layout import place_like
from kdignite.models.options import option_flags
from kdignite.models.registry import build_model, default_size
from kdignite.reports.figures import save_figure
from kdignite.teachers.outputs import log_of_probabilities, probabilities_warning
from kdignite.teachers.soft_targets import soft_target_lines, soft_target_statistics, underconfidence_warning
from kdignite.training.data import DATASET, Data, data_folder
from kdignite.training.device import set_up_device
from kdignite.training.model import (
    FIT_IMAGES,
    check_arch,
    load_model,
    load_placed,
    load_predictor,
    new_model,
    sampled_pixels,
)

TEACHERS = ("teacher", "adopt")  # commands whose models are teachers
SIZE = 32  # pixels; the weights of models with global pooling, so of nearly all, do not depend on it


class Diagnosis(NamedTuple):
    """A model and its data, the images, and its logits in every setting."""

    config: DoctorConfig
    checkpoint: Checkpoint
    data: Data
    split: str
    sample: ImageSample
    results: SettingResults
    predictions: Predictions | None  # those of the user


def doctor(config: DoctorConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Evaluate a model as recorded and under each classic mistake, and list which of them fit the user's results."""
    runs.check_name(root, config.name)
    if not config.run:
        return _weights_only(config, root=root)
    path = runs.find_checkpoint(config.run, root=root)
    checkpoint, device = checkpoints.load_checkpoint(path), set_up_device(config.device, threads=config.threads)
    check_arch(checkpoint, arch=config.arch)
    weights = _compare_with_run(config, checkpoint) if config.weights else []
    diagnosis = diagnose(config, checkpoint, device=device)
    summary = summarise(diagnosis, run=runs.checkpoint_name(path)) | {"weights": weights}
    found = conclusions(checkpoint, diagnosis.data, diagnosis.results, diagnosis.sample, diagnosis.split)
    summary["conclusions"] = found
    folder = runs.create(root, name=config.name, default=f"doctor-{summary['run']}")
    save_figure(doctor_figure(summary), folder / "doctor.png")
    files.write_json(folder / "doctor.json", summary)
    for line in (*weights, doctor_text(summary), *summary["conclusions"], *summary["teacher"]):
        say(line)
    say(f"files       {folder}/ (doctor.png, doctor.json)")
    return runs.Finished(folder, summary)


def diagnose(config: DoctorConfig, checkpoint: Checkpoint, *, device: torch.device) -> Diagnosis:
    """Evaluate a model in every setting; nothing is written."""
    description = checkpoint.description
    data = open_as_recorded(config, description.origin, device)
    classes = data.source.classes
    load_predictor(checkpoint, classes=classes, device=device, arch=config.arch)  # checks that all fits
    if config.per_class is not None and len(config.per_class) != len(classes):
        raise UserError(
            f"--per_class needs {len(classes)} accuracies, one for each of {', '.join(classes[:3])}, ..., not "
            f"{len(config.per_class)}"
        )
    predictions = _read_predictions(config, data)
    split = predictions.split if predictions else config.split or "val"
    part = getattr(data.splits, split)
    chosen = sample_images(part, num_images=config.num_images, augment=description.origin.augment)
    tested = model_under_test(checkpoint, data, device=device)
    results = run_settings(tested, chosen, draws=config.draws, progress=True)
    if not bool(torch.isfinite(results.logits[0].logits).all()):
        raise RunFailed(f"{checkpoint.path} gives logits that are not finite: its weights are broken")
    return Diagnosis(config, checkpoint, data, split, chosen, results, predictions)


def model_under_test(checkpoint: Checkpoint, data: Data, *, device: torch.device) -> ModelUnderTest:
    """A model with what the settings need of it; its classes are those of the data."""
    description, classes = checkpoint.description, data.source.classes
    model = load_placed(checkpoint, device=device)
    return ModelUnderTest(
        model=model,
        build=lambda: place_like(model, new_model(checkpoint)),
        preprocessing=description.preprocessing,
        classes=classes,
        own_classes=description.classes,
        image_size=data.image_size,
        statistics=measure_statistics(sampled_pixels(data.splits.train, FIT_IMAGES)),
        device=device,
    )


def _read_predictions(config: DoctorConfig, data: Data) -> Predictions | None:
    if config.predictions is None:
        return None
    sizes = {part: len(getattr(data.splits, part).indices) for part in ("test", "val")}
    path, num_classes = Path(config.predictions), len(data.source.classes)
    return read_predictions(path, num_classes=num_classes, sizes=sizes, split=config.split)


def summarise(diagnosis: Diagnosis, *, run: str) -> dict[str, Any]:
    """The content of ``doctor.json``, from which the report is made."""
    labels = diagnosis.sample.labels.numpy()
    rows = []
    for one in diagnosis.results.logits:
        accuracies = (one.predicted.numpy() == labels).mean(axis=1)
        rows.append(
            {
                **{key: getattr(one.setting, key) for key in ("name", "wrong", "fix", "random")},
                "accuracy": float(accuracies.mean()),
                "low": float(accuracies.min()),
                "high": float(accuracies.max()),
                "draws": accuracies.tolist() if one.setting.random else None,
            }
        )
    summary = {
        "run": run,
        "dataset": diagnosis.data.source.name,
        "split": diagnosis.split,
        "num_images": len(labels),
        "recorded": RECORDED,
        "preprocessing": diagnosis.checkpoint.description.preprocessing._asdict(),
        "settings": sorted(rows, key=lambda row: -row["accuracy"]),
        "skipped": diagnosis.results.skipped,
        "observed": _observed(diagnosis),
        "per_class": _per_class(diagnosis),
        "predictions": _predictions(diagnosis),
        "teacher": _teacher(diagnosis),
    }
    return summary | {"advice": advice(summary)}


def _candidates(diagnosis: Diagnosis, fit: Callable[[SettingLogits], matching.GoodnessOfFit]) -> dict[str, Any]:
    """The settings that are not rejected, the most likely first."""
    fits = {one.setting.name: fit(one) for one in diagnosis.results.logits}
    ordered = sorted(fits, key=lambda name: fits[name].neg_log_likelihood)
    return {"level": matching.LEVEL, "candidates": [name for name in ordered if fits[name].fits]}


def _observed(diagnosis: Diagnosis) -> dict[str, Any] | None:
    config, labels = diagnosis.config, diagnosis.sample.labels.numpy()
    if config.observed is None:
        return None
    observed = config.observed / (100 if config.observed > 1 else 1)
    count = config.observed_images or len(diagnosis.data.splits.test.indices)
    found = _candidates(
        diagnosis, lambda one: matching.accuracy_fit(one, labels, observed=observed, num_observed=count)
    )
    return {"accuracy": observed, "num_images": count, **found}


def _per_class(diagnosis: Diagnosis) -> dict[str, Any] | None:
    config, labels = diagnosis.config, diagnosis.sample.labels.numpy()
    if config.per_class is None:
        return None
    observed = np.array(config.per_class, dtype=float) / (100 if max(config.per_class) > 1 else 1)
    support = np.bincount(diagnosis.data.splits.test.labels.cpu().numpy(), minlength=len(observed))
    count = support * ((config.observed_images or support.sum()) / support.sum())
    found = _candidates(
        diagnosis, lambda one: matching.per_class_fit(one, labels, observed=observed, num_observed=count)
    )
    return {"accuracies": observed.tolist(), **found}


def _predictions(diagnosis: Diagnosis) -> dict[str, Any] | None:
    if diagnosis.predictions is None:
        return None
    rows, (predicted, logits, _) = diagnosis.sample.rows.numpy(), diagnosis.predictions
    results = diagnosis.results.logits
    match = matching.match_predictions(results, predicted[rows], logits=None if logits is None else logits[rows])
    permutation = None
    if PERMUTED in (match.name, *match.tied):
        classes, recorded = diagnosis.data.source.classes, results[0].predicted[0].numpy()
        order = matching.best_permutation(predicted[rows], recorded, num_classes=len(classes))
        permutation = ", ".join(f"{classes[i]} as {classes[j]}" for i, j in enumerate(order) if i != j)
    return {**match._asdict(), "permutation": permutation}


def _teacher(diagnosis: Diagnosis) -> list[str]:
    """The statistics of a teacher's soft targets; nothing for other models."""
    origin, config = diagnosis.checkpoint.description.origin, diagnosis.config
    if origin.command not in TEACHERS:
        return []
    logits, who = diagnosis.results.logits[0].logits[0], str(diagnosis.checkpoint.path)
    doubt = probabilities_warning(logits, who=who)
    if doubt:
        logits = log_of_probabilities(logits)
    measured = soft_target_statistics(logits, diagnosis.sample.labels, alpha=config.alpha, T=config.T)
    smoothing = None if origin.command == "adopt" else origin.label_smoothing
    lines = soft_target_lines(measured, alpha=config.alpha, T=config.T, label_smoothing=smoothing)
    temperature = Temperature("T", config.T, config.T)
    if smoothing is None and (seen := underconfidence_warning(logits, diagnosis.sample.labels, temperature)):
        lines.append(f"warning: {seen}")
    return [*lines, f"warning: {doubt}; the targets above are of that"] if doubt else lines


def _compare_with_run(config: DoctorConfig, checkpoint: Checkpoint) -> list[str]:
    """The file of ``--weights`` compared with the model of a run."""
    description = checkpoint.description
    size, mean, std = description.preprocessing[:3]
    name, options = description.architecture
    flags = {"arch": name, **option_flags(name, options), "size": size, "mean": mean, "std": std}
    if description.origin.dataset != DATASET:
        flags["dataset"] = description.origin.dataset
    return _compare(config, load_model(checkpoint), adopt=typed_flags(**flags))


def _weights_only(config: DoctorConfig, *, root: Path) -> runs.Finished:
    """The file of ``--weights`` compared with the model of ``--arch``."""
    dataset = config.dataset or DATASET
    folder = data_folder(config.data_root)
    source = load_source(dataset, data_root=folder, image_size=SIZE, skip_broken=config.skip_broken)
    size = default_size(str(config.arch), {}) or SIZE
    model = build_model(str(config.arch), num_classes=len(source.classes), size=size, options={})
    adopt = f"--arch={config.arch} --size=... --mean=... --std=..."
    lines = _compare(config, model, adopt=adopt if dataset == DATASET else f"{adopt} {typed_flags(dataset=dataset)}")
    folder = runs.create(root, name=config.name, default=f"doctor-{Path(str(config.weights)).stem}")
    files.write_json(folder / "doctor.json", {"weights": lines})
    for line in lines:
        say(line)
    return runs.Finished(folder, {"weights": lines})


def _compare(config: DoctorConfig, model: torch.nn.Module, *, adopt: str) -> list[str]:
    path = Path(str(config.weights))
    content, own = checkpoints.read_foreign(path), model.state_dict()
    given, _ = checkpoints.state_dict_in(content, path, own=own, key=config.key)
    adopted = checkpoints.foreign_weights(content, model, path=path, key=config.key)
    flags = f"{adopt} {typed_flags(key=config.key)}" if config.key else adopt
    return comparison_lines(compare_state_dicts(own, given, adopted), file=str(path), adopt=flags)
