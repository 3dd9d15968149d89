"""``export``: a finished model as a file that other programs run, checked against the run, with a card."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

import kdignite
from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.commands.evaluate import open_as_recorded
from kdignite.comparison.teachers import hidden_past
from kdignite.config import ExportConfig
from kdignite.console import say
from kdignite.data.batches import evaluation_batches
from kdignite.errors import RunFailed
from kdignite.export import check, hub, programs, quantize
from kdignite.export.card import accuracy_text, card, data_name
from kdignite.export.programs import FILES, Feed, Logits
from kdignite.export.relatives import Relatives, find_relatives
from kdignite.export.usage import usage_code
from kdignite.teachers.outputs import flattened_warning
from kdignite.training.data import Data
from kdignite.training.device import set_up_device
from kdignite.training.model import CPU, class_order, load_model, load_predictor, new_model, sampled_pixels

INT8 = "model_int8.onnx"
RUN = "run"  # the model of the run among those that answer


class Job(NamedTuple):
    """What is exported, and where its files are written first."""

    config: ExportConfig
    checkpoint: Checkpoint
    data: Data
    feed: Feed
    folder: Path

    @property
    def file(self) -> str:
        return FILES[self.config.format]

    @property
    def is_own_test(self) -> bool:
        """Whether the test images are those of the run."""
        return self.checkpoint.description.origin.split == self.data.splits.hash


def export(config: ExportConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Export the model of a run, compare it with the run on its test images, and describe it.

    Nothing is written before the exported model gave the answers of the run.

    Args:
        config: the run and the format.
        root: the folder of all runs, where a folder for the export is made.

    Returns:
        The new folder, and what its ``export.json`` holds.

    Raises:
        UserError: if a package is missing, or the network does what the format cannot hold.
        RunFailed: if the exported model is not that of the run.
    """
    runs.check_name(root, config.name)
    programs.check_packages(config.format)
    checkpoint = checkpoints.load_checkpoint(runs.find_checkpoint(config.run, root=root))
    device = set_up_device("cpu", threads=config.threads)
    logits_of = load_predictor(checkpoint, device=device, arch=config.arch)
    data = open_as_recorded(config, checkpoint.description.origin, device)
    feed = Feed(checkpoint.description.preprocessing, config.inside)
    runs.make_root(root)
    with TemporaryDirectory(dir=root, prefix=files.TEMPORARY) as scratch:
        job = Job(config, checkpoint, data, feed, Path(scratch))
        record = _describe(job, _export(job, logits_of))
        who = runs.checkpoint_name(checkpoint.path)
        folder = runs.create(root, name=config.name, default=f"export-{who}-{config.format}")
        job.folder.chmod(folder.stat().st_mode)
        job.folder.rename(folder)  # all files at once
    say(f"files       {folder}/ ({', '.join(sorted(path.name for path in folder.iterdir()))})")
    return runs.Finished(folder, record)


def _export(job: Job, logits_of: Logits) -> dict[str, Any]:
    """Write the model and, where it is asked for and better, its quantized form; what was measured of them."""
    classes, names = job.checkpoint.description.classes, (job.file, *([INT8] if job.config.int8 else []))
    answers = _answers(job, {RUN: logits_of, **_write(job)})
    found = check.parity(answers.logits[RUN], answers.logits[job.file])
    check.check_parity(found, what=f"{job.checkpoint.path} as {job.config.format}")
    tests = {name: check.scores_of(answers, name, classes=classes) for name in names}
    say(f"check     {check.parity_text(found)}")
    say(f"accuracy  {accuracy_text(tests[job.file])}")
    uses = _uses(job, names)
    doubt = flattened_warning(answers.logits[RUN], who="the network")
    measured: dict[str, Any] = {
        "check": found._asdict(),
        "test": tests[job.file],
        "int8": None,
        "notes": [doubt] if doubt else [],
    }
    if job.config.int8:
        same = check.parity(answers.logits[job.file], answers.logits[INT8])
        measured["int8"] = {**quantize.judged(uses, tests, names, same=same), "test": tests[INT8]}
        say(f"int8      {measured['int8']['text']}")
        if not measured["int8"]["accepted"]:
            (job.folder / INT8).unlink()
            del uses[INT8]
    kept = {name: {**use._asdict(), "sha256": files.sha256(job.folder / name)} for name, use in uses.items()}
    return {**measured, "files": kept}


def _write(job: Job) -> dict[str, Logits]:
    """Write the files; returns their models, opened again."""
    description, path, feed = job.checkpoint.description, job.folder / job.file, job.feed
    network, metadata = load_model(job.checkpoint), hub.metadata(description, feed)
    if job.config.format == "safetensors":
        programs.write_safetensors(network, path, metadata=metadata)
        return {job.file: programs.safetensors_logits(path, new_model(job.checkpoint), feed)}
    program = programs.capture(network, feed, who=description.architecture.name)
    if job.config.format == "torch":
        programs.write_torch(program, path, metadata=metadata)
        return {job.file: programs.torch_logits(path, feed)}
    programs.write_onnx(program, path, feed=feed, metadata=metadata)
    written = [path]
    if job.config.int8:
        size, pixels = feed.preprocessing.size, check.pixels_at(feed.preprocessing)
        images = sampled_pixels(job.data.splits.train, quantize.CALIBRATION_IMAGES, size=size)
        quantize.quantize(path, job.folder / INT8, map(pixels, images), feed=feed, metadata=metadata)
        written.append(job.folder / INT8)
    threads = torch.get_num_threads()
    return {one.name: programs.onnx_logits(programs.open_session(one, threads=threads), feed) for one in written}


def _answers(job: Job, models: dict[str, Logits]) -> check.Answers:
    """What each model answers to the test images, whose labels are in the order of its classes."""
    preprocessing, part = job.feed.preprocessing, job.data.splits.test
    order = class_order(job.checkpoint, job.data.source.classes, CPU)
    batches = evaluation_batches(part, size=preprocessing.size)
    answers = check.answers(models, batches, pixels=check.pixels_at(preprocessing))
    if not bool(torch.isfinite(answers.logits[RUN]).all()):
        raise RunFailed(f"the logits of {job.checkpoint.path} are not finite numbers: its weights are broken")
    return answers if order is None else answers._replace(labels=order[answers.labels])


def _uses(job: Job, names: tuple[str, ...]) -> dict[str, quantize.Use]:
    """What each file costs; only a session of ONNX is timed."""
    latencies: dict[str, float] = {}
    if job.config.format == "onnx":
        sessions = {name: programs.open_session(job.folder / name, threads=1) for name in names}
        latencies = quantize.latencies(sessions, feed=job.feed)
    return {name: quantize.Use((job.folder / name).stat().st_size, latencies.get(name)) for name in names}


def _describe(job: Job, measured: dict[str, Any]) -> dict[str, Any]:
    """Write the descriptions and the card; returns what ``export.json`` holds."""
    description, found = job.checkpoint.description, find_relatives(job.checkpoint.path)
    if not job.is_own_test:
        found = found._replace(teacher=None, baseline=None, verdict="")  # they were scored on other images
    record = {
        "made_at": files.now(),
        "kdignite": kdignite.__version__,
        "format": job.config.format,
        "input": {"name": job.feed.name, "inside": job.feed.inside, "shape": job.feed.shape},
        "preprocessing": hub.preprocessing_record(description),
        "run": _source(job),
        "tested_on": data_name(job.data.source.name),
        "teacher": found.teacher_record,
        "baseline": found.baseline_record,
        "verdict": found.verdict,
        "processor": runs.environment(CPU)["processor"],
        **measured,
        "notes": [*measured["notes"], *_notes(job, found, measured["test"])],
    }
    for note in record["notes"]:
        say(f"note      {note}")
    files.write_json(job.folder / "config.json", hub.config_json(description))
    files.write_json(job.folder / "preprocessor_config.json", hub.preprocessor_json(description, job.feed))
    files.write_json(job.folder / runs.EXPORT, record)
    code = usage_code(description, job.feed, form=job.config.format)
    (job.folder / "README.md").write_text(card(record, run=found.run, code=code), encoding="utf-8")
    return record


def _source(job: Job) -> dict[str, Any]:
    """Where the exported model comes from, without the folders of this machine."""
    description, path = job.checkpoint.description, job.checkpoint.path
    return {
        "name": runs.checkpoint_name(path),
        "sha256": files.sha256(path),
        "unfinished": str(runs.unfinished_run(path) or ""),
        "command": description.origin.command,
        "dataset": data_name(description.origin.dataset),
        "arch": description.architecture.name,
        "num_parameters": sum(one.numel() for one in load_model(job.checkpoint).parameters()),
    }


def _notes(job: Job, found: Relatives, test: dict[str, Any]) -> list[str]:
    """What makes the numbers of a card less than they seem."""
    origin, notes = job.checkpoint.description.origin, []
    if origin.partial:
        notes.append("the model was trained on part of its images only: its numbers are no result")
    if not job.is_own_test:
        notes.append("other data or another split than the model was trained on: it may have seen these test images")
        return notes
    notes += hidden_past(found.run, found.teacher)
    if found.run is not None and len(found.run.labels) == test["num_images"]:
        recorded, now = found.run.result["test"]["num_correct"], test["num_correct"]
        notes += [f"the run recorded {recorded:,} right test images, this file has {now:,}"] if recorded != now else []
    return notes
