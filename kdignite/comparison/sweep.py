"""A grid over alpha and T: validation accuracies, and the best of the pairs that have the most seeds."""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from kdignite.comparison.pairing import check_students, machine_notes
from kdignite.comparison.runs import RunFiles
from kdignite.config import AXES


class GridPoint(NamedTuple):
    """The validation accuracies of an alpha and a T, one for each seed."""

    alpha: float
    T: float
    seeds: list[int]
    accuracies: list[float]
    mean: float
    std: float | None


class SweepSummary(NamedTuple):
    """Every pair, and the one that was chosen from those with the same seeds."""

    points: list[GridPoint]
    chosen: GridPoint
    chosen_from: int
    notes: list[str]

    @property
    def alphas(self) -> list[float]:
        """Ascending."""
        return sorted({point.alpha for point in self.points})

    @property
    def temperatures(self) -> list[float]:
        """Ascending."""
        return sorted({point.T for point in self.points})


def summarize_sweep(found: Sequence[RunFiles]) -> SweepSummary:
    """Choose on validation; only pairs with the same seeds are compared with one another."""
    check_students(found, besides=AXES)
    accuracies: dict[tuple[float, float], dict[int, float]] = defaultdict(dict)
    for run in found:
        accuracies[run.config["alpha"], run.config["T"]][run.seed] = run.result["val"]["accuracy"]
    points = [_point(alpha, T, by_seed) for (alpha, T), by_seed in sorted(accuracies.items())]
    seeds = [point.seeds for point in points]
    usual = max(seeds, key=lambda one: (len(one), seeds.count(one)))
    chosen = max((point for point in points if point.seeds == usual), key=lambda point: point.mean)
    return SweepSummary(points, chosen, seeds.count(usual), [*_notes(found, chosen), *machine_notes(found)])


def _point(alpha: float, T: float, by_seed: dict[int, float]) -> GridPoint:
    seeds = sorted(by_seed)
    values = [by_seed[seed] for seed in seeds]
    std = statistics.stdev(values) if len(values) > 1 else None
    return GridPoint(alpha, T, seeds, values, statistics.mean(values), std)


def _notes(found: Sequence[RunFiles], chosen: GridPoint) -> list[str]:
    notes = ["The test images were not used. The best of many is biased upwards: compare it on other seeds."]
    if len(chosen.seeds) == 1:
        notes.append("With one seed, a difference of a few tenths of a point may be chance: --seeds=3.")
    if any(run.result["partial"] for run in found):
        notes.append("These runs used only part of their images: not a result to quote.")
    return notes
