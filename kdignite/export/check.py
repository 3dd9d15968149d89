"""Whether an exported model is the model of the run: both answer the same real images."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite.data.batches import Batch
from kdignite.data.preprocess import Prepare, preparer
from kdignite.data.specs import Preprocessing
from kdignite.errors import RunFailed
from kdignite.export.programs import Logits

LARGEST = 1e-3  # of the largest logit: a hundred times what the order of float32 sums changes


class Answers(NamedTuple):
    """What several models answered to the same images, (N, C) float32 each, and the true labels (N,)."""

    logits: dict[str, Tensor]
    labels: Tensor


class Parity(NamedTuple):
    """How alike the answers of two models are."""

    num_images: int
    num_same: int  # images with the same class
    largest_difference: float  # of logits
    relative_difference: float  # that over the largest logit of the first


def pixels_at(preprocessing: Preprocessing) -> Prepare:
    """A function that resizes uint8 images (N, 3, S, S) to the model's size, rounded to uint8 as a graph takes them."""
    unscaled = preparer(preprocessing._replace(mean=(0.0,) * 3, std=(1 / 255,) * 3), device=torch.device("cpu"))
    return lambda images: unscaled(images).round().clamp(0, 255).to(torch.uint8).contiguous()


def answers(models: Mapping[str, Logits], batches: Iterable[Batch], *, pixels: Prepare) -> Answers:
    """The logits of each model for the images of some batches, each batch made once."""
    found: dict[str, list[Tensor]] = {name: [] for name in models}
    labels = []
    for batch in batches:
        images = pixels(batch.images)
        labels.append(batch.labels)
        for name, logits_of in models.items():
            found[name].append(logits_of(images).float())
    return Answers({name: torch.cat(rows) for name, rows in found.items()}, torch.cat(labels))


def parity(one: Tensor, other: Tensor) -> Parity:
    """Compare logits (N, C) of two models for the same images."""
    largest = float((one - other).abs().max())
    same = int((one.argmax(1) == other.argmax(1)).sum())
    return Parity(len(one), same, largest, largest / max(float(one.abs().max()), torch.finfo(torch.float32).tiny))


def check_parity(found: Parity, *, what: str) -> None:
    """Refuse an exported model that differs from the run by more than rounding."""
    if not found.relative_difference <= LARGEST:  # also NaN
        raise RunFailed(
            f"{what} is not the model of the run: its logits differ by up to {found.largest_difference:.3g} on "
            f"{found.num_images:,} test images, and {found.num_images - found.num_same:,} get another class; nothing "
            "was written"
        )


def parity_text(found: Parity) -> str:
    """``same class for all 10,000 test images, logits differ by at most 3.8e-06``."""
    rest = found.num_images - found.num_same
    who = f"all {found.num_images:,}" if not rest else f"{found.num_same:,} of {found.num_images:,}"
    ties = f" ({rest:,} differ between classes that are equal within rounding)" if rest else ""
    return f"same class for {who} test images{ties}, logits differ by at most {found.largest_difference:.2g}"


def scores_of(found: Answers, name: str, *, classes: tuple[str, ...]) -> dict[str, Any]:
    """The scores of one of the models, as a result records them."""
    from kdignite.metrics import evaluation_summary, recorded

    return recorded(evaluation_summary(found.logits[name].numpy(), found.labels.numpy(), classes=classes))
