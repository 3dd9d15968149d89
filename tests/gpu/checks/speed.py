"""The part ``speed``: images a second of whole runs beside bare loops on ready batches."""

import time
from functools import partial

from checks.bare import bare_rate
from checks.context import Context, tell
from kdignite.training.capturing import CAPTURED

# what is trained, by which command, in batches of how many; the first size, and 500, in float32 too
JOBS = (
    ("cnn5", "baseline", (100, 250, 500, 1000)),
    ("cnn5", "distill", (100, 500)),
    ("fastresnet", "teacher", (250, 500, 1000)),
)
TINY = (("cnn5", "distill", (100,)),)


def check(context: Context) -> None:
    """Every command, network, size of batch and precision."""
    for arch, kind, sizes in TINY if context.tiny else JOBS:
        for amp in ("off",) if context.tiny else ("bf16", "off"):
            for batch_size in sizes:
                if amp == "bf16" or batch_size in (sizes[0], 500):
                    job = partial(_one, context, arch, kind, batch_size, amp)
                    context.attempt(f"{kind} {arch} {batch_size} {amp}", job)


def _one(context: Context, arch: str, kind: str, batch_size: int, amp: str) -> None:
    epochs = 2 if context.tiny or (arch == "fastresnet" and amp == "off") else 3
    run = context.run(kind, arch=arch, batch_size=batch_size, amp=amp, epochs=epochs)
    began = time.perf_counter()
    last = context.trained(run).history.rows[-1]
    wall = (time.perf_counter() - began) / epochs
    rate, steps = last["images_per_s"] or 0.0, last["seconds"] or 0.0
    bare = partial(bare_rate, context, arch, batch_size, amp, teacher_record=kind == "distill", rounds=2)
    loops = {"bare": bare(captured=False), "bare captured": bare(captured=True)}
    told = ", ".join(f"{name} {loop:,.0f} ({rate / loop:.0%})" for name, loop in loops.items())
    outcome = run.capture.outcome if run.capture else None
    tell(
        f"{kind} {arch} batch {batch_size} amp {amp}: images/s",
        f"{rate:,.0f} {outcome}; {told}; epoch {steps:.2f} s of steps, {wall:.2f} s in all",
        ok=context.on_gpu(outcome == CAPTURED),
        rate=rate,
        loops=loops,
        wall=wall,
    )
