"""State of handlers, in forms that can be saved."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdignite import processes

Row = dict[str, float | None]
COLUMNS = {
    "epoch": "epoch",
    "loss": "loss/train",
    "accuracy_train": "accuracy/train",
    "loss_val": "loss/val",
    "accuracy_val": "accuracy/val",
    "accuracy_teacher": "accuracy/teacher",
    "lr": "lr",
    "seconds": "seconds",
    "images_per_s": "images_per_s",
}  # column of metrics.csv -> tag in TensorBoard; a part NAME of the loss, after "loss", is loss/NAME
RECALL = "recall/"  # of a class, in TensorBoard alone


class EpochSums:
    """Sums over the images of the open epoch, one float64 vector on the device, so that no step waits for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._weights: dict[int, Tensor] = {}  # images of a batch -> weights of its parts
        self.reset()

    def reset(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums = torch.empty(0, dtype=torch.float64)
        self.num_images = 0.0

    def add(self, parts: Mapping[str, Tensor], *, num_images: int) -> None:
        """Add the output of a step: means over ``num_images``, and the count ``correct``."""
        self.names = self.names or tuple(parts)
        values = torch.stack([parts[name] for name in self.names]).double()
        if not len(self.sums):
            self.sums = torch.zeros_like(values)
        if num_images not in self._weights:
            weights = [1.0 if name == "correct" else float(num_images) for name in self.names]
            self._weights[num_images] = torch.tensor(weights, dtype=torch.float64).to(self.device)
        self.sums.addcmul_(values, self._weights[num_images])
        self.num_images += num_images

    def totals(self) -> dict[str, float]:
        """The sums over the images of all processes so far; all of them call it together, and wait for their device."""
        own = torch.tensor([*self.sums.tolist(), self.num_images], dtype=torch.float64)
        return dict(zip((*self.names, "images"), processes.all_reduce_sum(own).tolist(), strict=True))

    def means(self) -> dict[str, float]:
        return per_image(self.totals())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in self.totals().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from saved sums, all of them in the first process."""
        mine = {name: float(value) if processes.is_rank0() else 0.0 for name, value in state.items()}
        self.num_images = mine.pop("images")
        self.names = tuple(mine)
        self.sums = torch.tensor(list(mine.values()), dtype=torch.float64).to(self.device)


def per_image(totals: Mapping[str, float]) -> dict[str, float]:
    """Sums over images -> means."""
    return {name: value / totals["images"] for name, value in totals.items() if name != "images"}


def parts_of(rows: Sequence[Row]) -> list[str]:
    """The parts of the loss, as the method named them."""
    return [name for name in (rows[0] if rows else ()) if name not in COLUMNS and not name.startswith(RECALL)]


def tag_of(name: str) -> str:
    """What TensorBoard calls an entry of a row."""
    return COLUMNS.get(name, name if name.startswith(RECALL) else f"loss/{name}")


class Clock:
    """Seconds of the steps of the open epoch and of the whole run, across resumes; Ignite's Timer has no state."""

    def __init__(self) -> None:
        self.spent = 0.0  # on the steps of the open epoch, up to the last pause
        self.running_since: float | None = None
        self.run_began = time.perf_counter()

    def start(self) -> None:
        self.running_since = time.perf_counter()

    def pause(self) -> None:
        self.spent, self.running_since = self.epoch(), None

    def reset(self) -> None:
        self.spent = 0.0

    def epoch(self) -> float:
        """Seconds of the steps of the open epoch so far."""
        return self.spent + (time.perf_counter() - self.running_since if self.running_since is not None else 0.0)

    def run(self) -> float:
        return time.perf_counter() - self.run_began

    def state_dict(self) -> dict[str, float]:
        return {"epoch": self.epoch(), "run": self.run()}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.spent, self.run_began = float(state["epoch"]), time.perf_counter() - float(state["run"])


class History:
    """One row an epoch; the table, the CSV file and TensorBoard all show these rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [dict(row) for row in self.rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
