"""What handlers remember, in forms that can be saved."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

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

    def means(self) -> dict[str, float]:
        """Mean of every part over the images seen so far."""
        num_images = float(self.sums["images"])
        return {name: float(value) / num_images for name, value in self.sums.items() if name != "images"}

    def state_dict(self) -> dict[str, Tensor]:
        """The open sums."""
        return {name: value.cpu() for name, value in self.sums.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums."""
        self.sums = {name: value.to("cpu" if name == "images" else self.device) for name, value in state.items()}


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
