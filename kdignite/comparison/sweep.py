"""A grid over the parameters of a method: validation accuracies, and the best of the points with the most seeds."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from kdignite.comparison.pairing import check_students, machine_notes
from kdignite.comparison.runs import RunFiles


class GridPoint(NamedTuple):
    """The validation accuracies at a point of the grid, one for each seed."""

    parameters: dict[str, float]
    seeds: list[int]
    accuracies: list[float]
    mean: float
    std: float | None


class SweepSummary(NamedTuple):
    """Every point, and the one that was chosen from those with the same seeds."""

    method: str
    names: list[str]  # of its parameters
    points: list[GridPoint]
    chosen: GridPoint
    chosen_from: int
    notes: list[str]


def summarize_sweep(found: Sequence[RunFiles], method: str, names: list[str]) -> SweepSummary:
    """Choose on validation; only points with the same seeds are compared with one another."""
    check_students(found, besides=names)
    accuracies: dict[tuple[float, ...], dict[int, float]] = defaultdict(dict)
    for run in found:
        accuracies[tuple(run.config[name] for name in names)][run.seed] = run.result["val"]["accuracy"]
    points = [_point(dict(zip(names, values, strict=True)), seeds) for values, seeds in sorted(accuracies.items())]
    seeds = [point.seeds for point in points]
    usual = max(seeds, key=lambda one: (len(one), seeds.count(one)))
    chosen = max((point for point in points if point.seeds == usual), key=lambda point: point.mean)
    notes = [*_notes(found, chosen), *machine_notes(found)]
    return SweepSummary(method, names, points, chosen, seeds.count(usual), notes)


def _point(parameters: dict[str, float], by_seed: dict[int, float]) -> GridPoint:
    seeds = sorted(by_seed)
    values = [by_seed[seed] for seed in seeds]
    std = statistics.stdev(values) if len(values) > 1 else None
    return GridPoint(parameters, seeds, values, statistics.mean(values), std)


def _notes(found: Sequence[RunFiles], chosen: GridPoint) -> list[str]:
    notes = ["The test images decided nothing. The best of many is biased upwards: compare it on other seeds."]
    if len(chosen.seeds) == 1:
        notes.append("With one seed, a difference of a few tenths of a point may be chance: --seeds=3.")
    if any(run.result["partial"] for run in found):
        notes.append("These runs used only part of their images: not a result to quote.")
    return notes
