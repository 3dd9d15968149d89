"""Every method on logits against its equation in NumPy, its invariances, its limits, and the edges of its domain.

The references use probabilities as the equations are printed, in complex128: the derivative along a logit is the
imaginary part of the loss at ``z + 1e-30j``, exact to rounding.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdignite.data.batches import Batch
from kdignite.losses import standardized
from kdignite.methods.logit_rows import LOGIT_METHODS
from kdignite.methods.registry import METHODS, bind_method, check_method, constant_parts
from kdignite.methods.terms import Outputs, Terms
from kdignite.steps import distill_step

Array = npt.NDArray[Any]
EXAMPLES = settings(deadline=None, max_examples=25)
STEP = 1e-30
EACH = pytest.mark.parametrize("name", LOGIT_METHODS)
SWITCHED = [name for name, row in LOGIT_METHODS.items() if "standardize" in row.parameters]
VARIANTS = [*((name, {}) for name in LOGIT_METHODS), *((name, {"standardize": True}) for name in SWITCHED)]
EACH_VARIANT = pytest.mark.parametrize(("name", "switch"), VARIANTS, ids=[n + "-std" * bool(s) for n, s in VARIANTS])


class Case(NamedTuple):
    """Logits (B, C) float64 and labels (B,)."""

    student: Tensor
    teacher: Tensor
    labels: Tensor


# --- references


def softmax(z: Array) -> Array:
    powers = np.exp(z - z.real.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def kl(p: Array, q: Array) -> Array:
    return (p * (np.log(p) - np.log(q))).sum(1)


def scored(z: Array) -> Array:
    """z-scores of rows, the deviation with C - 1, at least 0.01."""
    z = z - z.mean(1, keepdims=True)
    deviation = np.sqrt((z**2).sum(1, keepdims=True) / (z.shape[1] - 1) + 0j)
    return z / np.where(deviation.real > 0.01, deviation, 0.01)


def without(z: Array, labels: Array) -> Array:
    return np.array([np.delete(row, label) for row, label in zip(z, labels, strict=True)])


def of(p: Array, labels: Array) -> Array:
    return p[np.arange(len(labels)), labels]


def norm(rows: Array) -> Array:
    return np.sqrt((rows**2).sum(1) + 0j)


def pearson(s: Array, t: Array) -> Array:
    """Of rows; a deviation of s, as a share of its norm, is at least a tenth of that of t."""
    a, b = s - s.mean(1, keepdims=True), t - t.mean(1, keepdims=True)
    least = 0.1 * norm(s) * norm(b) / norm(t)
    return (a * b).sum(1) / (np.where(norm(a).real > least.real, norm(a), least) * norm(b) + 1e-8)


def nearly_constant(student: Array, teacher: Array) -> bool:
    """Whether a row or a column of the student deviates less than a tenth of what that of the teacher does."""
    for rows in ((student, teacher), (student.T, teacher.T)):
        own, other = (norm(one - one.mean(1, keepdims=True)).real / norm(one).real for one in rows)
        if (own < 0.1 * other).any():
            return True
    return False


def kd(s: Array, t: Array, y: Array, *, T: float, standardize: bool, **_: float) -> dict[str, Any]:
    s, t = (scored(s), scored(t)) if standardize else (s, t)
    return {"kd": T**2 * kl(softmax(t / T), softmax(s / T)).mean()}


def logit_mse(s: Array, t: Array, y: Array, **_: float) -> dict[str, Any]:
    difference = (s - s.mean(1, keepdims=True)) - (t - t.mean(1, keepdims=True))
    return {"mse": (difference**2).sum(1).mean() / (2 * s.shape[1])}


def dkd(s: Array, t: Array, y: Array, *, T: float, standardize: bool, **_: float) -> dict[str, Any]:
    s, t = (scored(s), scored(t)) if standardize else (s, t)
    right_s, right_t = of(softmax(s / T), y), of(softmax(t / T), y)
    # 1 - p as the sum of the others, which does not cancel
    wrong_s, wrong_t = (without(softmax(z / T), y).sum(1) for z in (s, t))
    pair_s, pair_t = np.stack([right_s, wrong_s], 1), np.stack([right_t, wrong_t], 1)
    others = kl(softmax(without(t, y) / T), softmax(without(s, y) / T))
    return {"tckd": T**2 * kl(pair_t, pair_s).mean(), "nckd": T**2 * others.mean()}


def dist(s: Array, t: Array, y: Array, *, tau: float, **_: float) -> dict[str, Any]:
    p, q = softmax(s / tau), softmax(t / tau)
    return {"inter": tau**2 * (1 - pearson(p, q).mean()), "intra": tau**2 * (1 - pearson(p.T, q.T).mean())}


def nkd(s: Array, t: Array, y: Array, *, T: float, **_: float) -> dict[str, Any]:
    other_s, other_t = softmax(without(s, y) / T), softmax(without(t, y) / T)
    return {
        "target": -(of(softmax(t), y) * np.log(of(softmax(s), y))).mean(),
        "nontarget": -(T**2) * (other_t * np.log(other_s)).sum(1).mean(),
    }


def wsld(s: Array, t: Array, y: Array, *, T: float, **_: float) -> dict[str, Any]:
    ce_s, ce_t = -np.log(of(softmax(s), y)).real, -np.log(of(softmax(t), y)).real  # no derivative flows through them
    soft = -(softmax(t / T) * np.log(softmax(s / T))).sum(1)
    return {"wsl": T**2 * ((1 - np.exp(-ce_s / (ce_t + 1e-7))) * soft).mean()}


def ttm(s: Array, t: Array, y: Array, *, gamma: float, **_: float) -> dict[str, Any]:
    powers = softmax(t) ** gamma
    return {"ttm": kl(powers / powers.sum(1, keepdims=True), softmax(s)).mean()}


def wttm(s: Array, t: Array, y: Array, *, gamma: float, **_: float) -> dict[str, Any]:
    powers = softmax(t) ** gamma
    U = powers.sum(1)
    return {"wttm": (U * kl(powers / U[:, None], softmax(s))).mean()}


def blend(part: str) -> Callable[..., Any]:
    return lambda p, *, alpha, **_: (1 - alpha) * p["ce"] + alpha * p[part]


REFERENCES: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., Any]]] = {
    "kd": (kd, blend("kd")),
    "logit_mse": (logit_mse, blend("mse")),
    "dkd": (dkd, lambda p, *, alpha, beta, **_: alpha * p["tckd"] + beta * p["nckd"]),
    "dist": (dist, lambda p, *, beta, gamma, **_: 2 * beta * p["inter"] + 2 * gamma * p["intra"]),
    "nkd": (nkd, lambda p, *, gamma, **_: p["target"] + gamma * p["nontarget"]),
    "wsld": (wsld, lambda p, *, alpha, **_: alpha * p["wsl"]),
    "ttm": (ttm, lambda p, *, beta, **_: beta * p["ttm"]),
    "wttm": (wttm, lambda p, *, beta, **_: beta * p["wttm"]),
}


def reference(name: str, *logits: Array, parameters: Mapping[str, Any], smoothing: float) -> dict[str, Any]:
    s, t, y = logits
    target = (1 - smoothing) * np.eye(s.shape[1])[y] + smoothing / s.shape[1]
    parts_of, loss_of = REFERENCES[name]
    parts = {"ce": -(target * np.log(softmax(s))).sum(1).mean(), **parts_of(s, t, y, **parameters)}
    return {**parts, "loss": parameters.get("ce_weight", 0.0) * parts["ce"] + loss_of(parts, **parameters)}


# --- what is tried


@st.composite
def cases(draw: st.DrawFn, *, min_images: int = 1, min_classes: int = 2) -> Case:
    n, c = draw(st.integers(min_images, 5)), draw(st.integers(min_classes, 6))
    scale = draw(st.sampled_from([0.1, 1.0, 10.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    student, teacher = scale * torch.randn(2, n, c, generator=generator, dtype=torch.float64)
    return Case(student, teacher, torch.randint(c, (n,), generator=generator))


def parameters_of(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Values in the domains of the row; temperatures from 0.5 to 20."""
    found: dict[str, st.SearchStrategy[Any]] = {}
    for key, one in METHODS[name].parameters.items():
        temperature = one.high == 1000
        low, high = (0.5, 20) if temperature else (one.low if one.above is None else 0.05, one.high or 10)
        found[key] = st.booleans() if one.type is bool else st.floats(low, high)
    return st.fixed_dictionaries(found)


def terms_of(name: str, case: Case, **given: Any) -> Terms:
    smoothing = given.pop("label_smoothing", 0.0)
    method = bind_method(name, check_method(name, given), label_smoothing=smoothing)
    terms: Terms = method(Outputs(case.student), Outputs(case.teacher), case.labels)
    return terms


def values_of(name: str, case: Case, **given: Any) -> dict[str, Tensor]:
    terms = terms_of(name, case, **given)
    return {**terms.parts, "loss": terms.loss}


def gradients_of(name: str, case: Case, **given: Any) -> dict[str, Tensor]:
    """Of the loss and of each part, to the student's logits."""
    student = case.student.clone().requires_grad_()
    values = values_of(name, case._replace(student=student), **given)
    return {key: torch.autograd.grad(value, student, retain_graph=True)[0] for key, value in values.items()}


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Any], *, tolerance: float = 1e-9) -> None:
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        other = torch.as_tensor(expected[key], dtype=torch.float64)
        torch.testing.assert_close(
            value.double(), other, rtol=tolerance, atol=tolerance * (1 + float(other.abs().max())), msg=key
        )


# --- value and gradient


def test_every_method_has_a_reference() -> None:
    assert REFERENCES.keys() == {name for name, row in METHODS.items() if row.needs == "logits"}


@EACH
@EXAMPLES
@given(data=st.data())
def test_value_and_gradient_are_those_of_the_equation(name: str, data: st.DataObject) -> None:
    case, parameters = data.draw(cases()), data.draw(parameters_of(name))
    smoothing = data.draw(st.sampled_from([0.0, 0.1]))
    s, t, y = (one.numpy() for one in case)
    s = s.astype(np.complex128)
    equation = partial(reference, name, parameters=parameters, smoothing=smoothing)
    values = equation(s, t, y)
    given = {**parameters, "label_smoothing": smoothing}
    expected = {key: value.real for key, value in values.items()}
    # wsld divides by cross-entropies, which of a label that is almost certain have few digits: 1e-8 of 1e-16
    assert_same(values_of(name, case, **given), expected, tolerance=1e-6 if name == "wsld" else 1e-9)
    slopes = {key: np.zeros(s.shape) for key in values}
    for place in np.ndindex(s.shape):
        moved = s.copy()
        moved[place] += STEP * 1j
        for key, value in equation(moved, t, y).items():
            slopes[key][place] = value.imag / STEP
    assert_same(gradients_of(name, case, **given), slopes, tolerance=1e-6 if name == "wsld" else 1e-8)


# --- invariances


@EACH_VARIANT
@EXAMPLES
@given(case=cases(), one=st.floats(-50, 50), two=st.floats(-50, 50))
def test_a_constant_added_to_a_row_changes_nothing(name: str, switch: dict, case: Case, one: float, two: float) -> None:
    steps = torch.arange(1, len(case.labels) + 1, dtype=torch.float64)[:, None]
    moved = case._replace(student=case.student + one * steps, teacher=case.teacher + two * steps)
    assert_same(values_of(name, moved, **switch), values_of(name, case, **switch), tolerance=1e-8)


@EACH_VARIANT
@EXAMPLES
@given(case=cases(), random=st.randoms(use_true_random=False))
def test_images_and_classes_have_no_order(name: str, switch: dict, case: Case, random: Any) -> None:
    n, c = case.student.shape
    images, classes = (torch.tensor(random.sample(range(size), size)) for size in (n, c))
    turned = Case(
        case.student[images][:, classes], case.teacher[images][:, classes], torch.argsort(classes)[case.labels[images]]
    )
    assert_same(values_of(name, turned, **switch), values_of(name, case, **switch))
    expected = {key: one[images][:, classes] for key, one in gradients_of(name, case, **switch).items()}
    assert_same(gradients_of(name, turned, **switch), expected, tolerance=1e-8)


@pytest.mark.parametrize("name", SWITCHED)
@EXAMPLES
@given(case=cases(min_classes=3), scale=st.floats(0.5, 20), shift=st.floats(-20, 20))
def test_standardized_logits_have_no_scale(name: str, case: Case, scale: float, shift: float) -> None:
    case = case._replace(student=case.student + 0.1 * torch.arange(case.student.shape[1]))  # off the floor
    expected = values_of(name, case, standardize=True)
    for moved in (case._replace(student=scale * case.student + shift), case._replace(teacher=scale * case.teacher)):
        if all(logits.std(1).min() > 0.03 for logits in (*moved[:2], *case[:2])):
            found = values_of(name, moved, standardize=True)
            part = {key: value for key, value in found.items() if key not in ("ce", "loss")}
            assert_same(part, {key: expected[key] for key in part}, tolerance=1e-7)


def test_the_floor_of_the_deviation_keeps_gradients_of_flat_logits_small() -> None:
    teacher = torch.tensor([[3.0, 1.0, 0.0, -2.0]], dtype=torch.float64)
    norms = []
    for size in (1.0, 1e-2, 1e-4, 0.0):
        case = Case(size * teacher.flip(1), teacher, torch.tensor([0]))
        norms.append(float(gradients_of("kd", case, standardize=True)["kd"].norm()))
    assert all(np.isfinite(norms))
    assert norms[-1] == pytest.approx(norms[-2], rel=0.1)
    assert norms[-1] < 100  # 2e6, if the deviation itself were divided by
    torch.testing.assert_close(standardized(teacher).std(1), torch.ones(1, dtype=torch.float64))
    negative = values_of("kd", Case(-teacher, teacher, torch.tensor([0])), standardize=True)
    assert negative["kd"] > 0.1


@EXAMPLES
@given(case=cases(min_images=3, min_classes=3), share=st.floats(0.3, 1), tau=st.floats(1, 8))
def test_dist_does_not_see_an_affine_map_of_the_probabilities(case: Case, share: float, tau: float) -> None:
    case = case._replace(student=case.student.clamp(-2, 2), teacher=case.teacher.clamp(-2, 2))
    mixed = share * torch.softmax(case.student / tau, 1) + (1 - share) / case.student.shape[1]
    assume(not nearly_constant(mixed.numpy(), torch.softmax(case.teacher / tau, 1).numpy()))
    before, after = (values_of("dist", one, tau=tau) for one in (case, case._replace(student=tau * torch.log(mixed))))
    for part in ("inter", "intra"):  # but for what is added to small norms, which tau below 1 would make
        torch.testing.assert_close(after[part], before[part], rtol=0.02, atol=1e-2 * tau**2)
    if share == 1:
        assert_same(after, before)


@EXAMPLES
@given(case=cases(min_images=3, min_classes=3), tau=st.floats(1, 4))
def test_dist_is_of_pearsons_correlation(case: Case, tau: float) -> None:
    s, t = (torch.softmax(logits / tau, 1).numpy() for logits in case[:2])
    assume(not nearly_constant(s, t))
    found = values_of("dist", case, tau=tau)
    for part, rows in {"inter": (s, t), "intra": (s.T, t.T)}.items():
        if min(norm(one - one.mean(1, keepdims=True)).real.min() for one in rows) > 0.02:  # 1e-8 is little beside it
            r = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*rows, strict=True)])
            assert float(found[part]) == pytest.approx(tau**2 * (1 - r), abs=1e-4 * tau**2)


@pytest.mark.parametrize("tau", [1.0, 4.0, 20.0])
def test_dist_has_a_small_gradient_to_nearly_constant_logits(tau: float) -> None:
    """Not much more than ten times that at the teacher's own deviation; without an end it would grow like 1 / size."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 64, 10, generator=generator, dtype=torch.float64)
    sizes = (1.0, 1e-2, 1e-4, 1e-8, 0.0)
    slopes = [gradients_of("dist", Case(size * student, teacher, torch.arange(64) % 10), tau=tau) for size in sizes]
    for part in ("inter", "intra"):
        usual, *small = (float(one[part].norm()) for one in slopes)
        assert 0 < small[-1] < 30 * usual
        assert small == pytest.approx([small[-1]] * len(small), rel=0.1)
    constant = gradients_of("dist", Case(student, torch.ones_like(teacher), torch.arange(64) % 10), tau=tau)
    assert max(float(constant[part].norm()) for part in ("inter", "intra")) < 1e-6


@pytest.mark.parametrize("name", ["kd", "dist"])
def test_a_head_that_begins_with_zeros_learns(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = nn.functional.layer_norm(torch.randn(500, 192, generator=generator), (192,))
    teacher = features @ (0.25 * torch.randn(192, 10, generator=generator))
    labels, method = teacher.argmax(1), bind_method(name, check_method(name, {}))
    head = torch.zeros(192, 10, requires_grad=True)
    optimizer = torch.optim.SGD([head], lr=0.01, momentum=0.9, nesterov=True)
    for some in torch.arange(500).split(100) * 6:
        optimizer.zero_grad()
        method(Outputs(features[some] @ head), Outputs(teacher[some]), labels[some]).loss.backward()
        optimizer.step()
    logits = (features @ head).detach()
    assert float(nn.functional.cross_entropy(logits, labels)) < 2  # 2.3 at the start
    assert float((logits.argmax(1) == labels).float().mean()) > 0.6


def test_dist_sees_the_scale_of_logits() -> None:
    case = Case(*torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), torch.arange(4))
    before, after = (values_of("dist", one) for one in (case, case._replace(student=3 * case.student)))
    assert abs(after["inter"] - before["inter"]) > 0.1


# --- limits and identities


def one_image(case: Case, image: int) -> Case:
    return Case(*(tensor[image : image + 1] for tensor in case))


@EXAMPLES
@given(case=cases(), T=st.floats(0.5, 20))
def test_dkd_and_nkd_are_kd_taken_apart(case: Case, T: float) -> None:
    for image in range(len(case.labels)):
        one = one_image(case, image)
        whole, parts = values_of("kd", one, T=T)["kd"], values_of("dkd", one, T=T)
        right = torch.softmax(one.teacher / T, 1)[0, one.labels[0]]
        assert_same({"kd": parts["tckd"] + (1 - right) * parts["nckd"]}, {"kd": whole})
        parts = values_of("nkd", one, T=1.0)
        s, t = torch.softmax(one.student, 1)[0], torch.softmax(one.teacher, 1)[0]
        y, others = one.labels[0], torch.arange(len(s)) != one.labels[0]
        rest = t[others].sum()
        expected = parts["target"] - rest * torch.log(s[others].sum()) + rest * parts["nontarget"]
        assert_same({"ce": expected}, {"ce": -(t * torch.log_softmax(one.student, 1)[0]).sum()}, tolerance=1e-8)
        certain = one._replace(teacher=1000 * torch.eye(len(s), dtype=torch.float64)[y][None])
        found = values_of("nkd", certain)
        assert_same({"target": found["target"]}, {"target": found["ce"]})
    nckd, nontarget = gradients_of("dkd", case, T=T)["nckd"], gradients_of("nkd", case, T=T)["nontarget"]
    assert_same({"others": nckd}, {"others": nontarget})


@EXAMPLES
@given(case=cases(), T=st.floats(0.5, 20))
def test_limits_of_kd(case: Case, T: float) -> None:
    certain = case._replace(teacher=1000 * torch.eye(case.student.shape[1], dtype=torch.float64)[case.labels])
    found = values_of("kd", certain, T=1.0)
    assert_same({"kd": found["kd"]}, {"kd": found["ce"]})
    plain = values_of("kd", case, T=1.0)["kd"]
    for name in ("ttm", "wttm"):
        assert_same({"kd": values_of(name, case, gamma=1.0)[name]}, {"kd": plain})
    fitted = case._replace(student=1000 * torch.eye(case.student.shape[1], dtype=torch.float64)[case.labels])
    assert values_of("wsld", fitted, T=T)["wsl"] == 0  # the student's cross-entropy is 0
    doubtful = certain._replace(student=case.student.clamp(-3, 3))  # the teacher's is 0: every weight is 1
    slopes = gradients_of("wsld", doubtful, T=T)["wsl"], gradients_of("kd", doubtful, T=T)["kd"]
    assert_same({"wsl": slopes[0]}, {"wsl": slopes[1]})


@EXAMPLES
@given(case=cases(), gamma=st.floats(0.05, 0.9))
def test_ttm_is_kd_and_a_term_that_evens_the_student_out(case: Case, gamma: float) -> None:
    T = 1 / gamma
    for image in range(len(case.labels)):
        one = one_image(case, image)
        q, log_s = torch.softmax(gamma * one.teacher, 1), torch.log_softmax(one.student, 1)
        renyi = torch.logsumexp(gamma * log_s, 1).mean() / (1 - gamma)
        entropy = -(q * torch.log_softmax(gamma * one.teacher, 1)).sum()
        kd = values_of("kd", one, T=T)["kd"] / T**2
        ttm, wttm = values_of("ttm", one, gamma=gamma)["ttm"], values_of("wttm", one, gamma=gamma)["wttm"]
        assert_same({"ttm": ttm}, {"ttm": T * kd - (T - 1) * renyi + (T - 1) * entropy}, tolerance=1e-8)
        assert 1 - 1e-9 <= wttm / ttm <= one.student.shape[1] ** (1 - gamma) + 1e-9


# --- at equality


@EACH_VARIANT
@EXAMPLES
@given(case=cases(min_images=3, min_classes=3))
def test_which_parts_are_stationary_where_student_and_teacher_are_equal(name: str, switch: dict, case: Case) -> None:
    case = case._replace(student=case.teacher)
    values, slopes = values_of(name, case, **switch), gradients_of(name, case, **switch)
    moving = {"ce", "loss", "target", "ttm", "wttm"}
    not_0 = {*moving, "nontarget", "wsl"}
    for part, slope in slopes.items():
        if part in {"inter", "intra"}:  # but for the 1e-8 in the denominator, next to flat probabilities
            continue
        assert part in moving or slope.abs().max() < 1e-10
        assert part in not_0 or values[part].abs() < 1e-10
    if name == "wsld":
        T = METHODS[name].parameters["T"].default
        entropy = torch.distributions.Categorical(logits=case.teacher / T).entropy()
        ce = nn.functional.cross_entropy(case.teacher, case.labels, reduction="none")
        weights = 1 - torch.exp(-ce / (ce + 1e-7))  # 1 - 1/e, but for a teacher without doubt
        assert_same({"wsl": values["wsl"]}, {"wsl": T**2 * (weights * entropy).mean()})


def test_what_moves_where_student_and_teacher_are_equal() -> None:
    teacher = 2 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    case = Case(teacher, teacher, torch.arange(6) % 5)
    for part in ("inter", "intra"):
        assert values_of("dist", case, tau=1.0)[part] < 1e-5
        assert gradients_of("dist", case, tau=1.0)[part].abs().max() < 1e-6
    assert (gradients_of("nkd", case)["target"][torch.arange(6), case.labels] < 0).all()  # s_y rises towards 1
    for name in ("ttm", "wttm"):
        assert gradients_of(name, case)[name].abs().max() > 1e-3
        gamma = METHODS[name].parameters["gamma"].default
        softened = case._replace(student=gamma * teacher)
        assert gradients_of(name, softened)[name].abs().max() < 1e-12
        assert values_of(name, softened)[name].abs() < 1e-12


# --- numbers, devices, and the edges of the domain


def extreme(c: int) -> Case:
    """Logits of +-500 in every mixture, constant rows, and certain networks that agree or not."""
    signs = 500.0 * (2 * torch.randint(0, 2, (2, 8, c), generator=torch.Generator().manual_seed(c)) - 1)
    student, teacher = signs
    student[0], teacher[1], student[2], teacher[2] = 0.0, 500.0, -500.0, -500.0
    student[3], teacher[3] = 500 * torch.eye(c)[0], -500 * torch.eye(c)[0]
    student[4], teacher[4] = teacher[4].clone(), teacher[4].clone()
    return Case(student, teacher, torch.arange(8) % c)


@EACH_VARIANT
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("images", [1, 8])
def test_large_logits_of_any_type_give_numbers(name: str, switch: dict, dtype: torch.dtype, images: int) -> None:
    for c in (2, 10):
        whole = extreme(c)
        for start in range(0, 8, images):
            case = Case(*(tensor[start : start + images] for tensor in whole))
            half = case._replace(student=case.student.to(dtype), teacher=case.teacher.to(dtype).requires_grad_())
            values, slopes = values_of(name, half, **switch), gradients_of(name, half, **switch)
            assert all(torch.isfinite(one).all() for one in (*values.values(), *slopes.values()))
            promoted = half._replace(student=half.student.float(), teacher=half.teacher.float())
            assert_same(values, values_of(name, promoted, **switch), tolerance=0)
            assert {one.dtype for one in values.values()} == {torch.float32}
            values_of(name, half._replace(student=half.student.clone().requires_grad_()), **switch)["loss"].backward()
            assert half.teacher.grad is None


class Step(NamedTuple):
    parts: dict[str, Tensor]
    weight: Tensor


def stepped(name: str, switch: dict, *, amp: str = "off", memory_format: torch.memory_format) -> Step:
    """A training step of a small network."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))
        images, logits = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.randn(6, 5)
    network = network.to(memory_format=memory_format)  # type: ignore[call-overload]
    method = bind_method(name, check_method(name, switch), label_smoothing=0.0)
    step = distill_step(
        network,
        torch.optim.SGD(network.parameters(), lr=1e-3),
        lambda batch: Outputs(logits),
        method=method,
        prepare=lambda images: (images / 255).contiguous(memory_format=memory_format),
        amp=amp,
    )
    parts = step(None, Batch(images, torch.arange(6) % 5, torch.arange(6), 0))
    return Step(parts, network[-1].weight.detach())


@EACH_VARIANT
def test_a_step_in_mixed_precision_and_channels_last_is_the_same(name: str, switch: dict) -> None:
    plain = stepped(name, switch, memory_format=torch.contiguous_format)
    last = stepped(name, switch, memory_format=torch.channels_last)
    mixed = stepped(name, switch, memory_format=torch.channels_last, amp="bf16")
    assert all(part.dtype != torch.bfloat16 for part in mixed.parts.values())
    for key, value in plain.parts.items():
        torch.testing.assert_close(last.parts[key], value, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mixed.parts[key], value, rtol=0.05, atol=0.05 if key != "correct" else 1)
    torch.testing.assert_close(last.weight, plain.weight, rtol=1e-3, atol=1e-5)
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(3))
    case = Case(*logits, torch.arange(6) % 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = values_of(name, case, **switch)
    assert_same(inside, values_of(name, case, **switch), tolerance=0)


@EACH_VARIANT
@EXAMPLES
@given(case=cases())
def test_a_batch_is_the_mean_of_its_images(name: str, switch: dict, case: Case) -> None:
    if name == "dist":  # intra is between images; of one image it is a constant
        one = one_image(case, 0)
        assert values_of("dist", one)["intra"] == 16
        assert not gradients_of("dist", one)["intra"].any()
        return
    each = [values_of(name, one_image(case, image), **switch) for image in range(len(case.labels))]
    means = {key: torch.stack([values[key] for values in each]).mean() for key in each[0]}
    assert_same(values_of(name, case, **switch), means)


@EXAMPLES
@given(case=cases().filter(lambda case: case.student.shape[1] == 2), T=st.floats(0.5, 20))
def test_of_two_classes_nothing_is_left_among_the_others(case: Case, T: float) -> None:
    found = values_of("dkd", case, T=T)
    assert found["nckd"] == 0
    assert values_of("nkd", case, T=T)["nontarget"] == 0
    assert_same({"tckd": found["tckd"]}, {"tckd": values_of("kd", case, T=T)["kd"]})


@EACH_VARIANT
@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("num_images", [1, 2, 3, 8])
def test_a_row_says_which_parts_are_constant(name: str, switch: dict, num_classes: int, num_images: int) -> None:
    generator = torch.Generator().manual_seed(2)
    draws = (torch.randn(2, num_images, num_classes, generator=generator, dtype=torch.float64) for _ in range(1000))
    logits = next(one for one in draws if not nearly_constant(*one.softmax(2).numpy()))
    case = Case(*logits, torch.randint(num_classes, (num_images,), generator=generator))
    softest = {key: 1.0 for key in ("T", "tau") if key in METHODS[name].parameters}
    slopes = gradients_of(name, case, **switch, **softest)
    sizes = {key: float(num_images * num_classes * slope.abs().median()) for key, slope in slopes.items()}
    parts = [key for key in slopes if key != "loss"]
    constant = {part for part in parts if sizes[part] < 2e-3}
    ask = partial(constant_parts, name, check_method(name, switch), parts, num_classes=num_classes)
    if constant == {*parts} - {"ce"}:
        with pytest.raises(Exception, match=f"--method={name} learns nothing from its teacher here"):
            ask(num_images=num_images)
    else:
        said = ask(num_images=num_images)
        assert {line.split()[1] for line in said} == constant
