"""Teachers whose outputs are probabilities instead of logits: seen from the outputs, and turned into logits."""

import torch
from torch import Tensor

from kdignite.errors import UserError
from kdignite.evaluation import Predictor

SOFTMAX, SIGMOID = "softmax", "sigmoid"
SUM_TOLERANCE = 1e-2  # of the probabilities of an image, which half precision rounds
FEWEST = 50  # numbers; fewer may all be in [0, 1] by chance


def activation_of(outputs: Tensor) -> str:
    """Which activation outputs (N, C) seem to have gone through: `SOFTMAX`, `SIGMOID`, or none, which is ``""``.

    Softmax: nothing is negative, and every row sums to 1. Sigmoid: everything is in [0, 1], and not all the same.
    """
    low, high = float(outputs.min()), float(outputs.max())
    if not 0 <= low < high <= 1 + SUM_TOLERANCE:
        return ""
    return SOFTMAX if bool(((outputs.sum(1) - 1).abs() < SUM_TOLERANCE).all()) else SIGMOID


def probabilities_warning(outputs: Tensor, *, who: str) -> str:
    """A warning where outputs (N, C) are probabilities, with what ``distill`` then needs, else empty."""
    activation = activation_of(outputs)
    return activation and (
        f"{who} seems to end in {activation}: its outputs are probabilities, not logits; distill needs "
        "--teacher_outputs=probabilities, which takes their logarithm"
    )


def flattened_warning(outputs: Tensor, *, who: str) -> str:
    """A warning where outputs (N, C) are probabilities, of which another softmax makes nearly even ones, else empty."""
    activation = activation_of(outputs)
    if not activation or (activation == SIGMOID and outputs.numel() < FEWEST):
        return ""
    return (
        f"{who} seems to end in {activation}: its outputs are taken for logits, so the classes are right, but all "
        f"probabilities are far too even; leave the {activation} out of the network, then train or adopt it again"
    )


def check_logits(outputs: Tensor, *, who: str) -> None:
    """Refuse a teacher whose outputs (N, C) on the validation images are probabilities.

    ``softmax(z / T)`` of probabilities z is nearly uniform: such a teacher classifies rightly and teaches nothing.
    """
    if activation := activation_of(outputs):
        raise UserError(
            f"{who} seems to end in {activation}: its outputs are probabilities, not logits, and a student would "
            "learn nothing from them; add --teacher_outputs=probabilities, which takes their logarithm, or "
            "--teacher_outputs=logits to take them as they are"
        )


def log_probabilities(predict: Predictor) -> Predictor:
    """From a predictor of probabilities p to one of logits: ``log(max(p, tiny))``, tiny = 1.2e-38 of float32.

    Raises:
        UserError: when it predicts anything outside [0, 1].
    """

    return lambda images: log_of(predict(images))


def log_of(probabilities: Tensor) -> Tensor:
    """`log_of_probabilities`, refused where something is no probability."""
    if not 0 <= float(probabilities.min()) <= float(probabilities.max()) <= 1 + SUM_TOLERANCE:
        raise UserError("the teacher's outputs are not all in [0, 1]: leave out --teacher_outputs=probabilities")
    return log_of_probabilities(probabilities)


def log_of_probabilities(probabilities: Tensor) -> Tensor:
    """``log(max(p, tiny))``, tiny = 1.2e-38 of float32."""
    return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()
