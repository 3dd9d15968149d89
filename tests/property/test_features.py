"""Properties of the methods on features, on maps of a seeded generator; the references are loops in NumPy float64."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdignite.losses import kd_loss
from kdignite.methods.maps import POOLED, VARIANCE
from kdignite.methods.registry import METHODS, bind_method, check_method
from kdignite.methods.terms import Outputs, Terms

Array = npt.NDArray[np.float64]
Arrays = dict[str, Array]

EXAMPLES = settings(deadline=None, max_examples=12)
NAMES = [name for name, row in METHODS.items() if row.needs == "features"]
MAPS, RELATIONS = ("fitnet", "at", "vid", "reviewkd"), ("sp", "pkt", "rkd")
STEP = 1e-6  # of the finite differences


class Case(NamedTuple):
    """Logits (B, C), features by layer, labels (B,); float64."""

    student: Outputs
    teacher: Outputs
    labels: Tensor


@st.composite
def cases(draw: st.DrawFn, *, name: str = "") -> Case:
    number, side = partial(draw, st.integers(1, 4)), partial(draw, st.integers(1, 5 if name == "reviewkd" else 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    num_images, num_classes, layers = draw(st.integers(1, 5)), draw(st.integers(2, 4)), draw(st.integers(1, 2))
    student, teacher = {}, {}
    for layer in range(layers):
        channels = number() + (name == "pkt")  # the cosine of numbers is 1 or -1, where its logarithm is all rounding
        student[f"s{layer}"] = normal(num_images, channels, side(), side())
        own = channels if name in ("fitnet", "vid", "reviewkd", "") else number() + 1
        teacher[f"t{layer}"] = normal(num_images, own, side(), side())
    student |= learnt(name, student, generator)
    logits = (3 * normal(num_images, num_classes) for _ in range(2))
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    return Case(Outputs(next(logits), student), Outputs(next(logits), teacher), labels)


def learnt(name: str, features: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """What a projector returns besides a map for each layer."""
    if name == "vid":
        return variances(features, generator)
    *_, (layer, last) = features.items()
    pixel = torch.randn(*last.shape[:2], 1, 1, generator=generator, dtype=torch.float64)
    return {f"{layer}{POOLED}": pixel} if name == "reviewkd" else {}


def variances(features: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    draw = partial(torch.rand, generator=generator, dtype=torch.float64)
    return {f"{name}{VARIANCE}": 0.1 + 5 * draw(one.shape[1]) for name, one in features.items()}


def fixed(name: str, *, num_images: int = 4, side: int = 3, seed: int = 0) -> Case:
    """One pair of equal shapes."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, num_images, 4, side, side, generator=generator, dtype=torch.float64)
    logits = torch.randn(2, num_images, 3, generator=generator, dtype=torch.float64)
    student = {"s": maps[0]}
    student |= learnt(name, student, generator)
    return Case(Outputs(logits[0], student), Outputs(logits[1], {"t": maps[1]}), torch.arange(num_images) % 3)


def terms_of(name: str, case: Case, **given: float) -> Terms:
    terms: Terms = bind_method(name, check_method(name, given))(*case)
    return terms


def term_of(name: str, case: Case) -> Tensor:
    """What the method adds to the loss of the labels, each part with weight 1."""
    parts = terms_of(name, case).parts
    return sum((one for part, one in parts.items() if part not in ("ce", "kd")), torch.zeros(()))


def with_student(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """The case with other features of the student; variances stay."""
    features = {key: one if key.endswith(VARIANCE) else change(one) for key, one in case.student.features.items()}
    return case._replace(student=Outputs(case.student.logits, features))


def watched(case: Case) -> Case:
    """The case with features and logits whose gradient is asked for, of the teacher too."""
    both = (
        Outputs(one.logits.clone().requires_grad_(), {k: f.clone().requires_grad_() for k, f in one.features.items()})
        for one in case[:2]
    )
    return Case(*both, case.labels)


# --- references


def pool(x: Array, size: tuple[int, int]) -> Array:
    pooled = np.empty((*x.shape[:2], *size))
    ends = [
        [(i * old // new, -(-(i + 1) * old // new)) for i in range(new)]
        for old, new in zip(x.shape[2:], size, strict=True)
    ]
    for i, (top, bottom) in enumerate(ends[0]):
        for j, (left, right) in enumerate(ends[1]):
            pooled[:, :, i, j] = x[:, :, top:bottom, left:right].mean((2, 3))
    return pooled


def maps_of(student: Arrays, teacher: Arrays) -> list[tuple[Array, Array]]:
    pairs = [(s, t) for s, t in zip(student.values(), teacher.values(), strict=False)]  # before variances
    sizes = [(min(s.shape[2], t.shape[2]), min(s.shape[3], t.shape[3])) for s, t in pairs]
    return [(pool(s, size), pool(t, size)) for (s, t), size in zip(pairs, sizes, strict=True)]


def fitnet(student: Arrays, teacher: Arrays) -> dict[str, float]:
    return {"fitnet": sum(np.mean((s - t) ** 2) for s, t in maps_of(student, teacher))}


def at(student: Arrays, teacher: Arrays) -> dict[str, float]:
    def attention(f: Array) -> Array:
        energy = np.array([(image**2).mean(0).ravel() for image in f])
        return energy / np.sqrt((energy**2).sum(1, keepdims=True))

    return {"at": sum(np.mean((attention(s) - attention(t)) ** 2) for s, t in maps_of(student, teacher))}


def vid(student: Arrays, teacher: Arrays) -> dict[str, float]:
    variance = [v for k, v in student.items() if k.endswith(VARIANCE)]
    found = 0.0
    for (s, t), v in zip(maps_of(student, teacher), variance, strict=True):
        channels = [np.mean((s[:, c] - t[:, c]) ** 2) / v[c] + np.log(v[c]) for c in range(len(v))]
        found += float(np.mean(channels)) / 2
    return {"vid": found}


def reviewkd(student: Arrays, teacher: Arrays) -> dict[str, float]:
    *_, last = teacher.values()
    found = 0.0
    for s, t in maps_of(student, {**teacher, "pooled": last.mean((2, 3))[:, :, None, None]}):
        sizes = [size for size in (4, 2, 1) if size < min(s.shape[2:])]
        squares = [np.mean((s - t) ** 2)] + [np.mean((pool(s, (n, n)) - pool(t, (n, n))) ** 2) for n in sizes]
        halves = [1, 1 / 2, 1 / 4, 1 / 8][: len(squares)]
        found += float(np.average(squares, weights=halves))
    return {"reviewkd": found}


def sp(student: Arrays, teacher: Arrays) -> dict[str, float]:
    def similarities(f: Array) -> Array:
        gram = np.array([[np.sum(a * b) for a in f] for b in f])
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    sides = zip(student.values(), teacher.values(), strict=True)
    return {"sp": sum(np.sum((similarities(s) - similarities(t)) ** 2) / len(s) ** 2 for s, t in sides)}


def pkt(student: Arrays, teacher: Arrays) -> dict[str, float]:
    def affinities(f: Array) -> Array:
        e = f.mean((2, 3))
        near = np.array([[(a @ b / np.sqrt((a @ a) * (b @ b)) + 1) / 2 for a in e] for b in e])
        return near / near.sum(1, keepdims=True)

    found = 0.0
    for s, t in zip(student.values(), teacher.values(), strict=True):
        k_s, k_t = affinities(s), affinities(t)
        found += float(np.mean(k_t * np.log((k_t + 1e-7) / (k_s + 1e-7))))
    return {"pkt": found}


def rkd(student: Arrays, teacher: Arrays) -> dict[str, float]:
    def smooth_l1(a: Array, b: Array) -> float:
        gap = np.abs(a - b)
        return float(np.mean(np.where(gap < 1, gap**2 / 2, gap - 0.5)))

    def distances(e: Array) -> Array:
        found = np.array([[np.linalg.norm(a - b) for a in e] for b in e])
        return found / (found[found > 0].mean() if (found > 0).any() else 1.0)

    def angles(e: Array) -> Array:
        found = np.zeros((len(e),) * 3)
        for j, i, k in np.ndindex(found.shape):
            if j not in (i, k):
                a, b = e[i] - e[j], e[k] - e[j]
                found[j, i, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return found

    pairs = [(s.mean((2, 3)), t.mean((2, 3))) for s, t in zip(student.values(), teacher.values(), strict=True)]
    return {
        "distance": sum(smooth_l1(distances(s), distances(t)) for s, t in pairs),
        "angle": sum(smooth_l1(angles(s), angles(t)) for s, t in pairs),
    }


REFERENCES: dict[str, Callable[[Arrays, Arrays], dict[str, float]]] = {
    "fitnet": fitnet,
    "at": at,
    "vid": vid,
    "reviewkd": reviewkd,
    "sp": sp,
    "pkt": pkt,
    "rkd": rkd,
}


def arrays(features: Any) -> Arrays:
    return {name: one.detach().numpy().copy() for name, one in features.items()}


def slopes(of: Callable[[Arrays], float], features: Arrays) -> Arrays:
    """The gradient by central differences."""
    found = {name: np.empty_like(one) for name, one in features.items()}
    for name, one in features.items():
        for place in np.ndindex(one.shape):
            middle = one[place]
            ends = []
            for step in (STEP, -STEP):
                one[place] = middle + step
                ends.append(of(features))
            one[place] = middle
            found[name][place] = (ends[0] - ends[1]) / (2 * STEP)
    return found


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@EXAMPLES
def test_value_and_gradient_are_those_of_the_equation(name: str, data: st.DataObject) -> None:
    case = watched(data.draw(cases(name=name)))
    alpha, T = data.draw(st.sampled_from([(0.0, 4.0), (0.3, 2.0), (1.0, 5.0)]))
    weights = {key: 0.7 + number for number, key in enumerate(METHODS[name].parameters) if key.startswith("weight")}
    terms = terms_of(name, case, alpha=alpha, T=T, **weights)
    student, teacher = arrays(case.student.features), arrays(case.teacher.features)
    expected = REFERENCES[name](student, teacher)
    beside = kd_loss(case.student.logits, case.teacher.logits, case.labels, alpha=alpha, T=T)
    logits = {"ce": beside.ce.item()} | ({"kd": beside.kd.item()} if alpha else {})
    assert {key: part.item() for key, part in terms.parts.items()} == pytest.approx(
        expected | logits, rel=1e-9, abs=1e-12
    )

    def weighted(student: Arrays) -> float:
        parts = REFERENCES[name](student, teacher).values()
        return sum(weight * part for weight, part in zip(weights.values(), parts, strict=True))

    assert terms.loss.item() == pytest.approx(beside.loss.item() + weighted(student), rel=1e-9, abs=1e-12)
    found = torch.autograd.grad(terms.loss, list(case.student.features.values()))
    for gradient, slope in zip(found, slopes(weighted, student).values(), strict=True):
        np.testing.assert_allclose(gradient.numpy(), slope, rtol=1e-4, atol=1e-6)


# --- invariances


def rotation(size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64)).Q


def rotated(f: Tensor) -> Tensor:
    """All features of an image, pixels and channels, by one orthogonal map."""
    return (f.flatten(1) @ rotation(f[0].numel())).reshape(f.shape)


def turned(f: Tensor) -> Tensor:
    """The channels of every pixel by one orthogonal map."""
    return torch.einsum("bchw,cd->bdhw", f, rotation(f.shape[1]))


def scaled(f: Tensor) -> Tensor:
    """Every image by a number of its own."""
    return f * torch.linspace(0.01, 100, len(f), dtype=f.dtype)[:, None, None, None]


UNSEEN: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "at": [scaled, lambda f: f.flip(1), lambda f: -f],
    "sp": [rotated, turned, lambda f: 30 * f],
    "pkt": [scaled, turned],
    "rkd": [turned, lambda f: 30 * f, lambda f: f + torch.arange(f.shape[1])[None, :, None, None]],
}
SEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "fitnet": lambda f: 2 * f,
    "vid": lambda f: 2 * f,
    "reviewkd": lambda f: 2 * f,
    "at": lambda f: f.roll(1, 2),
    "sp": scaled,
    "pkt": lambda f: f + 1,
    "rkd": scaled,
}


@pytest.mark.parametrize(
    ("name", "number"), [(name, i) for name, changes in UNSEEN.items() for i in range(len(changes))]
)
def test_what_a_method_does_not_see(name: str, number: int) -> None:
    case = fixed(name, num_images=5)
    torch.testing.assert_close(term_of(name, with_student(case, UNSEEN[name][number])), term_of(name, case))


@pytest.mark.parametrize("name", SEEN)
def test_what_a_method_sees(name: str) -> None:
    case = fixed(name, num_images=5)
    assert abs(term_of(name, with_student(case, SEEN[name])) - term_of(name, case)) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_images_does_not_matter(name: str) -> None:
    case = fixed(name, num_images=5)
    order = torch.tensor([3, 0, 4, 1, 2])
    student = {k: f if k.endswith(VARIANCE) else f[order] for k, f in case.student.features.items()}
    teacher = {k: f[order] for k, f in case.teacher.features.items()}
    shuffled = Case(
        Outputs(case.student.logits[order], student), Outputs(case.teacher.logits[order], teacher), case.labels[order]
    )
    torch.testing.assert_close(terms_of(name, shuffled, alpha=0.5).loss, terms_of(name, case, alpha=0.5).loss)


@pytest.mark.parametrize("name", NAMES)
def test_equal_features_are_stationary_and_only_a_density_is_not_0(name: str) -> None:
    case = fixed(name)
    own = case.teacher.features["t"]
    same = {"s": own, f"s{POOLED}": own.mean((2, 3), keepdim=True)}
    student = {key: same.get(key, one) for key, one in case.student.features.items()}
    equal = watched(case._replace(student=Outputs(case.student.logits, student)))
    term = term_of(name, equal)
    (gradient,) = torch.autograd.grad(term, [equal.student.features["s"]])
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-8 if name == "pkt" else 1e-12, rtol=0)
    log_variance = sum(f.log().mean() / 2 for k, f in student.items() if k.endswith(VARIANCE))
    assert term.item() == pytest.approx(float(log_variance), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "num_images", "side"),
    [("at", 3, 1), ("sp", 1, 3), ("pkt", 1, 3), ("rkd", 1, 3), ("rkd", 2, 3)],
)
def test_a_term_that_is_constant_is_0_without_gradient(name: str, num_images: int, side: int) -> None:
    case = watched(fixed(name, num_images=num_images, side=side))
    term = term_of(name, case)
    (gradient,) = torch.autograd.grad(term, [case.student.features["s"]])
    assert abs(term.item()) < 1e-12
    assert float(gradient.abs().max()) < 1e-12
    row = {one.part: one.images for one in METHODS[name].constant}
    assert name == "at" or all(num_images <= images for images in row.values())


# --- hard values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("values", ["large", "zero", "constant", "equal pair"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_are_finite_and_the_teacher_gets_none(name: str, values: str, dtype: torch.dtype) -> None:
    def hard(f: Tensor) -> Tensor:
        changed = {
            "large": 500 * f.sign(),
            "zero": torch.cat([torch.zeros_like(f[:2]), f[2:]]),  # images that no ReLU let through
            "constant": torch.ones_like(f),
            "equal pair": f[[0, 0, *range(2, len(f))]],
        }
        return changed[values]

    case = with_student(fixed(name), hard)
    student, teacher = (
        Outputs(
            (500 * one.logits.sign()).to(dtype),
            {k: f.to(torch.float32 if k.endswith(VARIANCE) else dtype) for k, f in one.features.items()},
        )
        for one in case[:2]
    )
    case = watched(Case(student, teacher, case.labels))
    terms = terms_of(name, case, alpha=0.5)
    terms.loss.backward()
    assert terms.loss.dtype == torch.float32
    for one in (case.student.logits, *case.student.features.values()):
        assert torch.isfinite(one.grad).all()
        assert float(one.grad.abs().max()) < 1e6  # with weights up to 30000
    assert torch.isfinite(terms.loss)
    assert case.teacher.logits.grad is None
    assert all(one.grad is None for one in case.teacher.features.values())


@pytest.mark.parametrize("name", NAMES)
def test_autocast_and_channels_last_change_nothing(name: str) -> None:
    case = fixed(name, num_images=6, side=4)
    single = Case(
        *(Outputs(one.logits.float(), {k: f.float() for k, f in one.features.items()}) for one in case[:2]), case.labels
    )
    plain = terms_of(name, single, alpha=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = terms_of(name, single, alpha=0.5)
    assert torch.equal(mixed.loss, plain.loss)
    last = with_student(single, lambda f: f.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(terms_of(name, last, alpha=0.5).loss, plain.loss, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", RELATIONS)
def test_relations_take_vectors_and_tokens_too(name: str) -> None:
    case = fixed(name)
    vectors, tokens = case.student.features["s"].mean((2, 3)), case.student.features["s"].flatten(2).mT
    found = [
        term_of(name, case._replace(student=Outputs(case.student.logits, {"s": one})))
        for one in (vectors, tokens, vectors[:, None])
    ]
    torch.testing.assert_close(found[0], found[2])
    if name == "sp":  # which flattens
        torch.testing.assert_close(found[1], term_of(name, case))
    else:
        torch.testing.assert_close(found[1], found[0])


def test_every_method_on_features_is_here() -> None:
    assert set(REFERENCES) == set(NAMES) == {*MAPS, *RELATIONS} == set(SEEN)
