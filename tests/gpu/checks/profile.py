"""The part ``profile``: what the host asks of the device in a step, and how busy that keeps it."""

import re
import time
from collections import Counter
from functools import partial
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from checks.context import Context, tell
from checks.watching import watch

ASKING = re.compile(r"cu(da)?(Launch|Memcpy|Memset|StreamSync|DeviceSync|EventSync|GraphLaunch)")
VARIANTS = re.compile(r"(_v\d+|ExC?|_ptsz|Async)$")  # of the same call
HOSTS = ("Optimizer.", "aten::", "ProfilerStep", "autograd::")  # ranges of the host, drawn on the device's line too
MOST_KERNELS = 5  # that are told


class Job(NamedTuple):
    """What is trained."""

    kind: str
    arch: str
    batch_size: int
    amp: str
    graph: str


JOBS = (
    Job("distill", "cnn5", 100, "bf16", "auto"),
    Job("distill", "cnn5", 100, "bf16", "off"),
    Job("distill", "cnn5", 100, "off", "auto"),
    Job("teacher", "fastresnet", 250, "bf16", "auto"),
)
TINY = (Job("baseline", "cnn5", 50, "off", "auto"),)


class Seen(NamedTuple):
    """What a profile has of some steps."""

    calls: Counter[str]  # of the host to the device
    operations: int  # of torch
    kernels: Counter[str]  # microseconds of each


def check(context: Context) -> None:
    """Profile warm steps of real runs."""
    for job in TINY if context.tiny else JOBS:
        context.attempt(f"profile of {job}", partial(_one, context, job))


def _one(context: Context, job: Job) -> None:
    kind, graph = job.kind, job.graph
    run = context.run(kind, arch=job.arch, batch_size=job.batch_size, amp=job.amp, graph=graph, epochs=1)
    profile = profiler(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * context.cuda])
    times: list[float] = []

    def begin() -> None:
        context.sync()
        profile.start()
        times.append(time.perf_counter())

    def end() -> None:
        context.sync()
        times.append(time.perf_counter())
        profile.stop()

    first, last = (2, 4) if context.tiny else (61, 100)
    watch(context, run, first=first, last=last, begin=begin, end=end)
    title = f"{kind} {job.arch} {job.batch_size} {job.amp} graph={graph}"
    _told(context, title, _seen(profile.events()), num_steps=last - first + 1, seconds=times[1] - times[0])


def _seen(events: Any) -> Seen:
    on_host: list[Any] = []
    on_device: list[Any] = []
    for event in events:
        (on_device if "CUDA" in str(event.device_type) else on_host).append(event)
    calls = Counter(VARIANTS.sub("", event.name) for event in on_host if ASKING.match(event.name))
    kernels = Counter[str]()
    for event in on_device:
        if not event.name.startswith(HOSTS):
            kernels[event.name] += event.time_range.elapsed_us()
    return Seen(calls, sum(event.name.startswith("aten::") for event in on_host), kernels)


def _told(context: Context, title: str, seen: Seen, *, num_steps: int, seconds: float) -> None:
    told = [f"{name} {count / num_steps:.1f}" for name, count in seen.calls.most_common()]
    told.append(f"operations of torch {seen.operations / num_steps:.0f}")
    tell(f"{title}: calls a step", ", ".join(told), calls=seen.calls)
    if not context.cuda:
        return
    wall, busy = 1e6 * seconds / num_steps, seen.kernels.total() / num_steps
    tell(f"{title}: us a step (profiled), device busy", f"{wall:.0f}, {busy:.0f} ({busy / wall:.0%})")
    for name, took in seen.kernels.most_common(MOST_KERNELS):
        tell(f"    {took / num_steps:7.1f} us a step", re.sub(r"\s+", " ", name)[:100])
