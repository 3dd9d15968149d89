"""Whether two runs are the same to the last bit."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

NOT_COMPARED = ("seconds", "images_per_s")  # columns of a table


class Likeness(NamedTuple):
    """Whether two runs are the same, in words too."""

    same: bool
    told: str


def result_of(folder: Path) -> dict[str, Any]:
    """What a finished run wrote down."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def compare(one: Path, other: Path, *, besides: Sequence[str] = ()) -> Likeness:
    """Compare weights, complete states and tables of two runs; ``besides`` are columns that may differ."""
    rows = [_rows(folder, left_out=(*NOT_COMPARED, *besides)) for folder in (one, other)]
    correct = [result_of(folder)["test"]["num_correct"] for folder in (one, other)]
    worst = max(_differences(one, other), default=None)
    if worst is None and rows[0] == rows[1]:
        return Likeness(True, f"bit-equal, table too ({correct[0]} test images right)")
    where = f"by up to {worst[0]:.2g} ({worst[1]})" if worst else "in the table"
    return Likeness(False, f"differ {where}; test images right {correct[0]}, {correct[1]}")


def _rows(folder: Path, *, left_out: Sequence[str]) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [{key: value for key, value in row.items() if key not in left_out} for row in csv.DictReader(file)]


def _differences(one: Path, other: Path) -> Iterator[tuple[float, str]]:
    """How much tensors differ that are not equal, and which."""
    import torch

    from kdignite import checkpoints

    for name in ("best.safetensors", "last.safetensors"):
        if not ((one / name).is_file() and (other / name).is_file()):
            continue
        mine, theirs = (_tensors(checkpoints.read(folder / name)) for folder in (one, other))
        for key in sorted(mine.keys() | theirs.keys()):
            if key not in mine or key not in theirs:
                yield float("inf"), f"{name} {key} is in one alone"
            elif not torch.equal(mine[key], theirs[key]):
                yield (mine[key].double() - theirs[key].double()).abs().max().item(), f"{name} {key}"


def _tensors(payload: dict[str, Any]) -> dict[str, Any]:
    """Weights and the optimiser's state in a file, by name."""
    found = {f"{part} {key}": value for part in ("weights", "model") for key, value in payload.get(part, {}).items()}
    for number, state in payload.get("optimizer", {}).get("state", {}).items():
        found |= {f"optimizer {number} {key}": value for key, value in state.items() if value is not None}
    return found
