"""What a model's own accuracies say: a setting that fits it better than the recorded one, and what no longer comes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from kdignite.checkpoints import Validation
from kdignite.doctor.orders import assigned_order, class_orders, outputs_named
from kdignite.doctor.settings import SettingLogits
from kdignite.teachers import tolerance

GAIN = 0.1  # of balanced accuracy, at least, for a setting to be the better one
LEVEL = 1e-3  # of the tests
NAMED_BEFORE = 0.02  # of accuracy, by which an order that has a name may be behind one that was fitted
STANDARD_ERRORS = 4
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


class BetterSetting(NamedTuple):
    """A setting in which a model is right far more often than as recorded."""

    name: str
    wrong: str  # what was done
    accuracy: float
    flags: Mapping[str, Any] | None  # of adopt, with which it would be the recorded one; None: it has no flags for it


def better_order(
    logits: npt.NDArray[np.floating[Any]], labels: Ints, *, classes: Sequence[str], own: Sequence[str]
) -> BetterSetting | None:
    """The order of the outputs in which a model is far more often right, if there is one.

    Args:
        logits: (N, C), columns in the order of the data's classes.
        labels: (N,)
        classes: of the data, in their order.
        own: the classes in the order of the outputs, as recorded.
    """
    predicted = logits.argmax(axis=1)
    before = predicted == labels
    found = []
    for order in class_orders(classes):
        right = logits[:, order.columns].argmax(axis=1) == labels
        if is_better(right, before, labels):
            found.append((float(right.mean()) + NAMED_BEFORE, order))
    if len(labels) < 2:
        return None
    half = np.random.default_rng(0).permutation(len(labels)) % 2 == 0  # what is fitted is tested on other images
    fitted = assigned_order(predicted[half], labels[half], len(classes))
    right = logits[:, fitted.columns].argmax(axis=1) == labels
    if is_better(right[~half], before[~half], labels[~half]):
        found.append((float(right.mean()), assigned_order(predicted, labels, len(classes))))
    if not found:
        return None
    _, order = max(found, key=lambda one: one[0])
    accuracy = float((logits[:, order.columns].argmax(axis=1) == labels).mean())
    flags = {"classes": outputs_named(order.columns, classes, own)}
    return BetterSetting(order.name, order.wrong, accuracy, flags)


def better_setting(results: Sequence[SettingLogits], labels: Ints) -> BetterSetting | None:
    """The setting of a diagnosis without randomness in which a model is far more often right than in the first."""
    before = results[0].predicted[0].numpy() == labels
    fixed = [one for one in results[1:] if not one.setting.random]
    rights = [(one.setting, one.predicted[0].numpy() == labels) for one in fixed]
    found = [
        BetterSetting(setting.name, setting.wrong, float(right.mean()), setting.flags)
        for setting, right in rights
        if is_better(right, before, labels)
    ]
    return max(found, key=lambda one: one.accuracy, default=None)


def is_better(right: Bools, before: Bools, labels: Ints) -> bool:
    """Whether more images are right, by a wide margin where each class counts as much, and by no chance.

    With ``w = 1 / (K n)`` for an image of a class of n images, K the number of classes that there are, and ``d`` 1
    where an image became right, -1 where it became wrong, the gain of balanced accuracy is ``g = sum w d``. Answers
    that do not depend on the image have none, whatever they are taken for. ``g / sqrt(sum w^2 d^2)`` is compared with
    the normal distribution, which for equal classes is the test of McNemar.
    """
    _, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weighted = (right.astype(float) - before) / (len(counts) * counts[which])
    gain = float(weighted.sum())
    is_no_chance = gain**2 > stats.norm.isf(LEVEL / 2) ** 2 * float((weighted**2).sum())
    return gain >= GAIN and right.mean() > before.mean() and is_no_chance


def is_far_below_chance(predicted: Ints, labels: Ints) -> bool:
    """Whether fewer images are right than if the answers were dealt out among the images without looking."""
    count, num_classes = len(labels), 1 + max(predicted.max(), labels.max())
    shares = [np.bincount(one, minlength=num_classes) / count for one in (predicted, labels)]
    chance = min(1.0, float(shares[0] @ shares[1]))
    right = int((predicted == labels).sum())
    return bool(stats.binomtest(right, count, chance, alternative="less").pvalue < LEVEL)


def better_text(better: BetterSetting, predicted: Ints, labels: Ints) -> str:
    """The conclusion in a sentence without its end."""
    low = ", which is far below chance" if is_far_below_chance(predicted, labels) else ""
    return (
        f"{(predicted == labels).mean():.2%} as recorded{low}, and {better.accuracy:.2%} with '{better.name}' "
        f"({better.wrong}), which is the likely cause"
    )


def lost_lines(recorded: Validation, right: Bools, *, part: str, own_code: bool) -> list[str]:
    """What it means that a recorded accuracy no longer comes, on all of its images or on a sample; nothing if it does.

    Args:
        recorded: the counts of then.
        right: (N,) whether each image is right now.
        part: of the data, in a word.
        own_code: whether the model is a function of the user's own.
    """
    expected, now, num_images = recorded.accuracy, float(right.mean()), len(right)
    noise = STANDARD_ERRORS * math.sqrt(expected * (1 - expected) / num_images)
    sampled = noise if num_images < recorded.num_images else 0.0
    if abs(expected - now) <= sampled + tolerance(num_images) / num_images:
        return []
    cause = (
        "what the model keeps outside its state_dict is not in the file, such as a buffer with persistent=False or a "
        "plain attribute (register_buffer keeps it), or its code or its file have changed"
        if own_code
        else "the file is not the model that was trained, or its preprocessing was changed"
    )
    return [f"{expected:.2%} was recorded on the {part} images, {now:.2%} comes now: {cause}"]
