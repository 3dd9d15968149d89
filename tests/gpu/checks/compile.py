"""The part ``compile``: what ``--compile`` costs and brings, and whether it repeats, captured or not."""

import time
from typing import NamedTuple

from torch import Tensor

from checks.context import Context, bits, difference, state_of, tell

EPOCHS = 3


class Compiled(NamedTuple):
    """A run with ``--compile``."""

    state: list[Tensor]
    rate: float  # images/s of its last epoch
    seconds: float
    outcome: str | None  # of its graph


def check(context: Context) -> None:
    """Train twice with a graph, and once without."""
    first = _told(context, "auto")
    second, eager = (_told(context, graph) if first else None for graph in ("auto", "off"))
    for what, other in (("twice in one process", second), ("captured or not", eager)):
        if first and other:
            differs = difference(first.state, other.state)
            tell(f"--compile {what}", bits(differs), ok=differs is None)


def _told(context: Context, graph: str) -> Compiled | None:
    one = context.attempt(f"--compile --graph={graph}", lambda: _compiled(context, graph))
    if one is not None:
        told = f"{one.rate:,.0f} images/s in the last epoch, {one.seconds:.0f} s for {EPOCHS} epochs, {one.outcome}"
        tell(f"--compile --graph={graph}, cnn5 batch 500 bf16", told)
    return one


def _compiled(context: Context, graph: str) -> Compiled:
    run = context.run("baseline", arch="cnn5", batch_size=500, amp="bf16", epochs=EPOCHS, compile=True, graph=graph)
    began = time.perf_counter()
    rows = context.trained(run).history.rows
    seconds = time.perf_counter() - began
    return Compiled(
        state_of(run), rows[-1]["images_per_s"] or 0.0, seconds, run.capture.outcome if run.capture else None
    )
