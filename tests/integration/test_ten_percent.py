"""The 10 % bug: a teacher that scored 96 % while training and 10 % in the script that evaluated it.

Its mechanisms were weights saved under another prefix and loaded with ``strict=False``, a model left in train mode, and
test images that went through the training transform. Each must be an error or have no effect; none may change a number.
"""

import dataclasses
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kdignite import checkpoints, evaluation, files
from kdignite.cli.entry import make_config
from kdignite.cli.parse import parse_args
from kdignite.commands.adopt import adopt
from kdignite.commands.distill import distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.config import AdoptConfig, BaselineConfig, DoctorConfig, EvaluateConfig, to_json
from kdignite.data.specs import IMAGENET_MEAN, IMAGENET_STD
from kdignite.errors import UserError
from kdignite.runs import Finished
from kdignite.training import initial_weights
from kdignite.training import model as model_module

from .conftest import student


def altered(taught: Finished, folder: Path, **changes: Any) -> Path:
    """A copy of the teacher's checkpoint with some entries replaced."""
    payload = checkpoints.read(taught.folder / "best.safetensors")
    path = folder / "altered.pt"
    checkpoints.write(path, {**payload, **changes})
    return path


def accuracy(path: Path | str, root: Path, **given: Any) -> float:
    return float(evaluate(EvaluateConfig(run=str(path), split="val", threads=1, **given), root=root).result["accuracy"])


def payload_of(taught: Finished) -> dict[str, Any]:
    content: dict[str, Any] = checkpoints.read(taught.folder / "best.safetensors")
    return content


def test_prefixed_keys_are_refused_and_the_prefix_is_named(taught: Finished, root: Path) -> None:
    weights = {f"model.{key}": value for key, value in payload_of(taught)["weights"].items()}
    path = altered(taught, root, weights=weights)
    for use in (lambda: accuracy(path, root), lambda: distill(student(teacher=str(path)), root=root)):
        with pytest.raises(UserError, match=r"do not fit the model: missing conv1\.weight.*--strip_prefix=model\."):
            use()


def test_a_missing_head_is_refused(taught: Finished, root: Path) -> None:
    weights = {key: value for key, value in payload_of(taught)["weights"].items() if not key.startswith("linear")}
    path = altered(taught, root, weights=weights)
    with pytest.raises(UserError, match=r"missing linear\.bias, linear\.weight"):
        accuracy(path, root)


def test_weights_of_another_network_are_refused(taught: Finished, root: Path) -> None:
    weights = dict(payload_of(taught)["weights"])
    weights["conv2.weight"] = weights["conv2.weight"][:8]
    path = altered(taught, root, weights=weights)
    with pytest.raises(UserError, match=r"conv2\.weight \(8, 16, 3, 3\) float32 for \(16, 16, 3, 3\) float32"):
        accuracy(path, root)


@pytest.mark.parametrize(
    "change", [{"mean": [4.0, 4.0, 4.0]}, {"std": [1e-3, 1e-3, 1e-3]}, {"size": 64}], ids=["mean", "std", "size"]
)
def test_a_teacher_fed_another_way_is_refused(taught: Finished, root: Path, change: dict[str, Any]) -> None:
    """Nothing but the checkpoint says how a model is fed; if that was altered, the recorded accuracy gives it away."""
    payload = payload_of(taught)
    changes: dict[str, Any] = {"preprocessing": {**payload["preprocessing"], **change}}
    if change.get("size") == 64:  # four times the features: the linear layer no longer fits, which is refused earlier
        path = altered(taught, root, **changes)
        with pytest.raises(UserError, match=r"linear\.weight \(10, 16\) float32 for \(10, 64\) float32"):
            distill(student(teacher=str(path)), root=root)
        return
    path = altered(taught, root, **changes)
    with pytest.raises(UserError, match=r"scores \d+\.\d\d% on validation, its checkpoint recorded 9\d\.\d\d%"):
        distill(student(teacher=str(path)), root=root)


def test_the_wrong_size_is_refused_where_the_network_would_swallow_it(root: Path) -> None:
    """A network with global pooling runs at any size; the recorded accuracy still gives it away."""
    from kdignite.commands.teacher import teacher
    from kdignite.config import TeacherConfig, configure

    config = configure(
        TeacherConfig, dataset="digits", arch="resnet20", epochs=2, batch_size=50, limit_train=400, threads=1
    )
    run = teacher(config, root=root)
    payload = checkpoints.read(run.folder / "best.safetensors")
    payload["preprocessing"]["size"] = 12
    path = root / "small.pt"
    checkpoints.write(path, payload)
    with pytest.raises(UserError, match=r"on validation"):
        distill(student(teacher=str(path)), root=root)


def test_a_model_left_in_train_mode_is_evaluated_in_eval_mode(taught: Finished, root: Path) -> None:
    checkpoint = checkpoints.load_checkpoint(taught.folder / "best.safetensors")
    model = model_module.build_model(
        "cnn5", num_classes=10, size=32, options=checkpoint.description.architecture.options
    )
    checkpoints.load_weights(model, checkpoint.weights, source="test")
    prepare = model_module.preparer(checkpoint.description.preprocessing, device=torch.device("cpu"))
    images = torch.randint(0, 256, (7, 3, 32, 32), dtype=torch.uint8)
    logits_of = evaluation.predictor(model, prepare=prepare)
    expected = logits_of(images)
    model.train()
    again = logits_of(images)
    assert torch.equal(again, expected)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in checkpoint.weights.items())


def test_evaluation_images_are_never_augmented(taught: Finished, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a view was drawn or applied")

    monkeypatch.setattr("kdignite.data.batches.apply_views", refuse)
    monkeypatch.setattr("kdignite.data.batches.draw_views", refuse)
    assert accuracy("teacher", root) == taught.result["val"]["accuracy"]


def test_a_teacher_near_chance_is_refused_unless_allowed(taught: Finished, root: Path) -> None:
    """A random head, recorded as such: what the published student was taught by."""
    weights = dict(payload_of(taught)["weights"])
    generator = torch.Generator().manual_seed(1)
    weights["linear.weight"] = torch.randn(weights["linear.weight"].shape, generator=generator) * 1e-3
    weights["linear.bias"] = torch.zeros(10).index_fill(0, torch.tensor(3), 9.0)  # always the same answer
    path = altered(taught, root, weights=weights, validation={"num_correct": 20, "num_images": 200, "epoch": 1})
    with pytest.raises(UserError, match=r"scores 10\.\d\d% on validation, which is near chance"):
        distill(student(teacher=str(path)), root=root)
    assert distill(student(teacher=str(path), allow_weak_teacher=True, epochs=1), root=root).result["teacher"]


def test_classes_in_another_order_are_mapped_and_other_classes_refused(taught: Finished, root: Path) -> None:
    weights = dict(payload_of(taught)["weights"])
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    weights["linear.weight"], weights["linear.bias"] = weights["linear.weight"][order], weights["linear.bias"][order]
    path = altered(taught, root, weights=weights, classes=[str(digit) for digit in order])
    assert accuracy(path, root) == taught.result["val"]["accuracy"]
    path = altered(taught, root, classes=[f"digit {digit}" for digit in range(10)])
    with pytest.raises(UserError, match=r"has other classes than the data \(10 against 10\): 0, 1, 2"):
        accuracy(path, root)


def pasted(told: str) -> list[str]:
    """The line in a message, as a shell takes it."""
    return shlex.split(told.partition("python -m kdignite ")[2].removesuffix(" (--allow_weak_teacher goes on anyway)"))


class TestAdopt:
    """Somebody else's weights come in through one door, which checks them."""

    FED: dict[str, Any] = {"arch": "cnn5", "widths": (16,) * 5, "dataset": "digits", "threads": 1}  # noqa: RUF012

    def settings(self, taught: Finished) -> dict[str, Any]:
        preprocessing = checkpoints.load_checkpoint(taught.folder / "best.safetensors").description.preprocessing
        return {**self.FED, "size": 32, "mean": preprocessing.mean, "std": preprocessing.std}

    def foreign(self, taught: Finished, root: Path, *, prefix: str = "") -> str:
        path = root / "foreign.pt"
        weights = {f"{prefix}{key}": value for key, value in payload_of(taught)["weights"].items()}
        torch.save({"epoch": 7, "state_dict": weights}, path)
        return str(path)

    def test_a_foreign_file_becomes_a_teacher(self, taught: Finished, root: Path) -> None:
        file = self.foreign(taught, root, prefix="module.")
        run = adopt(AdoptConfig(file=file, strip_prefix="module.", **self.settings(taught)), root=root)
        assert run.folder.name == "adopted-cnn5"
        assert run.result["val"]["num_correct"] == taught.result["val"]["num_correct"]
        assert run.result["test"]["confusions"] == taught.result["test"]["confusions"]
        for name in ("num_parameters", "multiply_adds", "peak_memory_bytes"):
            assert run.result["cost"][name] == taught.result["cost"][name]
        assert run.result["cost"]["file_bytes"] == (run.folder / "best.safetensors").stat().st_size
        distilled = distill(student(teacher="adopted-cnn5", epochs=1), root=root)
        assert distilled.result["teacher"]["accuracy"] == taught.result["val"]["accuracy"]

    @pytest.mark.parametrize(
        ("scale", "told"), [(0.2, "as after label smoothing"), (1e-3, "targets are nearly uniform")]
    )
    def test_what_its_logits_teach_little_of_is_told_by_each_command(
        self, taught: Finished, root: Path, capsys: pytest.CaptureFixture[str], scale: float, told: str
    ) -> None:
        """The last layer is made smaller: the same classes, less certain."""
        weights = payload_of(taught)["weights"]
        small = {key: value * scale if key.startswith("linear.") else value for key, value in weights.items()}
        torch.save(small, root / "small.pt")
        adopted = adopt(AdoptConfig(file=str(root / "small.pt"), **self.settings(taught)), root=root).folder
        assert told in capsys.readouterr().out
        soft = {"method": "dist", "tau": 4.0, "alpha": None, "T": None}
        distill(student(teacher=str(adopted), epochs=1, limit_train=100, **soft), root=root)
        assert told in capsys.readouterr().out
        doctor(DoctorConfig(run=str(adopted), num_images=100, draws=3, threads=1), root=root)
        assert told in capsys.readouterr().out

    def test_half_precision_becomes_float32_and_is_said(
        self, taught: Finished, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        weights = {key: v.half() if v.is_floating_point() else v for key, v in payload_of(taught)["weights"].items()}
        torch.save(weights, root / "half.pt")
        run = adopt(AdoptConfig(file=str(root / "half.pt"), **self.settings(taught)), root=root)
        assert "note      27 tensors are converted from float16 to float32\n" in capsys.readouterr().out
        weights = checkpoints.load_checkpoint(run.folder / "best.safetensors").weights
        assert weights["conv1.weight"].dtype == torch.float32

    def test_a_common_prefix_is_taken_off_and_said(
        self, taught: Finished, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = self.foreign(taught, root, prefix="module.")
        run = adopt(AdoptConfig(file=file, **self.settings(taught)), root=root)
        assert "note      without the prefix 'module.', which every key has\n" in capsys.readouterr().out
        weights = checkpoints.load_checkpoint(run.folder / "best.safetensors").weights
        assert all(torch.equal(weights[key], value) for key, value in payload_of(taught)["weights"].items())

    def test_one_of_several_networks_is_chosen_by_its_key(self, taught: Finished, root: Path) -> None:
        weights = dict(payload_of(taught)["weights"])
        torch.save({"model": {key: value * 2 for key, value in weights.items()}, "model_ema": weights}, root / "two.pt")
        settings = {"file": str(root / "two.pt"), **self.settings(taught)}
        with pytest.raises(UserError, match=r"choose one with --key=model or --key=model_ema$"):
            adopt(AdoptConfig(**settings), root=root)
        run = adopt(AdoptConfig(key="model_ema", **settings), root=root)
        assert run.result["val"]["num_correct"] == taught.result["val"]["num_correct"]
        started = BaselineConfig(weights=str(root / "two.pt"), key="model_ema")
        model = model_module.build_model("cnn5", num_classes=10, size=32, options={"widths": (16,) * 5})
        initial_weights.load_initial_weights(model, started)
        assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())

    def test_class_names_are_read_from_a_file(self, taught: Finished, root: Path) -> None:
        order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
        weights = dict(payload_of(taught)["weights"])
        for key in ("linear.weight", "linear.bias"):
            weights[key] = weights[key][order]
        torch.save(weights, root / "turned.pt")
        (root / "names.txt").write_text("\ufeff" + "".join(f"{digit}\r\n" for digit in order), encoding="utf-8")
        settings = {"file": str(root / "turned.pt"), **self.settings(taught)}
        run = adopt(AdoptConfig(classes=(str(root / "names.txt"),), **settings), root=root)
        assert run.result["val"]["num_correct"] == taught.result["val"]["num_correct"]
        with pytest.raises(UserError, match=r"--classes has 3 names, digits has 10 classes \(0, 1, .*--classes=FILE$"):
            adopt(AdoptConfig(classes=("a", "b", "c"), **settings), root=root)
        with pytest.raises(UserError, match=r"--classes=no\.txt must be class names separated by commas, or a file"):
            adopt(AdoptConfig(classes=("no.txt",), **settings), root=root)

    def test_a_file_of_other_classes_is_told_with_what_to_type(self, taught: Finished, root: Path) -> None:
        model = model_module.build_model("cnn5", num_classes=12, size=32, options={"widths": (16,) * 5})
        torch.save(model.state_dict(), root / "twelve.pt")
        with pytest.raises(UserError, match=r"has 12 outputs, digits has 10 classes: .*teacher --weights=.*twelve\.pt"):
            adopt(AdoptConfig(file=str(root / "twelve.pt"), **self.settings(taught)), root=root)
        torch.save({"net": model.state_dict(), "ema": model.state_dict()}, root / "both.pt")
        given = {"key": "ema", "val_size": 100, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        with pytest.raises(UserError) as caught:
            adopt(AdoptConfig(file=str(root / "both.pt"), **{**self.settings(taught), **given}), root=root)
        typed = make_config(parse_args(shlex.split(str(caught.value).partition("python -m kdignite ")[2])))
        expected = {"arch": "cnn5", "key": "ema", "size": 32, "val_size": 100, "normalize": "imagenet"}
        assert {name: getattr(typed, name) for name in expected} == expected
        with pytest.raises(UserError, match=r"is a run folder: its weights are .*best\.safetensors, and --teacher="):
            adopt(AdoptConfig(file=str(taught.folder), **self.settings(taught)), root=root)

    def test_wrong_normalisation_is_refused_near_chance(self, taught: Finished, root: Path) -> None:
        file = self.foreign(taught, root)
        settings = {**self.settings(taught), "mean": (0.9, 0.1, 0.9), "std": (30.0, 30.0, 30.0)}
        with pytest.raises(UserError, match=r"with '.* statistics' .* which is the likely cause") as caught:
            adopt(AdoptConfig(file=file, **settings), root=root)
        assert not (root / "adopted-cnn5").exists()
        again = make_config(parse_args(pasted(str(caught.value))))
        assert adopt(again, root=root).result["val"]["accuracy"] > 0.7
        with pytest.raises(UserError, match=r"by 255: --mean=0\.4824,0\.4549,0\.4078 --std=0\.2275,0\.2235,0\.2235"):
            AdoptConfig(file=file, **{**settings, "mean": (123.0, 116.0, 104.0), "std": (58.0, 57.0, 57.0)})

    def test_random_weights_are_near_chance_whatever_they_are_fed(self, taught: Finished, root: Path) -> None:
        weights = {key: torch.zeros_like(value) for key, value in payload_of(taught)["weights"].items()}
        torch.save(weights, root / "zeros.pt")
        with pytest.raises(UserError, match=r"near chance.*; is it --size, --mean, --std or --classes\?"):
            adopt(AdoptConfig(file=str(root / "zeros.pt"), **self.settings(taught)), root=root)

    @pytest.mark.parametrize("name", ["answers one too low", "another order"])
    def test_classes_in_another_order_are_found_and_can_be_pasted(
        self, taught: Finished, root: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outputs = [9, *range(9)] if name == "answers one too low" else [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
        weights = dict(payload_of(taught)["weights"])
        weights |= {key: weights[key][outputs] for key in ("linear.weight", "linear.bias")}
        torch.save(weights, root / "own.pt")
        config = AdoptConfig(file=str(root / "own.pt"), **self.settings(taught))
        with pytest.raises(UserError, match=rf"as recorded.* with '{name}' .*the likely cause") as caught:
            adopt(config, root=root)
        told = str(caught.value)
        assert ("far below chance" in told) == (name == "answers one too low")
        assert not (root / "adopted-cnn5").exists()
        right = adopt(make_config(parse_args(pasted(told))), root=root)
        assert right.result["val"]["num_correct"] == taught.result["val"]["num_correct"]
        # adopted all the same, it is what doctor finds
        adopt(dataclasses.replace(config, allow_weak_teacher=True, name="wrong"), root=root)
        capsys.readouterr()
        few: dict[str, Any] = {"threads": 1, "draws": 3, "num_images": 100}
        found = doctor(DoctorConfig(run="wrong", **few), root=root).result["conclusions"]
        assert len(found) == 1
        assert found[0] in capsys.readouterr().out
        assert to_json(make_config(parse_args(pasted(found[0])))) == {
            **to_json(config), "classes": [str(one) for one in outputs],
        }  # fmt: skip
        assert doctor(DoctorConfig(run=str(right.folder), **few), root=root).result["conclusions"] == []

    def test_a_recorded_accuracy_that_no_longer_comes_is_told(
        self, taught: Finished, root: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = altered(taught, root, validation={"num_correct": 10, "num_images": 200, "epoch": 1})
        for line in (accuracy, lambda run, root: doctor(DoctorConfig(run=str(run), draws=3, threads=1), root=root)):
            line(path, root)
            told = "5.00% was recorded on the validation images, "
            assert capsys.readouterr().out.count(told) == 1
        assert accuracy("teacher", root) > 0.7
        assert "was recorded on the validation images" not in capsys.readouterr().out
        shutil.copytree(taught.folder, root / "other")
        result = files.read_json(root / "other" / "result.json")
        result["test"]["num_correct"] -= 50
        files.write_json(root / "other" / "result.json", result)
        for run, count in (("teacher", 0), ("other", 1)):
            evaluate(EvaluateConfig(run=run, threads=1), root=root)
            assert capsys.readouterr().out.count("was recorded on the test images") == count

    def test_preprocessing_is_never_assumed(self) -> None:
        with pytest.raises(UserError, match=r"adopt needs --size, --mean, --std: how a model was fed is never assumed"):
            AdoptConfig(file="foreign.pt", arch="cnn5")

    def test_class_names_in_the_order_of_the_outputs(self, taught: Finished, root: Path) -> None:
        weights = dict(payload_of(taught)["weights"])
        order = list(range(9, -1, -1))
        weights |= {key: weights[key][order] for key in ("linear.weight", "linear.bias")}
        torch.save(weights, root / "reversed.pt")
        config = AdoptConfig(
            file=str(root / "reversed.pt"), classes=tuple(str(digit) for digit in order), **self.settings(taught)
        )
        assert adopt(config, root=root).result["val"]["num_correct"] == taught.result["val"]["num_correct"]


def test_evaluating_a_plain_state_dict_says_how_to_adopt_it(taught: Finished, root: Path) -> None:
    torch.save(payload_of(taught)["weights"], root / "plain.pt")
    with pytest.raises(UserError, match=r"is no kdignite checkpoint .*python -m kdignite adopt .*plain\.pt --arch="):
        accuracy(root / "plain.pt", root)


def test_a_file_never_names_code_to_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of one's own works; its checkpoint needs the function named again, and the error prints the flag."""
    (root / "mine.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes):\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    monkeypatch.chdir(root)
    from kdignite.commands.teacher import teacher
    from kdignite.config import TeacherConfig, configure

    config = configure(TeacherConfig, dataset="digits", arch="mine:tiny", epochs=4, lr=0.3, threads=1)
    run = teacher(config, root=root)
    with pytest.raises(UserError, match="repeat its name: --arch=mine:tiny"):
        accuracy("teacher-2", root)
    assert accuracy("teacher-2", root, arch="mine:tiny") == run.result["val"]["accuracy"]
    with pytest.raises(UserError, match="repeat its name: --teacher_arch=mine:tiny"):
        distill(student(teacher="teacher-2"), root=root)
    taught_by = distill(student(teacher="teacher-2", teacher_arch="mine:tiny", epochs=1), root=root)
    assert taught_by.result["teacher"]["name"] == "teacher-2"


def test_the_state_of_a_run_is_no_model_and_best_is_named(root: Path) -> None:
    checkpoints.write(root / "last.safetensors", {"model": {}, "about": {"format": 1}})
    with pytest.raises(UserError, match=r"is the state of an unfinished run: use .*best\.safetensors"):
        accuracy(root / "last.safetensors", root)
