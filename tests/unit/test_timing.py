"""Measuring in turn."""

import time
from typing import Any

import pytest
import torch

from kdignite.timing import MedianRange, Stopwatch, alternate, median_range, paired_ratio


def test_everything_warms_up_once_and_is_then_measured_in_turn() -> None:
    calls: list[str] = []

    def trial(name: str, seconds: list[float]) -> float:
        calls.append(name)
        return seconds.pop(0)

    ones, others = [9.0, 1.0, 2.0], [9.0, 3.0, 4.0]
    found = alternate({"a": lambda: trial("a", ones), "b": lambda: trial("b", others)}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert found == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_a_spread_is_the_median_and_both_ends() -> None:
    assert median_range([5.0, 1.0, 2.0]) == MedianRange(2.0, 1.0, 5.0)
    assert median_range([4.0, 1.0]) == MedianRange(2.5, 1.0, 4.0)


def test_ratios_are_those_of_neighbours() -> None:
    """A machine that gets slower by and by changes no ratio: the median of each would."""
    assert paired_ratio([1.0, 2.0, 4.0], [2.0, 4.0, 8.0]) == MedianRange(0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0], [1.0, 2.0])


def test_a_stopwatch_counts_what_happens_between_its_laps() -> None:
    watch = Stopwatch(torch.device("cpu"))
    time.sleep(0.05)
    watch.start()
    for _ in range(2):
        time.sleep(0.01)
        watch.lap("short")
        time.sleep(0.02)
        watch.lap("long")
    assert [len(laps) for laps in watch.seconds.values()] == [2, 2]
    assert all(lap >= 0.01 for lap in watch.seconds["short"])
    assert all(lap >= 0.02 for lap in watch.seconds["long"])
    assert watch.total() == pytest.approx(sum(watch.seconds["short"]) + sum(watch.seconds["long"]))


class Event:
    """What CUDA records in the queue of a GPU, which gets there a second later each time."""

    recorded = 0
    waited: list["Event"] = []  # noqa: RUF012 - of all events

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: Any) -> None:
        Event.recorded += 1
        self.at = 1e3 * Event.recorded**2

    def synchronize(self) -> None:
        Event.waited.append(self)

    def elapsed_time(self, other: "Event") -> float:
        return other.at - self.at


def test_a_gpu_takes_the_time_itself_and_no_lap_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = Stopwatch(torch.device("cuda", 0))
    watch.lap("before")
    watch.start()
    watch.lap("one")
    watch.lap("other")
    watch.lap("one")
    assert Event.waited == []
    assert watch.seconds == {"before": [3.0], "one": [7.0, 11.0], "other": [9.0]}  # of 1, 4, 9, 16, 25, 36 seconds
    assert Event.waited
    assert watch.total() == 30.0
