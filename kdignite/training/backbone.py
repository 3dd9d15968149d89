"""The backbone of a network, all but its head, while ``--freeze_epochs`` last: it stands still."""

import gc
from typing import Any

from torch.nn.modules.batchnorm import _NormBase

from kdignite import processes
from kdignite.data.batches import Batch
from kdignite.steps import Parts, Step
from kdignite.training.spec import RunSpec


def step_of(run: RunSpec) -> Step:
    """The step of a run, which leaves the backbone as it is in the first ``--freeze_epochs``.

    It is made anew when the backbone begins to learn: compiled and captured steps, and what computes the mean gradient
    of several processes, are made for the parameters that have a gradient.
    """
    if not run.config.freeze_epochs:
        return _made(run)
    frozen: bool | None = None
    made: Step | None = None

    def step(engine: Any, batch: Batch) -> Parts:
        nonlocal frozen, made
        if made is None or frozen != run.is_frozen(engine.state.iteration):
            frozen, made = run.is_frozen(engine.state.iteration), None
            gc.collect()  # the hooks of the processes' mean gradient would go on counting
            made = _made(run, frozen=frozen)
        return made(engine, batch)

    return step


def _made(run: RunSpec, *, frozen: bool = False) -> Step:
    if run.config.freeze_epochs:
        for parameter in run.model.backbone:
            parameter.requires_grad_(not frozen)
            parameter.grad = None
    model = processes.parallel(run.trained, device=run.device, sync_bn=run.config.sync_bn)
    made = run.make_step(model, run.optimizer, prepare=run.model.prepare, scaler=run.scaler)
    if run.config.freeze_epochs:  # only now: sync_bn replaces these modules
        for norm in run.model.network.modules():
            if isinstance(norm, _NormBase) and norm.running_mean is not None:
                _hold_statistics(norm, frozen)
    return made


def _hold_statistics(norm: _NormBase, held: bool) -> None:
    """Keep a norm in eval mode, whatever mode its network is put in; or let it follow again."""
    vars(norm).pop("train", None)
    norm.train(not held)
    if held:
        vars(norm)["train"] = lambda *_: norm
