"""What a diagnosis computes, against closed forms and NumPy: preprocessing, images, fits, predictions in files."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from kdignite import checkpoints
from kdignite.data.preprocess import Statistics
from kdignite.data.source import ImageSet
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import Part
from kdignite.doctor.images import BATCH_SIZES, make_batches, sample_images
from kdignite.doctor.matching import best_permutation, match_predictions, prediction_features, proportion_fit
from kdignite.doctor.predictions import read_predictions
from kdignite.doctor.preprocessing import preprocessing_variants
from kdignite.doctor.settings import (
    EvalSetting,
    ModelUnderTest,
    SettingLogits,
    SettingResults,
    half_loaded,
    run_settings,
    with_new_head,
)
from kdignite.errors import UserError

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
RIGHT = Preprocessing(16, MEAN, STD)
OWN = Statistics((0.6, 0.6, 0.6), (0.1, 0.1, 0.1))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def part_of(count: int, size: int = 16) -> Part:
    """A part whose rows are every second image, from the last, of a set; image i is filled with i."""
    pixels = torch.arange(2 * count).remainder(251).to(torch.uint8)[:, None, None, None].expand(-1, 3, size, size)
    return Part(ImageSet(pixels, torch.arange(2 * count) % 7), torch.arange(2 * count - 1, 0, -2))


# --- variants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("not normalised", lambda x, m, s: x / 255),
        ("normalised twice", lambda x, m, s: ((x / 255 - m) / s - m) / s),
        ("0..255, normalised", lambda x, m, s: (x - m) / s),
        ("0..255", lambda x, m, s: x),
        ("BGR", lambda x, m, s: (x[:, ::-1] / 255 - m) / s),
        ("reshaped", lambda x, m, s: (x.transpose(0, 2, 3, 1).reshape(x.shape) / 255 - m) / s),
        (
            "ImageNet's statistics",
            lambda x, m, s: (
                (x / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
            ),
        ),
        ("the data's own statistics", lambda x, m, s: (x / 255 - 0.6) / 0.1),
    ],
)
def test_a_wrong_feed_is_what_its_name_says(name: str, expected: Any, images: torch.Tensor) -> None:
    variants = {
        variant.name: variant.prepare for variant in preprocessing_variants(RIGHT, image_size=16, own=OWN, device=CPU)
    }
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (MEAN, STD))
    wanted = expected(images.numpy().astype(np.float64), mean, std)
    np.testing.assert_allclose(variants[name](images).numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_the_sizes_and_the_centre(images: torch.Tensor) -> None:
    variants = {
        variant.name: variant.prepare
        for variant in preprocessing_variants(RIGHT._replace(size=28), image_size=16, own=OWN, device=CPU)
    }
    shapes = {name: variants[name](images).shape[-1] for name in ("16 pixels", "14 pixels", "56 pixels", "centre crop")}
    assert shapes == {"16 pixels": 16, "14 pixels": 14, "56 pixels": 56, "centre crop": 28}
    ramp = torch.arange(32, dtype=torch.uint8).expand(1, 3, 32, 32)  # enlarged 32 -> 36.6, its middle starts at 2
    crop = preprocessing_variants(
        RIGHT._replace(size=32, mean=(0.0,) * 3, std=(1.0,) * 3), image_size=32, own=OWN, device=CPU
    )
    row = crop[-1].prepare(ramp)[0, 0, 5] * 255
    assert crop[-1].name == "centre crop"
    assert float(row[1:].min()) > 1
    assert float(row[:-1].max()) < 30
    assert float(row.mean()) == pytest.approx(15.5, abs=0.5)


def test_the_right_statistics_are_no_mistake() -> None:
    def names(right: Preprocessing, own: Statistics) -> set[str]:
        variants = preprocessing_variants(right, image_size=16, own=own, device=CPU)
        return {variant.name for variant in variants if variant.name.endswith("statistics")}

    imagenet = Preprocessing(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    cifar = Statistics((0.4910, 0.4820, 0.4470), (0.2470, 0.2440, 0.2620))
    assert names(imagenet, cifar) == {"CIFAR-10's statistics", "0.5 and 0.5 statistics"}
    assert names(Preprocessing(16, *cifar), cifar) == {"ImageNet's statistics", "0.5 and 0.5 statistics"}
    assert "the data's own statistics" in names(imagenet, OWN)


# --- images -------------------------------------------------------------------------------------------------------


def test_whole_batches_of_neighbours_are_chosen_over_the_whole_part() -> None:
    part = part_of(1_050)
    sample = sample_images(part, num_images=300, augment="none")
    assert sample.rows.tolist() == [*range(100), *range(300, 400), *range(700, 800)]
    assert torch.equal(sample.indices, part.indices[sample.rows])
    assert torch.equal(sample.labels, part.labels[sample.rows])
    assert torch.equal(sample.images[:, 0, 0, 0].long(), sample.indices % 251)
    assert len(sample_images(part, num_images=10_000, augment="").rows) == 1_050
    assert sample_images(part_of(30), num_images=100, augment="").rows.tolist() == [*range(30)]
    for few in (1, 10, 99):
        assert sample_images(part, num_images=few, augment="").rows.tolist() == [*range(few)]


@pytest.mark.parametrize("num_classes", [2, 40])
def test_of_images_in_the_order_of_their_classes_each_class_has_its_share(num_classes: int) -> None:
    labels = torch.arange(num_classes).repeat_interleave(4_000 // num_classes)
    part = Part(ImageSet(torch.zeros(4_000, 3, 8, 8, dtype=torch.uint8), labels), torch.arange(4_000))
    sample = sample_images(part, num_images=1_050, augment="")
    assert torch.bincount(sample.labels).tolist() == [1_000 // num_classes] * num_classes
    assert sample.rows.tolist() == sorted({*sample.rows.tolist()})
    few = sample_images(part, num_images=40, augment="")
    assert torch.bincount(few.labels).tolist() == [40 // num_classes] * num_classes
    mixed = part._replace(indices=torch.randperm(4_000, generator=torch.Generator().manual_seed(0)))
    assert sample_images(mixed, num_images=200, augment="").rows.tolist() == [*range(100), *range(2_000, 2_100)]


def test_every_draw_has_its_batch_size_and_its_views() -> None:
    sample = sample_images(part_of(600), num_images=600, augment="crop")
    for draw, size in enumerate(BATCH_SIZES):
        parts = make_batches(sample, draw=draw, views=False)
        assert len(parts[0].images) == size
        assert torch.equal(torch.cat([one.images for one in parts]), sample.images)
    wide = sample._replace(images=torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(600, 3, 16, 16))
    first, again, second = (
        torch.cat([one.images for one in make_batches(wide, draw=draw, views=True)]) for draw in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, wide.images)


# --- mistakes -----------------------------------------------------------------------------------------------------


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 7))


def examined(model: nn.Module, **changes: Any) -> SettingResults:
    tested = ModelUnderTest(
        model=model,
        build=lambda: type(model)(*network()),
        preprocessing=RIGHT,
        classes=tuple("bacdefg"),
        own_classes=tuple("bacdefg"),
        image_size=16,
        statistics=OWN,
        device=CPU,
    )
    noise = torch.randint(0, 256, (120, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    part = Part(ImageSet(noise, torch.arange(120) % 7), torch.arange(120))
    sample = sample_images(part, num_images=120, augment="crop")
    return run_settings(tested._replace(**changes), sample, draws=3)


def test_an_examination_leaves_the_model_and_the_generator_as_they_were() -> None:
    model = network()
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    first, second = examined(model), examined(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first.logits, second.logits, strict=True):
        assert torch.equal(one.logits, other.logits), one.setting.name


def test_only_what_differs_and_runs_is_a_setting() -> None:
    found = examined(network())
    names = [one.setting.name for one in found.logits]
    assert names[0] == "as recorded"
    assert {"BGR", "train mode", "alphabetical classes", "half loaded"} <= set(names)
    assert len([line for line in found.skipped if "this model cannot run it (" in line]) == 2  # two other sizes
    fresh = "no BatchNorm statistics: here the same as 'as recorded'"
    assert fresh in found.skipped
    trained = network()
    trained[1].running_mean.fill_(0.7)  # type: ignore[union-attr, operator]
    assert fresh not in examined(trained).skipped


@pytest.mark.parametrize("output", ["empty", "dict", "none", "wide", "error"])
def test_what_a_model_cannot_do_in_train_mode_is_left_out(output: str) -> None:
    """As GoogLeNet, Inception and detectors, which give something else while they train."""

    class Own(nn.Sequential):
        def forward(self, images: torch.Tensor) -> Any:
            logits = super().forward(images)
            if not self.training:
                return logits
            if output == "error":
                raise KeyError("targets")
            return {"empty": (), "dict": {"a": logits}, "none": None, "wide": logits.repeat(1, 2)}[output]

    found = examined(Own(*network()))
    names = [one.setting.name for one in found.logits]
    assert not [name for name in names if name.startswith("train mode")]
    assert len([line for line in found.skipped if line.startswith("train mode") and "cannot run it" in line]) == 2
    assert {"as recorded", "BGR", "training views", "new head"} <= set(names)


def test_the_order_of_the_classes_is_the_data_sets() -> None:
    model, order = network(), torch.tensor([3, 0, 1, 2, 6, 5, 4])
    own = "".join("bacdefg"[order.tolist().index(place)] for place in range(7))
    plain, ordered = examined(model), examined(model, own_classes=tuple(own))
    for one, other in zip(plain.logits, ordered.logits, strict=False):
        if one.setting.name in ("as recorded", "BGR", "not normalised"):
            assert torch.equal(one.logits[..., order], other.logits)
    logits = plain.logits[0].logits[0]
    alphabetical = next(one for one in plain.logits if one.setting.name == "alphabetical classes")
    assert torch.equal(alphabetical.logits[0], logits[:, [1, 0, 2, 3, 4, 5, 6]])


def test_a_new_head_and_half_of_the_layers() -> None:
    model, fresh = network(), network()
    headed = with_new_head(copy.deepcopy(model)).state_dict()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, headed[key])}
    assert changed == {"4.weight", "4.bias"}
    expected = {
        **fresh.state_dict(),
        "0.weight": model.state_dict()["0.weight"],
        "0.bias": model.state_dict()["0.bias"],
    }
    expected = {key: value.clone() for key, value in expected.items()}
    half = half_loaded(model, fresh).state_dict()
    assert all(torch.equal(half[key], value) for key, value in expected.items())
    with pytest.raises(ValueError, match="no linear layer"):
        with_new_head(nn.Conv2d(3, 7, 16))


# --- verdicts -----------------------------------------------------------------------------------------------------


def fit_of(observed: float, m: int, correct: list[int], n: int) -> Any:
    return proportion_fit(np.array([observed]), np.array([m]), np.array(correct)[:, None], np.array([n]))


def test_the_interval_of_one_share_is_the_closed_form() -> None:
    """30 of 100 against 50 of 100, by hand: p = 31/102, q = 51/102."""
    p, q = 31 / 102, 0.5
    z2 = (p - q) ** 2 / ((p * (1 - p) + q * (1 - q)) / 102)
    fit = fit_of(0.5, 100, [30], 100)
    assert fit.statistic == pytest.approx(z2)
    assert fit.critical_value == pytest.approx(stats.norm.ppf(0.995) ** 2)
    assert not fit.fits
    assert fit_of(0.4, 100, [30], 100).fits


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_the_interval_keeps_the_truth_about_as_often_as_it_says(p: float) -> None:
    draw = np.random.default_rng(0)
    kept = [fit_of(draw.binomial(300, p) / 300, 300, [draw.binomial(200, p)], 200).fits for _ in range(1_000)]
    assert 0.98 <= np.mean(kept) <= 1


def test_a_random_setting_has_the_interval_of_a_further_draw() -> None:
    """With as many images that only the draws vary: mean -+ t s sqrt(1 + 1/D)."""
    many, draws = 10**9, np.array([0.05, 0.1, 0.12, 0.09, 0.14])
    half = stats.t.ppf(0.995, 4) * draws.std(ddof=1) * math.sqrt(1.2)
    for share, inside in ((draws.mean() + 0.99 * half, True), (draws.mean() + 1.01 * half, False)):
        assert fit_of(share, many, [round(many * one) for one in draws], many).fits is inside


def test_nothing_right_and_all_right_have_an_interval_too() -> None:
    assert fit_of(0.0, 300, [0], 200).fits
    assert fit_of(1.0, 300, [200], 200).fits
    assert not fit_of(1.0, 300, [0], 200).fits
    assert math.isfinite(fit_of(0.0, 300, [0, 0, 0], 200).neg_log_likelihood)


def test_the_fingerprint_by_hand() -> None:
    recorded, other = np.array([0, 0, 1, 1]), np.array([1, 1, 1, 1])
    swapped = prediction_features(np.array([1, 1, 0, 0]), np.stack([recorded, other]), num_classes=2)
    np.testing.assert_allclose(swapped, [0, 0.5, 1, 1, 0.5, 0])  # a permutation: all the information, log 2 of log 2
    constant = prediction_features(other, np.stack([recorded, other]), num_classes=2)
    np.testing.assert_allclose(constant, [0.5, 1, 0.5, 0, 1, 0.5])


def test_the_best_permutation() -> None:
    recorded = np.array([0, 0, 1, 1, 2, 2, 2])
    assert best_permutation(np.array([2, 2, 0, 0, 1, 1, 0]), recorded, num_classes=3) == [2, 0, 1]


def answers_of(name: str, *labels: list[int], random: bool = False) -> SettingLogits:
    logits = torch.nn.functional.one_hot(torch.tensor(labels), 4).float()
    return SettingLogits(EvalSetting(name, "", "", lambda *_: logits[0], random=random), logits)


def test_what_is_tied_is_told() -> None:
    known = [answers_of("as recorded", [0, 1, 2, 3] * 25), answers_of("twin", [0, 1, 2, 3] * 24 + [0, 1, 2, 0])]
    named = match_predictions([*known, answers_of("other", [3, 1, 2, 0] * 25)], np.array([0, 1, 2, 3] * 25))
    assert (named.name, named.agreement, named.found, named.tied) == ("as recorded", 1.0, True, [])
    assert (named.second, named.second_agreement) == ("twin", 0.99)
    same = match_predictions([known[0], answers_of("twin", [0, 1, 2, 3] * 25)], np.array([0, 1, 2, 3] * 25))
    assert same.tied == ["twin"]


@pytest.mark.parametrize("digits", [16, 4])
def test_probabilities_decide_between_settings_of_the_same_answers(digits: int) -> None:
    """As logits do; written with four digits many are 0."""
    recorded = 4 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    known = [SettingLogits(EvalSetting(name, "", "", lambda *_: recorded), (recorded * scale)[None])
             for name, scale in (("as recorded", 1.0), ("flat", 0.5), ("steep", 2.0))]  # fmt: skip
    for one in known:
        logits = one.logits[0].double()
        for given in (logits + 3, logits.softmax(1).numpy().round(digits)):
            named = match_predictions(known, logits.argmax(1).numpy(), logits=np.asarray(given))
            assert (named.name, len(named.tied)) == (one.setting.name, 2)
    ended = [one._replace(logits=one.logits.softmax(2)) for one in known]  # networks that end in softmax
    given = ended[1].logits[0].numpy()
    assert match_predictions(ended, given.argmax(1), logits=given).name == "flat"


# --- observations -------------------------------------------------------------------------------------------------

SIZES = {"test": 6, "val": 4}


def read(path: Path, split: str | None = None, sizes: dict[str, int] = SIZES) -> Any:
    return read_predictions(path, num_classes=3, sizes=sizes, split=split)


def test_every_kind_of_file(tmp_path: Path) -> None:
    labels, logits = np.array([2, 0, 1, 1, 0, 2]), np.eye(3)[[2, 0, 1, 1, 0, 2]] - 0.25
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "logits.npy", logits.astype(np.float32))
    np.savez(tmp_path / "one.npz", anything=labels)
    (tmp_path / "labels.csv").write_text("\n".join(map(str, labels)))
    (tmp_path / "labels.txt").write_text(" ".join(map(str, labels)))
    (tmp_path / "logits.csv").write_text("\n".join(",".join(map(str, row)) for row in logits))
    torch.save(torch.tensor(labels), tmp_path / "labels.pt")
    torch.save(torch.tensor(logits).bfloat16(), tmp_path / "logits.pt")
    for path in sorted(tmp_path.iterdir()):
        given = read(path)
        assert given.predicted.tolist() == labels.tolist(), path.name
        assert given.split == "test"
        assert (given.logits is not None) == path.name.startswith("logits")


def test_the_predictions_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "predictions.npz"
    np.savez(path, val_logits=np.eye(3)[[0, 1, 2, 0]], test_logits=np.eye(3)[[2] * 6], val_labels=np.zeros(4))
    assert read(path).predicted.tolist() == [2] * 6
    assert (read(path, "val").predicted.tolist(), read(path, "val").split) == ([0, 1, 2, 0], "val")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (
            np.zeros(5, int),
            r"has 5 predictions, and the data set 6 test and 4 val images: one prediction per image is needed",
        ),
        (np.zeros((6, 4)), r"has 4 columns, and the data set 3 classes"),
        (np.full((6, 3), np.nan), r"holds values that are not finite"),
        (np.array([1, 2, 3, 1, 2, 3]), r"holds labels from 1 to 3, not within 0 to 2; classes count from 0"),
        (np.array([0, -1, 0, 0, 0, 0]), r"holds labels from -1 to 0, not within 0 to 2$"),
        (np.array([0, 0.5, 0, 0, 0, 0]), r"holds labels that are not whole numbers"),
        (np.zeros((6, 3, 2)), r"must be labels \(N,\) or logits \(N, C\), not float64 of shape \(6, 3, 2\)"),
        (np.array(["a"] * 6), r"must be labels \(N,\) or logits \(N, C\), not <U1 of shape \(6,\)"),
    ],
)
def test_arrays_that_are_refused(array: Any, text: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(UserError, match=f"--predictions=.*a.npy {text}"):
        read(tmp_path / "a.npy")


def test_files_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(UserError, match=r"--predictions must be one of \.npy, \.npz, .*, not a\.json"):
        read(tmp_path / "a.json")
    (tmp_path / "broken.npy").write_text("no array")
    with pytest.raises(UserError, match=r"broken\.npy cannot be read \("):
        read(tmp_path / "broken.npy")
    (tmp_path / "words.csv").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"words\.csv cannot be read \("):
        read(tmp_path / "words.csv")
    np.savez(tmp_path / "two.npz", a=np.zeros(6), b=np.zeros(6))
    with pytest.raises(UserError, match=r"two\.npz must hold one array, or a run's test_logits; it has a, b"):
        read(tmp_path / "two.npz")
    checkpoints.write(tmp_path / "dict.pt", {"logits": torch.zeros(6, 3)})
    with pytest.raises(UserError, match=r"dict\.pt must hold one tensor, not a dict"):
        read(tmp_path / "dict.pt")
    np.save(tmp_path / "a.npy", np.zeros(6, int))
    with pytest.raises(UserError, match=r"has 6 predictions, and both parts as many images: give --split=test or"):
        read(tmp_path / "a.npy", sizes={"test": 6, "val": 6})
