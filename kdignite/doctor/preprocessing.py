"""Wrong preprocessing: the classic mistakes in the input pipeline of a model."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdignite.data.preprocess import Prepare, Statistics, preparer
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

RESIZE, CROP = 256, 224  # pixels; how ImageNet models are evaluated: resize, then centre crop
TOLERANCE = 0.005  # statistics closer than this count as equal
STATISTICS = {
    "ImageNet's": Statistics(IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR-10's": Statistics((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "0.5 and 0.5": Statistics((0.5,) * 3, (0.5,) * 3),
}


class Variant(NamedTuple):
    """A wrong preprocessing: its name, what was done, what to do, and the function that does it."""

    name: str
    wrong: str
    fix: str
    prepare: Prepare
    flags: Mapping[str, Any] | None = None  # of adopt, for a model that was trained like this; None: it has none


def preprocessing_variants(
    right: Preprocessing, *, image_size: int, own: Statistics, device: torch.device
) -> list[Variant]:
    """The classic ways in which preprocessing differs from that of the training.

    A linear mistake is another mean and deviation: no normalisation ``(0, 1)``, twice
    ``(m + s m, s^2)``, pixels in 0..255 ``(m / 255, s / 255)``, without normalisation ``(0, 1 / 255)``.
    """

    def scaled(name: str, wrong: str, fix: str, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Variant:
        mean, std = statistics
        prepare = preparer(right._replace(mean=mean, std=std), device=device)
        return Variant(name, wrong, fix, prepare, {"mean": mean, "std": std})

    prepare, zeros = preparer(right, device=device), (0.0,) * 3
    once = "Normalize(mean, std) as recorded"
    twice = tuple(m + s * m for m, s in zip(right.mean, right.std, strict=True)), tuple(s * s for s in right.std)
    wide = tuple(m / 255 for m in right.mean), tuple(s / 255 for s in right.std)
    return [
        scaled("not normalised", "pixels in 0..1, no Normalize", once, (zeros, (1.0,) * 3)),
        scaled("normalised twice", "Normalize applied twice", "normalise once", twice),
        *(
            scaled(f"{name} statistics", f"normalised with {name} mean and std", once, statistics)
            for name, statistics in _others(right, {**STATISTICS, "the data's own": own})
        ),
        scaled("0..255, normalised", "Normalize on pixels in 0..255", "divide by 255 before Normalize", wide),
        scaled("0..255", "pixels in 0..255, no Normalize", f"divide by 255, {once}", (zeros, (1 / 255,) * 3)),
        Variant("BGR", "blue first, as OpenCV reads", "image[..., ::-1]", lambda images: prepare(images.flip(1))),
        Variant("reshaped", "(H, W, 3) reshaped to (3, H, W)", "permute(2, 0, 1), not reshape", _reshaped(prepare)),
        *_other_sizes(right, image_size=image_size, device=device),
        Variant("centre crop", "enlarged, then the middle cut out", f"resize to {right.size}", _cropped(right, device)),
    ]


def _others(right: Preprocessing, known: dict[str, Statistics]) -> Iterator[tuple[str, Statistics]]:
    """Each of the known statistics once, but the right ones."""
    seen = [Statistics(right.mean, right.std)]
    for name, statistics in known.items():
        if not any(_close(statistics, other) for other in seen):
            seen.append(statistics)
            yield name, statistics


def _other_sizes(right: Preprocessing, *, image_size: int, device: torch.device) -> Iterator[Variant]:
    sizes = dict.fromkeys((image_size, right.size // 2, right.size * 2))  # in this order, each once
    for size in sizes:
        if size != right.size:
            prepare = preparer(right._replace(size=size), device=device)
            what = f"input of {size} x {size} pixels"
            yield Variant(f"{size} pixels", what, f"resize to {right.size}", prepare, {"size": size})


def _reshaped(prepare: Prepare) -> Prepare:
    def reshaped(images: Tensor) -> Tensor:
        return prepare(images.permute(0, 2, 3, 1).reshape(images.shape))

    return reshaped


def _cropped(right: Preprocessing, device: torch.device) -> Prepare:
    larger = round(right.size * RESIZE / CROP)
    prepare, start = preparer(right._replace(size=larger), device=device), (larger - right.size) // 2
    end = start + right.size

    def cropped(images: Tensor) -> Tensor:
        return prepare(images)[:, :, start:end, start:end]

    return cropped


def _close(one: Statistics, other: Statistics) -> bool:
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return all(abs(a - b) <= TOLERANCE for a, b in pairs)
