"""What a diagnosis says: the table, the sentences, the picture; from plain values, without a model."""

from typing import Any

import pytest

from kdignite.doctor.report import advice, doctor_figure, doctor_text
from kdignite.reports.style import BLUE, GREEN, ORANGE, VERMILION


def row(name: str, *accuracies: float) -> dict[str, Any]:
    return {
        "name": name,
        "wrong": f"{name} was done",
        "fix": f"mend {name}",
        "random": len(accuracies) > 1,
        "accuracy": sum(accuracies) / len(accuracies),
        "low": min(accuracies),
        "high": max(accuracies),
        "draws": list(accuracies) if len(accuracies) > 1 else None,
    }


def summary(**seen: Any) -> dict[str, Any]:
    return {
        "run": "teacher",
        "dataset": "digits",
        "split": "val",
        "num_images": 1_200,
        "recorded": "as recorded",
        "preprocessing": {"size": 32, "mean": (0.3, 0.3051, 0.3), "std": (0.2, 0.25, 1 / 3), "interpolation": "x"},
        "settings": [row("as recorded", 0.985), row("BGR", 0.5), row("new head", 0.05, 0.15)],
        "skipped": ["64 pixels: this model cannot run it (shapes)"],
        "observed": None,
        "per_class": None,
        "predictions": None,
        "teacher": [],
        **seen,
    }


def observed(*candidates: str) -> dict[str, Any]:
    return {"observed": {"accuracy": 0.1, "num_images": 10_000, "level": 0.99, "candidates": list(candidates)}}


def named(name: str, **changes: Any) -> dict[str, Any]:
    values = {
        "name": name,
        "found": True,
        "agreement": 0.998,
        "second": "BGR",
        "second_agreement": 0.51,
        "tied": [],
        "permutation": None,
    }
    return {"predictions": {**values, **changes}}


def test_the_table() -> None:
    lines = doctor_text(summary()).splitlines()
    assert lines[0] == "teacher on 1,200 validation images of digits"
    assert lines[1] == "as recorded: eval mode, 32 x 32 pixels, mean 0.3, 0.305, 0.3, std 0.2, 0.25, 0.333 for 0..1"
    assert lines[3] == "| setting     | what was done        | what to do       |  accuracy % |"
    assert lines[5] == "| as recorded | as recorded was done | mend as recorded |        98.5 |"
    assert lines[7] == "| new head    | new head was done    | mend new head    | 5.0 to 15.0 |"
    assert lines[9] == "left out: 64 pixels: this model cannot run it (shapes)"


def test_the_table_marks_what_fits_everything_that_was_seen() -> None:
    def marks(**seen: Any) -> dict[str, str]:
        lines = [line.split("|") for line in doctor_text(summary(**seen)).splitlines() if line.startswith("|")]
        assert lines[0][-2].strip() == "fits"
        return {cells[1].strip(): cells[-2].strip() for cells in lines[2:]}

    assert marks(**observed("BGR", "new head")) == {"as recorded": "", "BGR": "yes", "new head": "yes"}
    both = {**observed("BGR", "new head"), **named("new head", tied=["BGR", "as recorded"])}
    assert marks(**both) == {"as recorded": "", "BGR": "yes", "new head": "NAMED"}
    assert set(marks(**named("BGR", found=False)).values()) == {""}


@pytest.mark.parametrize(
    ("seen", "lines"),
    [
        (
            {},
            [
                "--observed=ACC lists the settings that score what you got, --predictions=FILE identifies yours."
            ],
        ),
        (
            observed("new head", "BGR"),
            [
                "10 % of 10,000 images fits 2 of 3 settings: new head; BGR. --predictions=FILE shows which."
            ],
        ),
        (observed("BGR"), ["10 % of 10,000 images fits 1 of 3 settings: BGR."]),
        (
            observed("as recorded", "BGR"),
            [
                "10 % of 10,000 images is the accuracy as recorded: there may be no mistake in the evaluation. "
                "Other settings that fit: BGR."
            ],
        ),
        (
            observed(),
            [
                "10 % of 10,000 images fits no setting of the table: another mistake, other images or another model."
            ],
        ),
        (
            named("BGR", second="new head"),
            [
                "The predictions are those of: BGR (99.8 % of 1,200 agree; next: new head, 51.0 %). What to do: "
                "mend BGR."
            ],
        ),
        (
            named("new head", tied=["BGR"], permutation="0 as 1, 1 as 0"),
            [
                "The predictions look like: new head (random, so identified by its agreement with the other "
                "settings and its share of each class). What to do: mend new head.",
                "Equally possible: BGR.",
                "The best assignment of classes: 0 as 1, 1 as 0.",
            ],
        ),
        (
            named("as recorded", second=""),
            [
                "The predictions are those of the recorded setting (99.8 % of 1,200 agree): weights and "
                "preprocessing are right. If they score less, the labels or the order of the images are wrong."
            ],
        ),
        (
            named("BGR", found=False, second=""),
            [
                "The predictions are those of no setting in the table. The nearest is: BGR (99.8 % of 1,200 agree)."
            ],
        ),
        (
            {"per_class": {"candidates": ["BGR", "new head"]}},
            ["The accuracies by class fit best: BGR. What to do: mend BGR. Not ruled out: new head."],
        ),
        ({"per_class": {"candidates": ["BGR"]}},
         ["The accuracies by class fit best: BGR. What to do: mend BGR. Every other setting is ruled out."]),
        ({"per_class": {"candidates": ["as recorded"]}},
         ["The accuracies by class fit best: as recorded. Every other setting is ruled out."]),
        ({"per_class": {"candidates": []}}, ["The accuracies by class fit no setting of the table."]),
    ],
)  # fmt: skip
def test_the_advice(seen: dict[str, Any], lines: list[str]) -> None:
    assert advice(summary(**seen)) == lines


def test_the_bars_are_the_accuracies_and_their_colours_what_was_found() -> None:
    from matplotlib.colors import to_hex

    figure = doctor_figure(summary(**observed("BGR", "new head"), **named("new head", tied=["BGR"])))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([98.5, 50, 10])
    assert [to_hex(bar.get_facecolor()).upper() for bar in axes.patches] == [GREEN, ORANGE, VERMILION]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["as recorded", "BGR", "new head"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["98.5", "50.0", "5.0 to 15.0", "observed 10 %"]
    line = next(one for one in axes.lines if one.get_linestyle() == "--")
    assert all(text.get_zorder() > line.get_zorder() for text in axes.texts[:3])  # it runs through no number
    plain = doctor_figure(summary())
    assert [text.get_text() for text in plain.axes[0].get_legend().get_texts()] == ["as recorded", "other mistakes"]
    assert [to_hex(bar.get_facecolor()).upper() for bar in plain.axes[0].patches] == [GREEN, BLUE, BLUE]


@pytest.mark.parametrize(
    ("seen", "headline"),
    [
        (named("BGR"), "teacher: the predictions are those of 'BGR'"),
        (named("new head"), "teacher: the predictions look like those of 'new head'"),
        (named("BGR", found=False), "teacher: what each mistake costs"),
        ({}, "teacher: what each mistake costs"),
    ],
)
def test_the_headline_is_as_sure_as_the_advice(seen: dict[str, Any], headline: str) -> None:
    assert [text.get_text() for text in doctor_figure(summary(**seen)).texts] == [headline]


def test_nothing_is_drawn_outside_the_picture() -> None:
    long = [row("a mistake with a name that is as long as one can be", 1.0), row("b", *[0.9, 1.0])]
    figure = doctor_figure(summary(settings=[*summary()["settings"], *long], **observed("b")))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    width, _ = figure.get_size_inches() * figure.dpi
    (axes,) = figure.axes
    boxes = [text.get_window_extent(renderer) for text in [*axes.texts, *axes.get_yticklabels(), *figure.texts]]
    assert min(box.x0 for box in boxes) >= 0
    assert max(box.x1 for box in boxes) <= width
