"""What an export decides and writes, without the exporters of torch: closed cases."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps
from torch import nn

from kdignite.checkpoints import Architecture, Description, Origin, Validation
from kdignite.comparison.runs import RunFiles
from kdignite.comparison.teachers import hidden_past
from kdignite.config import ExportConfig
from kdignite.data.decode import as_shown, resize_and_crop
from kdignite.data.preprocess import preparer
from kdignite.data.specs import Preprocessing
from kdignite.errors import RunFailed, UserError
from kdignite.evaluation import predictor
from kdignite.export import card, check, hub, programs
from kdignite.export.card import data_name
from kdignite.export.hub import picture_sides
from kdignite.export.programs import Deployed, Feed
from kdignite.export.quantize import Use, gains, judged
from kdignite.export.usage import READER, usage_code

PREPROCESSING = Preprocessing(4, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
IMAGES = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def described(arch: str = "cnn5", **options: Any) -> Description:
    origin = Origin("distill", "digits", "f", "s", None, 4, "none", 0.0, partial=False)
    return Description(Architecture(arch, options), ("ant", "bée"), PREPROCESSING, origin, Validation(1, 2, 1))


@pytest.mark.parametrize(
    ("int8", "float32", "found"),
    [
        (Use(1, 1.0), Use(2, 2.0), ["smaller", "faster"]),
        (Use(1, 2.0), Use(2, 1.0), ["smaller"]),
        (Use(2, 1.0), Use(1, 2.0), ["faster"]),
        (Use(2, 2.0), Use(1, 1.0), []),
        (Use(1, 1.0), Use(1, 1.0), []),
        (Use(1), Use(1), []),
    ],
)
def test_int8_is_better_where_it_is_smaller_or_faster(int8: Use, float32: Use, found: list[str]) -> None:
    assert gains(int8, float32) == found


@pytest.mark.parametrize(("num_bytes", "verdict"), [(1024, "kept, being smaller"), (4096, "not better, so left out")])
def test_the_judgement_gives_both_numbers(num_bytes: int, verdict: str) -> None:
    uses = {"a": Use(2048, 1.5), "b": Use(num_bytes, 2.5)}
    tests = {"a": {"accuracy": 0.75}, "b": {"accuracy": 0.5}}
    found = judged(uses, tests, ("a", "b"), same=check.Parity(4, 3, 0.1, 0.1))
    assert found["accepted"] == (verdict != "not better, so left out")
    assert found["text"] == (
        f"{verdict}: b: {num_bytes / 1024:.1f} against 2.0 KiB, 2.50 against 1.50 ms, accuracy 50.00 % "
        "(-25.00 points), same class for 75.0 % of the test images"
    )


def test_the_same_logits_pass_and_others_are_refused() -> None:
    logits = torch.tensor([[1.0, 2.0], [4.0, 3.0], [2.0, 2.0]])
    same = check.parity(logits, logits + 1e-4)
    check.check_parity(same, what="it")
    assert same[:2] == (3, 3)
    assert same.largest_difference == pytest.approx(1e-4, rel=1e-2)
    assert same.relative_difference == pytest.approx(1e-4 / 4, rel=1e-2)
    assert check.parity_text(same) == "same class for all 3 test images, logits differ by at most 0.0001"
    tie = check.parity(logits, logits + torch.tensor([0.0, 1e-4]))
    assert "2 of 3 test images (1 differ between classes that are equal within rounding)" in check.parity_text(tie)
    for other in (logits.flip(1), logits * float("nan")):
        with pytest.raises(RunFailed, match="it is not the model of the run: its logits differ by up to"):
            check.check_parity(check.parity(logits, other), what="it")


@pytest.mark.parametrize("inside", [True, False])
def test_the_graph_computes_what_the_predictor_does(inside: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).eval()
    feed = Feed(PREPROCESSING, inside)
    with torch.no_grad():
        logits, probabilities = Deployed(network, feed)(feed.of(IMAGES))
    expected = predictor(network, prepare=preparer(PREPROCESSING, device=torch.device("cpu")))(IMAGES)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(probabilities, expected.softmax(1))
    assert feed.of(IMAGES).shape[1:] == feed.shape[1:]


def test_the_input_is_that_of_pillow_and_numpy() -> None:
    """Independent: uint8 (N, H, W, 3) as a picture is, and the textbook normalization."""
    pixels = IMAGES.numpy().transpose(0, 2, 3, 1)
    assert np.array_equal(Feed(PREPROCESSING, True).of(IMAGES).numpy(), pixels)
    wanted = ((pixels / 255 - PREPROCESSING.mean) / PREPROCESSING.std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(Feed(PREPROCESSING, False).of(IMAGES).numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_images_of_another_size_are_resized_as_the_model_does() -> None:
    large = torch.full((1, 3, 9, 9), 200, dtype=torch.uint8)
    assert torch.equal(check.pixels_at(PREPROCESSING)(large), torch.full((1, 3, 4, 4), 200, dtype=torch.uint8))
    assert torch.equal(check.pixels_at(PREPROCESSING)(IMAGES), IMAGES)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_config_has_the_names_that_hub_libraries_read(library: str) -> None:
    values = hub.config_json(described("timm:levit_128s", drop_rate=0.1))
    if library == "timm":
        assert (values["architecture"], values["num_classes"]) == ("levit_128s", 2)
        assert values["model_args"] == {"drop_rate": 0.1}
        assert values["pretrained_cfg"]["input_size"] == [3, 4, 4]
    else:
        assert values["id2label"] == {"0": "ant", "1": "bée"}
        assert values["label2id"] == {"ant": 0, "bée": 1}
        for inside in (True, False):  # what the graph does itself is not to be done before
            told = hub.preprocessor_json(described(), Feed(PREPROCESSING, inside))
            assert (told["resample"], told["do_rescale"], told["do_normalize"]) == (2, not inside, not inside)
    held = hub.metadata(described(), Feed(PREPROCESSING, True))
    assert json.loads(held["class_names"]) == ["ant", "bée"]
    told = json.loads(held["preprocessing"])
    assert Preprocessing(**{name: told[name] for name in Preprocessing._fields}).size == 4


@pytest.mark.parametrize(
    ("arch", "options", "line"),
    [
        ("cnn5", {}, 'model = build_model("cnn5", num_classes=2, size=4, options={})'),
        ("resnet18", {}, "model = torchvision.models.resnet18(num_classes=2)"),
        ("resnet18", {"stem": "cifar"}, "model = build_model(\"resnet18\", num_classes=2, size=4, options={'stem'"),
        ("torchvision:vgg11", {}, 'model = torchvision.models.get_model("vgg11", num_classes=2)'),
        (
            "timm:levit_128s",
            {"drop": 0.1},
            'model = timm.create_model("levit_128s", num_classes=2, drop=0.1, img_size=4)',
        ),
        ("torchvision:vit_b_16", {}, 'get_model("vit_b_16", num_classes=2, image_size=4)'),
        ("torchvision:googlenet", {}, "num_classes=2, aux_logits=False, transform_input=True, init_weights=True)"),
        ("mine.nets:small", {}, "from mine.nets import small\nmodel = small(num_classes=2)"),
        ("mine.nets:small", {"width": 8, "act": "relu"}, "model = small(num_classes=2, width=8, act='relu')"),
    ],
)
def test_weights_alone_say_how_their_network_is_built(arch: str, options: dict[str, Any], line: str) -> None:
    code = usage_code(described(arch, **options), Feed(PREPROCESSING, False), form="safetensors")
    compile(code, "card", "exec")
    assert line in code


@pytest.mark.parametrize("form", programs.FILES)
@pytest.mark.parametrize("inside", [True, False])
def test_the_lines_of_the_card_are_short_and_python(form: str, inside: bool) -> None:
    code = usage_code(described(), Feed(PREPROCESSING, inside and form != "safetensors"), form=form)
    compile(code, "card", "exec")
    lines = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 28
    assert form == "safetensors" or "kdignite" not in code


def pictures() -> dict[str, Image.Image]:
    """Of every kind that a viewer shows otherwise than its numbers are."""
    rng = np.random.default_rng(0)
    colours, alpha = (
        rng.integers(256, size=(20, 20, 3), dtype=np.uint8),
        rng.integers(256, size=(20, 20), dtype=np.uint8),
    )
    rgba = Image.fromarray(np.dstack([colours, alpha]))
    indexed = Image.fromarray(colours).convert("P")
    indexed.info["transparency"] = 0
    turned = Image.fromarray(colours)
    turned.getexif()[ExifTags.Base.Orientation] = 6
    return {
        "rgb": Image.fromarray(colours),
        "rgba": rgba,
        "la": rgba.convert("LA"),
        "indexed": indexed,
        "deep": Image.fromarray(rng.integers(2**16, size=(20, 20), dtype=np.uint16)),
        "grey": Image.fromarray(alpha),
        "turned": turned,
    }


@pytest.mark.parametrize("kind", pictures())
def test_the_card_reads_pictures_as_training_did(kind: str, tmp_path: Path) -> None:
    picture, path = pictures()[kind], tmp_path / "picture.png"
    picture.save(path, exif=picture.getexif())
    names: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "np": np}
    exec("\n".join(READER), names)
    with Image.open(path) as image:
        expected = np.asarray(as_shown(image)).astype(int)
    assert np.abs(np.asarray(names["shown"](path)).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("size", [(32, 32), (47, 32), (33, 32), (32, 45), (470, 320), (31, 20), (300, 20), (7, 90)])
def test_the_card_cuts_pictures_as_training_did(size: tuple[int, int], tmp_path: Path) -> None:
    """To the pixel: a middle that is half a pixel beside it changes the answers of a small model."""
    pixels = np.random.default_rng(0).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    names: dict[str, Any] = {"Image": Image, "ImageOps": ImageOps, "np": np}
    exec("\n".join(READER), names)
    found = names["square"](names["shown"](path), 32, Image.Resampling.BILINEAR)
    expected = resize_and_crop(Image.fromarray(pixels), size=32).permute(1, 2, 0)
    assert np.array_equal(np.asarray(found), expected.numpy())


def test_a_picture_is_kept_before_it_becomes_the_input() -> None:
    plain, bicubic = described(), PREPROCESSING._replace(size=8, interpolation="bicubic, antialiased")
    larger = plain._replace(preprocessing=bicubic)
    assert picture_sides(plain) == [(4, "bilinear")]
    assert picture_sides(larger) == [(4, "bilinear"), (8, "bicubic")]
    assert picture_sides(larger._replace(origin=larger.origin._replace(image_size=8))) == [(8, "bilinear")]
    code = usage_code(larger, Feed(bicubic, False), form="torch")
    within = "square(shown(path), 4, Image.Resampling.BILINEAR)"
    assert f"pixels = np.array(square({within}, 8, Image.Resampling.BICUBIC))" in code
    assert hub.preprocessor_json(larger, Feed(bicubic, False))["size"] == {"shortest_edge": 8}
    assert json.loads(hub.metadata(larger, Feed(bicubic, False))["preprocessing"])["image_size"] == 4


def test_a_missing_package_is_named_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    with pytest.raises(UserError, match=r"^--format=onnx needs onnxruntime: pip install onnx onnxruntime onnxscript$"):
        programs.check_packages("onnx")
    programs.check_packages("torch")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "export needs a run folder or a checkpoint"),
        ({"run": "r", "int8": True, "format": "torch"}, "--int8 is for --format=onnx, not torch"),
        ({"run": "r", "format": "safetensors", "preprocessing": "inside"}, "leave out --preprocessing=inside"),
    ],
)
def test_settings_that_cannot_go_together(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ExportConfig(**values)


def run_of(command: str, **config: Any) -> RunFiles:
    role = {"distill": "student", "baseline": "baseline"}.get(command, "teacher")
    result = {"command": command, "teacher": {"name": "t", "sha256": "s", "control": config.pop("control", None)}}
    nothing = np.zeros(0)
    return RunFiles(Path(), "", role, result, config, {}, (), nothing, nothing, nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("run", "taught_by", "why"),
    [
        (run_of("teacher"), None, ""),
        (run_of("baseline", weights="none"), None, ""),
        (run_of("distill"), run_of("teacher"), ""),
        (run_of("distill", control="random"), None, ""),
        (None, None, "only its file is at hand"),
        (run_of("adopt"), None, "the model was adopted"),
        (run_of("baseline", weights="pretrained"), None, "the model began with weights made elsewhere"),
        (run_of("distill"), None, "the run of its teacher is not at hand"),
        (run_of("distill"), run_of("adopt"), "its teacher was adopted"),
        (run_of("distill"), run_of("teacher", weights="a.pt"), "its teacher began with weights made elsewhere"),
        (run_of("distill"), run_of("distill"), "its teacher had a teacher"),
    ],
)
def test_unseen_are_test_images_where_every_training_is_recorded(
    run: RunFiles | None, taught_by: RunFiles | None, why: str
) -> None:
    told = f"{why}: no run records whether these test images were trained on"
    assert hidden_past(run, taught_by) == ([told] if why else [])


@pytest.mark.parametrize(
    ("reached", "told"),
    [
        ("epoch 18 of 30", "Its run had not finished: epoch 18 of 30."),
        ("", "The settings of its run are not known: only its file was at hand."),
    ],
)
def test_a_card_without_a_finished_run_says_why(reached: str, told: str) -> None:
    record = {"run": {"command": "distill", "dataset": "digits", "unfinished": reached}, "teacher": None}
    assert card._making(record, None).splitlines() == ["- Distilled on digits with kdignite.", f"- {told}"]


def test_a_card_names_no_folder_of_this_machine() -> None:
    assert data_name("folder:/home/me/pets") == "folder:pets"
    assert [data_name(name) for name in ("cifar10", "mine:data")] == ["cifar10", "mine:data"]
