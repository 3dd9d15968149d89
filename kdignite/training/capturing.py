"""``--graph``: the update of a full batch as one CUDA graph, which costs the host one launch instead of a hundred."""

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdignite.devices import as_bytes
from kdignite.errors import brief
from kdignite.steps import MakeStep, Parts, Step, Update
from kdignite.streams import default_generators, host_state

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]  # makes a replay, which has the effect of a call and returns the same
WARM_UP = 3  # calls before the capture, which choose kernels and make the optimiser's state
CHECKS = 2  # replays that are compared with the update itself: two batches, and two keys of what is drawn
CAPTURED, NOT_YET = "captured", "no full batch"


class Capture:
    """Updates of full batches are captured at the first of them; all others are run as they are.

    The capture leaves no trace in model, optimiser and generators, and its first replays have to give the bits of the
    update itself. Where it cannot be captured, or gives others, a line says so and all updates are run as they are. So
    a run has the same numbers captured or not, from whatever step it is resumed. What a model counts in Python is not
    in a graph.
    """

    def __init__(self, full: int, *, say: Callable[[str], None], record: Record | None = None) -> None:
        self.full, self.say, self.record = full, say, record or cuda_graph
        self.outcome = NOT_YET  # or `CAPTURED`, or why it could not be

    def __call__(self, make_step: MakeStep) -> MakeStep:

        def make(model: nn.Module, optimizer: Optimizer, /, **settings: Any) -> Step:
            return make_step(model, optimizer, **settings, around=partial(self.around, model, optimizer))

        return make

    def around(self, model: nn.Module, optimizer: Optimizer, eager: Update) -> Update:
        """The same update, which is captured when the first full batch comes."""
        replay: Update | None = None
        num_checked = 0

        def update(*inputs: Tensor, weight: float = 1.0) -> Parts:
            nonlocal replay, num_checked
            if len(inputs[0]) != self.full or weight != 1.0 or self.outcome not in (CAPTURED, NOT_YET):
                return eager(*inputs, weight=weight)
            if replay is not None and num_checked == CHECKS:
                return replay(*inputs)
            before = _Saved(model, optimizer, device=inputs[0].device)
            try:
                replay = replay or _recorded(eager, inputs, self.record)
                parts = _checked(replay, eager, inputs, before)
            except RuntimeError as error:
                self.outcome = brief(str(error).partition("\n")[0])
            else:
                self.outcome, num_checked = CAPTURED, num_checked + 1
                return parts
            # not within the handler, where the error still holds the memory of the step that failed
            replay = None
            before.put_back()
            self.say(f"graph     this step cannot be captured ({self.outcome}): it runs without one, and slower")
            return eager(*inputs)

        return update


def cuda_graph(work: Work) -> Work:
    """Capture what a function does on the current GPU; see ``torch.cuda.graph``, "whole-network capture"."""
    stream, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(stream)
    try:
        with torch.cuda.stream(side):
            work()
            with _no_waiting():  # what waits raises here, where an error leaves no broken capture behind
                for _ in range(WARM_UP - 1):
                    work()
    finally:
        stream.wait_stream(side)  # also before what it has changed is put back
    graph = torch.cuda.CUDAGraph()
    try:
        # other threads may go on, such as the one that pins batches of worker processes
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            out = work()
    finally:
        torch.cuda.set_stream(stream)  # which a capture that has failed does not put back

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within the block whatever waits for the GPU raises a RuntimeError."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)


class _Saved:
    """Everything that an update changes, as it is now."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, *, device: torch.device) -> None:
        self._model, self._optimizer = model, optimizer
        self._places = [(where, name, where[name], where[name].detach().clone()) for where, name in self._held()]
        self._drawn = [(generator, generator.get_state()) for generator in default_generators(device)]
        self._host = random.getstate(), np.random.get_state()
        self.device = device

    def put_back(self) -> None:
        """Restore everything, in the same places; what the model has made since is gone, to be made again."""
        new = self._new()
        with torch.no_grad():
            for where, name, tensor, values in self._places:
                where[name] = tensor
                tensor.copy_(values)
            for where, name in new:
                if self._is_of_optimizer(where):
                    where[name].zero_()
                else:
                    del where[name]
        for generator, state in self._drawn:
            generator.set_state(state)
        random.setstate(self._host[0])
        np.random.set_state(self._host[1])

    def unseen(self) -> list[str]:
        """Names of tensors that the model has replaced or made: they are not in a graph."""
        replaced = [name for where, name, tensor, _ in self._places if where[name] is not tensor]
        return replaced + [name for where, name in self._new() if not self._is_of_optimizer(where)]

    def _new(self) -> list[tuple[dict[str, Any], str]]:
        known = {(id(where), name) for where, name, _, _ in self._places}
        return [(where, name) for where, name in self._held() if (id(where), name) not in known]

    def _is_of_optimizer(self, where: dict[str, Any]) -> bool:
        return any(where is table for table in self._optimizer.state.values())

    def now(self) -> list[Tensor]:
        """The values of everything, with what the optimiser has made since."""
        return [where[name].detach().clone() for where, name in self._held()]

    def _held(self) -> list[tuple[dict[str, Any], str]]:
        """Where each tensor lies, and under which name."""
        tables: list[dict[str, Any]] = [
            table for module in self._model.modules() for table in (module._parameters, module._buffers)
        ]
        tables += self._optimizer.state.values()
        return [(table, name) for table in tables for name, value in table.items() if isinstance(value, Tensor)]


def _recorded(eager: Update, inputs: tuple[Tensor, ...], record: Record) -> Update:
    """An update from a recording: inputs are copied to where it reads them, and results from where it writes them."""
    static = tuple(one.clone() for one in inputs)
    names: list[str] = []

    def work() -> Tensor:
        parts = eager(*static)
        names[:] = parts
        return torch.stack(list(parts.values()))

    play = record(work)

    def replay(*inputs: Tensor, weight: float = 1.0) -> Parts:
        del weight  # 1, where one process has the whole batch
        for place, value in zip(static, inputs, strict=True):
            place.copy_(value)
        values = play().clone()
        return dict(zip(names, values.unbind(), strict=True))

    return replay


def _checked(replay: Update, eager: Update, inputs: tuple[Tensor, ...], before: _Saved) -> Parts:
    """A replay, after which everything has to be as the update itself leaves it, to the last bit."""
    before.put_back()
    host = host_state(before.device)
    wanted = [*eager(*inputs).values(), *before.now()]
    if host_state(before.device) != host:  # a graph would repeat what was drawn
        raise RuntimeError("it draws random numbers on the host")
    if unseen := before.unseen():
        raise RuntimeError(f"it makes new tensors in a step: {', '.join(unseen[:3])}")
    before.put_back()
    parts = replay(*inputs)
    found = [*parts.values(), *before.now()]
    if not all(torch.equal(as_bytes(one.to(other)), as_bytes(other)) for one, other in zip(wanted, found, strict=True)):
        raise RuntimeError("its replay gives other numbers than the step, or the step never gives the same twice")
    return parts
