"""Controls: teachers that know less, to show whether what a student gains is knowledge of the teacher."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdignite.data.batches import Batch
from kdignite.devices import to_device
from kdignite.errors import UserError
from kdignite.methods.terms import Outputs
from kdignite.steps import Teacher
from kdignite.streams import seed_of

RANDOM, SHUFFLED = "random", "shuffled"
LABEL_FIRST = -1  # below every key
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # of SplitMix64, as the next
MIXES = [(np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))]


def shuffle_wrong_classes(logits: Tensor, labels: Tensor, indices: Tensor, *, seed: int) -> Tensor:
    """The logits with those of the wrong classes permuted, in an order of its own for each image.

    ``z'[y] = z[y]`` and ``z'[c] = z[s(c)]`` for every other class c, where s is the permutation of the classes other
    than the label y that sorts the keys ``h(seed, i, c)`` of image i. Softmax at any T keeps the label's probability
    and the multiset of the others: how sure the teacher is remains, which classes are alike does not. The permutation
    is a function of (seed, i): all views of an image and all epochs have the same.

    Args:
        logits: (B, C), C at least 3: with one wrong class there is nothing to permute.
        labels: (B,) int64, on the device of the logits.
        indices: (B,) int64 on the CPU: which images of the source.
        seed: of the permutations.

    Returns:
        (B, C), on the device of the logits.

    Raises:
        UserError: if there are fewer than 3 classes.
    """
    num_classes = logits.shape[1]
    if num_classes < 3:
        raise UserError(f"--control={SHUFFLED} needs 3 classes or more, not {num_classes}: leave it out")
    keys = to_device(torch.from_numpy(_keys(indices.numpy(), num_classes, seed=seed)), logits.device)
    label = labels[:, None]
    drawn = keys.scatter(1, label, LABEL_FIRST).sort(dim=1, stable=True).indices  # the label, then the others as drawn
    plain = (
        torch.zeros_like(keys).scatter(1, label, LABEL_FIRST).sort(dim=1, stable=True).indices
    )  # the others in order
    return torch.empty_like(logits).scatter(1, plain, logits.gather(1, drawn))


class ShuffledTeacher:
    """A teacher whose probabilities of the wrong classes are permuted."""

    def __init__(self, teacher: Teacher, *, seed: int) -> None:
        self.members, self.seed = (teacher,), seed

    def __call__(self, batch: Batch) -> Outputs:
        """The logits (B, C) of `shuffle_wrong_classes`, on the device of the batch."""
        logits = self.members[0](batch).logits
        return Outputs(shuffle_wrong_classes(logits, batch.labels, batch.indices, seed=self.seed))


def _keys(indices: npt.NDArray[np.int64], num_classes: int, *, seed: int) -> npt.NDArray[np.int64]:
    """(B, C) int64, at least 0: output ``i * C + c`` of SplitMix64, cut to 63 bits (Steele, Lea & Flood 2014)."""
    number = indices[:, None] * num_classes + np.arange(1, num_classes + 1)
    x: npt.NDArray[np.uint64] = np.uint64(seed_of(SHUFFLED, seed)) + number.astype(np.uint64) * GAMMA
    for shift, factor in MIXES:
        x = (x ^ (x >> shift)) * factor
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
