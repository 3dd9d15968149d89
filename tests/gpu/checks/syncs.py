"""The part ``syncs``: where the host waits for the device, by torch's own alarm."""

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from checks.context import Context, tell
from checks.watching import watch
from kdignite.handlers.training import GUARD_EVERY

JOBS = (
    ("distill", "cnn5", "auto"),
    ("distill", "cnn5", "off"),
    ("baseline", "cnn5", "auto"),
)
STEPS = 100  # with two looks at the loss
FIRST = 51


def check(context: Context) -> None:
    """Count the waits in warm steps of real runs."""
    for job in JOBS:
        context.attempt(f"waits of {job}", partial(_one, context, *job))


def _one(context: Context, kind: str, arch: str, graph: str) -> None:
    run = context.run(kind, arch=arch, batch_size=100, amp="bf16", graph=graph, epochs=1)

    def begin() -> None:
        context.sync()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")

    def end() -> None:
        torch.cuda.set_sync_debug_mode("default")

    with warnings.catch_warnings(record=True) as found:
        watch(context, run, first=FIRST, last=FIRST + STEPS - 1, begin=begin, end=end)
    places = counted(found)
    told = ", ".join(f"{place} {count}" for place, count in places.most_common(8))
    tell(
        f"waits in {STEPS} steps, {kind} {arch} graph={graph}",
        f"{places.total()}: {told}",
        ok=places.total() <= STEPS // GUARD_EVERY,
        places=places,
    )


def counted(found: Sequence[warnings.WarningMessage]) -> Counter[str]:
    """Waits by the line that asked for them."""
    waits = [one for one in found if "called a synchronizing" in str(one.message)]
    return Counter(
        "/".join((*Path(one.filename).parts[-2:-1], f"{Path(one.filename).name}:{one.lineno}")) for one in waits
    )
