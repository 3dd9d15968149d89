"""``predict``: the class of a file is the one that the evaluation of the same picture recorded."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from kdignite.cli import main
from kdignite.commands.baseline import baseline
from kdignite.commands.predict import predict
from kdignite.config import PredictConfig
from kdignite.data import decode
from kdignite.errors import RunFailed, UserError
from kdignite.runs import Finished

from .conftest import alone

CLASSES = ("cat", "dog")


def draw(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (30 + number % 5, 24, 3), dtype=np.uint8)
    return Image.fromarray(pixels // (1 + number % 2))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def save_test_images(folder: Path, number: int) -> None:
    """Pictures of which each has another thing to get wrong."""
    rgb = draw(number)
    rgb.save(folder / "a-turned.jpg", exif=exif(6))
    rgb.convert("CMYK").save(folder / "b-cmyk.jpg")
    alpha = rgb.convert("RGBA")
    alpha.putalpha(rgb.convert("L").point([255 * (value > 90) for value in range(256)]))
    alpha.save(folder / "c-alpha.png")
    Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257).save(folder / "d-sixteen.png")
    rgb.save(folder / "e-moving.gif", save_all=True, append_images=[draw(number + 1)])
    draw(number + 2).resize((300, 60)).save(folder / "f-long.webp")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for label, name in enumerate(CLASSES):
        for part in ("train", "val", "test"):
            (root / part / name).mkdir(parents=True)
        for number in range(20):
            draw(2 * number + label).save(root / "train" / name / f"{number:02}.png")
            draw(2 * number + label + 100).save(root / "val" / name / f"{number:02}.png")
        save_test_images(root / "test" / name, 1_000 + label)
    return root


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory, few_pixels: None) -> Finished:
    """Kept at 40 pixels, fed at 32: two steps of preprocessing."""
    config = alone(name="alone-T1.5", dataset=f"folder:{pictures}", image_size=40, size=32, batch_size=10, epochs=3)
    return baseline(config, root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def recorded(run: Finished) -> NDArray[np.float64]:
    """The probabilities (N, C) that the run recorded of its test images, in the order of their files."""
    with np.load(run.folder / "predictions.npz") as arrays:
        return torch.from_numpy(arrays["test_logits"]).double().softmax(dim=1).numpy()


@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_file_gets_the_class_that_its_evaluation_recorded(
    pictures: Path, run: Finished, recorded: NDArray[np.float64], batch_size: int | None
) -> None:
    config = PredictConfig(paths=(str(pictures / "test"),), model=str(run.folder), top=2, batch_size=batch_size)
    rows = predict(config)
    assert [one.path for one in rows] == sorted((pictures / "test").glob("*/*"))
    found = np.array([[dict(one.top)[name] for name in CLASSES] for one in rows])
    np.testing.assert_allclose(found, recorded, rtol=0 if batch_size is None else 1e-5)
    assert [one.top[0].name for one in rows] == [CLASSES[label] for label in recorded.argmax(1)]
    assert len({one.top[0].name for one in rows}) == 2  # else any order of files would pass


def test_rows_for_programs(
    pictures: Path, run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd = Path('a|b, "c"\n.png')
    draw(1).save(odd)
    words = ["predict", str(odd), str(pictures / "test" / "*" / "[ab]-*"), f"--model={run.folder}", "--top=2"]
    assert main([*words, "--format=json"]) == 0
    printed = capsys.readouterr()
    objects = [json.loads(line) for line in printed.out.splitlines()]
    assert [Path(one["file"]).name for one in objects] == [odd.name, *["a-turned.jpg", "b-cmyk.jpg"] * 2]
    assert all(one["top"][0] == {"class": one["class"], "probability": one["probability"]} for one in objects)
    assert all(sum(each["probability"] for each in one["top"]) == pytest.approx(1) for one in objects)
    assert "5 images" in printed.err
    assert "images/s" in printed.err
    assert main([*words, "--out=rows.csv"]) == 0
    assert capsys.readouterr().out == ""
    header, *rows = csv.reader(io.StringIO(Path("rows.csv").read_text(), newline=""))
    assert header == ["file", "class", "probability", "class_2", "probability_2"]
    assert [(row[0], row[1], float(row[2])) for row in rows] == [tuple(one.values())[:3] for one in objects]
    assert main(words) == 0
    table = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in table}) == 1
    assert table[2].startswith(r'| a\|b, "c"\n.png ')


def test_broken_files_are_told_and_the_rest_goes_on(
    pictures: Path, run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pictures / "test" / "cat" / "c-alpha.png"
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:400])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("passed over")
    (tmp_path / "loop").symlink_to(tmp_path)
    config = {"model": str(run.folder), "format": "csv"}
    assert [one.path for one in predict(PredictConfig(paths=(str(tmp_path), str(whole)), **config))] == [whole]
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 2
    assert [line.split()[1] for line in printed.err.splitlines() if line.startswith("skipped")] == [
        str(tmp_path / "cut.png"),
        str(tmp_path / "text.jpg"),
    ]
    assert "passed over: 1 file (1 .txt)" in printed.err
    assert "1 image in" in printed.err
    assert "; 2 files skipped" in printed.err
    with pytest.raises(RunFailed, match="none of 2 files can be read as an image"):
        predict(PredictConfig(paths=(str(tmp_path),), **config))


def test_nothing_that_is_read_is_written_over(pictures: Path, run: Finished, tmp_path: Path) -> None:
    picture, out = tmp_path / "a.png", tmp_path / "rows.csv"
    draw(1).save(picture)
    links = [tmp_path / name for name in ("link.csv", "link.png")]
    for link in links:
        link.symlink_to(picture)
    model = run.folder / "best.safetensors"
    before = picture.read_bytes(), model.read_bytes()
    for flag, read in (("out", (picture, links[0], model)), ("sheet", (picture, links[1]))):
        for path in read:
            with pytest.raises(UserError, match=f"--{flag}=.* is one of the files that are read"):
                predict(PredictConfig(paths=(str(picture),), model=str(run.folder), **{flag: str(path)}))
    assert (picture.read_bytes(), model.read_bytes()) == before
    for _ in range(2):  # its own older rows are
        predict(PredictConfig(paths=(str(picture),), model=str(run.folder), out=str(out)))
    (tmp_path / "broken.png").write_text("no picture")
    rows = out.read_text()
    assert rows.count("\n") == 2
    with pytest.raises(RunFailed, match="none of 1 file can be read as an image"):
        predict(PredictConfig(paths=(str(tmp_path / "broken.png"),), model=str(run.folder), out=str(out)))
    assert out.read_text() == rows


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("nothing/*.jpg",), "there is no file, folder or match of 'nothing/"),
        (("{root}", "{root}/gone.jpg"), "there is no file, folder or match of"),
        (("{empty}",), "no picture in .*its files here \\(1 .txt\\)"),
        (("x" * 5_000,), "there is no file"),
    ],
)
def test_no_file_is_a_mistake_of_the_command_line(
    paths: tuple[str, ...], message: str, pictures: Path, run: Finished, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").touch()
    given = tuple(one.format(root=pictures, empty=tmp_path) for one in paths)
    with pytest.raises(UserError, match=message):
        predict(PredictConfig(paths=given, model=str(run.folder)))


@pytest.mark.parametrize(
    "flags",
    [
        {"paths": None},
        {"model": ""},
        {"top": 0},
        {"sheet_images": "few"},
        {"sheet_images": "0"},
        {"out": "no/such/x.csv"},
        {"sheet": "."},
        {"out": "x.png", "sheet": "./x.png"},
    ],
)
def test_settings_that_make_no_sense(flags: dict[str, object]) -> None:
    with pytest.raises(UserError):
        PredictConfig(**{"paths": ("x.jpg",), "model": "runs/x", **flags})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["sheet.svg", "sheet", "sheet.jpg"])
def test_a_sheet_is_no_other_file_than_png(name: str) -> None:
    with pytest.raises(UserError, match=r"^--sheet is a PNG file: write --sheet=sheet\.png$"):
        PredictConfig(paths=("x.jpg",), model="runs/x", sheet=name)
    assert PredictConfig(paths=("x.jpg",), model="runs/x", sheet="sheet.PNG").sheet == "sheet.PNG"


def test_more_classes_than_there_are(pictures: Path, run: Finished) -> None:
    with pytest.raises(UserError, match=r"--top=3: .*has 2 classes"):
        predict(PredictConfig(paths=(str(pictures),), model=str(run.folder), top=3))


@pytest.mark.parametrize("count", ["3", "all"])
def test_the_sheet_shows_the_least_sure(
    count: str, pictures: Path, run: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, ...]] = []
    titles = []
    drawn: Callable[..., object] = predict.__globals__["contact_sheet"]

    def spy(rows: tuple[object, ...], images: tuple[object, ...], *, title: str) -> object:
        seen.append(tuple(one.top[0].probability for one in rows))  # type: ignore[attr-defined]
        titles.append(title)
        return drawn(rows, images, title=title)

    monkeypatch.setitem(predict.__globals__, "contact_sheet", spy)
    sheet = tmp_path / "sheet.png"
    folder = str(pictures / "test")
    rows = predict(PredictConfig(paths=(folder,), model=str(run.folder), sheet=str(sheet), sheet_images=count))
    assert list(seen[0]) == sorted(one.top[0].probability for one in rows)[: None if count == "all" else 3]
    assert titles[0].endswith(" pictures, alone-T1.5")
    with Image.open(sheet) as image:
        assert image.width > 300
        assert len(image.convert("RGB").getcolors(2**24) or ()) > 1_000  # the pictures are there


def test_few_pictures_are_decoded_ahead(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many files there are."""
    begun: list[Path] = []
    read = decode._read
    monkeypatch.setattr(decode, "_read", lambda path, use: (begun.append(path), read(path, use=use))[1])
    files = sorted((pictures / "train").glob("*/*")) * 5
    images = decode.try_images(files, size=8, workers=2)
    next(images)
    images.close()
    assert len(begun) <= 2 * decode.AHEAD + 2 < len(files)


@pytest.mark.slow
def test_a_closed_pipe_ends_it(pictures: Path, run: Finished) -> None:
    command = [sys.executable, "-m", "kdignite", "predict", str(pictures), f"--model={run.folder}", "--format=csv"]
    piped = f"{' '.join(command)} --batch_size=1 --threads=1 | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["file,class,probability", "141"]
    assert "Traceback" not in done.stderr
