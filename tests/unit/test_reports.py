"""Tables and figures say what the summary says, and can be read."""

import csv
import io
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from kdignite.metrics import evaluation_summary
from kdignite.reports.answers import mistakes_figure
from kdignite.reports.figures import classification_figure, confusion_figure, save_figure
from kdignite.reports.predictions import CELL, DOTS, THUMBNAIL, Answer, Prediction, contact_sheet
from kdignite.reports.style import ink, letters_note
from kdignite.reports.tables import classes_csv, confusions_csv, evaluation_table
from kdignite.reports.text import markdown_table

CIFAR10 = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
LONG = (
    "golden retriever puppy, asleep",
    "West Highland white terrier",
    "American Staffordshire terrier, Staffordshire terrier",
    "American Staffordshire terrier, pit bull terrier",
    "jack-o'-lantern for $5$ or $\\frac{1$",
    "_hidden_",
    "100 % wool | 50 # silk",
    "x",
)
TITLE = "student, alpha 0.5, T 4 and a title that does not fit into a line of a small figure"
MANY = tuple(f"class number {i}" for i in range(100))


def summarise(classes: Sequence[str], *, per_class: int = 20, empty: Sequence[int] = ()) -> dict[str, Any]:
    """A plausible evaluation: about three of four right, ``empty`` classes without images."""
    rng = np.random.default_rng(5)
    labels = np.repeat([c for c in range(len(classes)) if c not in empty], per_class)
    logits = rng.normal(size=(len(labels), len(classes))) + 3 * np.eye(len(classes))[labels]
    return evaluation_summary(logits, labels, classes=classes)


def perfect(classes: Sequence[str]) -> dict[str, Any]:
    """Every image right."""
    return evaluation_summary(9 * np.eye(len(classes)), np.arange(len(classes)), classes=classes)


CASES = {
    "ten": summarise(CIFAR10, per_class=1000),
    "two": summarise(("cat", "dog")),
    "one": perfect(("cat",)),
    "long": summarise(LONG),
    "empty": summarise(CIFAR10, empty=(3,)),
    "hundred": summarise(MANY),
    "long hundred": summarise([f"{name} {i}" for i in range(5) for name in LONG]),
    "mostly empty": summarise(MANY, empty=range(7, 100)),
    "perfect": perfect(MANY),
}


@cache
def confusion(case: str) -> Figure:
    """The confusion figure of a case, drawn once for all tests."""
    return confusion_figure(CASES[case], title=TITLE)


@cache
def classification(case: str) -> Figure:
    """The classification figure of a case, drawn once for all tests."""
    return classification_figure(CASES[case], title=TITLE)


def table_rows(text: str) -> list[list[str]]:
    """Cells of all table lines, header and rule included."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_of_ten_classes_says_what_the_summary_says():
    summary = CASES["ten"]
    text = evaluation_table(summary, title="student, test")
    assert text.startswith("student, test\n\naccuracy ")
    assert (
        f"accuracy {100 * summary['accuracy']:.1f} % ({summary['num_correct']:,} of 10,000 images), balanced " in text
    )
    assert f"loss {summary['loss']:.4f}, ECE {100 * summary['ece']:.1f} %" in text
    header, _, *rows = table_rows(text)
    assert header == ["class", "recall %", "precision %", "F1 %", "images"]
    assert [row[0] for row in rows] == [*CIFAR10, "macro average"]
    expected = [*summary["per_class"], {**summary["macro"], "support": 10_000}]
    for row, scores in zip(rows, expected, strict=True):
        assert row[1:4] == [f"{100 * scores[key]:.1f}" for key in ("recall", "precision", "f1")]
        assert row[4] == f"{scores['support']:,}"


@pytest.mark.parametrize("case", CASES)
def test_tables_are_aligned(case):
    blocks = evaluation_table(CASES[case], title="t").split("\n\n")
    for block in blocks:
        lines = block.strip().splitlines()
        if lines[0].startswith("|"):
            assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    ("name", "shown", "columns"),
    [
        ("cat", "cat", 3),
        ("\u732b", "\u732b", 2),  # a letter of two columns
        ("e\u0301", "e\u0301", 1),  # an accent of its own
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e", 3),  # Persian needs its joiner
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680", 2),  # one emoji of two
        ("a\u202eb", "a\\u202eb", 8),  # would turn the line around
        ("a\tb", "a\\tb", 4),
        ("a\nb", "a\\nb", 4),
    ],
)
def test_names_of_any_script_keep_the_columns(name, shown, columns):
    rows = markdown_table([("class", "images"), (name, "1"), ("a longer one", "2")], num_names=1).split("\n")
    assert rows[2] == f"| {shown}{' ' * (len('a longer one') - columns)} |      1 |"


def test_letters_that_no_font_has_are_named_once_and_in_no_warning(tmp_path: Path):
    assert letters_note(("cat", "\u00e9t\u00e9", "tab\t")) == ""
    classes = ("cat", "\U00012000\U00012001", "\U00012000")  # cuneiform
    assert "no font here has \U00012000\U00012001: figures show boxes" in letters_note(classes)
    save_figure(confusion_figure(summarise(classes), title="t"), tmp_path / "x.png")


def test_a_bar_in_a_class_name_does_not_break_the_table():
    assert "100 % wool \\| 50 # silk" in evaluation_table(CASES["long"], title="t")


def test_names_that_are_markup_are_shown_as_they_are():
    rows = markdown_table([("class", "images"), ("<unk>", "1"), ("*a* `b`", "2")], num_names=1).split("\n")
    assert rows[2:] == ["| \\<unk>      |      1 |", "| \\*a\\* \\`b\\` |      2 |"]


def test_a_class_without_images_has_no_scores():
    text = evaluation_table(CASES["empty"], title="t")
    assert ["cat", "-", "-", "-", "0"] in table_rows(text)
    assert "Classes without images: 1; the macro average leaves them out." in text
    assert "without images" not in evaluation_table(CASES["ten"], title="t")


def test_table_of_many_classes_shows_the_ends_and_the_confusions_and_says_so():
    summary = CASES["hundred"]
    text = evaluation_table(summary, title="t")
    assert "The 5 best and the 5 worst of 100 classes by F1:" in text
    assert "The 10 most frequent confusions:" in text
    rows = table_rows(text)
    ranked = sorted(summary["per_class"], key=lambda row: -row["f1"])
    assert [row[0] for row in rows[2:12]] == [row["class"] for row in ranked[:5] + ranked[-5:]]
    assert rows[12][0] == "macro average"
    counts = np.array(summary["confusion"])
    off_diagonal = np.sort(counts[~np.eye(100, dtype=bool)])[::-1]
    assert [int(row[2]) for row in rows[15:]] == off_diagonal[:10].tolist()
    for true, predicted, images, share in rows[15:]:
        assert counts[MANY.index(true), MANY.index(predicted)] == int(images)
        assert float(share) == pytest.approx(100 * int(images) / 20, abs=0.05)


def test_table_of_many_classes_without_mistakes_or_without_images():
    assert "No image was misclassified." in evaluation_table(CASES["perfect"], title="t")
    text = evaluation_table(CASES["mostly empty"], title="t")
    assert "The 7 of 100 classes that have images, by F1:" in text
    assert "Classes without images: 93, not ranked; the macro average leaves them out." in text
    one_mistake = evaluation_summary(
        9 * np.eye(30)[[*range(30), 4]], np.array([*range(30), 3]), classes=[f"c{i}" for i in range(30)]
    )
    assert "All confusions:" in evaluation_table(one_mistake, title="t")


def test_csv_reads_back_exactly():
    summary = CASES["long"]
    rows = list(csv.DictReader(io.StringIO(classes_csv(summary))))
    assert [row["class"] for row in rows] == list(LONG)
    for row, scores in zip(rows, summary["per_class"], strict=True):
        assert {key: float(row[key]) for key in row if key != "class"} == {k: scores[k] for k in row if k != "class"}
    rows = list(csv.DictReader(io.StringIO(confusions_csv(summary))))
    counts = np.diag(np.diag(summary["confusion"]))
    for row in rows:
        true, predicted = LONG.index(row["true"]), LONG.index(row["predicted"])
        counts[true, predicted] = int(row["images"])
        assert float(row["share"]) == counts[true, predicted] / summary["confusion"][true].sum()
    assert counts.tolist() == summary["confusion"].tolist()


def texts(figure: Figure) -> list[Text]:
    """All visible texts that say something, after the figure has arranged itself."""
    figure.draw_without_rendering()
    found = figure.findobj(lambda one: isinstance(one, Text) and one.get_visible() and one.get_text().strip() != "")
    ticks = [(axes, tick) for axes in figure.axes for tick in axes.xaxis.get_major_ticks()]
    beyond = {
        tick.label1 for axes, tick in ticks if tick.get_loc() > axes.get_xlim()[1]
    }  # matplotlib draws none of them
    return [one for one in found if one not in beyond and (one.axes is None or one.axes.axison)]


@pytest.mark.parametrize("make", [confusion, classification])
@pytest.mark.parametrize("case", CASES)
def test_no_text_is_cut_or_overlaps(case, make):
    figure = make(case)
    boxes = [
        (one.get_text(), one.get_window_extent())
        for one in texts(figure)
        if one.get_rotation() != 45  # the boxes of slanted texts overlap though the texts do not
    ]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        assert box.y1 <= figure.bbox.y1, text
    for i, (text, box) in enumerate(boxes):
        for other, other_box in boxes[:i]:
            assert not box.padded(-1).overlaps(other_box), (text, other)


def test_confusion_figure_shows_every_count_in_its_cell():
    summary = CASES["ten"]
    figure = confusion("ten")
    axes = figure.axes[0]
    shown = {(round(t.get_position()[1] - 0.5), round(t.get_position()[0] - 0.5)): t.get_text() for t in axes.texts}
    assert shown == {cell: f"{count}" for cell, count in np.ndenumerate(np.array(summary["confusion"]))}
    assert [t.get_text() for t in axes.get_yticklabels()] == list(CIFAR10)
    assert [t.get_text() for t in axes.get_xticklabels()] == list(CIFAR10)
    assert axes.yaxis_inverted()
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("true class", "predicted class")
    assert axes.child_axes[0].get_ylabel() == "share of the true class (%)"
    accuracy = f"accuracy {100 * summary['accuracy']:.1f} % ({summary['num_correct']:,} of 10,000 images)"
    assert figure.get_suptitle().split() == f"{TITLE} {accuracy}".split()  # wherever the lines are broken


def test_cells_are_shaded_by_the_share_of_the_true_class():
    summary = CASES["empty"]
    (mesh,) = confusion("empty").axes[0].collections
    shares = mesh.get_array()
    assert shares[3].mask.all()
    kept = [c for c in range(10) if c != 3]
    np.testing.assert_allclose(shares[kept], 5.0 * np.array(summary["confusion"])[kept])
    assert mesh.get_clim() == (0, 100)


def test_a_class_without_images_is_marked():
    axes = confusion("empty").axes[0]
    assert axes.get_yticklabels()[3].get_text() == "cat (no images)"
    columns = {t.get_text() for t in classification("empty").axes[0].texts}
    assert "\N{EN DASH}" in columns


def _luminance(rgb: np.ndarray) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("share", np.linspace(0, 1, 21))
def test_counts_can_be_read_on_any_shade(share):
    background = mpl.colormaps["Blues"](share)
    light, dark = sorted([_luminance(background[:3]), {"black": 0.0, "white": 1.0}[ink(background)]], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2, level AA


def test_confusion_figure_of_many_classes_shows_the_most_confused_pairs():
    summary = CASES["hundred"]
    figure = confusion("hundred")
    axes = figure.axes[0]
    counts = np.array(summary["confusion"])
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == np.sort(counts[~np.eye(100, dtype=bool)])[::-1][:20].tolist()
    for tick, width in zip(axes.get_yticklabels(), widths, strict=True):
        true, predicted = tick.get_text().split(" \N{RIGHTWARDS ARROW} ")
        assert counts[MANY.index(true), MANY.index(predicted)] == width
    assert "the 20 most frequent confusions of 100 classes" in figure.get_suptitle()
    assert "no image was misclassified" in confusion("perfect").get_suptitle()


def test_bars_are_the_scores_and_start_at_zero():
    summary = CASES["ten"]
    axes = classification("ten").axes[0]
    assert axes.get_xlim() == (0, 100)
    rows = [*summary["per_class"], summary["macro"]]
    for score, bars in zip(("precision", "recall", "f1"), axes.containers, strict=True):
        assert [bar.get_x() for bar in bars] == [0] * 11
        assert [bar.get_width() for bar in bars] == pytest.approx([100 * row[score] for row in rows])
    assert [t.get_text() for t in axes.get_yticklabels()] == [*CIFAR10, "macro average"]
    shown = [t.get_text() for t in axes.texts]
    for score, header in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        first = shown.index(header) + 1
        assert shown[first : first + 11] == [f"{100 * row[score]:.1f}" for row in rows]
    vertical = [line for line in axes.lines if line.get_xdata()[0] == line.get_xdata()[1]]
    assert [line.get_xdata()[0] for line in vertical] == [100 * summary["macro"]["f1"]]


def test_classification_figure_of_many_classes_shows_both_ends():
    summary = CASES["hundred"]
    figure = classification("hundred")
    ranked = [row["class"] for row in sorted(summary["per_class"], key=lambda row: -row["f1"])]
    shown = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert shown == [*ranked[:10], *ranked[-10:], "macro average"]
    assert "the 10 best and the 10 worst of 100 classes by F1" in figure.get_suptitle()
    few = classification("mostly empty").get_suptitle()
    assert "the 7 with images of 100 classes by F1" in few


def test_captions_of_a_sheet_stay_below_their_pictures():
    names = [*LONG, "W" * 22, "automobile-000011.jpg", "IMG_20260714_183012_burst.jpg"]
    predictions = [Prediction(Path(name), (Answer(name, 0.5),)) for name in names]
    pictures = [np.zeros((THUMBNAIL, THUMBNAIL, 3), np.uint8)] * len(names)
    figure = contact_sheet(predictions, pictures, title="a title")
    canvas = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    captions = [one.get_window_extent(canvas) for one in figure.axes[0].texts[1:]]
    assert len(captions) == 3 * len(names)
    scale = figure.dpi / DOTS
    assert max(one.width for one in captions) < (CELL[0] - 2) * scale
    assert {round(one.x0 / (CELL[0] * scale), 1) % 1 for one in captions} <= {0.0, 0.1}


def test_long_names_below_pictures_keep_the_end_in_which_they_differ():
    classes = ("American Staffordshire terrier", "American Staffordshire bull terrier, old")
    pixels = [np.zeros((3, 8, 8), np.uint8)] * 2
    figure = mistakes_figure(np.eye(2)[[1, 0]], np.array([0, 1]), classes=classes, pixels=pixels)
    captions = {one.get_text().split("\n")[0] for one in texts(figure)}
    assert captions == {"American\u2026terrier", "American\u2026ier, old"}


def test_png_is_the_same_every_time_and_tells_nothing_of_the_machine(tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    first = confusion_figure(CASES["two"], title="t")
    save_figure(first, paths[0])
    save_figure(first, paths[1])
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "black", "savefig.dpi": 30}):  # a user's style
        save_figure(confusion_figure(CASES["two"], title="t"), paths[2])
    assert len({path.read_bytes() for path in paths}) == 1
    with Image.open(paths[0]) as image:
        assert set(image.info) == {"dpi"}
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)


def test_a_failed_save_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "confusion_matrix.png"
    path.write_bytes(b"old")

    def half_written(descriptor: int) -> None:
        os.ftruncate(descriptor, 10)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", half_written)
    with pytest.raises(OSError, match="No space left"):
        save_figure(confusion_figure(CASES["two"], title="t"), path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_figures_leave_pyplot_and_the_user_s_style_alone():
    code = (
        "import sys, matplotlib as mpl, numpy as np\n"
        "from kdignite.metrics import evaluation_summary\n"
        "from kdignite.reports.figures import confusion_figure\n"
        "mpl.rcParams['font.size'] = 17\n"
        "confusion_figure(evaluation_summary(np.eye(2), np.arange(2), classes=('a', 'b')), title='t')\n"
        "assert mpl.rcParams['font.size'] == 17\n"
        "assert not {'matplotlib.pyplot', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_figures_can_be_made_in_a_thread(tmp_path: Path):
    path = tmp_path / "report.png"
    thread = threading.Thread(target=lambda: save_figure(classification_figure(CASES["two"], title="t"), path))
    thread.start()
    thread.join()
    assert path.stat().st_size > 0
