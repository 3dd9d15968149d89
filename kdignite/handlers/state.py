"""What handlers remember, in forms that can be saved."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from kdignite import processes

Row = dict[str, float | None]


class EpochSums:
    """Sums over the images of the open epoch, kept on the device in float64 so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}

    def reset(self) -> None:
        """Start an epoch."""
        self.sums = {}

    def add(self, parts: Mapping[str, Tensor], *, num_images: int) -> None:
        """Add the output of a step: means are weighted by the number of images, ``correct`` is a count already."""
        for name, value in parts.items():
            weighted = value.double() if name == "correct" else value.double() * num_images
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        count = torch.tensor(float(num_images), dtype=torch.float64)
        self.sums["images"] = self.sums["images"] + count if "images" in self.sums else count

    def totals(self) -> dict[str, Tensor]:
        """The sums over the images that all processes have seen so far; each of them has to ask."""
        return processes.summed(self.sums)

    def means(self) -> dict[str, float]:
        """Mean of every part over these images."""
        totals = self.totals()
        num_images = float(totals["images"])
        return {name: float(value) / num_images for name, value in totals.items() if name != "images"}

    def state_dict(self) -> dict[str, Tensor]:
        """The open sums over all processes."""
        return {name: value.cpu() for name, value in self.totals().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums, which the first process takes whole."""
        mine = state if processes.is_first() else {name: torch.zeros_like(value) for name, value in state.items()}
        self.sums = {name: value.to("cpu" if name == "images" else self.device) for name, value in mine.items()}


class Clock:
    """Seconds: of the steps of the open epoch, and of the whole run; both go on where a resumed run was stopped.

    Ignite's Timer cannot be given the seconds that an earlier process spent.
    """

    def __init__(self) -> None:
        self.spent = 0.0  # on the steps of the open epoch, up to the last pause
        self.running_since: float | None = None
        self.run_began = time.perf_counter()

    def start(self) -> None:
        """Steps begin."""
        self.running_since = time.perf_counter()

    def pause(self) -> None:
        """Steps end."""
        self.spent, self.running_since = self.epoch(), None

    def reset(self) -> None:
        """Start an epoch."""
        self.spent = 0.0

    def epoch(self) -> float:
        """Seconds of the steps of the open epoch so far."""
        return self.spent + (time.perf_counter() - self.running_since if self.running_since is not None else 0.0)

    def run(self) -> float:
        """Seconds of the run so far."""
        return time.perf_counter() - self.run_began

    def state_dict(self) -> dict[str, float]:
        """Both times so far."""
        return {"epoch": self.epoch(), "run": self.run()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from saved times."""
        self.spent, self.run_began = float(state["epoch"]), time.perf_counter() - float(state["run"])


class History:
    """One row an epoch; the table, the CSV file and TensorBoard all show these rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        """All rows."""
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved rows."""
        self.rows = [dict(row) for row in state["rows"]]


class Snapshot:
    """Something with a ``state_dict`` for Ignite's Checkpoint, computed when it saves."""

    def __init__(self, take: Callable[[], dict[str, Any]]) -> None:
        self.state_dict = take
