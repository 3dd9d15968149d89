"""``--graph``: the update of a full batch as one CUDA graph, which costs the host one launch instead of a hundred."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdignite.errors import brief
from kdignite.steps import MakeStep, Parts, Step, Update
from kdignite.streams import default_generator

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]  # makes something that has the effect of a call, and gives what it returns
WARM_UP = 3  # calls before the capture, which choose kernels and make the optimiser's state
CAPTURED = "captured"


class Capture:
    """Updates of full batches are captured at the first of them; all others are run as they are.

    The capture leaves no trace in model, optimiser and generator, and its first replay has to give the bits of the
    update itself. Where it cannot be captured, or gives others, a line says so and all updates are run as they are. So
    a run has the same numbers captured or not, from whatever step it goes on.

    Args:
        full: images of a full batch.
        say: prints a line.
        record: captures; another one than `cuda_graph` in tests.
    """

    def __init__(self, full: int, *, say: Callable[[str], None], record: Record | None = None) -> None:
        """Nothing was captured yet."""
        self.full, self.say, self.record = full, say, record or cuda_graph
        self.outcome = "no full batch"  # or `CAPTURED`, or why it could not be

    def __call__(self, make_step: MakeStep) -> MakeStep:
        """Steps whose updates are captured."""

        def make(model: nn.Module, optimizer: Optimizer, /, **settings: Any) -> Step:
            return make_step(model, optimizer, **settings, around=partial(self.around, model, optimizer))

        return make

    def around(self, model: nn.Module, optimizer: Optimizer, eager: Update) -> Update:
        """The same update, which is captured when the first full batch comes."""
        replay: Update | None = None

        def update(*inputs: Tensor, weight: float = 1.0) -> Parts:
            nonlocal replay
            if len(inputs[0]) != self.full or weight != 1.0 or self._has_failed():
                return eager(*inputs, weight=weight)
            if replay is not None:
                return replay(*inputs)
            before = _saved(model, optimizer, device=inputs[0].device)
            try:
                replay = _recorded(eager, inputs, self.record)
                parts = _checked(replay, eager, inputs, before)
            except RuntimeError as error:
                before.put_back()
                replay = None
                self.outcome = brief(str(error).partition("\n")[0])
                self.say(f"graph     this step cannot be captured ({self.outcome}): it runs without one, and slower")
                return eager(*inputs)
            self.outcome = CAPTURED
            return parts

        return update

    def _has_failed(self) -> bool:
        return self.outcome not in (CAPTURED, "no full batch")


def cuda_graph(work: Work) -> Work:
    """Capture what a function does on the current GPU.

    Args:
        work: from nothing to a tensor; everything that it reads and writes keeps its place.

    Returns:
        Does the same; the tensor that it returns is overwritten by the next call.

    Raises:
        RuntimeError: if it waits for the GPU, or cannot be captured for another reason.

    Source: the documentation of ``torch.cuda.graph``, "whole-network capture".
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
        with _no_waiting():  # what waits is found out here, where an error leaves no broken capture behind
            for _ in range(WARM_UP - 1):
                work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # other threads may go on, such as the one that pins batches of worker processes
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        out = work()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


@contextmanager
def _no_waiting() -> Iterator[None]:
    """Within the block whatever waits for the GPU raises a RuntimeError."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


class _Saved(NamedTuple):
    """Everything that an update changes, as it was."""

    places: list[tuple[dict[str, Any], str, Tensor, Tensor]]  # where, under which name, which tensor, its values
    optimizer: Optimizer
    generator: torch.Generator
    drawn: Tensor

    def put_back(self) -> None:
        """Make it as it was, in the same places; what the optimiser has made since is zeros, as it starts."""
        known = {id(tensor) for _, _, tensor, _ in self.places}
        with torch.no_grad():
            for where, name, tensor, values in self.places:
                where[name] = tensor
                tensor.copy_(values)
            for where, name in _state_of(self.optimizer):
                if id(where[name]) not in known:
                    where[name].zero_()
        self.generator.set_state(self.drawn)

    def replaced(self) -> list[str]:
        """Names of what is another tensor now, which a graph would not see."""
        return [name for where, name, tensor, _ in self.places if where[name] is not tensor]


def _saved(model: nn.Module, optimizer: Optimizer, *, device: torch.device) -> _Saved:
    tables = [table for module in model.modules() for table in (module._parameters, module._buffers)]
    held = [(table, name) for table in tables for name, value in table.items() if value is not None]
    places = [(where, name, where[name], where[name].detach().clone()) for where, name in held + _state_of(optimizer)]
    generator = default_generator(device)
    return _Saved(places, optimizer, generator, generator.get_state())


def _state_of(optimizer: Optimizer) -> list[tuple[dict[str, Any], str]]:
    """Where the tensors lie that an optimiser remembers."""
    tables = optimizer.state.values()
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
    """The first replay, after which everything has to be as the update itself leaves it, to the last bit."""
    before.put_back()
    wanted = list(eager(*inputs).values())
    if replaced := before.replaced():
        raise RuntimeError(f"it puts other tensors in the place of {', '.join(replaced[:3])}")
    wanted += [where[name].detach().clone() for where, name, *_ in before.places]
    before.put_back()
    parts = replay(*inputs)
    found = [*parts.values(), *(where[name].detach() for where, name, *_ in before.places)]
    if not all(_equal(*pair) for pair in zip(wanted, found, strict=True)):
        raise RuntimeError("its replay gives other numbers than the step, or the step never gives the same twice")
    return parts


def _equal(one: Tensor, other: Tensor) -> bool:
    """To the last bit; what is no number equals itself."""
    return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124
