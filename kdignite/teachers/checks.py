"""Checks of a teacher's validation accuracy before distillation."""

import math

from kdignite.checkpoints import Validation
from kdignite.errors import UserError
from kdignite.evaluation import Outcome

STANDARD_ERRORS = 3  # above chance: a lower accuracy may be chance
CHANCE_MARGIN = 0.05  # of the distance from chance to 100 %, at least, for a useful teacher


def tolerance(num_images: int) -> int:
    """How many correct images two evaluations of the same weights may differ by on different hardware."""
    return max(2, num_images // 1000)


def chance_level(outcome: Outcome) -> float:
    """The accuracy up to which a model may have learnt nothing, in [0, 1].

    ``chance + max(3 * sqrt(chance * (1 - chance) / N), 0.05 * (1 - chance))`` with ``chance`` the share of the most
    frequent class, which a constant prediction scores.
    """
    num_images = len(outcome.labels)
    chance = int(outcome.confusion.sum(1).max()) / num_images
    noise = STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / num_images)
    return chance + max(noise, CHANCE_MARGIN * (1 - chance))


def check_accuracy(outcome: Outcome, recorded: Validation | None, *, who: str) -> None:
    """Refuse a teacher that is near chance, or not the model that its checkpoint says it is."""
    accuracy = outcome.num_correct / len(outcome.labels)
    if recorded is not None:
        same_images = recorded.num_images == len(outcome.labels)
        if not same_images or abs(outcome.num_correct - recorded.num_correct) > tolerance(recorded.num_images):
            raise UserError(
                f"{who} scores {accuracy:.2%} on validation, its checkpoint recorded {recorded.accuracy:.2%}: "
                "it is not the model that was saved, or its preprocessing differs (--allow_weak_teacher goes on anyway)"
            )
    if accuracy <= chance_level(outcome):
        raise UserError(
            f"{who} scores {accuracy:.2%} on validation, which is near chance: a student would learn nothing from it "
            "(--allow_weak_teacher goes on anyway)"
        )
