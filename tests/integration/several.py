"""What the tests of several processes compute in each of them: ``python several.py FOLDER`` writes one file a rank."""

import gc
import os
import pkgutil
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import Tensor, nn

from kdignite import handlers, processes
from kdignite.commands.stages import StudyState, run_stage, save
from kdignite.data.batches import Batch, Share, evaluation_batches, run_batches, training_batches
from kdignite.data.source import ImageSet
from kdignite.data.splits import Part, all_images
from kdignite.errors import RunFailed, UserError
from kdignite.evaluation import Outcome, evaluate
from kdignite.methods.maps import VARIANCE
from kdignite.methods.projectors import distributions
from kdignite.methods.registry import METHODS, bind_method, check_method
from kdignite.methods.taps import FeatureExtractor
from kdignite.methods.terms import Loss, Outputs, Terms
from kdignite.runs import Finished
from kdignite.schedules import build_optimizer
from kdignite.steps import Step, distill_step
from kdignite.teachers import outputs_with_features

CPU = torch.device("cpu")
TRAINED = 47  # images in batches of 10: the last one has 7, which no two processes can share evenly
EVALUATED = (1100, 700, 300)  # images in chunks of 500: an even share, an uneven one, and one for the first alone


def part(num_images: int) -> Part:
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(256, (num_images, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return all_images(ImageSet(images, torch.randint(10, (num_images,), generator=generator)))


def linear(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3 * 8 * 8, 10, dtype=torch.float64)


def convolutional(seed: int = 7) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10)).double()


def prepared(images: Tensor) -> Tensor:
    return images.double() / 255


def trained(share: Share) -> dict[str, Any]:
    """Twenty steps of a distillation whose clipping bites: the weights after them, and the mean of every part."""
    model, teacher = convolutional(), linear(3)
    optimizer = build_optimizer(model, kind="nesterov", lr=0.1, momentum=0.9, weight_decay=1e-3)

    def teach(batch: Batch) -> Outputs:
        with torch.no_grad():
            return Outputs(teacher(prepared(batch.images).flatten(1)))

    step = distill_step(
        processes.parallel(model, device=CPU, sync_bn=False),
        optimizer,
        teach,
        prepare=prepared,
        method=bind_method("kd", {"alpha": 0.7, "T": 3.0}, label_smoothing=0.1),
        grad_clip=0.3,
    )
    return {"weights": model.state_dict(), "means": means_of(step, share)}


def means_of(step: Step, share: Share, *, epochs: int = 4) -> dict[str, float]:
    """The mean of every part over epochs of five steps."""
    engine = Engine(step)
    sums = handlers.attach_epoch_sums(engine, device=CPU)
    batches = training_batches(part(TRAINED), seed=1, view_seed=2, augment="flip", batch_size=10, share=share)
    engine.run(run_batches(batches, epochs=epochs, epoch_length=5), max_epochs=epochs, epoch_length=5)
    return sums.means()


def trained_on_features(share: Share) -> dict[str, Any]:
    """The same on features: the weights of the student, and of what is learnt beside it."""
    student, teacher = (
        FeatureExtractor(convolutional(seed), (layer,), flag="layers", who="it") for seed, layer in ((7, "2"), (8, "1"))
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        student.projector = distributions({"2": (6, 3, 3)}, {"1": (6, 6, 6)}).double()
    optimizer = build_optimizer(student, kind="nesterov", lr=0.1, momentum=0.9, weight_decay=1e-3)
    outputs_of = outputs_with_features(teacher, prepare=prepared)
    parameters = {"weight": 0.5, "alpha": 0.3, "T": 3.0}
    step = distill_step(
        processes.parallel(student, device=CPU, sync_bn=False),
        optimizer,
        lambda batch: outputs_of(batch.images),
        prepare=prepared,
        method=bind_method("vid", parameters, label_smoothing=0.1),
        grad_clip=0.3,
    )
    return {"means": means_of(step, share), "weights": student.state_dict()}


def trained_by(method: str, share: Share, *, pieces: int = 1) -> dict[str, Any]:
    """Five steps by a method: an even batch, and a last one of 4 and 3 images; relations are within so many pieces."""
    student, teacher = (
        FeatureExtractor(convolutional(seed), ("1",), flag="layers", who="it").double() for seed in (7, 8)
    )
    row = METHODS[method]
    bound: Loss = bind_method(method, check_method(method, {}), label_smoothing=0.1)
    if row.init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(9)
            student.projector = without_norm(pkgutil.resolve_name(row.init)({"1": (6, 6, 6)}, {"1": (6, 6, 6)}))
    optimizer = build_optimizer(student, kind="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-3)
    outputs_of = outputs_with_features(teacher, prepare=prepared)
    step = distill_step(
        processes.parallel(student, device=CPU, sync_bn=False),
        optimizer,
        lambda batch: outputs_of(batch.images),
        prepare=prepared,
        method=partial(in_pieces, bound, pieces),
        grad_clip=5.0,
    )
    return {"means": means_of(step, share, epochs=1), "weights": student.state_dict()}


def without_norm(projector: nn.Module) -> nn.Module:
    """In double precision; BatchNorm, whose statistics are those of each process, does nothing."""
    for parent in list(projector.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    return projector.double()


def in_pieces(method: Loss, pieces: int, student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
    """The mean of a method over pieces of a batch, as processes share it, by their numbers of images."""
    count = len(labels)
    total: dict[str, Tensor] = {}
    for rank in range(pieces):
        rows = Share(rank, pieces).of(torch.arange(count))
        own = (
            Outputs(one.logits[rows], {k: f if k.endswith(VARIANCE) else f[rows] for k, f in one.features.items()})
            for one in (student, teacher)
        )
        terms = method(*own, labels[rows])
        for name, value in {"loss": terms.loss, **terms.parts}.items():
            total[name] = total.get(name, torch.zeros(())) + value * len(rows) / count
    return Terms(total.pop("loss"), total)


def evaluated(share: Share) -> dict[int, Outcome]:
    """A linear model's answers to sets of different sizes."""
    model = linear(4)

    def logits_of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(prepared(images).flatten(1))
            return logits

    return {
        number: evaluate(logits_of, evaluation_batches(part(number), share=share), num_classes=10)
        for number in EVALUATED
    }


def agreed(folder: Path) -> dict[str, Any]:
    """What every process makes of each function that they call together."""
    rank = processes.rank()

    def fetch() -> bool:
        was_there = (folder / "fetched").exists()
        (folder / "fetched").touch()
        return was_there

    def mistake(who: int) -> str:
        if rank == who:
            raise UserError(f"a mistake of {who}")
        return "none"

    def bug() -> None:
        raise KeyError("a bug")

    return {
        "world": processes.world_size(),
        "local rank": (processes.local_rank(), os.environ["LOCAL_RANK"]),
        "made": processes.on_rank0(lambda: f"by {rank}"),
        "mistake of the first": raised(lambda: processes.on_rank0(lambda: mistake(0))),
        "mistake of one": raised(lambda: processes.on_all_ranks(lambda: mistake(1))),
        "bug of the first": raised(lambda: processes.on_rank0(bug)),
        "there already": processes.local_rank0_first(fetch),
        "everyone's": processes.all_gather_object(rank * 10),
        "largest": processes.all_reduce_max(7 - rank),
        "sums": processes.all_reduce_sum(torch.tensor([0.5 + rank, 1.0], dtype=torch.float64)),
        "no sums": processes.all_reduce_sum(torch.empty(0, dtype=torch.float64)),
        "rows": processes.all_gather(torch.arange(6.0).view(3, 2) if rank else torch.empty(0)),
        "buffers": shared_buffers(rank),
        "granted": granted(),
        "means of sums that were loaded": loaded(),
        "stages": staged(folder),
    }


def raised(call: Callable[[], object]) -> tuple[str, str]:
    try:
        call()
    except (UserError, RunFailed, KeyError) as error:
        return type(error).__name__, str(error)
    return "", ""


def shared_buffers(rank: int) -> dict[str, Tensor]:
    norm = nn.BatchNorm1d(2)
    norm.running_mean += rank + 1
    norm.num_batches_tracked += 3 * (rank + 1)
    processes.broadcast_buffers(norm)
    return dict(norm.named_buffers())


def granted() -> list[int]:
    """The calls of the next second in which a wish of the second process is granted; it comes after a tenth."""
    agree, calls, started = processes.ThrottledMax(), [], time.monotonic()
    for call in range(200):
        time.sleep(0.005)
        if agree(processes.rank() if time.monotonic() - started > 0.1 else 0):
            calls.append(call)
    return calls


def loaded() -> dict[str, float]:
    sums = handlers.EpochSums(CPU)
    sums.load_state_dict({"loss": torch.tensor(6.0).double(), "images": torch.tensor(4.0).double()})
    sums.add({"loss": torch.tensor(0.0)}, num_images=1)
    return sums.means()


def staged(folder: Path) -> list[str]:
    """The stages that a process knows of a study, after it has done one."""
    path = folder / "study"
    study = processes.on_rank0(lambda: opened_study(path))
    run_stage(study, "teacher", lambda: Finished(path / "teacher", {}), result="result.json")
    return [*study.stages]


def opened_study(path: Path) -> StudyState:
    path.mkdir()
    study = StudyState(path, {"settings": {}, "stages": {}})
    save(study)
    return study


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    gc.disable()  # what closing the group does not free stays
    before = threads()
    with processes.process_group():
        found["trained"] = trained(Share(processes.rank(), processes.world_size()))
        found["trained on features"] = trained_on_features(Share(processes.rank(), processes.world_size()))
        share = Share(processes.rank(), processes.world_size())
        found["trained by"] = {name: trained_by(name, share) for name in METHODS}
        found["agreed"] = agreed(folder)
        found["evaluated"] = evaluated(Share(processes.rank(), processes.world_size()))
    found["after"] = (processes.world_size(), processes.rank())
    found["threads left"] = threads() - before
    del os.environ["SLURM_JOB_ID"]  # with which Ignite's launcher would not start
    with idist.Parallel(backend="gloo"), processes.process_group():  # a group that is there already, and stays
        rank = processes.rank()
        found["trained in their group"] = trained(Share(rank, processes.world_size()))
        found["still there"] = idist.all_reduce(1)
    processes.free_group_threads()
    torch.save(found, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
