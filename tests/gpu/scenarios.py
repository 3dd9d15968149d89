"""What the tests ask of the pretended device, in a process of its own: ``python scenarios.py FOLDER``.

Each scenario is a function from a folder to plain values; all of them go to ``FOLDER/found.json``. One that raises,
such as on a mixture of devices, leaves its traceback there.
"""

import copy
import io
import json
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pretended
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch import Tensor, nn

from kdignite import checkpoints, handlers, runs, stopping
from kdignite.commands import compare as compare_module
from kdignite.commands.adopt import adopt
from kdignite.commands.baseline import baseline
from kdignite.commands.bench import _teacher
from kdignite.commands.compare import compare
from kdignite.commands.distill import assemble, distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate as evaluated
from kdignite.commands.sweep import sweep
from kdignite.commands.teacher import teacher
from kdignite.config import (
    AdoptConfig,
    BaselineConfig,
    CompareConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    SweepConfig,
    TeacherConfig,
    configure,
)
from kdignite.data import folders
from kdignite.data.batches import Batch, evaluation_batches, on_device, training_batches, view_batches
from kdignite.data.mixing import Mixing
from kdignite.data.preprocess import preparer
from kdignite.data.source import ImageSet
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import Part
from kdignite.devices import to_host
from kdignite.doctor.settings import with_new_head
from kdignite.evaluation import evaluate, predictor
from kdignite.handlers import showing
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs
from kdignite.metrics import cost
from kdignite.schedules import build_optimizer
from kdignite.steps import distill_step, supervised_step
from kdignite.teachers import CacheFolder, CacheSpec, LogitCache, RowFormat
from kdignite.training import device as device_module
from kdignite.training import results, spec
from kdignite.training import trainer as trainer_module
from kdignite.training.capturing import CAPTURED, Capture
from kdignite.training.data import open_training_data
from kdignite.training.device import set_up_device
from kdignite.training.ensemble import TeacherSource
from kdignite.training.spec import RunSpec, TeacherRecord, resolve
from kdignite.training.teacher_cache import LoadedTeacher
from kdignite.training.trainer import build_trainer, open_writer, train

pretended.install()
CPU = torch.device("cpu")
GPU = torch.device(*pretended.DEVICE)
SMALL = {"dataset": "digits", "limit_train": 200, "batch_size": 48, "epochs": 2, "amp": "off", "threads": 1}
NARROW = {"widths": (4, 4, 4, 4, 4)}
Found = dict[str, Any]


@contextmanager
def on_cpu() -> Iterator[None]:
    """Within the block runs compute on the CPU."""
    device = device_module._device
    device_module._device = lambda name: CPU
    try:
        yield
    finally:
        device_module._device = device


# --- whole commands: nothing mixes devices


def everything(folder: Path) -> Found:
    """Every command that computes, each in several of its ways."""
    root, small = folder / "runs", SMALL | NARROW
    teacher_record = teacher(configure(TeacherConfig, **small, arch="cnn5", name="teacher"), root=root)
    weak = {"allow_weak_teacher": True, "teacher": "teacher"}
    student = {**small, **weak}
    done = [
        distill(configure(DistillConfig, **student, name="cold", cache=str(folder / "tables")), root=root),
        distill(configure(DistillConfig, **student, name="warm", cache=str(folder / "tables")), root=root),
        distill(configure(DistillConfig, **student, name="live", cache="off"), root=root),
        distill(configure(DistillConfig, **student, name="half", cache_dtype="float16", grad_clip=1.0), root=root),
        baseline(configure(BaselineConfig, **small, name="plain"), root=root),
        baseline(
            configure(BaselineConfig, **small, name="adamw", optimizer="adamw", patience=1, save_every_s=0.0), root=root
        ),
        sweep(configure(SweepConfig, **student, alpha=(0.5,), T=(1.0, 4.0), name="sweep"), root=root),
        evaluated(EvaluateConfig(run=str(teacher_record.folder)), root=root),
        compare(CompareConfig(runs=("teacher", "cold", "plain")), root=root),
    ]
    adopted = AdoptConfig(
        file=str(_somebodys(root)), arch="cnn5", **NARROW, size=32, mean=(0.5,) * 3, std=(0.5,) * 3, dataset="digits",
        classes=tuple(map(str, reversed(range(10)))), allow_weak_teacher=True,
    )  # fmt: skip
    done.append(adopt(adopted, root=root))
    return {"runs": [one.folder.name for one in done], "results": {one.folder.name: one.result for one in done[:6]}}


def _somebodys(root: Path) -> Path:
    path = root / "theirs.pt"
    torch.save(checkpoints.load_checkpoint(root / "teacher" / "best.safetensors").weights, path)
    return path


def doctors(folder: Path) -> Found:
    """What the doctor finds twice, between draws from the default generator."""
    root = folder / "runs"
    config = {**SMALL, **NARROW, "arch": "cnn5", "epochs": 1, "limit_train": 60}
    run = teacher(configure(TeacherConfig, **config, name="teacher"), root=root)
    found = []
    for name in ("one", "two"):
        torch.randn(7)
        asked = DoctorConfig(run=str(run.folder), draws=3, num_images=60, name=name)
        found.append(doctor(asked, root=root).result["settings"])
    return {"one": found[0], "two": found[1]}


def pictures(folder: Path) -> Found:
    """A folder of pictures, in memory and decoded by workers, of another size than the model's input."""
    place, root, random = folder / "pictures", folder / "runs", np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for label in ("cat", "dog"):
            (place / split / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (20, 20, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / split / label / f"{number}.png")
    config = {
        **{"dataset": f"folder:{place}", "epochs": 1, "batch_size": 8, "image_size": 16, "amp": "off", "threads": 1},
        **NARROW,
    }
    stored = baseline(configure(BaselineConfig, **config, name="stored"), root=root)
    limit, folders.IN_MEMORY_BYTES = folders.IN_MEMORY_BYTES, 0
    try:
        streamed = baseline(configure(BaselineConfig, **config, name="streamed"), root=root)
    finally:
        folders.IN_MEMORY_BYTES = limit
    return {name: _weights(run.folder) for name, run in (("stored", stored), ("streamed", streamed))}


def resumed(folder: Path) -> Found:
    """A run that is stopped within its second epoch and goes on, beside one that is not, and beside one on the CPU."""
    root = folder / "runs"
    config = SMALL | NARROW
    whole = baseline(configure(BaselineConfig, **config, name="whole", keep_last=True), root=root)
    run_batches = trainer_module.run_batches

    def pressed(*args: Any, **sizes: Any) -> Iterator[Batch]:
        for number, batch in enumerate(run_batches(*args, **sizes)):
            if number == 6:
                stopping.request_stop(signal.SIGINT)
            yield batch

    trainer_module.run_batches = pressed
    try:
        baseline(configure(BaselineConfig, **config, name="stopped", keep_last=True), root=root)
        raise AssertionError("the run was not stopped")
    except stopping.Stopped:
        pass
    finally:
        trainer_module.run_batches = run_batches
    again = baseline(configure(BaselineConfig, resume="stopped"), root=root)
    with on_cpu():
        plain = baseline(configure(BaselineConfig, **config, name="cpu"), root=root)
    states = [checkpoints.read(run.folder / runs.LAST) for run in (whole, again)]
    return {
        **{"whole": _weights(whole.folder), "again": _weights(again.folder), "cpu": _weights(plain.folder)},
        "states": [str([state["model"], state["optimizer"]["state"]]) for state in states],
    }


def _weights(folder: Path) -> dict[str, list[float]]:
    return {
        name: value.flatten().tolist()
        for name, value in checkpoints.load_checkpoint(folder / "best.safetensors").weights.items()
    }


# --- what a step costs


def _run(folder: Path, *, device: torch.device = GPU, **given: Any) -> RunSpec:
    """A distillation of digits that is ready to start, from a table of a random teacher's answers."""
    settings = {**SMALL, "batch_size": 100, "limit_train": None, "augment": "crop+flip", "epochs": 1, **given}
    config = configure(DistillConfig, **settings, cache=str(folder / "tables"))
    data = open_training_data(config, device=set_up_device("cpu", threads=1) if device == GPU else device)
    config = resolve(config, data, device=device)
    record = TeacherRecord("random", "random", 0.0)
    loaded = LoadedTeacher(_teacher("cnn5", config, data, device=device), record)
    return assemble(config, data, TeacherSource((loaded,), record), root=folder, device=device)


def _observed(run: RunSpec, folder: Path, *, first: int, last: int) -> pretended.Counted:
    """What the steps after the first and up to the last ask of the device, with everything around them."""
    seen: dict[str, pretended.Counted] = {}
    place = runs.create(folder, name=None, default="run")
    with open_writer(place) as writer:
        trainer_state = build_trainer(run, place, resumed=False)
        for name, number in (("before", first), ("after", last)):
            event = Events.ITERATION_COMPLETED(once=number)
            trainer_state.trainer.add_event_handler(
                event, lambda _, name=name: seen.update({name: pretended.COUNTED.copy()})
            )
        train(trainer_state, place, writer)
    return seen["after"].since(seen["before"])


def _told(counted: pretended.Counted, steps: int) -> Found:
    return {
        "launches": sum(counted.launches.values()) / steps,
        "kinds": {name: number / steps for name, number in counted.launches.items()},
        "copies": dict(counted.copies),
        "waits": dict(counted.waits),
    }


def warm_steps(folder: Path) -> Found:
    """Steps 5 to 9 of an epoch from a table that is there."""
    return _told(_observed(_run(folder), folder, first=4, last=9), 5)


def warm_captured_steps(folder: Path) -> Found:
    """The same with captured updates: what a replay does is left out, since the device launches it by itself."""
    inside: list[pretended.Counted] = []

    def record(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            before = pretended.COUNTED.copy()
            values = work()
            inside.append(pretended.COUNTED.since(before))
            return values

        return replay

    run = _run(folder)
    capture = Capture(100, say=print, record=record)
    run = run._replace(make_step=capture(run.make_step), capture=capture)
    counted = _observed(run, folder, first=4, last=9)
    launched = counted.launches
    for one in inside[-(run.epoch_length - 1 - 4) :][:5]:  # the replays of steps 5 to 9; the odd last batch has none
        launched = launched - one.launches
    return _told(counted._replace(launches=launched), 5) | {"outcome": capture.outcome}


def guard(folder: Path) -> Found:
    """50 steps, in which the loss is looked at once."""
    counted = _observed(_run(folder, batch_size=20, **NARROW), folder, first=5, last=55)
    return _told(counted, 50)


def epoch_end(folder: Path) -> Found:
    """Everything between the last step of an epoch and the first of the next."""
    run, place = _run(folder, epochs=2, views=1, **NARROW), runs.create(folder, name=None, default="run")
    seen: dict[str, pretended.Counted] = {}
    with open_writer(place) as writer, mock.patch.object(spec, "FEW_STEPS", 0):  # no statistics are measured anew
        trainer_state = build_trainer(run, place, resumed=False)
        note = lambda engine, name: seen.setdefault(name, pretended.COUNTED.copy())  # noqa: E731
        trainer_state.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=run.epoch_length), note, "before")
        trainer_state.trainer.add_event_handler(Events.EPOCH_STARTED(once=2), note, "after")
        train(trainer_state, place, writer)
    return _told(seen["after"].since(seen["before"]), 1)


def evaluations(folder: Path) -> Found:
    """Waits of an evaluation of one batch and of several."""
    run = _run(folder, **NARROW)
    logits_of = predictor(run.model.network, prepare=run.model.prepare)
    found = []
    for limit in (1, 3):
        before = pretended.COUNTED.copy()
        evaluate(logits_of, evaluation_batches(run.data.splits.train, limit=limit), num_classes=10)
        found.append(_told(pretended.COUNTED.since(before), 1))
    return {"one": found[0], "three": found[1]}


# --- the same numbers as on the CPU


def batches(folder: Path) -> Found:
    """Whether batches are those of the CPU, bit for bit: in blocks of any size, from any point of an epoch."""
    images = torch.randint(256, (400, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Part(ImageSet(images, torch.arange(400) % 10), torch.randperm(400)[:333].sort().values)
    placed, found = on_device(part, GPU), {}
    from kdignite.data import batches as module

    for block in (1, 20_000, 2**25):
        module.BLOCK_BYTES = block
        for augment, kind in (("none", None), ("flip", None), ("crop+flip", "mixup"), ("rrc+flip+jitter", "cutmix")):
            mixing = None if kind is None else Mixing(kind, 1.0, part.indices, 10)
            for start in (0, 3):
                settings: dict[str, Any] = {"seed": 3, "view_seed": 1, "augment": augment, "batch_size": 32}
                settings["mixing"] = mixing
                ours, theirs = (list(training_batches(one, **settings)(1, start)) for one in (placed, part))
                found[f"{block} {augment} {start}"] = _all_equal(ours, theirs)
        whole = [list(view_batches(one, view=2, view_seed=1, augment="crop")) for one in (placed, part)]
        found[f"{block} view"] = _all_equal(*whole)
        found[f"{block} evaluation"] = _all_equal(*(list(evaluation_batches(one)) for one in (placed, part)))
    module.BLOCK_BYTES = 2**25
    return found


def _all_equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(mine.images.cpu(), its.images)
        and torch.equal(mine.labels.cpu(), its.labels)
        and torch.equal(mine.indices, its.indices)
        and mine.device_indices is not None
        and torch.equal(mine.device_indices.cpu(), its.indices)
        and (mine.view, mine.weight) == (its.view, its.weight)
        for mine, its in zip(ours, theirs, strict=True)
    )


def lookups(folder: Path) -> Found:
    """Whether a table gives on the device what it gives on the CPU, placed there or too large for it."""
    from kdignite.teachers import logit_cache as module

    images = torch.randint(256, (300, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    part = Part(ImageSet(images, torch.arange(300) % 10), torch.arange(0, 300, 2))
    settings: dict[str, Any] = {"seed": 0, "view_seed": 0, "augment": "flip", "batch_size": 32}
    found = {}
    pixels = (("pixels", (3, 8, 8)),)
    formats = [RowFormat(3, dtype, top) for dtype, top in (("float32", None), ("float16", None), ("float32", 2))]
    for rows in (*formats, RowFormat(3, "float32", features=pixels)):
        for placed in (2**30, 0):
            module.DEVICE_BYTES = placed
            answers, case = [], f"{rows.dtype}-{rows.top}-{rows.content}-{placed}"
            for number, one in enumerate((on_device(part, GPU), part)):
                kept = CacheFolder(folder / f"{case}-{number}", {}, rows)
                outputs_of, spec = _with_pixels if rows.features else _sums, CacheSpec(one, 0, "flip")
                table = LogitCache(outputs_of, spec, kept, seed=0, say=print)
                batches = training_batches(one, **settings)(0, 0)
                answers.append([rows.flatten(table(batch)).cpu() for batch in batches])
            found[case] = all(torch.equal(*pair) for pair in zip(*answers, strict=True))
    module.DEVICE_BYTES = 2**30
    try:
        table(Batch(images[:1].to(GPU), torch.zeros(1), torch.tensor([1]), 0))
        found["an image that is not in the table"] = "answered"
    except (RuntimeError, IndexError, AssertionError):
        found["an image that is not in the table"] = "refused"
    return found


def _sums(images: Tensor) -> Outputs:
    return Outputs(images.float().mean((2, 3)))


def _with_pixels(images: Tensor) -> Outputs:
    return _sums(images)._replace(features={"pixels": images.float()})


def sums(folder: Path) -> Found:
    """Means of an epoch on both devices."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(3, generator=generator) for _ in range(40)]
    found = []
    for device in (GPU, CPU):
        kept = handlers.EpochSums(device)
        for number, value in enumerate(values):
            loss, ce, kd = value.to(device).unbind()
            correct = torch.tensor(number).to(device)
            kept.add({"loss": loss, "ce": ce, "kd": kd, "correct": correct}, num_images=100 if number < 39 else 17)
        found.append(kept.means())
    return {"gpu": found[0], "cpu": found[1]}


def host_copies(folder: Path) -> Found:
    """What is copied to the host in one piece: every type, shape and memory layout, in nested containers."""
    generator = torch.Generator().manual_seed(0)
    values = {
        "weights": torch.rand(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3), "flag": torch.tensor([True, False, True]), "half": torch.rand(5).half(),
        "wide": torch.rand(2, 3).double(), "bytes": torch.arange(7, dtype=torch.uint8), "none": torch.empty(0, 3),
        "transposed": torch.rand(3, 5).T,
    }  # fmt: skip
    nested = {
        "a": [{"b": {name: value.to(GPU)}} for name, value in values.items()],
        "rate": 0.5,
        "word": "x",
        "n": None,
    }
    before = pretended.COUNTED.copy()
    host_copy = to_host(nested)
    waits = sum(pretended.COUNTED.since(before).waits.values())
    found = {}
    for entry in host_copy["a"]:
        ((name, value),) = entry["b"].items()
        found[name] = value.device == CPU and value.dtype == values[name].dtype and torch.equal(value, values[name])
    kept = torch.rand(3)
    return {
        **{"waits": waits, "equal": found, "rest": [host_copy["rate"], host_copy["word"], host_copy["n"]]},
        "what is on the CPU stays itself": to_host({"x": kept})["x"] is kept,
    }


def optimizers(folder: Path) -> Found:
    """Momentum that starts as zeros and a rate that is a tensor: the weights of the CPU."""
    found = {}
    for kind in ("nesterov", "sgd", "adamw"):
        ends = []
        for device in (GPU, CPU):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = nn.Linear(5, 3).to(device)
            optimizer = build_optimizer(model, kind=kind, lr=0.1, momentum=0.9, weight_decay=0.01)
            for number in range(4):
                model.zero_grad()
                inputs = torch.randn(7, 5, generator=torch.Generator().manual_seed(number)).to(device)
                model(inputs).square().mean().backward()
                optimizer.step()
            ends.append(torch.cat([one.detach().cpu().flatten() for one in model.parameters()]))
        found[kind] = float((ends[0] - ends[1]).abs().max())
    return found


# --- capturing, with a double whose replay calls the function


class Dropping(nn.Module):
    """A network with everything that an update changes: weights, statistics, masks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        return self.layers(images)


def captured(folder: Path) -> Found:
    """Steps with and without a capture on the device: the last batch is smaller, a teacher answers, masks are keyed."""
    prepare = preparer(Preprocessing(8, (0.5,) * 3, (0.5,) * 3), device=GPU)
    ends, outcomes = [], []
    for with_capture in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = Dropping().to(GPU)
        optimizer = build_optimizer(model, kind="nesterov", lr=0.1, momentum=0.9, weight_decay=0.0)
        told: list[str] = []
        capture = Capture(6, say=told.append, record=lambda work: work)

        def make(model: nn.Module, optimizer: Any, /, **settings: Any) -> Any:
            return distill_step(model, optimizer, _answer, method=partial(kd, alpha=0.5, T=2.0), **settings)

        step = (capture(make) if with_capture else make)(model, optimizer, prepare=prepare)
        losses = []
        for number in range(7):
            torch.manual_seed(number)
            size = 4 if number == 3 else 6
            generator = torch.Generator().manual_seed(number)
            images = torch.randint(256, (size, 3, 8, 8), generator=generator, dtype=torch.uint8).to(GPU)
            labels = (torch.arange(size) % 3).to(GPU)
            losses.append(step(None, Batch(images, labels, torch.arange(size), 0))["loss"].item())
        state = to_host([model.state_dict(), optimizer.state_dict()["state"]])
        ends.append((losses, [value.tolist() for value in state[0].values()], str(state[1])))
        outcomes.append([capture.outcome, told])
    return {"equal": ends[0] == ends[1], "outcome": outcomes[1][0] == CAPTURED, "told": outcomes[1][1]}


def _answer(batch: Batch) -> Outputs:
    return Outputs(batch.images.float().mean((2, 3)))


# --- saving beside the training


def beside(folder: Path) -> Found:
    """The first state is being written while the second epoch trains; then the disk is full."""
    run, place = _run(folder, epochs=3, views=1, **NARROW), runs.create(folder, name=None, default="run")
    write, went_on, waited, told = checkpoints.write, threading.Event(), [], []

    def slow(path: Path, payload: Any, **given: Any) -> None:
        if path.name == runs.LAST:
            if not waited:
                waited.append(went_on.wait(60))
            elif len(waited) == 1:
                waited.append(True)
                raise OSError(28, "No space left on device")
        write(path, payload, **given)

    def note(engine: Engine) -> None:
        went_on.set()

    from kdignite.training import state

    checkpoints.write, say = slow, state.say
    state.say = told.append
    try:
        with open_writer(place) as writer:
            trainer_state = build_trainer(run, place, resumed=False)
            trainer_state.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=run.epoch_length + 3), note)
            train(trainer_state, place, writer)
    finally:
        checkpoints.write, state.say = write, say
    saved = {name: checkpoints.read(place / name)["trainer"]["iteration"] for name in (runs.LAST, runs.PREVIOUS)}
    threads = [one.name for one in threading.enumerate() if one.name.startswith("save")]
    return {"waited": waited, "told": told, "saved": saved, "length": run.epoch_length, "threads": threads}


def estimates(folder: Path) -> Found:
    """The time of a run is estimated where the loss is read, which waits for the device anyway."""
    run, out, before = _run(folder, batch_size=20, epochs=2, **NARROW), io.StringIO(), showing.TIMED_S
    showing.TIMED_S = 0.0
    try:
        with redirect_stdout(out):
            counted = _observed(run, folder, first=97, last=103)
    finally:
        showing.TIMED_S = before
    return {"lines": [line for line in out.getvalue().splitlines() if "left on" in line], **_told(counted, 6)}


def heads(folder: Path) -> Found:
    """A new head is the same whatever device evaluates, and where the model is."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    found = []
    for device in (GPU, CPU):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            made = with_new_head(copy.deepcopy(model).to(device))[1].weight
        found.append(made.detach().cpu().tolist())
        assert made.device == device
    return {"gpu": found[0], "cpu": found[1]}


def plain_update(folder: Path) -> Found:
    """A step of training on the labels alone: the rate is written to the device, nothing else comes from the host."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).to(GPU)
    optimizer = build_optimizer(model, kind="sgd", lr=0.1, momentum=0.9, weight_decay=0.0)
    rates = {id(group["lr"]) for group in optimizer.param_groups}
    step = supervised_step(model, optimizer, prepare=lambda images: images.float())
    batch = Batch(torch.zeros(4, 3, 8, 8, dtype=torch.uint8).to(GPU), torch.arange(4).to(GPU) % 3, torch.arange(4), 0)
    step(None, batch)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    after = {id(group["lr"]) for group in optimizer.param_groups}
    return {"rates": len(rates), "after loading": len(after), "on": str(optimizer.param_groups[0]["lr"].device)}


SCENARIOS = (
    *(everything, doctors, pictures, resumed, warm_steps, warm_captured_steps, guard, epoch_end, evaluations, batches),
    *(lookups, sums, host_copies, optimizers, captured, beside, estimates, heads, plain_update),
)


def main(folder: Path) -> None:
    """Run every scenario; figures are drawn from arrays and latencies measured on the CPU, so both are cut short."""
    device_module._device = lambda name: GPU
    cost.TIMED_SECONDS = 0.0
    for module in (results, compare_module):
        module.save_figure = lambda figure, path: Image.new("RGB", (1, 1)).save(path)
    results.confusion_figure = results.classification_figure = lambda summary, *, title: None
    found: dict[str, Any] = {}
    for scenario in SCENARIOS:
        place = folder / scenario.__name__
        place.mkdir()
        with pretended.counting():
            try:
                found[scenario.__name__] = scenario(place)
            except Exception:  # noqa: BLE001 - one scenario must not cost the others
                found[scenario.__name__] = {"failed": traceback.format_exc()}
    (folder / "found.json").write_text(json.dumps(found, default=str))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
