"""Checks of a teacher's validation accuracy before distillation."""

import numpy as np
import torch
from torch import Tensor

from kdignite.checkpoints import Validation
from kdignite.errors import UserError
from kdignite.evaluation import Outcome
from kdignite.streams import seed_of

CHANCE_MARGIN = 0.05  # of the distance from chance to 100 %, at least, for a useful teacher
LEVEL = 0.01  # a teacher is taken if chance alone does as well less often
FEWEST_DRAWS, MOST_DRAWS = 199, 9_999  # of permutations; fewer where there are many images
DRAWN_LABELS = 5_000_000  # in all permutations together


def tolerance(num_images: int) -> int:
    """How many correct images two evaluations of the same weights may differ by on different hardware."""
    return max(2, num_images // 1000)


def balanced_accuracy(outcome: Outcome) -> float:
    """The mean recall of the classes that have images, in [0, 1]; 0 where any logit is not finite."""
    confusion = outcome.confusion.double()
    present = confusion.sum(1) > 0
    recall = confusion.diag()[present] / confusion.sum(1)[present]
    return float(recall.mean()) if outcome.is_finite else 0.0


def chance_level(outcome: Outcome) -> float:
    """The balanced accuracy up to which a model is near chance, in [0, 1], whatever the shares of the classes.

    ``1/K + 0.05 * (1 - 1/K)`` with K the number of classes that have images. Predictions that do not depend on the
    image, such as a constant one, have a balanced accuracy of ``1/K`` in the mean.
    """
    chance = 1 / int((outcome.confusion.sum(1) > 0).sum())
    return chance + CHANCE_MARGIN * (1 - chance)


def chance_p_value(confusion: Tensor) -> float:
    """How often predictions of the same frequencies do as well as these if they do not depend on the image.

    The permutation test of the balanced accuracy b: ``p = (1 + #{r: b_r >= b}) / (1 + R)``, where ``b_r`` is that of
    the predictions in one of R random orders, drawn from a fixed key. Its level is exact whatever R, the number of
    images and the shares of the classes; for two classes it is Fisher's exact test, up to the draws.

    Args:
        confusion: (C, C) int64 counts, rows = true class; at least one image.

    Returns:
        p in (0, 1].

    Source: Phipson & Smyth 2010, "Permutation p-values should never be zero".
    """
    num_images, num_classes = int(confusion.sum()), len(confusion)
    cells = torch.repeat_interleave(torch.arange(num_classes**2), confusion.flatten())
    labels, predicted = cells // num_classes, cells % num_classes
    weights = confusion.sum(1).double().reciprocal()[labels].numpy()  # of an image in the balanced accuracy
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, DRAWN_LABELS // num_images))
    orders = np.broadcast_to(predicted.int().numpy(), (draws, num_images))
    drawn = np.random.default_rng(seed_of("chance")).permuted(orders, axis=1)
    reached = (predicted == labels).numpy() @ weights - 1e-9  # up to rounding
    as_good = ((drawn == labels.numpy()) @ weights >= reached).sum()
    return float(1 + as_good) / (1 + draws)


def check_accuracy(outcome: Outcome, recorded: Validation | None, *, who: str, advice: str = "") -> None:
    """Refuse a teacher that is near chance, or not the model that its checkpoint says it is.

    Near chance is a balanced accuracy of at most `chance_level`; one that is higher, but that chance reaches too often
    (`chance_p_value`), is refused because the images are too few. What is right everywhere is never refused.

    Args:
        outcome: the teacher on the validation images.
        recorded: what its checkpoint says of them; None: nothing.
        who: the teacher, for the message.
        advice: how it gets better, for the message.
    """
    num_images = len(outcome.labels)
    score = f"{who} scores {outcome.num_correct / num_images:.2%} on validation"
    if recorded is not None:
        same_images = recorded.num_images == num_images
        if not same_images or abs(outcome.num_correct - recorded.num_correct) > tolerance(recorded.num_images):
            raise UserError(
                f"{score}, its checkpoint recorded {recorded.accuracy:.2%}: "
                "it is not the model that was saved, or its preprocessing differs (--allow_weak_teacher goes on anyway)"
            )
    if outcome.num_correct == num_images:
        return
    if balanced_accuracy(outcome) <= chance_level(outcome):
        why, mend = "which is near chance: a student would learn nothing from it", advice
    elif (p := chance_p_value(outcome.confusion)) > LEVEL:
        why = f"too few validation images to tell: chance alone does as well in {p:.1%} of cases"
        mend = f"{advice}; or hold out more, --val_size=N (now {num_images})".removeprefix("; ")
    else:
        return
    raise UserError(f"{score}, {why}{mend and f'; {mend}'} (--allow_weak_teacher goes on anyway)")
