"""Measurements of time that can be compared on a machine where other programs run."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

Trial = Callable[[], float]  # does the work once; returns its seconds


class MedianRange(NamedTuple):
    """What was measured, in whatever unit."""

    median: float
    lowest: float
    highest: float


class Stopwatch:
    """Seconds by name. On a GPU a lap is a pair of events in its queue, so that the host does not wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._laps: list[tuple[str, Any, Any]] = []
        self._last = self._mark()

    def start(self) -> None:
        self._last = self._mark()

    def lap(self, name: str) -> None:
        """End the lap since the last one, or since the start."""
        mark = self._mark()
        self._laps.append((name, self._last, mark))
        self._last = mark

    @property
    def seconds(self) -> dict[str, list[float]]:
        """Of every lap, by name; waits for a GPU."""
        found: dict[str, list[float]] = {}
        for name, start, stop in self._laps:
            found.setdefault(name, []).append(_between(start, stop))
        return found

    def total(self) -> float:
        return sum(map(sum, self.seconds.values()))

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _between(start: Any, stop: Any) -> float:
    if isinstance(start, float):
        return float(stop - start)
    stop.synchronize()
    return float(start.elapsed_time(stop) / 1e3)


def alternate(
    trials: Mapping[str, Trial], *, repeats: int, report: Callable[[str, float], None] | None = None
) -> dict[str, list[float]]:
    """Run every trial once to warm up, then all in turn, so that other load on the machine affects them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in trials}
    for _ in range(repeats + 1):
        for name, trial in trials.items():
            seconds[name].append(trial())
            if report is not None:
                report(name, seconds[name][-1])
    return {name: values[1:] for name, values in seconds.items()}


def median_range(values: list[float]) -> MedianRange:
    return MedianRange(statistics.median(values), min(values), max(values))


def paired_ratio(ones: list[float], others: list[float]) -> MedianRange:
    """The ratios of measurements that were taken in turn, each with its neighbour; not the ratio of medians."""
    return median_range([one / other for one, other in zip(ones, others, strict=True)])
