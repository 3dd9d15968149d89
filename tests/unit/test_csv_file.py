"""Tables of pictures: columns, parts, classes, and what is refused, by line."""

from pathlib import Path

import pytest
from PIL import Image

from kdignite.data.registry import is_code, load_source
from kdignite.data.source import Source
from kdignite.errors import UserError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Six pictures of different grey, and a place for a table."""
    (tmp_path / "some where").mkdir()
    for grey in range(6):
        Image.new("L", (8, 8), grey).save(tmp_path / "some where" / f"{grey}.png")
    return tmp_path / "table.csv"


def load(table: Path, text: str, *, skip_broken: bool = False) -> Source:
    table.write_text(text, encoding="utf-8")
    return load_source(f"csv:{table}", data_root=table, image_size=8, progress=False, skip_broken=skip_broken)


def contents(source: Source) -> dict[str, list[tuple[int, str]]]:
    """Part -> the grey and the class of each picture."""
    return {
        part: [
            (int(image[0, 0, 0]), source.classes[label])
            for image, label in zip(found.images, found.labels.tolist(), strict=True)
        ]
        for part in ("train", "val", "test")
        if (found := getattr(source, part)) is not None
    }


def rows(*lines: str) -> str:
    return "\n".join(lines) + "\n"


TRAIN_ONLY = {"train": [(1, "cat"), (2, "cat"), (0, "dog")]}
ALL_PARTS = {"train": [(1, "cat"), (0, "dog")], "val": [(2, "cat")], "test": [(4, "cat"), (3, "dog")]}
TABLES: dict[str, tuple[str, object]] = {
    "named": (
        rows("path,label", *("some where/0.png,dog", "some where/2.png,cat", "some where/1.png,cat")),
        TRAIN_ONLY,
    ),
    "unnamed": (rows("some where/0.png,dog", "some where/2.png,cat", "some where/1.png,cat"), TRAIN_ONLY),
    "other names": (
        rows("id;Class;Filename", *("7;dog;some where/0.png", "8;cat;some where/2.png", "9;cat;some where/1.png")),
        TRAIN_ONLY,
    ),
    "blanks, quotes, mark": (
        "\ufeff"
        + rows("path\t label", '"some where/0.png"\t dog', "", "./some where/2.png\tcat ", "some where/1.png\tcat"),
        TRAIN_ONLY,
    ),
    "split": (
        rows(
            *(
                "path,label,split",
                "some where/0.png,dog,train",
                "some where/1.png,cat,TRAIN",
                "some where/2.png,cat,valid",
            ),
            *("some where/3.png,dog,Test", "some where/4.png,cat,test"),
        ),
        ALL_PARTS,
    ),
}


@pytest.mark.parametrize(("text", "expected"), TABLES.values(), ids=TABLES)
def test_a_table_is_read(text: str, expected: object, table: Path) -> None:
    assert contents(load(table, text)) == expected


def test_paths_of_windows_are_taken_as_such(table: Path) -> None:
    source = load(table, TABLES["split"][0].replace("some where/", "some where\\"))
    assert contents(source) == ALL_PARTS
    assert source.notes[-1] == "note      paths in table.csv are Windows': each \\ is taken as /"


def test_whole_numbers_are_sorted_as_numbers(table: Path) -> None:
    source = load(table, rows("path,label", *(f"some where/{i}.png,{label}" for i, label in enumerate([10, 9, 2, 10]))))
    assert source.classes == ("2", "9", "10")


def test_what_was_understood_is_said(table: Path) -> None:
    source = load(table, TABLES["split"][0].replace("some where/2.png,cat", "some where/2.png,dog"))
    assert source.notes == (
        f"images    csv:{table}: train 2 (rows of table.csv), val 1 (rows of table.csv), test 2 (rows of table.csv)",
        "classes   2: cat 1/0/1, dog 1/1/1 (train/val/test)",
    )


def test_neither_the_place_nor_the_order_of_the_lines_matters(table: Path) -> None:
    lines = [f"some where/{index}.png,{index % 2}" for index in range(6)]
    before = load(table, rows("path,label", *lines))
    moved = table.parent.rename(table.parent.with_name("moved")) / table.name
    after = load(moved, rows("path,label", *reversed(lines)))
    assert (contents(before), before.fingerprint) == (contents(after), after.fingerprint)


def test_absolute_paths(table: Path) -> None:
    lines = [f"{table.parent}/some where/{index}.png,{index % 2}" for index in range(4)]
    assert contents(load(table, rows(*lines))) == {"train": [(0, "0"), (2, "0"), (1, "1"), (3, "1")]}


FIRST = rows("path,label,split", "some where/0.png,dog,train", "some where/1.png,cat,train")
REFUSED: dict[str, tuple[str, str]] = {
    "empty": ("", "needs a first line that names its columns: path,label or path,label,split"),
    "no path column": (rows("picture,label", "some where/0.png,cat"), "needs a first line that names its columns"),
    "empty cell": (FIRST + "some where/2.png,,val", "table.csv, line 4: the label is missing"),
    "short line": (FIRST + "some where/2.png,cat", "table.csv, line 4: the split is missing"),
    "unknown split": (
        FIRST + "some where/2.png,cat,holdout",
        "line 4: a split must be train, val or test, not 'holdout'",
    ),
    "named twice": (FIRST + "some where/../some where/0.png,cat,test", "line 4: .*0.png is in line 2 too: remove one"),
    "unknown class": (FIRST + "some where/2.png,cow,val", "line 4: val has a class 'cow' that train has not"),
    "one class": (
        rows("path,label", "some where/0.png,cat"),
        "needs training images of two or more classes, but has 1",
    ),
    "unclosed quote": (FIRST + '"some where/2.png,cat,val', r"table.csv is no table of paths and labels \(unexpected"),
    "data instead of paths": (FIRST + "0 " * 5_000 + ",cat,val", r"1 of 3 files cannot be read as images: .*/0 0 0"),
    "data first": (rows("path,label", "0 " * 5_000 + ",cat", "1 " * 5_000 + ",dog"), "2 of 2 files cannot be read"),
    "data without names": (rows("0 " * 5_000 + ",cat"), "needs a first line that names its columns"),
    "much data": (FIRST + "0 " * 100_000 + ",cat", r"no table of paths and labels \(field larger than field limit"),
    "missing file": (FIRST + "2.png,cat,val", r"1 of 3 files cannot be read as images: .*/2\.png \(No such file"),
}


@pytest.mark.parametrize(("text", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(text: str, told: str, table: Path) -> None:
    with pytest.raises(UserError, match=told):
        load(table, text)


def test_missing_files_can_be_left_out(table: Path) -> None:
    assert contents(load(table, FIRST + "gone.png,cat,train", skip_broken=True))["train"] == [(1, "cat"), (0, "dog")]


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a table of images, but .*none\.csv: No such file or directory"):
        load_source(f"csv:{tmp_path}/none.csv", data_root=tmp_path, image_size=8)


def test_no_utf8(table: Path) -> None:
    table.write_bytes("path,label\nx.png,caf\u00e9".encode("latin-1"))
    with pytest.raises(UserError, match="is no table in UTF-8"):
        load_source(f"csv:{table}", data_root=table, image_size=8)


def test_it_is_no_code_and_is_suggested(table: Path) -> None:
    assert not is_code(f"csv:{table}")
    with pytest.raises(UserError, match=r"did you mean csv:.*table\.csv"):
        load_source(str(table), data_root=table, image_size=8)
