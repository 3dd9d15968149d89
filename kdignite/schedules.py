"""The optimiser, and the learning rate as a function of the step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdignite.devices import is_accelerator

ONE_CYCLE_RISE = 0.2  # share of the run in which the rate rises
ONE_CYCLE_START = 0.1  # first learning rate as a share of the peak
LR_MULT = "lr_mult"  # of a parameter group: its rate as a multiple of the schedule's
FINAL_SHARE = 0.01  # last learning rate of cosine and one-cycle as a share of the peak

LearningRate = Callable[[int], float]


def learning_rate(kind: str, *, peak: float, total_steps: int, warmup_steps: float = 0) -> LearningRate:
    """The learning rate of every step, as a pure function: nothing to save, nothing to restore.

    With ``x = step / (total_steps - 1)`` running from 0 to 1:

    - constant: ``peak``;
    - cosine: from ``peak`` to ``FINAL_SHARE * peak`` along half a cosine;
    - onecycle: straight from ``ONE_CYCLE_START * peak`` up to ``peak`` at ``x = ONE_CYCLE_RISE``, then straight down to
      ``FINAL_SHARE * peak``.

    Constant and cosine are multiplied by ``min(1, (step + 1) / warmup_steps)``.

    Args:
        kind: ``constant``, ``cosine`` or ``onecycle``.
        peak: the largest learning rate, above 0.
        total_steps: steps of the run, at least 1.
        warmup_steps: steps of linear warm-up, at least 0.

    Returns:
        ``lr_at(step)`` for steps from 0; in (0, peak].

    Source: one-cycle: Smith & Topin 2017, arXiv:1708.07120; cosine: Loshchilov & Hutter 2016, arXiv:1608.03983.
    """
    shape = {"constant": lambda _: 1.0, "cosine": _cosine, "onecycle": _one_cycle}[kind]

    def lr_at(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        return peak * warmup * shape(step / max(1, total_steps - 1))

    return lr_at


def build_optimizer(
    model: nn.Module,
    *,
    kind: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    backbone: Iterable[nn.Parameter] = (),
    backbone_lr_mult: float = 1.0,
) -> Optimizer:
    """SGD or AdamW over the parameters of a model.

    Weight decay acts on matrices and kernels only, not on biases or on the scale and shift of a normalisation.

    Args:
        model: what is trained.
        kind: ``nesterov`` (SGD with Nesterov's momentum), ``sgd`` (with the classical one) or ``adamw``.
        lr: the first learning rate.
        momentum: of SGD, above 0 for ``nesterov``; beta1 of AdamW.
        weight_decay: at least 0.
        backbone: parameters with a rate of their own.
        backbone_lr_mult: that rate, as a multiple of the others'.

    Returns:
        The optimiser, fused unless a parameter is complex, with two parameter groups for each rate. Momentum starts as
        zeros, which gives the numbers of one that starts with the first gradient: torch's fused kernels fail where the
        first gradients of a group come in different steps, and take what lies in memory for momentum where the first
        one overflows. On an accelerator the groups share their rate, a float32 tensor there, which a captured step
        reads in place, as it does the momentum.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 5.3 (no decay of normalisation); Nesterov's momentum: Sutskever
    et al. 2013, "On the importance of initialization and momentum"; AdamW: Loshchilov & Hutter 2017, arXiv:1711.05101.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = trained[0].device if trained else torch.device("cpu")
    slow = {id(parameter) for parameter in backbone if backbone_lr_mult != 1}
    groups: list[dict[str, Any]] = []
    for mult, inside in ((1.0, False), (backbone_lr_mult, True))[: 2 if slow else 1]:
        rate = torch.tensor(mult * lr, device=device) if is_accelerator(device) else mult * lr
        part = [parameter for parameter in trained if (id(parameter) in slow) == inside]
        groups += [
            {"params": [p for p in part if p.ndim >= 2], "weight_decay": weight_decay, "lr": rate, LR_MULT: mult},
            {"params": [p for p in part if p.ndim < 2], "weight_decay": 0.0, "lr": rate, LR_MULT: mult},
        ]
    fused = not any(parameter.is_complex() for parameter in trained)  # which the fused kernels refuse
    if kind == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=fused, capturable=is_accelerator(device))
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=kind == "nesterov", fused=fused)
    if momentum:
        for parameter in trained:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; a shared tensor is filled in place, since a captured step reads it there."""
    shared = {id(group["lr"]): group for group in optimizer.param_groups if isinstance(group["lr"], Tensor)}
    for group in shared.values() or optimizer.param_groups:
        scaled = rate * group.get(LR_MULT, 1.0)
        if shared:
            group["lr"].fill_(scaled)
        else:
            group["lr"] = scaled


def _cosine(x: float) -> float:
    return FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * x)) / 2


def _one_cycle(x: float) -> float:
    if x < ONE_CYCLE_RISE:
        return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * x / ONE_CYCLE_RISE
    return 1 - (1 - FINAL_SHARE) * (x - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
