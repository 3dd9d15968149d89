"""Whether two run folders hold the same run, wall-clock figures aside, and whether a processor lets them."""

import csv
import json
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kdignite import checkpoints
from kdignite.data.batches import EVALUATION_BATCH
from kdignite.data.preprocess import preparer
from kdignite.evaluation import predictor
from kdignite.training.model import load_model

WALL_CLOCK = {"seconds", "images_per_s"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load_checkpoint(folder / "best.safetensors").weights


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in csv.DictReader(file)]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"]) - WALL_CLOCK
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def assert_alike(one: Path, other: Path) -> None:
    """Bit-equal weights, table and curves, and no trace of the interruption."""
    assert {path.name for path in one.iterdir() if "tfevents" not in path.name} == {
        path.name for path in other.iterdir() if "tfevents" not in path.name
    }
    assert len(list(one.glob("events*"))) == len(list(other.glob("events*"))) == 1
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert table(one) == table(other)
    assert curves(one) == curves(other)
    for name in ("test", "val", "best_epoch", "epochs"):
        assert (
            json.loads((one / "result.json").read_text())[name] == json.loads((other / "result.json").read_text())[name]
        )


def is_same_in_any_batch(folder: Path, *, batch_size: int) -> bool:
    """Whether this processor computes the teacher's answers to the same bits in batches and in chunks of the table."""
    checkpoint = checkpoints.load_checkpoint(folder / "best.safetensors")
    prepare = preparer(checkpoint.description.preprocessing, device=torch.device("cpu"))
    model = load_model(checkpoint).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randint(256, (1297, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    answers = [
        torch.cat([*map(predictor(model, prepare=prepare), images.split(n))]) for n in (batch_size, EVALUATION_BATCH)
    ]
    return torch.equal(*answers)
