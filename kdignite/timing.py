"""How long something takes, measured so that it can be compared on a machine that is never quite quiet."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Trial = Callable[[], float]  # does the work once; the seconds that count


class MedianRange(NamedTuple):
    """What was measured, in whatever unit."""

    median: float
    lowest: float
    highest: float


class Stopwatch:
    """Seconds by name. A GPU takes the time itself, where its work has got to, so that no lap waits for it."""

    def __init__(self, device: torch.device) -> None:
        """Nothing was measured yet."""
        self._device = device
        self._laps: list[tuple[str, Any, Any]] = []
        self._last = self._mark()

    def start(self) -> None:
        """The next lap begins now."""
        self._last = self._mark()

    def lap(self, name: str) -> None:
        """Since the last lap, or the start, this was done."""
        mark = self._mark()
        self._laps.append((name, self._last, mark))
        self._last = mark

    @property
    def seconds(self) -> dict[str, list[float]]:
        """Of every lap, by name; a GPU is waited for."""
        found: dict[str, list[float]] = {}
        for name, start, stop in self._laps:
            found.setdefault(name, []).append(_between(start, stop))
        return found

    def total(self) -> float:
        """Seconds of all laps."""
        return sum(map(sum, self.seconds.values()))

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(start: Any, stop: Any) -> float:
    """Seconds between two marks of one watch."""
    if isinstance(start, float):
        return float(stop - start)
    stop.synchronize()
    return float(start.elapsed_time(stop) / 1e3)


def alternate(trials: Mapping[str, Trial], *, repeats: int) -> dict[str, list[float]]:
    """Do everything once to warm up, and then in turn: what disturbs the machine disturbs all of them alike."""
    for trial in trials.values():
        trial()
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(repeats):
        for name, trial in trials.items():
            seconds[name].append(trial())
    return seconds


def median_range(values: list[float]) -> MedianRange:
    """The median of some measurements, and the outermost."""
    return MedianRange(statistics.median(values), min(values), max(values))


def paired_ratio(ones: list[float], others: list[float]) -> MedianRange:
    """How measurements that were taken in turn compare: the ratios of neighbours, not the ratio of medians."""
    return median_range([one / other for one, other in zip(ones, others, strict=True)])
