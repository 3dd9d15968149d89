"""What the accuracies of a model say, on logits that are made by hand."""

import shlex
from itertools import permutations
from typing import Any

import numpy as np
import pytest

from kdignite.checkpoints import Validation
from kdignite.cli.entry import make_config
from kdignite.cli.parse import parse_args
from kdignite.commands.mending import adopt_again
from kdignite.config import AdoptConfig, to_json
from kdignite.doctor.conclusions import BetterSetting, better_order, is_far_below_chance, lost_lines
from kdignite.doctor.orders import class_orders, outputs_named

TWELVE = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...


def logits_of(classes: tuple[str, ...], outputs: list[str], *, right: float = 0.9, num_images: int = 240) -> Any:
    """Logits of a model whose outputs mean these classes and are taken for the data's order, and the labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % len(classes)
    answer = np.where(rng.random(num_images) < right, labels, rng.integers(0, len(classes), num_images))
    meant = np.array([outputs.index(name) for name in classes])
    return np.eye(len(classes))[meant[answer]] + 0.01 * rng.random((num_images, len(classes))), labels


ORDERS: dict[str, tuple[tuple[str, ...], list[str]]] = {
    "numeric classes": (TWELVE, [str(number) for number in range(12)]),
    "answers one too low": (TWELVE, [*TWELVE[-1:], *TWELVE[:-1]]),
    "answers one too high": (TWELVE, [*TWELVE[1:], *TWELVE[:1]]),
    "alphabetical classes": (("dog", "cat", "ape", "bee"), ["ape", "bee", "cat", "dog"]),
    "another order": (TWELVE, list(reversed(TWELVE))),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_order_of_the_outputs_is_found_and_named_as_adopt_takes_it(name: str) -> None:
    classes, outputs = ORDERS[name]
    logits, labels = logits_of(classes, outputs)
    better = better_order(logits, labels, classes=classes, own=classes)
    assert better is not None
    assert (better.name, better.flags) == (name, {"classes": outputs})
    assert better.accuracy > 0.85
    # also where another wrong order was recorded
    recorded = tuple(reversed(outputs))
    columns = [recorded.index(one) for one in classes]
    again = better_order(logits[:, columns], labels, classes=classes, own=recorded)
    assert again is not None
    assert again.flags == {"classes": outputs}


@pytest.mark.parametrize("right", [0.0, 0.1, 0.3, 0.9])
def test_a_model_whose_order_is_right_has_no_better_one(right: float) -> None:
    logits, labels = logits_of(TWELVE, list(TWELVE), right=right)
    assert better_order(logits, labels, classes=TWELVE, own=TWELVE) is None


def test_names_of_outputs_undo_any_order() -> None:
    classes = ("a", "b", "c", "d")
    for own in permutations(classes):
        for columns in permutations(range(4)):
            names = outputs_named(columns, classes, own)
            # the output that stands for class j is where its name is
            assert [names.index(one) for one in classes] == [own.index(classes[column]) for column in columns]


def test_numbers_within_names_are_sorted_as_numbers() -> None:
    orders = {order.name: order for order in class_orders(("c1", "c10", "c2"))}
    assert orders["numeric classes"].columns == [0, 2, 1]
    assert "numeric classes" not in {order.name for order in class_orders(("1", "2", "3"))}
    assert "numeric classes" not in {order.name for order in class_orders(("cat", "dog"))}


def test_far_below_chance_is_no_chance() -> None:
    labels = np.arange(100) % 10
    assert is_far_below_chance((labels + 1) % 10, labels)
    assert not is_far_below_chance(np.where(np.arange(100) < 8, labels, (labels + 1) % 10), labels)
    assert not is_far_below_chance((labels[:10] + 1) % 10, labels[:10])  # too few to tell
    assert not is_far_below_chance(np.arange(20) // 19, np.zeros(20, dtype=int))  # there is nothing to take it for
    assert better_order(np.eye(2)[:1], np.array([1]), classes=("a", "b"), own=("a", "b")) is None


RNG = np.random.default_rng(0)
# labels and answers that do not depend on the image
COLLAPSED = {
    "two classes": (np.repeat([0, 1], [180, 120]), np.ones(300, int)),
    "nearly even": (np.repeat([0, 1], [550, 450]), np.ones(1000, int)),
    "a rare class": (np.repeat([0, 1, 2], [900, 50, 50]), np.full(1000, 2)),
    "very rare classes": (np.repeat([0, 1, 2], [980, 10, 10]), np.ones(1000, int)),
    "two answers": (np.repeat(range(5), [300, 175, 175, 175, 175]), np.where(RNG.random(1000) < 0.9, 3, 1)),
    "random answers": (np.repeat([0, 1, 2], [900, 50, 50]), RNG.choice(3, 1000, p=[0.05, 0.05, 0.9])),
}


@pytest.mark.parametrize("case", COLLAPSED)
def test_answers_that_do_not_depend_on_the_image_have_no_better_order(case: str) -> None:
    """Though read as those of the most frequent class they would be right more often."""
    labels, predicted = COLLAPSED[case]
    classes = tuple("abcde"[: labels.max() + 1])
    assert better_order(np.eye(len(classes))[predicted], labels, classes=classes, own=classes) is None
    assert not is_far_below_chance(predicted, labels)


def test_the_order_is_found_where_classes_are_not_equal() -> None:
    labels = np.repeat([0, 1, 2], [900, 50, 50])
    predicted = np.where(RNG.random(1000) < 0.9, labels + 1, labels) % 3
    better = better_order(np.eye(3)[predicted], labels, classes=("a", "b", "c"), own=("a", "b", "c"))
    assert better is not None
    assert better.name == "answers one too low"
    assert is_far_below_chance(predicted, labels)


@pytest.mark.parametrize(
    ("recorded", "now", "lost"),
    [
        (Validation(705, 1000, 3), np.arange(1000) < 35, True),
        (Validation(705, 1000, 3), np.arange(1000) < 704, False),  # another processor
        (Validation(705, 1000, 3), np.arange(100) < 66, False),  # a sample
        (Validation(705, 1000, 3), np.arange(100) < 30, True),
    ],
)
def test_a_recorded_accuracy_that_no_longer_comes(recorded: Validation, now: Any, lost: bool) -> None:
    lines = lost_lines(recorded, now, part="validation", own_code=True)
    assert bool(lines) == lost
    assert all("70.50% was recorded on the validation images" in line and "persistent=False" in line for line in lines)


def test_the_line_that_adopts_again_can_be_pasted() -> None:
    config = AdoptConfig(
        file="my nets/it's.pt", arch="cnn5", size=32, mean=(0.3,) * 3, std=(0.2,) * 3, widths=(8,) * 5, name="first",
        dataset="folder:my pictures",
    )  # fmt: skip
    better = BetterSetting("numeric classes", "", 0.9, {"classes": ["1", "two words", "10"]})
    line = adopt_again(to_json(config), better).removeprefix("python -m kdignite ")
    typed = make_config(parse_args(shlex.split(line)))
    expected = to_json(config) | {"classes": ["1", "two words", "10"], "name": None}
    assert to_json(typed) == expected
    named = better._replace(flags={"classes": ["a, b", "c"]})
    assert "FILE has these names, one a line: a, b; c" in adopt_again({}, named)
