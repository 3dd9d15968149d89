"""From uint8 images to a model's input, on whole batches and on the device that computes."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdignite.data.specs import Preprocessing
from kdignite.streams import stream

STATISTICS_IMAGES = 10_000  # measured on more, CIFAR-10's means and deviations change by less than 0.002

Prepare = Callable[[Tensor], Tensor]


class Statistics(NamedTuple):
    """Mean and standard deviation of pixels in 0..1, by channel (red, green, blue)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def preparer(spec: Preprocessing, *, device: torch.device) -> Prepare:
    """A function that makes a model's input out of uint8 images.

    ``input = (resize(images / 255, size) - mean) / std``, computed as one multiplication and one addition.

    Args:
        spec: size, mean, standard deviation and interpolation.
        device: where the images will be.

    Returns:
        A function from uint8 (N, 3, S, S) to float32 (N, 3, size, size) in channels_last memory, which convolutions
        on CPU and tensor cores are fastest with.
    """
    mode = spec.interpolation.partition(",")[0]
    mean, std = torch.tensor(spec.mean, device=device), torch.tensor(spec.std, device=device)
    # of a whole row of pixels: an operation on long rows is several times as fast as one on three channels
    scale, shift = (channels.repeat(spec.size) for channels in (1 / (255 * std), -mean / std))

    def prepare(images: Tensor) -> Tensor:
        pixels = _resized(images.contiguous(memory_format=torch.channels_last).float(), spec.size, mode=mode)
        rows = pixels.permute(0, 2, 3, 1).flatten(2).mul_(scale).add_(shift)  # (N, size, 3 * size)
        return rows.view(-1, spec.size, spec.size, 3).permute(0, 3, 1, 2)

    return prepare


def sample(indices: Tensor, num_images: int) -> Tensor:
    """At most ``num_images`` of the indices, chosen by a fixed key, in their order."""
    if len(indices) <= num_images:
        return indices
    order = torch.randperm(len(indices), generator=stream("statistics"))
    return indices[order[:num_images].sort().values]


def measure_statistics(batches: Iterable[Tensor]) -> Statistics:
    """Mean and standard deviation of each channel, for pixels in 0..1.

    Computed from a histogram of the 256 levels, so that the result does not depend on the order of the images.

    Args:
        batches: uint8 (B, 3, S, S) each.

    Returns:
        `Statistics`, rounded to 4 digits; a deviation is at least 1/255, so that a constant channel stays finite.
    """
    counts = torch.zeros(3, 256, dtype=torch.float64)
    for pixels in batches:
        counts += torch.stack([torch.bincount(pixels[:, c].flatten().int(), minlength=256) for c in range(3)]).cpu()
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ levels
    deviation = (share @ levels**2 - mean**2).clamp_min(0).sqrt().clamp_min(1 / 255)
    return Statistics(_rounded(mean), _rounded(deviation))


def _resized(pixels: Tensor, size: int, *, mode: str) -> Tensor:
    if pixels.shape[-1] == size:
        return pixels
    resized = F.interpolate(pixels, size=(size, size), mode=mode, antialias=True, align_corners=False)
    if mode == "bicubic":  # which overshoots at edges
        resized.clamp_(0, 255)
    return resized.contiguous(memory_format=torch.channels_last)


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values.tolist())
