"""Exported models answer as their runs do, in the programs that will run them."""

import errno
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from kdignite.checkpoints import load_checkpoint
from kdignite.commands.export import export
from kdignite.comparison.runs import read_runs
from kdignite.config import ExportConfig
from kdignite.data.decode import resize_and_crop
from kdignite.data.preprocess import Statistics
from kdignite.data.specs import Preprocessing
from kdignite.errors import RunFailed, UserError
from kdignite.export import programs, quantize
from kdignite.export.relatives import Relatives
from kdignite.runs import Finished
from kdignite.training.model import load_predictor

PIXELS = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Export = Callable[..., Finished]


@pytest.fixture
def exported(taught: Finished, root: Path) -> Export:
    """Export the teacher, or another run, on one thread."""
    return lambda run="teacher", **given: export(ExportConfig(run=run, threads=1, **given), root=root)


def expected(taught: Finished) -> Tensor:
    return load_predictor(load_checkpoint(taught.folder / "best.safetensors"))(PIXELS)


def test_weights_in_a_folder_as_hubs_expect_it(exported: Export, taught: Finished, capsys) -> None:
    run = exported(format="safetensors")
    files = {path.name for path in run.folder.iterdir()}
    assert files == {"README.md", "config.json", "export.json", "model.safetensors", "preprocessor_config.json"}
    assert "same class for all 300 test images, logits differ by at most 0" in capsys.readouterr().out
    checkpoint = load_checkpoint(taught.folder / "best.safetensors")
    with safe_open(run.folder / "model.safetensors", "pt") as file:
        assert {name: torch.equal(file.get_tensor(name), one) for name, one in checkpoint.weights.items()} == (
            dict.fromkeys(file.keys(), True)
        )
        held = file.metadata()
    assert held["format"] == "pt"
    assert tuple(json.loads(held["class_names"])) == checkpoint.description.classes
    own = checkpoint.description.preprocessing._asdict()
    own |= {"image_size": checkpoint.description.origin.image_size, "inside": False}
    assert json.loads(held["preprocessing"]) == json.loads(json.dumps(own))
    assert exported(format="safetensors").folder.name == "export-teacher-safetensors-2"


def test_the_card_says_what_the_result_says(exported: Export, taught: Finished) -> None:
    run, test = exported(format="safetensors"), taught.result["test"]
    assert run.result["test"] == test
    assert json.loads((run.folder / "export.json").read_text())["test"] == test
    text = (run.folder / "README.md").read_text(encoding="utf-8")
    assert f"{100 * test['accuracy']:.1f} % of 300 test images" in text
    assert f"{test['num_correct']} of 300" in text
    assert str(taught.folder) not in text
    head = text.split("---\n")[1].splitlines()  # YAML whose values are JSON
    values = {key: json.loads(value) for key, _, value in (line.partition(": ") for line in head)}
    assert values["model-index"][0]["results"][0]["metrics"][0]["value"] == test["accuracy"]


def test_the_card_names_the_data_that_was_tested(
    exported: Export, taught: Finished, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other runs scored on their data is no match for what this model scores on other data."""
    own = read_runs(["teacher"], root=root)[0]
    relatives = Relatives(own, baseline=own, verdict="It gained.")
    monkeypatch.setitem(export.__globals__, "find_relatives", lambda path: relatives)
    for number, (part, count) in enumerate({"train": 2, "val": 1, "test": 2}.items()):
        for place in range(10 * count):
            (folder := root / "other" / part / str(place % 10)).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng((number, place)).integers(256, size=(32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{place}.png")
    for given, name, shown in (({}, "digits", True), ({"dataset": f"folder:{root / 'other'}"}, "folder:other", False)):
        run = exported(format="safetensors", **given)
        text = (run.folder / "README.md").read_text(encoding="utf-8")
        assert f"test images of {name}." in text
        assert f'"dataset": {{"type": "{name}", "name": "{name}", "split": "test"}}' in text
        assert f"images like those of {name}, " in text
        assert "Trained on digits with kdignite." in text
        assert [one in text for one in ("the same network without a teacher", "It gained.")] == [shown] * 2
        assert bool(run.result["baseline"]) == shown


def test_weights_that_are_not_those_of_the_run_are_refused(exported: Export, root: Path, monkeypatch) -> None:
    write = programs.write_safetensors

    def tampered(network: nn.Module, path: Path, **given: Any) -> None:
        with torch.no_grad():
            next(network.parameters()).mul_(-1)
        write(network, path, **given)

    monkeypatch.setattr(programs, "write_safetensors", tampered)
    with pytest.raises(RunFailed, match=r"teacher/best\.safetensors as safetensors is not the model of the run"):
        exported(format="safetensors", name="bad")
    assert not (root / "bad").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "README.md"])
def test_a_full_disk_leaves_nothing_behind(
    exported: Export, root: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """And the same command once more has the name that it would have had."""

    def full(path: Path, *given: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    before = {*root.iterdir()}
    with monkeypatch.context() as patched:
        if file == "README.md":
            patched.setattr(Path, "write_text", full)
        else:
            patched.setattr(programs, "write_safetensors", lambda network, path, **given: full(path))
        with pytest.raises(OSError, match="No space left"):
            exported(format="safetensors")
    assert {*root.iterdir()} == before
    folder = exported(format="safetensors").folder
    assert folder.name == "export-teacher-safetensors"
    assert {*root.iterdir()} == before | {folder}
    assert folder.stat().st_mode == (root / "teacher").stat().st_mode


def test_a_checkpoint_that_was_changed_is_refused(exported: Export, taught: Finished, root: Path) -> None:
    content = bytearray((taught.folder / "best.safetensors").read_bytes())
    content[-1] ^= 1
    (root / "changed.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="its checksum differs"):
        exported(run=str(root / "changed.safetensors"), format="safetensors")


class Session:
    """In the place of one of onnxruntime: takes its time, and answers with the mean of each image."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.sizes = seconds, list[int]()

    def run(self, _: Any, given: dict[str, Any]) -> tuple[Any, Any]:
        (images,) = given.values()
        self.sizes.append(len(images))
        time.sleep(self.seconds)
        means = images.reshape(len(images), -1).mean(1, keepdims=True)
        return means, means


def test_onnxruntime_gets_a_few_images_at_a_time_and_answers_all() -> None:
    session, feed = Session(), programs.Feed(Preprocessing(4, (0.5,) * 3, (0.5,) * 3), inside=True)
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(40, 3, 4, 4)
    assert programs.onnx_logits(session, feed)(images)[:, 0].tolist() == list(range(40))
    assert session.sizes == [16, 16, 8]


def test_a_slow_model_is_timed_by_fewer_calls(monkeypatch) -> None:
    monkeypatch.setattr(quantize, "TIMED_SECONDS", 0.2)
    feed = programs.Feed(Preprocessing(4, (0.5,) * 3, (0.5,) * 3), inside=True)
    fast, slow = Session(), Session(0.02)
    measured = quantize.latencies({"fast": fast}, feed=feed) | quantize.latencies({"slow": slow}, feed=feed)
    assert len(slow.sizes) < 30 < len(fast.sizes)
    assert measured["slow"] >= 20 > measured["fast"]  # milliseconds


@pytest.mark.slow
@pytest.mark.parametrize("inside", ["inside", "outside"])
def test_onnx_answers_as_the_predictor_for_any_batch(exported: Export, taught: Finished, inside: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    run = exported(preprocessing=inside, int8=True)
    session = onnxruntime.InferenceSession(run.folder / "model.onnx")
    pixels = PIXELS.numpy().transpose(0, 2, 3, 1)
    statistics = Statistics(*load_checkpoint(taught.folder / "best.safetensors").description.preprocessing[1:3])
    normal = ((pixels / 255 - statistics.mean) / statistics.std).transpose(0, 3, 1, 2).astype(np.float32)
    given = {"inside": ("images", pixels), "outside": ("pixel_values", normal)}[inside]
    for number in (1, 2, 7):
        logits, probabilities = session.run(None, {given[0]: given[1][:number]})
        np.testing.assert_allclose(logits, expected(taught)[:number], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(probabilities, expected(taught)[:number].softmax(1), rtol=1e-4, atol=1e-5)
    assert (session.get_inputs()[0].name, session.get_inputs()[0].shape[0]) == (given[0], "batch")
    held = session.get_modelmeta().custom_metadata_map
    assert json.loads(held["class_names"]) == [str(digit) for digit in range(10)]
    assert b".py" not in (run.folder / "model.onnx").read_bytes()  # no line of code, no folder of this machine
    int8 = run.result["int8"]
    assert int8["accepted"] == (run.folder / "model_int8.onnx").exists()
    assert abs(int8["test"]["accuracy"] - run.result["test"]["accuracy"]) < 0.05


def rounding(folder: Path, network: nn.Module, images: Tensor) -> float:
    """By how much 8 bits change the logits of all images but the first, when calibrated on all: standard deviation."""
    feed = programs.Feed(Preprocessing(8, (0.0,) * 3, (1.0,) * 3), inside=False)
    program = programs.capture(network.eval(), feed, who="network")
    programs.write_onnx(program, folder / "model.onnx", feed=feed, metadata={})
    quantize.quantize(folder / "model.onnx", folder / "int8.onnx", [images], feed=feed, metadata={})
    files = (folder / "model.onnx", folder / "int8.onnx")
    sessions = (programs.open_session(file, threads=1) for file in files)
    exact, rounded = (programs.onnx_logits(session, feed)(images[1:]) for session in sessions)
    return float((exact - rounded).std(0).mean())


@pytest.mark.slow
def test_one_strange_image_does_not_take_the_steps_of_all_others(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 9, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    )
    images = torch.randint(0, 32, (512, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[0] = 255
    clipped = rounding(tmp_path, network, images)
    monkeypatch.setattr(quantize, "AT_ONCE", len(images))  # one batch: its extremes are those of all images
    assert clipped < rounding(tmp_path, network, images) / 2


@pytest.mark.slow
def test_int8_that_is_not_better_is_left_out(exported: Export, monkeypatch, capsys) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(quantize, "gains", lambda int8, float32: [])
    run = exported(int8=True)
    assert "int8      not better, so left out: model_int8.onnx: " in capsys.readouterr().out
    assert not (run.folder / "model_int8.onnx").exists()
    assert [*run.result["files"]] == ["model.onnx"]
    assert "(not kept)" in (run.folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize("inside", ["inside", "outside"])
def test_the_lines_of_the_card_work_without_kdignite(
    exported: Export, taught: Finished, tmp_path: Path, form: str, inside: str
) -> None:
    pytest.importorskip("onnxruntime")
    run = exported(format=form, preprocessing=inside)
    blocks = re.findall(r"```python\n(.*?)```", (run.folder / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    script = tmp_path / "use.py"
    script.write_text(f"import sys\nsys.modules['kdignite'] = None\n{blocks[0]}", encoding="utf-8")
    # wide pictures, whose middle is between two pixels
    wide = [np.pad(image.permute(1, 2, 0).numpy(), ((0, 0), (0, 15), (0, 0)), "wrap") for image in PIXELS]
    paths = [str(tmp_path / f"{number}.png") for number in range(len(PIXELS))]
    for path, pixels in zip(paths, wide, strict=True):
        Image.fromarray(pixels).save(path)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *paths],
        cwd=run.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [line.rsplit(" ", 2)[1] for line in done.stdout.splitlines()]
    kept = torch.stack([resize_and_crop(Image.fromarray(pixels), size=32) for pixels in wide])
    answers = load_predictor(load_checkpoint(taught.folder / "best.safetensors"))(kept)
    assert said == [str(int(label)) for label in answers.argmax(1)]


class Bessel(nn.Module):
    """With an operator that ONNX does not have."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.special.bessel_j0(images.flatten(1)[:, :2])


class Branch(nn.Module):
    """Whose path depends on the values, which no graph holds."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2] if images.sum() > 0 else images.flatten(1)[:, 2:4]


@pytest.mark.slow
def test_what_no_graph_can_hold_is_named_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    feed = programs.Feed(load_small(), inside=True)
    program = programs.capture(Bessel(), feed, who="m:bessel")
    with pytest.raises(UserError, match=r"^--format=onnx: ONNX has no operator for prims\.bessel_j0 "):
        programs.write_onnx(program, tmp_path / "a.onnx", feed=feed, metadata={})
    programs.write_torch(program, tmp_path / "a.pt2", metadata={})
    assert programs.torch_logits(tmp_path / "a.pt2", feed)(PIXELS[..., :8, :8]).shape == (7, 2)
    with pytest.raises(UserError, match=r"^m:branch cannot be exported as a graph: .*data-dependent") as caught:
        programs.capture(Branch(), feed, who="m:branch")
    assert "\n" not in str(caught.value)


def load_small() -> Any:
    from kdignite.data.specs import Preprocessing

    return Preprocessing(8, (0.5,) * 3, (0.2,) * 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cnn5", "resnet20", "fastresnet", "resnet18", "timm:mobilenetv3_small_050", "timm:vit_tiny_patch16_224"]
)
def test_every_kind_of_network_is_the_same_in_onnxruntime(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    network, size = built(name), 224 if "224" in name else 32
    preprocessing = load_small()._replace(size=size)
    feed = programs.Feed(preprocessing, inside=True)
    program = programs.capture(network, feed, who=name)
    programs.write_onnx(program, tmp_path / "model.onnx", feed=feed, metadata={})
    images = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = programs.onnx_logits(programs.open_session(tmp_path / "model.onnx", threads=1), feed)(images)
    with torch.no_grad():
        wanted, _ = programs.Deployed(network, feed).eval()(feed.of(images))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def built(name: str) -> nn.Module:
    from kdignite.models.registry import build_model

    library, _, model = name.rpartition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library:
            timm: ModuleType = pytest.importorskip("timm")
            made: nn.Module = timm.create_model(model, num_classes=5)
            return made.eval()
        return build_model(name, num_classes=5, size=32, options={}).eval()
