"""The part ``env``: what computes, and what a small operation costs the host."""

import sys
import time
from collections.abc import Callable
from typing import Any

import ignite
import torch

from checks.context import Context, tell


def check(context: Context) -> None:
    """Versions, device, flags, host times."""
    cudnn = torch.backends.cudnn.version() if context.cuda else None
    versions = (sys.version.split()[0], torch.__version__, torch.version.cuda, cudnn, ignite.__version__)
    tell("python, torch, cuda, cudnn, ignite", ", ".join(map(str, versions)))
    flags = (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    ok = context.on_gpu(flags == (True, False, False))
    tell("cudnn deterministic, cudnn tf32, matmul tf32", ", ".join(map(str, flags)), ok=ok)
    if context.cuda:
        one = torch.cuda.get_device_properties(context.device)
        size = f"{one.multi_processor_count} SMs, {one.total_memory / 2**30:.0f} GiB, sm_{one.major}{one.minor}"
        tell("device", f"{one.name}, {size}")
    context.attempt("host times", lambda: _host_times(context))


def _host_times(context: Context) -> None:
    numbers, few = torch.zeros(64, device=context.device), torch.arange(100)
    small = _microseconds(context, lambda: numbers.add_(1.0))
    tell("host time of a small operation", f"{small:.1f} us")
    if context.cuda:
        pageable = _microseconds(context, lambda: few.to(context.device, non_blocking=True))
        pinned = _microseconds(context, lambda: few.pin_memory().to(context.device, non_blocking=True))
        tell("host time of a copy of 800 bytes: pageable, pinned", f"{pageable:.1f} us, {pinned:.1f} us")


def _microseconds(context: Context, work: Callable[[], Any], *, count: int = 1000) -> float:
    """Of the host, which does not wait."""
    for _ in range(50):
        work()
    context.sync()
    began = time.perf_counter()
    for _ in range(count):
        work()
    seconds = time.perf_counter() - began
    context.sync()
    return 1e6 * seconds / count
