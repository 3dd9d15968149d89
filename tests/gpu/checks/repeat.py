"""The part ``repeat``: the same steps give the same weights."""

from collections.abc import Callable
from functools import partial
from itertools import islice

from torch import Tensor

from checks.context import Context, bits, difference, state_of, tell

JOBS = (("cnn5", 100), ("fastresnet", 250), ("resnet20", 128))
TIMES = 3


def check(context: Context) -> None:
    """Train each network several times from the same start."""
    num_steps = 3 if context.tiny else 60
    for arch, batch_size in (("cnn5", 50),) if context.tiny else JOBS:
        for amp in ("off", "bf16"):
            once = partial(_once, context, arch, batch_size, amp, num_steps=num_steps)
            context.attempt(f"{arch}, {amp}", partial(_compare, once, f"{arch} {batch_size} {amp}, {num_steps} steps"))


def _compare(once: Callable[[], list[Tensor]], what: str) -> None:
    first, *others = (once() for _ in range(TIMES))
    worst = max((one for one in (difference(first, other) for other in others) if one is not None), default=None)
    tell(f"{what}, {TIMES} times", bits(worst), ok=worst is None)


def _once(context: Context, arch: str, batch_size: int, amp: str, *, num_steps: int) -> list[Tensor]:
    run = context.run("baseline", arch=arch, batch_size=batch_size, amp=amp, seed=1)
    step = run.make_step(run.model.network, run.optimizer, prepare=run.model.prepare, scaler=run.scaler)
    for batch in islice(run.batches(0, 0), num_steps):
        step(None, batch)
    return state_of(run)
