"""How long something takes, measured so that it can be compared on a machine that is never quite quiet."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

Trial = Callable[[], float]  # does the work once; the seconds that count


class Spread(NamedTuple):
    """What was measured, in whatever unit."""

    median: float
    lowest: float
    highest: float


class Stopwatch:
    """Seconds by name, where a device works on after a call has returned.

    Args:
        device: that is waited for before every reading.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing was measured yet."""
        self._device = device
        self.seconds: dict[str, list[float]] = {}
        self._last = self._now()

    def start(self) -> None:
        """The next lap begins now."""
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Since the last lap, or the start, this was done."""
        now = self._now()
        self.seconds.setdefault(name, []).append(now - self._last)
        self._last = now

    def total(self) -> float:
        """Seconds of all laps."""
        return sum(map(sum, self.seconds.values()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def alternate(trials: Mapping[str, Trial], *, repeats: int) -> dict[str, list[float]]:
    """Do everything once to warm up, and then in turn: what disturbs the machine disturbs all of them alike.

    Args:
        trials: by name.
        repeats: how often each is measured.

    Returns:
        The seconds of each trial, in the order in which they were measured.
    """
    for trial in trials.values():
        trial()
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(repeats):
        for name, trial in trials.items():
            seconds[name].append(trial())
    return seconds


def spread(values: list[float]) -> Spread:
    """The median of some measurements, and the outermost.

    Args:
        values: at least one.

    Returns:
        The `Spread`.
    """
    return Spread(statistics.median(values), min(values), max(values))


def paired_ratio(ones: list[float], others: list[float]) -> Spread:
    """How measurements that were taken in turn compare: the ratios of neighbours, not the ratio of medians.

    Args:
        ones: one of the two.
        others: measured beside them, in the same order.

    Returns:
        The `Spread` of ``one / other``.
    """
    return spread([one / other for one, other in zip(ones, others, strict=True)])
