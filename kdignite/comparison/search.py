"""The trials of a search: which settings validation chose, and how they compare with the defaults."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from kdignite.config import Range, Search, search_line, setting_limits
from kdignite.trials import TrialRow

NEAR = 0.05  # of a range: the best value is at its end


class SearchSummary(NamedTuple):
    """Every trial that was begun, and the best of the complete ones."""

    method: str
    ranges: dict[str, Range]
    trials: list[TrialRow]  # in their order
    chosen: TrialRow
    line: str  # to train with what was chosen
    notes: list[str]

    @property
    def complete(self) -> list[TrialRow]:
        return [one for one in self.trials if one.state == "complete"]

    @property
    def ranked(self) -> list[TrialRow]:
        """The best first; complete ones before all others."""
        return sorted(self.trials, key=lambda one: (one.state == "complete", one.accuracy or 0.0), reverse=True)


def summarize_search(trials: Sequence[TrialRow], search: Search, *, partial: bool) -> SearchSummary | None:
    """Choose the complete trial with the highest validation accuracy, of equals the first; None: there is none."""
    complete = [one for one in trials if one.state == "complete" and one.accuracy is not None]
    if not complete:
        return None
    chosen = max(complete, key=lambda one: one.accuracy or 0.0)
    notes = ["The test images decided nothing. The best of many is biased upwards: compare it on other seeds."]
    ends = (_at_an_end(search, name, chosen.values[name]) for name in search.ranges)
    notes += [note for note in ends if note]
    if partial:
        notes.append("These runs used only part of their images: not a result to quote.")
    line = search_line(search, chosen.values)
    return SearchSummary(search.method_name, search.ranges, list(trials), chosen, line, notes)


def _at_an_end(search: Search, name: str, value: Any) -> str:
    """A hint where the best value is at an end of its range that could be moved: it is no limit of the setting."""
    one, limits = search.ranges[name], setting_limits(search, name)
    if one.is_flag:
        return ""
    place = (value - one.low) / (one.high - one.low)
    if one.log:
        place = math.log(value / one.low) / math.log(one.high / one.low)
    lowest, highest = place < NEAR and one.low != limits[0], place > 1 - NEAR and one.high != limits[1]
    end = "lowest" if lowest else "highest" if highest else ""
    return f"The {end} values of {name} were the best: a wider range may have better ones." if end else ""
