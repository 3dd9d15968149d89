"""The complete state of a run: saved at any iteration, checked, and restored to the last bit."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine
from ignite.handlers import EarlyStopping
from torch import Tensor
from torch.optim import Optimizer

from kdignite import checkpoints, handlers, processes, runs
from kdignite.console import say, say_once
from kdignite.devices import is_accelerator, to_host
from kdignite.errors import UserError, listed
from kdignite.training.identity import check_header, header
from kdignite.training.spec import RunSpec

# errors of a file of another shape than expected; each is reported as damage
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)
_FINITE = ("model", "projector", "optimizer", "sums")  # to be saved, and to be loaded


class TrainerState(NamedTuple):
    """A run with its engine and everything that remembers something between two iterations."""

    run: RunSpec
    trainer: Engine
    sums: handlers.EpochSums
    clock: handlers.Clock
    history: handlers.History
    best: handlers.BestFile
    host_copy: "HostCopy"
    patience: EarlyStopping | None

    @property
    def parts(self) -> dict[str, Any]:
        """What has a ``state_dict``, by its name in the file."""
        parts: dict[str, Any] = {"sums": self.sums, "clock": self.clock, "history": self.history}
        parts |= {"scaler": self.run.scaler} if self.run.scaler.is_enabled() else {}
        return parts | ({"patience": self.patience} if self.patience else {})


class HostCopy:
    """Weights and optimiser of a run on the CPU, copied once for all that is saved after a step or an epoch."""

    def __init__(self, run: RunSpec, trainer: Engine, history: handlers.History) -> None:
        self.run, self.trainer, self.history = run, trainer, history
        self._when: tuple[int, int] | None = None
        self._held: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """The state dicts, and that of a projector; on a CPU the tensors themselves, which go on changing."""
        now = (self.trainer.state.iteration, len(self.history.rows))
        if now != self._when:
            held = {"model": self.run.model.network.state_dict(), "optimizer": self.run.optimizer.state_dict()}
            held |= {"projector": self.run.projector.state_dict()} if self.run.projector is not None else {}
            self._held, self._when = to_host(held), now
        return self._held


class Saver:
    """Writes `runs.LAST` and keeps the one before it as `runs.PREVIOUS`.

    Nothing is written while a number is not finite, since the run is about to fail then, or never recovers, nor while
    `runs.BEST` waits to be written, which the state would take for done. A full disk is a warning, and the next save
    tries again. What was copied from an accelerator is written during the next steps; the next save waits for it.
    """

    def __init__(self, trainer_state: TrainerState, folder: Path) -> None:
        self.trainer_state, self.folder = trainer_state, folder
        self._thread = ThreadPoolExecutor(1, "save") if is_accelerator(trainer_state.run.device) else None
        self._writing: Future[None] | None = None

    def __call__(self) -> None:
        """Save the run where it stands; several processes have to call this together."""
        best = self.trainer_state.best
        best.flush()
        state = _take(self.trainer_state)  # in every process: it sums over them
        if not processes.is_rank0() or best.pending is not None:
            return
        if broken := _not_finite(state):
            say_once(f"warning   {self.folder / runs.LAST} is not saved while these are not finite: {listed(broken)}")
            return
        if self._thread is None:
            self._write(state)
            return
        self._wait()
        self._writing = self._thread.submit(self._write, state)

    def close(self) -> None:
        """Wait for what is being written; nothing is saved afterwards."""
        try:
            self._wait()
        finally:
            if self._thread is not None:
                self._thread.shutdown()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, state: dict[str, Any]) -> None:
        path = self.folder / runs.LAST
        try:
            checkpoints.write(path, state, previous=self.folder / runs.PREVIOUS)
        except OSError as error:
            say(f"warning   {path} cannot be written ({handlers.reason(error)}): the next save tries again")


def restore(trainer_state: TrainerState, folder: Path) -> None:
    """Put a run where it was stopped, or at its start before its first save; the first process reads the files."""
    used = processes.on_rank0(lambda: _restored(trainer_state, folder))
    if used is not None and not processes.is_rank0():
        _load(trainer_state, *used)


class Used(NamedTuple):
    """The state from which a run is resumed, and its file."""

    state: Any
    path: Path


def _restored(trainer_state: TrainerState, folder: Path) -> Used | None:
    """The first state that can be used, which has been loaded; None: nothing was saved yet."""
    problems: list[str] = []
    for path in (folder / runs.LAST, folder / runs.PREVIOUS):
        if not path.exists():
            continue
        try:
            state = checkpoints.read(path)
            _load(trainer_state, state, path)
        except UserError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            say(f"warning   {problem}; {path.name} is used instead")
        return Used(state, path)
    if problems:
        raise UserError(f"{folder} cannot be resumed, none of its states can be used: {'; '.join(problems)}")
    if runs.num_epochs(folder) > 1:  # with a state after each
        raise UserError(f"{folder} cannot be resumed: it has no {runs.LAST}; start a new run")
    return None


def has_state(folder: Path) -> bool:
    """Whether a run was saved, so that it can go on; otherwise it begins, which gives what it would have given."""
    return any((folder / name).exists() for name in (runs.LAST, runs.PREVIOUS))


def _take(trainer_state: TrainerState) -> dict[str, Any]:
    run, state = trainer_state.run, trainer_state.trainer.state
    return {
        "about": header(run),
        **trainer_state.host_copy(),
        "trainer": {
            "iteration": state.iteration,
            "epoch_length": run.epoch_length,
            "processes": processes.world_size(),
        },
        **{name: part.state_dict() for name, part in trainer_state.parts.items()},
    }


def _load(trainer_state: TrainerState, state: Any, path: Path) -> None:
    try:
        check_header(trainer_state.run, state["about"], who=str(path))
        iteration = _checked_iteration(trainer_state, state)
        _check_optimizer(trainer_state.run.optimizer, state["optimizer"]["state"])
        if broken := _not_finite(state):
            raise ValueError(f"numbers that are not finite: {listed(broken)}")
        checkpoints.load_weights(trainer_state.run.model.network, state["model"], source=str(path))
        if trainer_state.run.projector is not None:
            checkpoints.load_weights(trainer_state.run.projector, state["projector"], source=str(path))
        # the groups hold settings, which the config decides
        groups = trainer_state.run.optimizer.state_dict()["param_groups"]
        trainer_state.run.optimizer.load_state_dict({"state": state["optimizer"]["state"], "param_groups": groups})
        _lay_out(trainer_state.run.optimizer)
        for name, part in trainer_state.parts.items():
            part.load_state_dict(state[name])
        length, epochs = trainer_state.run.epoch_length, trainer_state.run.config.epochs
        trainer_state.trainer.load_state_dict({"iteration": iteration, "epoch_length": length, "max_epochs": epochs})
    except UserError:
        raise
    except MALFORMED as error:
        raise UserError(
            f"{path} is damaged: it does not hold the complete state of this run ({error!r:.200})"
        ) from error


def _checked_iteration(trainer_state: TrainerState, state: Mapping[str, Any]) -> int:
    """The iterations that are done, if the history has as many rows as they make epochs, or lacks only the last."""
    iteration, length = state["trainer"]["iteration"], state["trainer"]["epoch_length"]
    before, now = state["trainer"].get("processes"), processes.world_size()
    if length != trainer_state.run.epoch_length and before != now:
        raise UserError(
            f"{before} processes cut the epochs of this run into {length} steps, {now} would cut them into "
            f"{trainer_state.run.epoch_length}: resume with as many as before"
        )
    if type(iteration) is not int or iteration < 1 or length != trainer_state.run.epoch_length:
        raise ValueError(f"iteration {iteration!r} in epochs of {length!r}")
    epochs, inside = divmod(iteration, length)
    rows = [row["epoch"] for row in state["history"]["rows"]]
    if rows not in ([*range(1, epochs + 1)], [*range(1, epochs + (inside > 0))]):
        raise ValueError(f"a history of {len(rows)} epochs after {iteration} iterations")
    wanted = trainer_state.run.config.epochs
    if epochs + (inside > 0) > wanted:
        raise UserError(f"the run is in epoch {epochs + (inside > 0)} already, --epochs={wanted} is too few")
    return iteration


def _check_optimizer(optimizer: Optimizer, state: Mapping[int, Mapping[str, Tensor]]) -> None:
    """Every tensor is that of a parameter: of its shape, or a single number such as a count of steps."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        for name, value in values.items():
            if value is not None and value.dim() and value.shape != parameters[index].shape:
                raise ValueError(f"{name} of parameter {index} has shape {tuple(value.shape)}")


def _lay_out(optimizer: Optimizer) -> None:
    """Give every moment the memory layout of its parameter, which fused kernels pair number by number."""
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held[name] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _not_finite(state: Mapping[str, Any]) -> list[str]:
    """What must be finite in a state and is not, by dotted names."""
    return checkpoints.not_finite(dict(_tensors({name: state[name] for name in _FINITE if name in state})))


def _tensors(values: Any, *names: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _tensors(value, *names, str(name))
    elif isinstance(values, Tensor):
        yield ".".join(names), values
