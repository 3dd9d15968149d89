"""``doctor``: which mistake makes a model score less than it did in training."""

import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.commands.evaluate import open_as_recorded
from kdignite.config import DoctorConfig, command_line, typed_flags
from kdignite.console import say
from kdignite.data.batches import pixel_batches
from kdignite.data.preprocess import measure_statistics, sample
from kdignite.data.registry import load_source
from kdignite.doctor.foreign import explain, fit_lines
from kdignite.doctor.images import Sample, show
from kdignite.doctor.mistakes import PERMUTED, RECORDED, Examined, Subject, examine
from kdignite.doctor.observations import Predictions, read_predictions
from kdignite.doctor.report import advice, doctor_figure, doctor_text
from kdignite.doctor.verdicts import LEVEL, accuracy_fit, best_permutation, class_fit, name_answers
from kdignite.errors import RunFailed, UserError
from kdignite.models.registry import build_model
from kdignite.reports.figures import save_figure
from kdignite.teachers.softness import soften, softness_lines
from kdignite.training.data import DATASET, Data, data_folder
from kdignite.training.device import choose_device
from kdignite.training.model import FIT_IMAGES, load_model, load_predictor

TEACHERS = ("teacher", "adopt")  # commands whose models teach
SIZE = 32  # pixels; the weights of models with global pooling, so of nearly all, do not depend on it


class Diagnosis(NamedTuple):
    """A diagnosis: the model and its data, the images, and what it answers in every setting."""

    config: DoctorConfig
    checkpoint: Checkpoint
    data: Data
    split: str
    shown: Sample
    examined: Examined
    given: Predictions | None


def doctor(config: DoctorConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Evaluate a model as it was recorded and under each classic mistake, and tell which of them fits what was seen."""
    if not config.run:
        return _foreign_alone(config, root=root)
    path = runs.find_checkpoint(config.run, root=root)
    checkpoint, device = checkpoints.load(path), choose_device(config.device, threads=config.threads)
    foreign = _foreign(config, checkpoint) if config.weights else []
    asked = ask(config, checkpoint, device=device)
    summary = summarise(asked, who=runs.name_of(path)) | {"weights": foreign}
    folder = runs.create(root, name=config.name, default=f"doctor-{summary['run']}")
    save_figure(doctor_figure(summary), folder / "doctor.png")
    files.write_json(folder / "doctor.json", summary)
    for line in (*foreign, doctor_text(summary), *summary["teacher"]):
        say(line)
    say(f"files       {folder}/ (doctor.png, doctor.json)")
    return runs.Finished(folder, summary)


def ask(config: DoctorConfig, checkpoint: Checkpoint, *, device: torch.device) -> Diagnosis:
    """Evaluate a model in every setting; nothing is written."""
    description = checkpoint.description
    data = open_as_recorded(config, description.origin, device)
    classes = data.source.classes
    again = command_line("doctor", config.run, arch="")
    load_predictor(
        checkpoint, classes=classes, device=device, arch=config.arch, again=again
    )  # refuses what does not fit
    _check_classes(config, classes)
    given = _given(config, data)
    split = given.split if given else config.split or "val"
    part = getattr(data.splits, split)
    shown = show(part, num_images=config.num_images, augment=description.origin.augment)
    subject = _subject(checkpoint, data, device=device)
    examined = examine(subject, shown, draws=config.draws, progress=True)
    if not bool(torch.isfinite(examined.answers[0].logits).all()):
        raise RunFailed(f"{checkpoint.path} answers with values that are no finite numbers: its weights are broken")
    return Diagnosis(config, checkpoint, data, split, shown, examined, given)


def _subject(checkpoint: Checkpoint, data: Data, *, device: torch.device) -> Subject:
    description, classes = checkpoint.description, data.source.classes
    name, options = description.architecture
    own, size = description.classes, description.preprocessing.size
    train = data.splits.train

    def fresh() -> torch.nn.Module:
        return build_model(name, num_classes=len(own), size=size, options=options).to(device)

    return Subject(
        model=load_model(checkpoint).to(device),
        fresh=fresh,
        preprocessing=description.preprocessing,
        classes=classes,
        order=None if own == classes else torch.tensor([own.index(one) for one in classes], device=device),
        image_size=data.image_size,
        statistics=measure_statistics(pixel_batches(train.images, sample(train.indices, FIT_IMAGES).split(500))),
        device=device,
    )


def _given(config: DoctorConfig, data: Data) -> Predictions | None:
    if config.predictions is None:
        return None
    sizes = {part: len(getattr(data.splits, part).indices) for part in ("test", "val")}
    return read_predictions(
        Path(config.predictions), num_classes=len(data.source.classes), sizes=sizes, split=config.split
    )


def _check_classes(config: DoctorConfig, classes: tuple[str, ...]) -> None:
    if config.per_class is not None and len(config.per_class) != len(classes):
        raise UserError(
            f"--per_class needs {len(classes)} accuracies, one for each of {', '.join(classes[:3])}, ..., not "
            f"{len(config.per_class)}"
        )


def summarise(asked: Diagnosis, *, who: str) -> dict[str, Any]:
    """Everything that the report says, as plain JSON values."""
    labels = asked.shown.labels.numpy()
    rows = []
    for one in asked.examined.answers:
        accuracies = (one.predicted.numpy() == labels).mean(axis=1)
        rows.append(
            {
                **{key: getattr(one.setting, key) for key in ("name", "wrong", "fix", "random")},
                "accuracy": float(accuracies.mean()),
                "low": float(accuracies.min()),
                "high": float(accuracies.max()),
                "draws": [float(value) for value in accuracies] if one.setting.random else None,
            }
        )
    summary = {
        "run": who,
        "dataset": asked.data.source.name,
        "split": asked.split,
        "num_images": len(labels),
        "recorded": RECORDED,
        "preprocessing": asked.checkpoint.description.preprocessing._asdict(),
        "settings": sorted(rows, key=lambda row: -row["accuracy"]),
        "skipped": asked.examined.skipped,
        "observed": _of_observed(asked),
        "per_class": _of_classes(asked),
        "predictions": _of_predictions(asked),
        "teacher": _of_teacher(asked),
    }
    return summary | {"advice": advice(summary)}


def _of_observed(asked: Diagnosis) -> dict[str, Any] | None:
    config, labels = asked.config, asked.shown.labels.numpy()
    if config.observed is None:
        return None
    observed = config.observed / (100 if config.observed > 1 else 1)
    count = config.observed_images or len(asked.data.splits.test.indices)
    fits = {
        one.setting.name: accuracy_fit(one, labels, observed=observed, num_observed=count)
        for one in asked.examined.answers
    }
    candidates = [name for name in sorted(fits, key=lambda name: fits[name].surprise) if fits[name].fits]
    return {"accuracy": observed, "num_images": count, "level": LEVEL, "candidates": candidates}


def _of_classes(asked: Diagnosis) -> dict[str, Any] | None:
    config, labels = asked.config, asked.shown.labels.numpy()
    if config.per_class is None:
        return None
    observed = np.array(config.per_class, dtype=float) / (100 if max(config.per_class) > 1 else 1)
    support = np.bincount(asked.data.splits.test.labels.cpu().numpy(), minlength=len(observed))
    count = support * ((config.observed_images or support.sum()) / support.sum())
    fits = {
        one.setting.name: class_fit(one, labels, observed=observed, num_observed=count)
        for one in asked.examined.answers
    }
    candidates = [name for name in sorted(fits, key=lambda name: fits[name].surprise) if fits[name].fits]
    return {"accuracies": observed.tolist(), "level": LEVEL, "candidates": candidates}


def _of_predictions(asked: Diagnosis) -> dict[str, Any] | None:
    if asked.given is None:
        return None
    rows, (predicted, logits, _) = asked.shown.rows.numpy(), asked.given
    named = name_answers(asked.examined.answers, predicted[rows], logits=None if logits is None else logits[rows])
    permutation = None
    if PERMUTED in (named.name, *named.tied):
        classes, recorded = asked.data.source.classes, asked.examined.answers[0].predicted[0].numpy()
        order = best_permutation(predicted[rows], recorded, num_classes=len(classes))
        pairs = [f"{classes[one]} as {classes[other]}" for one, other in enumerate(order) if one != other]
        permutation = ", ".join(pairs)
    return {**named._asdict(), "permutation": permutation}


def _of_teacher(asked: Diagnosis) -> list[str]:
    """How soft the targets of a model are, if it is one that teaches."""
    origin, config = asked.checkpoint.description.origin, asked.config
    if origin.command not in TEACHERS:
        return []
    logits = asked.examined.answers[0].logits[0]
    softness = soften(logits, asked.shown.labels, alpha=config.alpha, T=config.T)
    smoothing = None if origin.command == "adopt" else origin.label_smoothing
    return softness_lines(softness, alpha=config.alpha, T=config.T, label_smoothing=smoothing)


def _foreign(config: DoctorConfig, checkpoint: Checkpoint) -> list[str]:
    """What somebody else's file is to the model of a run."""
    description = checkpoint.description
    size, mean, std = description.preprocessing[:3]
    options = description.architecture.options
    flags = {"arch": description.architecture.name, **options, "size": size, "mean": mean, "std": std}
    if description.origin.dataset != DATASET:
        flags["dataset"] = description.origin.dataset
    adopt = shlex.join(typed_flags(flags))
    return _explained(config, load_model(checkpoint), adopt=adopt)


def _foreign_alone(config: DoctorConfig, *, root: Path) -> runs.Finished:
    """What somebody else's file is to a model of the list, or to one's own."""
    dataset = config.dataset or DATASET
    source = load_source(dataset, data_root=data_folder(config.data_root), image_size=SIZE)
    model = build_model(str(config.arch), num_classes=len(source.classes), size=SIZE, options={})
    adopt = f"--arch={config.arch} --size=... --mean=... --std=..."
    lines = _explained(config, model, adopt=adopt if dataset == DATASET else f"{adopt} --dataset={dataset}")
    folder = runs.create(root, name=config.name, default=f"doctor-{Path(str(config.weights)).stem}")
    files.write_json(folder / "doctor.json", {"weights": lines})
    for line in lines:
        say(line)
    return runs.Finished(folder, {"weights": lines})


def _explained(config: DoctorConfig, model: torch.nn.Module, *, adopt: str) -> list[str]:
    path = Path(str(config.weights))
    given = checkpoints.state_dict_in(checkpoints.read_foreign(path), path)
    return fit_lines(explain(model.state_dict(), given), file=str(path), adopt=adopt)
