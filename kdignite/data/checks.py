"""What is doubtful about the images of a data set: copies in two parts, classes that a part lacks, few held out."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kdignite.data.source import ImageSet
from kdignite.data.splits import Part
from kdignite.errors import counted, listed

NAMES = {"train": "training", "val": "validation", "test": "test"}
FEW = 100  # held-out images: the standard error of an accuracy on n, sqrt(p (1 - p) / n), is at most 5 points from here
# of the line about classes without an image: its first word, and what follows from it
ENDS = {
    "train": ("warning", ": no model can learn them"),
    "val": ("note", ": the accuracy that chooses the epoch says nothing of them"),
    "test": ("note", ""),
}


def copies_notes(parts: Mapping[str, Part]) -> list[str]:
    """A line for validation and for test images whose content is also that of training images."""
    hashes: dict[int, Sequence[str]] = {}
    held = {}
    for key, part in parts.items():
        images = part.images
        known = hashes.setdefault(id(images.labels), images.hashes) or _pixel_hashes(images)
        hashes[id(images.labels)] = known
        held[key] = [known[index] for index in part.indices.tolist()]
    trained = set(held.pop("train"))
    counts = {key: sum(one in trained for one in own) for key, own in held.items()}
    return [
        f"warning   {count:,} of {len(held[key]):,} {NAMES[key]} images are training images too (the same content), so "
        f"that {NAMES[key]} accuracy says too much: remove them from one of the two"
        for key, count in counts.items()
        if count
    ]


def num_copies(images: ImageSet) -> int:
    """How many images of a set have the content of an earlier one."""
    hashes = images.hashes or _pixel_hashes(images)
    return len(hashes) - len(set(hashes))


def shortage_notes(labels: Mapping[str, Tensor], classes: Sequence[str]) -> list[str]:
    """A line for each part that lacks images of a class, and for few validation or test images."""
    notes = []
    for key, own in labels.items():
        counts = torch.bincount(own.cpu(), minlength=len(classes)).tolist()
        absent = [name for name, count in zip(classes, counts, strict=True) if not count]
        if absent:
            what, end = ENDS[key]
            verb = "has" if len(absent) == 1 else "have"
            which = f"{len(absent)} of {len(classes)} classes {verb} no {NAMES[key]} image"
            notes.append(f"{what:<9} {which} ({listed(absent)}){end}")
        if key != "train" and 0 < len(own) < FEW:
            few = counted(len(own), f"{NAMES[key]} image")
            error = 50 / len(own) ** 0.5
            notes.append(f"note      {few}: an accuracy on so few has a standard error of up to {error:.0f} points")
    return notes


def _pixel_hashes(images: ImageSet) -> list[str]:
    """A hash of the pixels of each image that is in memory, as a Dataset's items have it."""
    assert isinstance(images.images, Tensor), "images that are decoded at every use come with their hashes"
    return [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in images.images.numpy()]
