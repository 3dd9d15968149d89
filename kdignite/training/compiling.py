"""``--compile``: the model of a training step by ``torch.compile``."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdignite.data.batches import Batch
from kdignite.errors import UserError, brief
from kdignite.steps import MakeStep, Step


def compiling(make_step: MakeStep) -> MakeStep:
    """Steps whose model is compiled at the first of them; evaluations and files use the model as it is."""

    def make(model: nn.Module, optimizer: Optimizer, /, **settings: Any) -> Step:
        from torch._dynamo.exc import TorchDynamoException  # takes a second

        try:
            # each size of batch gets code of its own, and none is chosen by timing: a run that was resumed, or begins
            # with a cache, would have other kernels
            compiled: nn.Module = torch.compile(  # type: ignore[assignment]
                model, dynamic=False, options={"deterministic": True}
            )
        except RuntimeError as error:  # on a Python that is too new
            raise _refusal(error) from error
        step = make_step(compiled, optimizer, **settings)

        def compiled_step(engine: Any, batch: Batch) -> dict[str, Tensor]:
            try:
                return step(engine, batch)
            except TorchDynamoException as error:
                raise _refusal(error) from error

        return compiled_step

    return make


def _refusal(error: Exception) -> UserError:
    why = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(f"--compile does not work here ({brief(why)}): leave it out")
