"""Training, validation and test part of a source: a function of the data and ``val_size`` alone, never of a seed."""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

from kdignite.data.source import ImageSet, Source
from kdignite.errors import UserError
from kdignite.streams import Key, stream


class Part(NamedTuple):
    """Some images of a set."""

    images: ImageSet
    indices: Tensor  # (N,) int64, ascending, into the set

    @property
    def labels(self) -> Tensor:
        """(N,) int64, the labels of the part in the order of its indices."""
        return self.images.labels[self.indices]


class HasValidation(UserError):
    """A size was given of what a source brings itself."""


class Splits(NamedTuple):
    """The three parts of a source, and a hash that says which images each of them holds."""

    train: Part
    val: Part
    test: Part
    hash: str


def split_source(source: Source, *, val_size: float | None) -> Splits:
    """Split a source into its parts; the parts that it brings itself are kept as they are.

    ``val_size``, a count or a fraction below 1, is held out of the training set; None: the source's own default.
    Validation and test are stratified: each class within one image of its share.

    Raises:
        UserError: `HasValidation` if the source brings a validation set and ``val_size`` is given; if too few images
            would be left.
    """
    if source.val is not None and val_size is not None:
        raise HasValidation(f"{source.name} brings its own validation images: leave out --val_size")
    rest = torch.arange(len(source.train.labels))
    if source.test is None:
        test_indices = _hold_out(source, rest, source.default_test_size, key="test")
        test, rest = Part(source.train, test_indices), _without(rest, test_indices)
    else:
        test = all_images(source.test)
    if source.val is None:
        wanted = source.default_val_size if val_size is None else val_size
        val_indices = _hold_out(source, rest, wanted, key="val")
        val, rest = Part(source.train, val_indices), _without(rest, val_indices)
    else:
        val = all_images(source.val)
    train = Part(source.train, rest)
    return Splits(train, val, test, _hash(source, train, val, test))


def all_images(images: ImageSet) -> Part:
    return Part(images, torch.arange(len(images.labels)))


def limited(part: Part, limit: int | None) -> Part:
    """At most ``limit`` images of a part, stratified, the same ones for every seed; None: all of them."""
    if limit is None or limit >= len(part.indices):
        return part
    return Part(part.images, part.indices[stratified_pick(part.labels.cpu(), limit, key=("limit",))])


def stratified_pick(labels: Tensor, count: int, *, key: tuple[Key, ...]) -> Tensor:
    """Choose ``count`` in [0, N] positions of labels (N,) so that every class keeps its share.

    Class c gets ``floor(n_c * count / N)`` or one more; the spare ones go to the largest fractions, then to the lower
    class. Which of a class: the first of a permutation drawn from ``(*key, c)``. Returns (count,) int64, ascending.
    """
    sizes = torch.bincount(labels)
    quota = sizes * count // len(labels)
    remainder = sizes * count - quota * len(labels)
    order = torch.argsort(remainder, descending=True, stable=True)
    quota[order[: count - int(quota.sum())]] += 1
    picked = [
        torch.nonzero(labels == c).flatten()[torch.randperm(int(size), generator=stream(*key, c))[: int(quota[c])]]
        for c, size in enumerate(sizes.tolist())
    ]
    return torch.cat(picked).sort().values


def _hold_out(source: Source, rest: Tensor, wanted: float, *, key: str) -> Tensor:
    count = round(wanted * len(rest)) if wanted < 1 else int(wanted)
    most = len(rest) - len(source.classes)
    if not 0 < count <= most:
        advice = f"add images, or a {key} set"
        if key == "val" and most > 0:
            advice = f"choose a --val_size between 1 and {most}, or a fraction"
        raise UserError(
            f"holding {count} of {len(rest)} images of {source.name} out for {key} leaves too few: {advice}"
        )
    return rest[stratified_pick(source.train.labels[rest], count, key=("split", key))]


def _without(indices: Tensor, taken: Tensor) -> Tensor:
    return indices[~torch.isin(indices, taken)]


def _hash(source: Source, *parts: Part) -> str:
    digest = hashlib.sha256(source.fingerprint.encode())
    for part in parts:
        digest.update(len(part.indices).to_bytes(8, "big"))
        digest.update(part.indices.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
