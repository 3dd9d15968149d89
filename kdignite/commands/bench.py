"""``bench``: how fast distillation is here, beside a bare loop that does nothing but train."""

import contextlib
import dataclasses
import io
import tempfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite import files, runs
from kdignite.commands.distill import assemble
from kdignite.config import BenchConfig, DistillConfig
from kdignite.console import say
from kdignite.data.batches import num_batches
from kdignite.data.preprocess import preparer
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import limited
from kdignite.evaluation import Predictor, predictor
from kdignite.losses import kd_loss
from kdignite.memory import oom_as_failure
from kdignite.models.registry import build_model, check_model
from kdignite.precision import autocast, tf32
from kdignite.reports.bench import bench_figure, bench_text
from kdignite.reports.figures import save_figure
from kdignite.steps import MakeStep, Parts, Step, Update
from kdignite.streams import seeded
from kdignite.timing import Stopwatch, Trial, alternate, median_range, paired_ratio
from kdignite.training.capturing import CHECKS
from kdignite.training.data import Data, open_data, training_part
from kdignite.training.device import check_amp, choose_device
from kdignite.training.spec import RunSpec, TeacherRecord, can_capture, resolve
from kdignite.training.teacher_cache import LoadedTeacher, make_teacher
from kdignite.training.trainer import build_trainer, open_writer, train

Summary = dict[str, Any]
VALIDATION_IMAGES = 100  # an epoch ends with an evaluation, which is not what is measured
MOST_IMAGES = 50_000  # unless more are asked for: the bare loop has all of them ready in memory
ASKED_IMAGES = 5_000  # at most, where the teacher is asked for each: that takes long, and each as long as the others
BARE, WARM, COLD, LIVE, DATA = "bare loop", "warm table", "cold table", "live teacher", "data alone"
ABOUT = {
    BARE: "PyTorch alone, on ready-made batches and logits",
    WARM: "distill, with the teacher's answers in a table",
    COLD: "distill that makes this table",
    LIVE: "distill that asks the teacher for every batch",
    DATA: "views and preprocessing, nothing trained",
}


class Job(NamedTuple):
    """What is measured."""

    config: DistillConfig
    data: Data
    device: torch.device
    loaded: LoadedTeacher

    @property
    def num_images(self) -> int:
        """How many are trained on."""
        return len(training_part(self.config, self.data).indices)

    def asked(self) -> "Job":
        """The same with no more images than the teacher is asked about."""
        limit = min(self.num_images, ASKED_IMAGES)
        return self._replace(config=dataclasses.replace(self.config, limit_train=limit))


@oom_as_failure("try a smaller --num_images")
def bench(config: BenchConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Measure the training of a student in several ways, in turn and in one process."""
    for arch in (config.arch, config.teacher_arch):
        check_model(arch, size=DistillConfig.size, options={})
    job = _job(config, choose_device(config.device, threads=config.threads))
    say(
        f"bench     {config.teacher_arch} teaches {config.arch}: {job.num_images:,} images, {job.asked().num_images:,} "
        f"where the teacher is asked, batches of {config.batch_size}"
    )
    say(f"device    {job.device}, {torch.get_num_threads()} threads, --amp={job.config.amp}")
    with tempfile.TemporaryDirectory(prefix="kdignite-bench-") as place:
        trials = {name: _told(name, trial) for name, trial in _trials(job, Path(place)).items()}
        seconds = alternate(trials, repeats=config.repeats)
        steps = _split(job.asked(), Path(place))
    summary = _summary(job, seconds, steps, teacher=config.teacher_arch)
    text, figure = bench_text(summary), bench_figure(summary)
    folder = runs.create(root, name=config.name, default="bench")
    save_figure(figure, folder / "bench.png")
    (folder / "bench.md").write_text(f"# {config.teacher_arch} -> {config.arch}\n\n{text}", encoding="utf-8")
    files.write_json(folder / "bench.json", summary)
    say(text)
    say(f"files       {folder}/ (bench.md, bench.png, bench.json)")
    return runs.Finished(folder, summary)


def _job(config: BenchConfig, device: torch.device) -> Job:
    settings = DistillConfig(
        dataset=config.dataset,
        arch=config.arch,
        batch_size=config.batch_size,
        limit_train=config.num_images or MOST_IMAGES,
        epochs=1,
        amp=config.amp,
        graph=config.graph,
        device=config.device,
        threads=config.threads,
    )
    check_amp(settings, device=device)
    data = open_data(config.dataset, data_root=config.data_root, val_size=None, image_size=settings.size, device=device)
    splits = data.splits
    data = data._replace(splits=splits._replace(val=limited(splits.val, VALIDATION_IMAGES)))
    settings = resolve(settings, data, device=device)
    teacher = _teacher(config.teacher_arch, settings, num_classes=len(data.source.classes), device=device)
    return Job(
        settings, data, device, LoadedTeacher(teacher, TeacherRecord(config.teacher_arch, "of random weights", 0.0))
    )


def _teacher(arch: str, config: DistillConfig, *, num_classes: int, device: torch.device) -> Predictor:
    """A teacher with random weights: as fast as a good one."""
    with seeded("init", 0):
        model = build_model(arch, num_classes=num_classes, size=config.size, options={})
    model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    halves = (0.5, 0.5, 0.5)
    return predictor(model, prepare=preparer(Preprocessing(config.size, halves, halves), device=device))


def _trials(job: Job, place: Path) -> dict[str, Trial]:
    """What is measured, by name; each does the same training from the same start."""
    return {
        BARE: _bare(job),
        WARM: _distilled(job, cache=place / "warm"),
        COLD: _distilled(job.asked(), cache=None, captured=False),
        LIVE: _distilled(job.asked(), cache="off"),
        DATA: _data(job),
    }


def _distilled(job: Job, *, cache: Path | str | None, captured: bool = True) -> Trial:
    """The training phase of ``distill`` with everything that it does beside training; no cache: a new one each time.

    A GPU captures beforehand, which a run does once, unless that would make the table as well.
    """

    def trial() -> float:
        with tempfile.TemporaryDirectory(prefix="kdignite-bench-") as place:
            folder = runs.create(Path(place), name=None, default="run")
            run = _assembled(job, Path(place), cache=str(cache or Path(place) / "cold"))
            watch, steps = Stopwatch(job.device), list[Step]()
            with contextlib.redirect_stdout(io.StringIO()), open_writer(folder) as writer:
                trainer_state = build_trainer(
                    run._replace(make_step=partial(_noting, run.make_step, steps)), folder, resumed=False
                )
                for batch in islice(run.batches(0, 0), CHECKS if captured and run.capture is not None else 0):
                    steps[0](None, batch)
                watch.start()
                train(trainer_state, folder, writer)
                watch.lap("run")
        return watch.total()

    return trial


def _noting(make_step: MakeStep, steps: list[Step], /, *args: Any, **settings: Any) -> Step:
    steps.append(make_step(*args, **settings))
    return steps[-1]


def _assembled(job: Job, place: Path, *, cache: str) -> RunSpec:
    config = dataclasses.replace(job.config, cache=cache)
    with contextlib.redirect_stdout(io.StringIO()):
        return assemble(config, job.data, job.loaded, root=place, device=job.device)


def _bare(job: Job) -> Trial:
    """The loop that a book would show: no views, no metrics, no logs, and nothing to wait for."""
    run = _assembled(job, Path(), cache="off")
    num_classes = len(job.data.source.classes)
    ready = [
        (run.student.prepare(batch.images), batch.labels, torch.randn(len(batch.labels), num_classes).to(job.device))
        for batch in run.batches(0, 0)
    ]

    def trial() -> float:
        run = _assembled(job, Path(), cache="off")
        model, update = run.student.model.train(), _plain_update(run, job.config)
        if run.capture is not None:
            update = run.capture.around(model, run.optimizer, update)
            for inputs in ready[:CHECKS]:  # captures, as a run does once
                update(*inputs)
        watch = Stopwatch(job.device)
        for inputs in ready:
            update(*inputs)
        watch.lap("loop")
        return watch.total()

    return trial


def _plain_update(run: RunSpec, config: DistillConfig) -> Update:
    model, optimizer = run.student.model, run.optimizer

    def update(*inputs: Tensor, weight: float = 1.0) -> Parts:
        del weight
        images, labels, teacher_logits = inputs
        with tf32(config.amp):
            with autocast(images.device.type, config.amp):
                logits = model(images)
            loss = kd_loss(logits.float(), teacher_logits, labels, alpha=config.alpha, T=config.T).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"loss": loss.detach()}

    return update


def _data(job: Job) -> Trial:
    """Every batch of an epoch as a step would get it."""
    run = _assembled(job, Path(), cache="off")

    def trial() -> float:
        watch = Stopwatch(job.device)
        for batch in run.batches(0, 0):
            run.student.prepare(batch.images)
        watch.lap("data")
        return watch.total()

    return trial


def _split(job: Job, place: Path) -> dict[str, list[float]]:
    """Seconds of each part of every step, one part after another."""
    with contextlib.redirect_stdout(io.StringIO()):
        config = dataclasses.replace(job.config, cache=str(place / "warm"))
        teach = make_teacher(job.loaded, config, job.data, root=place, device=job.device).teach
    run = _assembled(job, place, cache="off")
    teach(next(run.batches(0, 0)))  # makes the table
    model, optimizer, watch = run.student.model, run.optimizer, Stopwatch(job.device)
    model.train()
    for batch in run.batches(0, 0):
        images = run.student.prepare(batch.images)
        watch.lap("data")
        job.loaded.logits_of(batch.images)
        watch.lap("teacher, live")
        teacher_logits = teach(batch)
        watch.lap("teacher, table")
        with autocast(job.device.type, config.amp), tf32(config.amp):
            logits = model(images)
        watch.lap("student forward")
        loss = kd_loss(logits.float(), teacher_logits, batch.labels, alpha=config.alpha, T=config.T).loss
        optimizer.zero_grad()
        with tf32(config.amp):
            loss.backward()
        watch.lap("loss and backward")
        optimizer.step()
        watch.lap("optimiser")
    return watch.seconds


def _told(name: str, trial: Trial) -> Trial:
    def told() -> float:
        seconds = trial()
        say(f"          {name:<13} {seconds:8.2f} s")
        return seconds

    return told


def _summary(job: Job, seconds: dict[str, list[float]], steps: dict[str, list[float]], *, teacher: str) -> Summary:
    config, asked = job.config, job.asked().num_images
    images = {name: asked if name in (COLD, LIVE) else job.num_images for name in seconds}
    rates = {name: [images[name] / one for one in values] for name, values in seconds.items()}
    parts = {name: median_range(laps).median for name, laps in steps.items()}
    trained = sum(value for name, value in parts.items() if name != "teacher, live")
    num_steps = num_batches(job.num_images, config.batch_size)
    captured = can_capture(config, job.device)
    if not captured:  # parts are measured without a graph: what they leave of such a step is everything else
        parts["handlers"] = max(0.0, median_range(seconds[WARM]).median / num_steps - trained)
    per_image = {"teacher": parts["teacher, live"] / config.batch_size, "student": 1 / median_range(rates[BARE]).median}
    return {
        "job": {
            "teacher": teacher,
            "student": config.arch,
            "dataset": config.dataset,
            "batch_size": config.batch_size,
            "amp": config.amp,
            "graph": captured,
            "repeats": len(seconds[BARE]),
        },
        "machine": runs.environment(job.device),
        "about": ABOUT,
        "num_images": images,
        "seconds": seconds,
        "images_per_s": {name: median_range(values)._asdict() for name, values in rates.items()},
        "of_bare": {
            name: paired_ratio(values, rates[BARE])._asdict() for name, values in rates.items() if name != DATA
        },
        "seconds_per_image": per_image,
        "speedup": {
            "ceiling": 1 + per_image["teacher"] / per_image["student"],
            "warm_over_live": paired_ratio(rates[WARM], rates[LIVE])._asdict(),
        },
        "step_seconds": parts,
    }
