"""Several teachers as one: the weighted mean of their softened probabilities, as logits."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.losses import standardized
from kdignite.methods.terms import Outputs
from kdignite.steps import Teacher
from kdignite.teachers.logit_cache import LogitCache


def shares(weights: Sequence[float] | None, *, count: int) -> tuple[float, ...]:
    """Weights divided by their sum; None: equal ones."""
    given = weights or (1.0,) * count
    return tuple(weight / sum(given) for weight in given)


def mean_logits(
    logits: Sequence[Tensor], weights: Sequence[float] | Tensor, *, T: float, standardize: bool = False
) -> Tensor:
    """Logits whose softmax at T is the weighted mean of the teachers' softmax at T.

    ``z = T * log(sum_k w_k softmax(z_k / T))``, so that ``softmax(z / T) = sum_k w_k softmax(z_k / T)``, at this T
    alone: means at another T are of other distributions. z is shifted so that its largest is 0, which no softmax sees
    and keeps the digits of probabilities that matter. For equal teachers it is their logits, shifted.

    Args:
        logits: (B, C) of each teacher.
        weights: of each teacher, above 0, with sum 1.
        T: temperature of the method, above 0 and finite, dimensionless; 1 where the method has none.
        standardize: take `kdignite.losses.standardized` logits of each, as a method does that sees those of z alone:
            else the one with the largest logits would decide.

    Returns:
        (B, C) in the type of the first teacher's logits, computed in float64.

    Raises:
        UserError: if the shapes differ, or there is not one weight for each teacher.

    Source: mean of several teachers' probabilities: Hinton, Vinyals & Dean 2015, arXiv:1503.02531, section 1.
    """
    if len({one.shape for one in logits}) != 1 or len(logits) != len(weights):
        shapes = ", ".join(str(tuple(one.shape)) for one in logits)
        raise UserError(f"expected logits (B, C) of each of {len(weights)} teachers, not {shapes}")
    each = [standardized(one.double()) if standardize else one.double() for one in logits]
    log_p = torch.stack([torch.log_softmax(one / T, dim=1) for one in each])  # (K, B, C)
    log_w = torch.as_tensor(weights, dtype=torch.float64, device=log_p.device).log()
    z = T * torch.logsumexp(log_p + log_w[:, None, None], dim=0)
    return (z - z.amax(1, keepdim=True)).to(logits[0].dtype)


class Ensemble:
    """A teacher that is the mean of several, each computed or cached by itself."""

    def __init__(
        self, members: Sequence[Teacher], weights: Sequence[float], *, T: float, standardize: bool = False
    ) -> None:
        self.members, self.T, self.standardize = tuple(members), T, standardize
        self.weights = torch.tensor(weights, dtype=torch.float64)  # moved once: a copy waits for a GPU

    def __call__(self, batch: Batch) -> Outputs:
        """The logits (B, C) of `mean_logits`, on the device of the batch, and the features of the first member."""
        outputs = [one(batch) for one in self.members]
        first = outputs[0]
        self.weights = self.weights.to(first.logits.device)
        each = [one.logits for one in outputs]
        return first._replace(logits=mean_logits(each, self.weights, T=self.T, standardize=self.standardize))


def caches_of(teacher: Teacher | None) -> list[LogitCache]:
    """The caches that a teacher reads, whatever it makes of them."""
    if isinstance(teacher, LogitCache):
        return [teacher]
    return [cache for member in getattr(teacher, "members", ()) for cache in caches_of(member)]
