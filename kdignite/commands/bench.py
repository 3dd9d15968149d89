"""``bench``: the speed of distillation on this machine, beside a bare PyTorch loop."""

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
from kdignite.data.splits import limited
from kdignite.errors import counted
from kdignite.evaluation import Predictor, predictor
from kdignite.losses import kd_loss
from kdignite.memory import oom_as_failure
from kdignite.models.registry import check_model, default_size
from kdignite.precision import autocast, tf32
from kdignite.reports.bench import BARE, COLD, DATA, LIVE, WARM, bench_figure, bench_summary, bench_text
from kdignite.reports.figures import save_figure
from kdignite.steps import Parts, Step, Update
from kdignite.timing import Stopwatch, Trial, alternate
from kdignite.training.capturing import CHECKS
from kdignite.training.data import Data, open_training_data
from kdignite.training.device import check_amp, set_up_device
from kdignite.training.ensemble import TeacherSource, make_teacher
from kdignite.training.model import prepare_model
from kdignite.training.spec import RunSpec, TeacherRecord, can_capture, resolve
from kdignite.training.teacher_cache import LoadedTeacher
from kdignite.training.trainer import build_trainer, open_writer, train

VALIDATION_IMAGES = 100  # an epoch ends with an evaluation, which is not what is measured
MOST_IMAGES = 50_000  # unless --num_images asks for more: the bare loop keeps all of them in memory
LIVE_IMAGES = 5_000  # at most, where the teacher computes every batch


class Job(NamedTuple):
    """The distillation that is measured."""

    config: DistillConfig
    data: Data
    device: torch.device
    source: TeacherSource

    @property
    def num_images(self) -> int:
        return len(self.data.train.indices)

    def shortened(self) -> "Job":
        """The same with at most `LIVE_IMAGES`."""
        return self._replace(data=self.data._replace(limit_train=min(self.num_images, LIVE_IMAGES)))


@oom_as_failure("try a smaller --num_images")
def bench(config: BenchConfig, *, root: Path = runs.ROOT) -> runs.Finished:
    """Measure the training of a student in several ways, in turn and in one process."""
    runs.check_name(root, config.name)
    for arch in (config.arch, config.teacher_arch):
        check_model(arch, size=default_size(arch, {}) or DistillConfig.size, options={})
    job = _job(config, set_up_device(config.device, threads=config.threads))
    short = job.shortened()
    say(
        f"bench     {config.teacher_arch} teaches {config.arch}: {job.num_images:,} images, {short.num_images:,} with "
        f"a live teacher, batches of {config.batch_size}"
    )
    say(f"device    {job.device}, {counted(torch.get_num_threads(), 'thread')}, --amp={job.config.amp}")
    with tempfile.TemporaryDirectory(prefix="kdignite-bench-") as place:
        seconds = alternate(
            _trials(job, Path(place)),
            repeats=config.repeats,
            report=lambda name, s: say(f"          {name:<13} {s:8.2f} s"),
        )
        laps = _laps(short, Path(place))
    summary = bench_summary(
        _described(job, config),
        runs.environment(job.device),
        num_images={name: short.num_images if name in (COLD, LIVE) else job.num_images for name in seconds},
        num_steps=num_batches(job.num_images, config.batch_size),
        seconds=seconds,
        laps=laps,
    )
    text = bench_text(summary)
    folder = runs.create(root, name=config.name, default="bench")
    save_figure(bench_figure(summary), folder / "bench.png")
    (folder / "bench.md").write_text(f"# {config.teacher_arch} -> {config.arch}\n\n{text}", encoding="utf-8")
    files.write_json(folder / "bench.json", summary)
    say(f"{text}\nfiles       {folder}/ (bench.md, bench.png, bench.json)")
    return runs.Finished(folder, summary)


def _job(config: BenchConfig, device: torch.device) -> Job:
    settings = DistillConfig(
        dataset=config.dataset,
        data_root=config.data_root,
        skip_broken=config.skip_broken,
        arch=config.arch,
        size=default_size(config.arch, {}) or DistillConfig.size,
        batch_size=config.batch_size,
        limit_train=config.num_images or MOST_IMAGES,
        epochs=1,
        amp=config.amp,
        graph=config.graph,
    )
    check_amp(settings, device=device)
    data = open_training_data(settings, device=device)
    data = data._replace(splits=data.splits._replace(val=limited(data.splits.val, VALIDATION_IMAGES)))
    settings = resolve(settings, data, device=device)
    teacher = _teacher(config.teacher_arch, settings, data, device=device)
    record = TeacherRecord(config.teacher_arch, "of random weights", 0.0)
    return Job(settings, data, device, TeacherSource((LoadedTeacher(teacher, record),), record))


def _described(job: Job, config: BenchConfig) -> dict[str, Any]:
    return {
        "teacher": config.teacher_arch,
        "student": config.arch,
        "dataset": config.dataset,
        "batch_size": config.batch_size,
        "amp": job.config.amp,
        "graph": can_capture(job.config, job.device),
        "repeats": config.repeats,
    }


def _teacher(arch: str, config: DistillConfig, data: Data, *, device: torch.device) -> Predictor:
    """A teacher with random weights: as fast as a good one."""
    size = default_size(arch, {}) or DistillConfig.size
    model = prepare_model(dataclasses.replace(config, arch=arch, size=size, normalize="data"), data, device=device)
    return predictor(model.network, prepare=model.prepare)


def _trials(job: Job, place: Path) -> dict[str, Trial]:
    """The trials by name; each is the same training from the same initial weights."""
    short = job.shortened()
    return {
        BARE: _bare(job),
        WARM: partial(_distilled, job, cache=place / "warm"),
        COLD: partial(_distilled, short, cache=None, captured=False),
        LIVE: partial(_distilled, short, cache="off"),
        DATA: partial(_data, _assembled(job, Path(), cache="off")),
    }


def _distilled(job: Job, *, cache: Path | str | None, captured: bool = True) -> float:
    """The training phase of ``distill``, its CUDA graph captured beforehand; no cache: a new one for each trial."""
    with tempfile.TemporaryDirectory(prefix="kdignite-bench-") as place:
        folder = runs.create(Path(place), name=None, default="run")
        run, steps = _assembled(job, Path(place), cache=str(cache or Path(place) / "cold")), list[Step]()

        def make_step(*args: Any, **settings: Any) -> Step:
            steps.append(run.make_step(*args, **settings))
            return steps[-1]

        watch = Stopwatch(job.device)
        with contextlib.redirect_stdout(io.StringIO()), open_writer(folder) as writer:
            trainer_state = build_trainer(run._replace(make_step=make_step), folder, resumed=False)
            for batch in islice(run.batches(0, 0), CHECKS if captured and run.capture is not None else 0):
                steps[0](None, batch)
            watch.start()
            train(trainer_state, folder, writer)
            watch.lap("run")
    return watch.total()


def _assembled(job: Job, place: Path, *, cache: str) -> RunSpec:
    config = dataclasses.replace(job.config, cache=cache)
    with contextlib.redirect_stdout(io.StringIO()):
        return assemble(config, job.data, job.source, root=place, device=job.device)


def _bare(job: Job) -> Trial:
    """A plain PyTorch loop on batches and logits in memory: no views, no metrics, no logs."""
    run = _assembled(job, Path(), cache="off")
    num_classes = len(job.data.source.classes)
    ready = [
        (run.model.prepare(batch.images), batch.labels, torch.randn(len(batch.labels), num_classes).to(job.device))
        for batch in run.batches(0, 0)
    ]

    def trial() -> float:
        run = _assembled(job, Path(), cache="off")
        model, update = run.model.network.train(), _plain_update(run, job.config)
        if run.capture is not None:
            update = run.capture.around(model, run.optimizer, update)
            for inputs in ready[:CHECKS]:  # captures the CUDA graph, as a run does once
                update(*inputs)
        watch = Stopwatch(job.device)
        for inputs in ready:
            update(*inputs)
        watch.lap("loop")
        return watch.total()

    return trial


def _plain_update(run: RunSpec, config: DistillConfig) -> Update:
    model, optimizer = run.model.network, run.optimizer

    def update(*inputs: Tensor, weight: float = 1.0) -> Parts:
        del weight
        images, labels, teacher_logits = inputs
        with tf32(config.amp):
            with autocast(images.device.type, config.amp):
                logits = model(images)
            loss = kd_loss(
                logits.float(), teacher_logits, labels, alpha=config.parameters["alpha"], T=config.parameters["T"]
            ).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {"loss": loss.detach()}

    return update


def _data(run: RunSpec) -> float:
    """Every batch of an epoch, prepared as for a step."""
    watch = Stopwatch(run.device)
    for batch in run.batches(0, 0):
        run.model.prepare(batch.images)
    watch.lap("data")
    return watch.total()


def _laps(job: Job, place: Path) -> dict[str, list[float]]:
    """Seconds of each part of a step, for every step."""
    with contextlib.redirect_stdout(io.StringIO()):
        config = dataclasses.replace(job.config, cache=str(place / "warm"))
        teach = make_teacher(job.source, config, job.data, root=place, device=job.device)
    run = _assembled(job, place, cache="off")
    teach(next(run.batches(0, 0)))  # fills the cache
    model, optimizer, watch = run.model.network.train(), run.optimizer, Stopwatch(job.device)
    for batch in run.batches(0, 0):
        images = run.model.prepare(batch.images)
        watch.lap("data")
        job.source.members[0].logits_of(batch.images)
        watch.lap("teacher, live")
        teacher_logits = teach(batch).logits
        watch.lap("teacher, cached")
        with autocast(job.device.type, config.amp), tf32(config.amp):
            logits = model(images)
        watch.lap("student forward")
        loss = kd_loss(
            logits.float(), teacher_logits, batch.labels, alpha=config.parameters["alpha"], T=config.parameters["T"]
        ).loss
        optimizer.zero_grad()
        with tf32(config.amp):
            loss.backward()
        watch.lap("loss and backward")
        optimizer.step()
        watch.lap("optimiser")
    return watch.seconds
