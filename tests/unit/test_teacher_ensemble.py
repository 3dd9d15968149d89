"""Several teachers as one, and the two controls: closed forms, properties, and what cannot be combined."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdignite.config import DistillConfig, ReproduceConfig, averaged_at, configure, stages, study_identity
from kdignite.data.batches import Batch
from kdignite.errors import UserError
from kdignite.losses import standardized
from kdignite.methods.terms import Outputs
from kdignite.runs import default_name
from kdignite.teachers import Ensemble, ShuffledTeacher, caches_of, mean_logits, shares, shuffle_wrong_classes
from kdignite.teachers.outputs import probabilities_warning
from kdignite.teachers.soft_targets import uniform_warning

EXAMPLES = settings(deadline=None, max_examples=80)
SEEDS = st.integers(0, 2**32)
TEMPERATURES = st.floats(0.25, 1000)


def drawn(seed: int, *shape: int, scale: float = 5.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the mean of several


@EXAMPLES
@given(
    seed=SEEDS,
    T=TEMPERATURES,
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
    num_classes=st.integers(2, 20),
    scale=st.sampled_from([0.0, 1.0, 10.0, 200.0]),
)
def test_softmax_at_the_temperature_is_the_mean_of_the_softened_probabilities(
    seed: int, T: float, weights: list[float], num_classes: int, scale: float
) -> None:
    logits = drawn(seed, len(weights), 4, num_classes, scale=scale)
    z = mean_logits(list(logits), shares(weights, count=len(weights)), T=T)
    softened = np.exp(logits.double().numpy() / T - (logits.double().numpy() / T).max(-1, keepdims=True))
    softened /= softened.sum(-1, keepdims=True)
    expected = np.tensordot(np.array(weights) / sum(weights), softened, axes=1)
    assert z.dtype == torch.float32
    assert torch.isfinite(z).all()
    np.testing.assert_allclose(torch.softmax(z.double() / T, 1).numpy(), expected, rtol=0, atol=1e-6)


@EXAMPLES
@given(seed=SEEDS, T=TEMPERATURES, count=st.integers(1, 5))
def test_equal_teachers_are_that_teacher_less_its_largest(seed: int, T: float, count: int) -> None:
    logits = drawn(seed, 3, 7)
    z = mean_logits([logits] * count, shares(None, count=count), T=T)
    torch.testing.assert_close(z, logits - logits.amax(1, keepdim=True), rtol=1e-5, atol=1e-5)


@EXAMPLES
@given(seed=SEEDS, T=st.floats(0.5, 20), shift=st.floats(-100, 100))
def test_neither_order_nor_a_constant_of_a_teacher_matters(seed: int, T: float, shift: float) -> None:
    one, other = drawn(seed, 2, 3, 6)
    z = mean_logits([one, other], (0.7, 0.3), T=T)
    torch.testing.assert_close(mean_logits([other + shift, one], (0.3, 0.7), T=T), z, rtol=1e-3, atol=1e-3)


def test_logits_of_500_stay_finite_and_shapes_must_agree() -> None:
    ends = torch.tensor([[500.0, -500.0, 0.0]])
    assert torch.isfinite(mean_logits([ends, -ends], (0.5, 0.5), T=1.0)).all()
    assert mean_logits([ends.half()] * 2, (0.5, 0.5), T=4.0).dtype == torch.float16
    for logits, weights in (([ends, ends[:, :2]], (0.5, 0.5)), ([ends], (0.5, 0.5))):
        with pytest.raises(UserError, match=r"expected logits \(B, C\) of each of 2 teachers, not \(1, 3\)"):
            mean_logits(logits, weights, T=1.0)


@EXAMPLES
@given(seed=SEEDS, T=st.floats(0.5, 20), scale=st.floats(0.1, 100))
def test_where_logits_are_standardized_the_scale_of_a_teacher_does_not_matter(
    seed: int, T: float, scale: float
) -> None:
    one, other = drawn(seed, 2, 3, 6)
    z = mean_logits([one, scale * other], (0.7, 0.3), T=T, standardize=True)
    p, q = (torch.softmax(standardized(logits.double()) / T, 1) for logits in (one, other))
    torch.testing.assert_close(torch.softmax(z.double() / T, 1), 0.7 * p + 0.3 * q, rtol=1e-4, atol=1e-5)
    alone = mean_logits([one, one], (0.7, 0.3), T=T, standardize=True)
    torch.testing.assert_close(standardized(alone), standardized(one), rtol=1e-4, atol=1e-4)


def test_an_ensemble_asks_each_of_its_members_about_the_batch() -> None:
    logits = drawn(0, 3, 2, 4)
    batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 3]), torch.tensor([5, 6]), 0)
    members = [lambda _, one=one: Outputs(one) for one in logits]
    ensemble = Ensemble(members, shares((2, 1, 1), count=3), T=3.0)
    assert torch.equal(ensemble(batch).logits, mean_logits(list(logits), (0.5, 0.25, 0.25), T=3.0))
    scaled = Ensemble(members, shares((2, 1, 1), count=3), T=3.0, standardize=True)
    assert torch.equal(scaled(batch).logits, mean_logits(list(logits), (0.5, 0.25, 0.25), T=3.0, standardize=True))
    shuffled = ShuffledTeacher(ensemble, seed=7)
    expected = shuffle_wrong_classes(ensemble(batch).logits, batch.labels, batch.indices, seed=7)
    assert torch.equal(shuffled(batch).logits, expected)
    assert caches_of(shuffled) == []


# --- permuted wrong classes


@EXAMPLES
@given(seed=SEEDS, key=st.integers(0, 100), num_classes=st.integers(3, 30), T=st.floats(0.5, 20))
def test_shuffled_keeps_the_label_and_the_others_as_a_multiset(seed: int, key: int, num_classes: int, T: float) -> None:
    logits = drawn(seed, 8, num_classes)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (8,), generator=generator)
    indices = torch.randint(2**31, (8,), generator=generator)
    found = shuffle_wrong_classes(logits, labels, indices, seed=key)
    before, after = (torch.softmax(one.double() / T, 1) for one in (logits, found))
    rows = torch.arange(8)
    assert torch.equal(found[rows, labels], logits[rows, labels])
    assert torch.equal(found.sort(1).values, logits.sort(1).values)
    torch.testing.assert_close(after[rows, labels], before[rows, labels], rtol=1e-12, atol=0)
    torch.testing.assert_close(after.sort(1).values, before.sort(1).values, rtol=1e-12, atol=0)
    # a function of (seed, image) alone: not of the other images of the batch, nor of the logits
    order = torch.randperm(8, generator=generator)
    again = shuffle_wrong_classes(logits[order], labels[order], indices[order], seed=key)
    assert torch.equal(again, found[order])


def test_every_permutation_of_the_wrong_classes_is_as_frequent() -> None:
    num_images = 24_000
    logits = torch.arange(5.0).expand(num_images, 5)
    found = shuffle_wrong_classes(logits, torch.full((num_images,), 2), torch.arange(num_images), seed=0)
    counts = Counter(map(tuple, found.int().tolist()))
    assert len(counts) == 24
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 49.7  # chi-squared of 23: 0.1 %
    other = shuffle_wrong_classes(logits, torch.full((num_images,), 2), torch.arange(num_images), seed=1)
    assert (found == other).all(1).float().mean() < 0.06  # 1/24 by chance


def test_with_two_classes_there_is_nothing_to_permute() -> None:
    with pytest.raises(UserError, match="--control=shuffled needs 3 classes or more, not 2: leave it out"):
        shuffle_wrong_classes(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0]), seed=0)


# --- warnings


@pytest.mark.parametrize(("activation", "told"), [("softmax", True), ("sigmoid", True), ("identity", False)])
def test_outputs_that_are_probabilities_are_told(activation: str, told: bool) -> None:
    outputs = {"softmax": drawn(0, 9, 4).softmax(1), "sigmoid": drawn(0, 9, 4).sigmoid(), "identity": drawn(0, 9, 4)}
    warning = probabilities_warning(outputs[activation], who="t.pt")
    assert (warning == "") == (not told)
    assert not told or f"t.pt seems to end in {activation}: " in warning
    assert not told or "distill needs --teacher_outputs=probabilities" in warning


@pytest.mark.parametrize(
    ("method", "given", "start", "end"),
    [
        ("kd", {"T": 1.0}, "", ""),
        ("kd", {"T": 1000.0}, "at T=1000 the targets are nearly uniform (", "arXiv:1503.02531, 2.1)"),
        ("dkd", {"T": 1000.0, "alpha": 0.0}, "at T=1000 the targets", "arXiv:1503.02531, 2.1)"),
        ("dist", {"tau": 1000.0}, "at tau=1000 the targets", "a higher tau changes little but the weight"),
        ("ttm", {"gamma": 0.001}, "at gamma=0.001 the targets", "as uncertain, and little else"),
        ("wttm", {"gamma": 1.0}, "", ""),
    ],
)
def test_nearly_uniform_targets_are_told(method: str, given: dict[str, float], start: str, end: str) -> None:
    temperature = configure(DistillConfig, method=method, **given).temperature
    assert temperature is not None
    warning = uniform_warning(drawn(0, 50, 10), torch.arange(50) % 10, temperature)
    assert warning.startswith(start)
    assert warning.endswith(end)
    assert bool(warning) == bool(start)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("kd", {"alpha": 0.0}),
        ("dkd", {"alpha": 0.0, "beta": 0.0}),
        ("dist", {"beta": 0.0, "gamma": 0.0}),
        ("ttm", {"beta": 0.0}),
        ("at", {"alpha": 0.0, "T": 500.0}),  # without kd beside the features
        ("logit_mse", {}),
    ],
)
def test_a_temperature_without_weight_is_none(method: str, given: dict[str, float]) -> None:
    assert configure(DistillConfig, method=method, **given).temperature is None


@pytest.mark.parametrize(
    ("method", "flag"),
    [("kd", "T"), ("nkd", "T"), ("dist", "tau"), ("ttm", "T"), ("logit_mse", "T"), ("mine:method", "T")],
)
def test_several_are_averaged_at_the_temperature_that_softens_both_sides(method: str, flag: str) -> None:
    assert averaged_at(method) == flag


# --- settings


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ()),
        ({"teacher": "a"}, ("a",)),
        ({"teacher": "a,runs/b, c.pt"}, ("a", "runs/b", "c.pt")),
        ({"teacher": "a,~/b"}, ("a", str(Path.home() / "b"))),
        ({"teacher": ",".join(["teacher"] * 100)}, ("teacher",) * 100),  # longer than a name of a file may be
    ],
)
def test_teachers_are_named_with_commas(values: dict[str, Any], names: tuple[str, ...]) -> None:
    assert DistillConfig(**values).teachers == names


def test_a_folder_with_a_comma_in_its_name_is_one_teacher(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert DistillConfig(teacher=str(tmp_path / "a,b")).teachers == (str(tmp_path / "a,b"),)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teacher": "a,,b"}, "--teacher=a,,b names no teacher between two commas"),
        ({"teacher": "a", "teacher_shares": (1.0,)}, "--teacher_shares has 1 for 1 named in --teacher"),
        ({"teacher_shares": (1.0, 2.0)}, "--teacher_shares has 2 for 0 named in --teacher"),
        ({"teacher": "a,b", "teacher_shares": (1.0,)}, "--teacher_shares has 1 for 2 named in --teacher"),
        ({"teacher": "a,b", "teacher_shares": (1.0, 0.0)}, "--teacher_shares must be above 0, not 0"),
        ({"control": "other"}, "--control must be one of random, shuffled, not 'other'"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        DistillConfig(**values)
    assert str(caught.value).startswith(message)


def test_features_are_those_of_the_first_trained_teacher() -> None:
    given = {"method": "fitnet", "alpha": 0.5}
    assert configure(DistillConfig, **given, teacher="a,b").teachers == ("a", "b")
    with pytest.raises(
        UserError, match="--method=fitnet needs the features of a trained teacher: leave out --control="
    ):
        configure(DistillConfig, **given, control="random")
    with pytest.raises(
        UserError, match="--method=fitnet takes the features of the first teacher: with --alpha above 0"
    ):
        configure(DistillConfig, method="fitnet", teacher="a,b")


def test_the_name_of_a_run_says_what_taught_it() -> None:
    given = {"teacher": "a,b", "control": "shuffled"}
    assert default_name(DistillConfig(**given, alpha=0.5, T=2.0)) == "distill-2teachers-shuffled-a0.5-T2"


# --- chains of a study


def test_assistants_come_first_and_then_the_generations() -> None:
    asked = {"via": ("resnet20", "mine:net"), "generations": 3, "teacher": "a,b", "teacher_shares": (2.0, 1.0)}
    own = {"widths": (8,) * 5, "lr": 0.3, "epochs": 4, "alpha": 0.5, "seed": 3, "seeds": 2}
    plan = stages(configure(ReproduceConfig, **asked, **own))
    assert [(one.name, one.arch) for one in plan.chain] == [
        ("assistant-resnet20", "resnet20"),
        ("assistant-net", "mine:net"),
        ("generation-1", "cnn5"),
        ("generation-2", "cnn5"),
    ]
    assert {(one.seed, one.epochs, one.alpha) for one in plan.chain} == {(3, 4, 0.5)}
    assert [one.lr for one in plan.chain] == [0.1, 0.1, 0.3, 0.3]
    assert [one.widths for one in plan.chain] == [None, None, (8,) * 5, (8,) * 5]
    assert (plan.first.teacher, plan.first.teacher_shares) == ("a,b", (2.0, 1.0))
    later = (*plan.chain[1:], *plan.students)
    assert {(one.teacher, one.teacher_shares) for one in later} == {(None, None)}
    assert [one.teacher_arch for one in later] == [None, "mine:net", None, None, None]
    assert [one.seed for one in plan.students] == [3, 4]


def test_without_a_chain_a_study_is_what_it_was() -> None:
    plan = stages(ReproduceConfig(teacher="a,b", control="random"))
    assert plan.chain == ()
    assert plan.first is plan.students[0]
    assert dataclasses.replace(plan.first, teacher=None, control=None) == stages(ReproduceConfig()).students[0]


@pytest.mark.parametrize(
    "values", [{"generations": 2}, {"via": ("resnet20",)}, {"teacher_outputs": "probabilities"}, {"control": "random"}]
)
def test_another_chain_is_another_study(values: dict[str, Any]) -> None:
    one, other = (study_identity(ReproduceConfig(via=("cnn5",))), study_identity(ReproduceConfig(**values)))
    assert one != study_identity(ReproduceConfig()) != other != one
    assert study_identity(ReproduceConfig(seeds=2)) == study_identity(ReproduceConfig())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generations": 2, "control": "random"}, "--control=random is for one teacher: leave out --via and"),
        ({"via": ("cnn5", "cnn5")}, "--via=cnn5,cnn5 names a model twice"),
        (
            {"method": "fitnet", "generations": 2, "teacher_layers": ("stage2",)},
            "--teacher_layers is for one student of one teacher: leave it out, or --via and --generations",
        ),
        ({"method": "at", "via": ("resnet20",), "student_layers": ("relu2",)}, "--student_layers is for one student"),
        ({"generations": 0}, "--generations must be at least 1, not 0"),
    ],
)
def test_chains_that_make_no_sense_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        ReproduceConfig(**values)
    assert str(caught.value).startswith(message)
