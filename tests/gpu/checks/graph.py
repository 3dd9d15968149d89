"""The part ``graph``: the product's captured steps beside those that are run as they are, and beside a bare loop."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from checks.bare import bare_rate
from checks.context import Context, bits, difference, state_of, tell
from kdignite.data.batches import Batch, run_batches
from kdignite.schedules import set_learning_rate
from kdignite.steps import Parts, Step
from kdignite.streams import seed_device
from kdignite.training.capturing import CAPTURED, Capture, Work
from kdignite.training.spec import RunSpec

LEAST_OF_BARE = 0.85  # of the images/s of the captured bare loop
LEAST_OF_EAGER = 2.0  # times those of the product without a graph
FEWEST_STEPS, FEWEST_IMAGES = 60, 20_000
REPLAYS = 200


class Job(NamedTuple):
    """What is trained."""

    kind: str
    arch: str
    batch_size: int
    amp: str

    def __str__(self) -> str:
        return f"{self.kind} {self.arch} {self.batch_size} {self.amp}"


JOBS = (
    Job("distill", "cnn5", 100, "bf16"),
    Job("distill", "cnn5", 500, "bf16"),
    Job("distill", "cnn5", 1000, "bf16"),
    Job("distill", "cnn5", 100, "off"),
    Job("teacher", "fastresnet", 250, "bf16"),
    Job("teacher", "fastresnet", 1000, "bf16"),
    Job("teacher", "fastresnet", 250, "off"),
)
TINY = (Job("distill", "cnn5", 50, "off"),)
BARRED = Job("distill", "cnn5", 100, "bf16")  # whose training phase has to be as fast as said above


class Way(NamedTuple):
    """One of the two ways to take the steps of a job."""

    run: RunSpec
    step: Step
    capture: Capture | None
    replays: list[Work]  # of what was captured


def check(context: Context) -> None:
    """Every job, then the training phase of two of them."""
    for job in TINY if context.tiny else JOBS:
        context.attempt(str(job), partial(_steps, context, job))
    for job in TINY if context.tiny else (BARRED, BARRED._replace(amp="off")):
        context.attempt(f"training phase, {job}", partial(_phases, context, job))


def _steps(context: Context, job: Job) -> None:
    """The same steps in both ways: the same numbers, and the time of each."""
    eager, captured = _way(context, job, graph="off"), _way(context, job, graph="auto")
    num_steps = 6 if context.tiny else max(FEWEST_STEPS, FEWEST_IMAGES // job.batch_size)
    batches = _full_batches(eager.run, num_steps)
    ends = [[_outputs(way, batches), *state_of(way.run)] for way in (eager, captured)]
    assert captured.capture is not None, "there is no capture"
    outcome, differs = captured.capture.outcome, difference(*ends)
    told = f"{outcome}, {len(batches)} steps {bits(differs)}"
    tell(f"{job}: with a dropout layer, captured or not", told, ok=differs is None and outcome == CAPTURED)
    slow, fast = (_seconds(context, way, batches) for way in (eager, captured))
    alone = context.timed(captured.replays[-1], repeat=2 if context.tiny else REPLAYS) if captured.replays else 0.0
    times = f"captured {1e6 * fast:.0f}, its replay alone {1e6 * alone:.0f}, eager {1e6 * slow:.0f}"
    tell(f"{job}: us a step", times, seconds=[fast, alone, slow])
    bare = bare_rate(context, job.arch, job.batch_size, job.amp, captured=True)
    rates = {"captured": job.batch_size / fast, "eager": job.batch_size / slow, "bare captured": bare}
    tell(f"{job}: images/s", _told(rates), rates=rates)


def _way(context: Context, job: Job, *, graph: str) -> Way:
    run = context.run(job.kind, arch=job.arch, batch_size=job.batch_size, amp=job.amp, graph=graph, seed=3)
    replays = _noted(run.capture) if run.capture is not None else []
    model = nn.Sequential(run.model.network, nn.Dropout(0.1))  # draws from the device's generator in every step
    step = run.make_step(model, run.optimizer, prepare=run.model.prepare, scaler=run.scaler)
    return Way(run, step, run.capture, replays)


def _noted(capture: Capture) -> list[Work]:
    """What a capture will record."""
    record, replays = capture.record, list[Work]()

    def noting(work: Work) -> Work:
        replays.append(record(work))
        return replays[-1]

    capture.record = noting
    return replays


def _full_batches(run: RunSpec, count: int) -> list[Batch]:
    """As many, from as many epochs as that takes."""
    found: list[Batch] = []
    for batch in run_batches(run.batches, epochs=count, epoch_length=run.epoch_length):
        if len(found) == count:
            break
        if len(batch.labels) == run.config.batch_size:
            found.append(batch)
    return found


def _each(way: Way, batches: list[Batch]) -> Iterator[Parts]:
    """Take the steps as an engine would."""
    for number, batch in enumerate(batches):
        seed_device(way.run.device, "step", 3, number)
        set_learning_rate(way.run.optimizer, 0.05 * (1 - number / len(batches)))
        yield way.step(None, batch)


def _outputs(way: Way, batches: list[Batch]) -> Tensor:
    """Everything that the steps return."""
    return torch.stack([torch.stack(list(parts.values())) for parts in _each(way, batches)])


def _seconds(context: Context, way: Way, batches: list[Batch]) -> float:
    """Of one step, in the faster of two rounds."""
    rounds = 1 if context.tiny else 2
    return min(context.timed(lambda: list(_each(way, batches))) for _ in range(rounds)) / len(batches)


def _phases(context: Context, job: Job) -> None:
    """The whole training phase: batches, views, table, sums and handlers too."""
    captured, eager = (_phase(context, job, graph=graph) for graph in ("auto", "off"))
    bare = bare_rate(context, job.arch, job.batch_size, job.amp, captured=True)
    rates = {"captured": captured, "eager": eager, "bare captured": bare}
    tell(f"{job}: images/s of the training phase", _told(rates), rates=rates)
    barred: Callable[[bool], bool | None] = context.on_gpu if job == BARRED else (lambda ok: None)
    ratio, times = captured / bare, captured / eager
    tell(f"{job}: its part of the captured bare loop", f"{ratio:.0%}", ok=barred(ratio >= LEAST_OF_BARE))
    tell(f"{job}: times as fast as without a graph", f"{times:.2f}", ok=barred(times >= LEAST_OF_EAGER))


def _told(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items())


def _phase(context: Context, job: Job, *, graph: str) -> float:
    """Images a second of the faster epoch after the first, in which the table is made and the step captured."""
    epochs = 2 if context.tiny else 3
    run = context.run(job.kind, arch=job.arch, batch_size=job.batch_size, amp=job.amp, graph=graph, epochs=epochs)
    rows = context.trained(run).history.rows
    return max(row["images_per_s"] or 0.0 for row in rows[1:])
