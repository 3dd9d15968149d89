"""Captured updates, on a CPU: a double whose replay calls the function, and doubles that go wrong."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, TrainConfig
from kdignite.data.batches import Batch
from kdignite.methods.logits import kd
from kdignite.methods.terms import Outputs
from kdignite.steps import distill_step, supervised_step
from kdignite.streams import host_state
from kdignite.training import spec as spec_module
from kdignite.training.capturing import CAPTURED, Capture, Record, cuda_graph
from kdignite.training.spec import can_capture

FULL = 6
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


class Network(nn.Module):
    """Weights, statistics, masks, a buffer that some networks replace in every step, and one that some make in one."""

    def __init__(self, *, replacing: bool = False, making: bool = False) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Dropout(0.4)
        self.replacing, self.making = replacing, making
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        if self.replacing:
            self.seen = self.seen + 1
        else:
            self.seen += 1
        if self.making:
            if not hasattr(self, "scale"):
                self.register_buffer("scale", torch.full((4,), 3.0))
            self.scale *= 0.9
            return self.drop(self.norm(self.linear(images.flatten(1)))) * self.scale
        return self.drop(self.norm(self.linear(images.flatten(1))))


def network(**given: Any) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Network(**given)


def optimizer_of(model: nn.Module, *, kind: str) -> Optimizer:
    if kind == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)


def batch(number: int, size: int = FULL, weight: float = 1.0) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(256, (size, 3, 2, 2), generator=generator, dtype=torch.uint8)
    return Batch(images, torch.arange(size) % 4, torch.arange(size), 0, weight)


def prepare(images: Tensor) -> Tensor:
    return images.float() / 255


def teacher(batch: Batch) -> Outputs:
    return Outputs(batch.images.float().flatten(1)[:, :4] / 64)


def distilling(model: nn.Module, optimizer: Optimizer, /, **settings: Any) -> Any:
    return distill_step(model, optimizer, teacher, method=partial(kd, alpha=0.7, T=2.0), **settings)


def trained(
    model: Network, wrap: Callable[[Any], Any], *, sizes: list[int], kind: str, make: Any = distilling
) -> list[Any]:
    """What the steps return, and everything that is left after them."""
    optimizer = optimizer_of(model, kind=kind)
    step, told = wrap(make)(model, optimizer, prepare=prepare), []
    for number, size in enumerate(sizes):
        torch.manual_seed(number)
        told.append({name: float(value) for name, value in step(None, batch(number, size)).items()})
    state = [value.tolist() for value in model.state_dict().values()]
    moments = [[value.tolist() for value in one.values()] for one in optimizer.state.values()]
    return [told, state, moments, torch.rand(2).tolist()]


def replaying(record: Record | None = None) -> tuple[Capture, list[str]]:
    told: list[str] = []
    return Capture(FULL, say=told.append, record=record or (lambda work: work)), told


@pytest.mark.parametrize("kind", ["nesterov", "adamw"])
@pytest.mark.parametrize("make", [distilling, supervised_step])
@pytest.mark.parametrize("sizes", [[6, 6, 6, 4, 6, 6], [4, 6, 6, 6], [6], [4, 4]])
def test_a_run_has_the_same_numbers_captured_or_not(kind: str, make: Any, sizes: list[int]) -> None:
    capture, told = replaying()
    ours = trained(network(), capture, sizes=sizes, kind=kind, make=make)
    assert ours == trained(network(), lambda make: make, sizes=sizes, kind=kind, make=make)
    assert capture.outcome == (CAPTURED if FULL in sizes else "no full batch")
    assert told == []


def test_a_recorder_may_run_the_update_as_often_as_it_likes_beforehand() -> None:
    """A GPU chooses its kernels then, and the optimiser makes its state; nothing of it is left."""

    def warming_up(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        for _ in range(3):
            work()
        return work

    for kind in ("nesterov", "adamw"):
        capture, _ = replaying(warming_up)
        ours = trained(network(), capture, sizes=[6, 6, 4, 6], kind=kind)
        assert ours == trained(network(), lambda make: make, sizes=[6, 6, 4, 6], kind=kind)
        assert capture.outcome == CAPTURED


def test_only_full_batches_are_replayed_each_from_where_it_was_captured() -> None:
    replays: list[int] = []

    def counting(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def replay() -> Tensor:
            replays.append(1)
            return work()

        return replay

    capture, _ = replaying(counting)
    trained(network(), capture, sizes=[6, 6, 4, 6], kind="nesterov")
    assert len(replays) == 3


def test_a_share_of_a_batch_is_not_replayed() -> None:
    capture, _ = replaying()
    model = network()
    step = capture(distilling)(model, optimizer_of(model, kind="nesterov"), prepare=prepare)
    step(None, batch(0, weight=0.5))
    assert capture.outcome == "no full batch"


def test_results_stay_as_they_are_when_the_next_step_overwrites_their_place() -> None:
    place = torch.zeros(4)

    def overwriting(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        return lambda: place.copy_(work())

    capture, _ = replaying(overwriting)
    model = network()
    step = capture(distilling)(model, optimizer_of(model, kind="nesterov"), prepare=prepare)
    first = step(None, batch(0))
    kept = {name: float(value) for name, value in first.items()}
    second = step(None, batch(1))
    assert {name: float(value) for name, value in first.items()} == kept
    assert float(second["loss"]) != kept["loss"]


def refusing(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    work()
    raise RuntimeError("operation not permitted when stream is capturing\nand a long explanation")


def frozen(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What a graph would be of an update that draws, or counts, on the host."""
    values = work().clone()
    return lambda: values


WRONG = {
    "operation not permitted when stream is capturing": (refusing, {}),
    "its replay gives other numbers than the step, or the step never gives the same twice": (frozen, {}),
    "it makes new tensors in a step: seen": (lambda work: work, {"replacing": True}),
    "it makes new tensors in a step: scale": (lambda work: work, {"making": True}),
}


class Deciding(Network):
    """Draws on the host, as stochastic depth does; a graph has one of its decisions."""

    def forward(self, images: Tensor) -> Tensor:
        self.decisions = [*getattr(self, "decisions", []), bool(torch.rand(()) < 0.5)]
        return super().forward(images) * (1.0 if self.decisions[-1] else 0.5)


def deciding_once(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """What a graph of such an update is: the device's part as often as one likes, the decision as it was."""
    state = torch.get_rng_state()

    def replay() -> Tensor:
        torch.set_rng_state(state)  # masks as well, which a graph would draw anew: here only decisions matter
        return work()

    return replay


def test_what_a_model_decides_on_the_host_is_found_out_by_another_key() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [Deciding() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    capture, told = replaying(deciding_once)
    ours = trained(models[0], capture, sizes=[6, 6, 6], kind="nesterov")
    assert ours == trained(models[1], lambda make: make, sizes=[6, 6, 6], kind="nesterov")
    assert len(told) == 1


class Rare(Network):
    """Draws on the host what hardly ever decides anything."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.draw = draw

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * (0.5 if self.draw() < 1e-9 else 1.0)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_what_a_model_draws_on_the_host_is_found_out_though_it_decides_nothing(draw: Callable[[], float]) -> None:
    why, given = "it draws random numbers on the host", {"sizes": [6, 6, 6], "kind": "nesterov"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [Rare(draw) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    capture, told = replaying(lambda work: work)
    assert trained(models[0], capture, **given) == trained(models[1], lambda make: make, **given)
    assert (capture.outcome, len(told)) == (why, 1)


def test_the_generator_of_the_cpu_is_of_the_host_where_the_model_is_not() -> None:
    with torch.random.fork_rng(devices=[]):
        before = host_state(CPU), host_state(GPU)
        torch.rand(())
        assert [host_state(CPU) == before[0], host_state(GPU) == before[1]] == [True, False]


@pytest.mark.parametrize("why", WRONG)
@pytest.mark.parametrize("kind", ["nesterov", "adamw"])
def test_what_cannot_be_captured_runs_as_it_is_and_says_so_once(why: str, kind: str) -> None:
    record, given = WRONG[why]
    capture, told = replaying(record)
    sizes = [6, 4, 6, 6]
    ours = trained(network(**given), capture, sizes=sizes, kind=kind)
    assert ours == trained(network(**given), lambda make: make, sizes=sizes, kind=kind)
    assert capture.outcome == why
    assert told == [f"graph     this step cannot be captured ({why}): it runs without one, and slower"]


def test_an_update_that_fails_raises_its_own_error() -> None:
    class Broken(Network):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    capture, _ = replaying()
    model = Broken()
    step = capture(distilling)(model, optimizer_of(model, kind="nesterov"), prepare=prepare)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        step(None, batch(0))


@pytest.mark.parametrize(
    ("config", "device", "world", "captures"),
    [
        (BaselineConfig(), GPU, 1, True),
        (TeacherConfig(amp="off", grad_clip=1.0), GPU, 1, True),
        (DistillConfig(amp="tf32", optimizer="adamw"), GPU, 1, True),
        (BaselineConfig(compile=True), GPU, 1, True),
        (BaselineConfig(graph="off"), GPU, 1, False),
        (BaselineConfig(amp="fp16"), GPU, 1, False),
        (BaselineConfig(), GPU, 2, False),
        (BaselineConfig(), CPU, 1, False),
    ],
)
def test_steps_are_captured_on_a_gpu_by_one_process_without_a_scaler(
    monkeypatch: pytest.MonkeyPatch, config: TrainConfig, device: torch.device, world: int, captures: bool
) -> None:
    monkeypatch.setattr(spec_module.processes, "world_size", lambda: world)
    assert can_capture(config, device) is captures


# --- the capture itself, on doubles of what torch has for CUDA


class Cuda:
    """Notes what is asked of CUDA, in its order; the graph that is captured plays back the last call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, breaks: bool = False) -> None:
        self.notes: list[str] = []
        self.mode, self.current, self.breaks = 1, "main", breaks
        for name in ("current_stream", "Stream", "stream", "set_stream", "get_sync_debug_mode", "set_sync_debug_mode"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.graph)

    def current_stream(self) -> Any:
        return Stream(self, "main")

    def Stream(self) -> Any:  # noqa: N802 - the name in torch
        return Stream(self, "side")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def set_stream(self, stream: Any) -> None:
        self.current = stream.name

    def get_sync_debug_mode(self) -> int:
        return self.mode

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = {"error": 2}.get(mode, mode)  # type: ignore[call-overload, assignment]

    @contextmanager
    def graph(self, graph: Any, *, capture_error_mode: str) -> Iterator[None]:
        assert graph is self
        self.notes.append(f"capture {capture_error_mode}")
        self.current = "capturing"  # torch has a stream of its own for that, and does not go back where a capture fails
        yield
        if self.breaks:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.current = "main"

    def replay(self) -> None:
        self.notes.append("replay")

    def work(self) -> Tensor:
        self.notes.append(f"work on {self.current}" + (", no waiting" if self.mode == 2 else ""))
        return torch.ones(2)


class Stream(NamedTuple):
    cuda: Cuda
    name: str

    def wait_stream(self, other: "Stream") -> None:
        self.cuda.notes.append(f"{self.name} waits for {other.name}")


def test_a_gpu_warms_up_beside_and_is_then_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    replay = cuda_graph(cuda.work)
    assert cuda.notes == [
        "side waits for main",
        *("work on side", "work on side, no waiting", "work on side, no waiting"),
        "main waits for side",
        *("capture thread_local", "work on capturing"),
    ]
    assert (cuda.mode, cuda.current) == (1, "main")  # as they were
    assert torch.equal(replay(), torch.ones(2))
    assert cuda.notes[-1] == "replay"


def test_after_a_capture_that_fails_the_stream_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch, breaks=True)
    with pytest.raises(RuntimeError, match="during capture"):
        cuda_graph(cuda.work)
    assert (cuda.mode, cuda.current) == (1, "main")


def test_what_waits_is_found_out_before_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def waiting() -> Tensor:
        if cuda.mode == 2:
            raise RuntimeError("called a synchronizing CUDA operation")
        return cuda.work()

    with pytest.raises(RuntimeError, match="synchronizing"):
        cuda_graph(waiting)
    assert not any(note.startswith("capture") for note in cuda.notes)
    assert cuda.notes[-1] == "main waits for side"
    assert (cuda.mode, cuda.current) == (1, "main")
