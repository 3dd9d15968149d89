"""The table of methods: rows, parameters, functions of one's own, and what a training could not use."""

import ast
import inspect
import pkgutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import kdignite as kd
from kdignite.commands.methods import describe_method
from kdignite.config import (
    Config,
    DistillConfig,
    ReproduceConfig,
    SearchConfig,
    SweepConfig,
    configure,
    from_json,
    sweep_configs,
    to_json,
)
from kdignite.errors import UserError
from kdignite.handlers import COLUMNS
from kdignite.losses import cross_entropy, kd_divergence
from kdignite.methods.logits import logit_mse
from kdignite.methods.maps import POOLED, VARIANCE
from kdignite.methods.registry import METHODS, TRAINING, bind_method, check_method, find_method, name_of
from kdignite.methods.terms import Outputs, Terms, check_terms
from kdignite.runs import default_name

FUNCTIONS = ("methods/features.py", "methods/labels.py", "methods/logits.py", "methods/relations.py")
LABELS = torch.tensor([0, 1, 2, 0])


def logits(seed: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def outputs(name: str, seed: int) -> Outputs:
    """What a method is given: logits, and features if it needs them."""
    maps = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    learnt = {"vid": {f"layer{VARIANCE}": torch.ones(2)}, "reviewkd": {f"layer{POOLED}": maps[:, :, :1, :1]}}
    return Outputs(logits(seed), {"layer": maps, **(learnt.get(name, {}) if seed == 0 else {})})


def margin(student: Outputs, teacher: Outputs, labels: Tensor, *, weight: float = 2.0, gap: float) -> Terms:
    """Keep the distance of two networks below a gap."""
    distance = (student.logits - teacher.logits).abs().mean()
    return Terms(weight * torch.relu(distance - gap), {"distance": distance})


class Scaled:
    """A method with a setting that its name does not tell."""

    def __call__(self, *args: Any, **kwargs: Any) -> Terms:
        return margin(*args, **kwargs)

    def method(self, *args: Any, **kwargs: Any) -> Terms:
        return margin(*args, **kwargs)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a method of one's own, in a module that can be imported."""
    module = ModuleType("my_methods")
    module.margin = margin  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_methods", module)
    return "my_methods:margin"


def refused(function: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        function()
    return str(caught.value)


# --- rows


@pytest.mark.parametrize("name", METHODS)
def test_a_row_says_what_its_function_takes(name: str) -> None:
    row = METHODS[name]
    function = pkgutil.resolve_name(row.function)
    arguments = inspect.signature(function).parameters.values()
    assert [one.name for one in arguments if one.kind is not one.KEYWORD_ONLY] == ["student", "teacher", "labels"]
    keywords = {one.name for one in arguments if one.kind is one.KEYWORD_ONLY}
    assert keywords - set(TRAINING) == set(row.parameters)
    assert all(word in function.__doc__ for word in ("Args:", "Returns:", "Raises:", "Source:", "``loss = "))
    assert row.idea
    assert row.source
    defaults = check_method(name, {})
    terms = bind_method(name, defaults, label_smoothing=0.1)(outputs(name, 0), outputs(name, 1), LABELS)
    parts = set(terms.parts)
    assert check_method(name, dict.fromkeys(row.parameters)) == defaults
    assert configure(DistillConfig, method=name, **defaults).parameters == defaults
    assert all(not one.grid or one.default in one.grid for one in row.parameters.values())
    axes = configure(SweepConfig, method=name).axes
    assert axes == {key: one.grid or (one.default,) for key, one in row.parameters.items() if not one.minor}
    assert sum(len(values) > 1 for values in axes.values()) in (1, 2)  # a map
    assert all(constant.part in parts for constant in row.constant)
    training = {"label_smoothing": 0.1, "class_weights": torch.linspace(1, 2, logits(0).shape[1])}
    assert set(training) == set(TRAINING) <= keywords
    terms = bind_method(name, defaults, **training)(outputs(name, 0), outputs(name, 1), LABELS)
    torch.testing.assert_close(terms.parts["ce"], cross_entropy(logits(0), LABELS, **training))
    assert all(not value.shape for value in (terms.loss, *terms.parts.values()))


def test_a_method_inside_is_one_function_and_one_row() -> None:
    """No other file of the package knows a method by its name, but for the presets, which choose one."""
    root = Path(kd.__file__).parent
    # a word of two letters, such as "at", means other things too
    wanted = {name for name in METHODS if len(name) > 2}
    found = {
        (str(path.relative_to(root)), getattr(node, "value", getattr(node, "name", getattr(node, "id", ""))))
        for path in sorted({*root.rglob("*.py")} - {root / "config" / "presets.py"})
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Constant) and node.value in wanted)
        or (isinstance(node, ast.FunctionDef) and node.name in wanted)
    }
    files = {"methods/feature_rows.py", "methods/logit_rows.py"}
    rows = {name for file, name in found if file in files}
    functions = {name for file, name in found if file in FUNCTIONS}
    assert rows == functions == wanted
    assert {file for file, _ in found} == {*files, *FUNCTIONS}


# --- logit_mse


def test_logit_mse_is_the_formula_and_so_is_its_gradient() -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    terms = logit_mse(Outputs(student), Outputs(teacher), LABELS, alpha=0.3)
    s, t = (one.detach() - one.detach().mean(1, keepdim=True) for one in (student, teacher))
    mse = sum((s[b, c] - t[b, c]) ** 2 for b in range(4) for c in range(3)) / (4 * 2 * 3)
    ce = -torch.log_softmax(student.detach(), 1)[torch.arange(4), LABELS].mean()
    torch.testing.assert_close(terms.parts, {"ce": ce, "mse": mse})
    torch.testing.assert_close(terms.loss.detach(), 0.7 * ce + 0.3 * mse)
    (gradient,) = torch.autograd.grad(terms.parts["mse"], student)
    torch.testing.assert_close(gradient, (s - t) / (4 * 3))


def test_logit_mse_is_the_limit_of_kd_at_large_temperatures() -> None:
    student, teacher = Outputs(logits(0)), Outputs(logits(1))
    mse = logit_mse(student, teacher, LABELS, alpha=0.5).parts["mse"]
    errors = [abs(kd_divergence(student.logits, teacher.logits, T=T) - mse) for T in (10.0, 100.0, 1000.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3 * mse


@pytest.mark.parametrize("shift", [-3.0, 700.0])
def test_logit_mse_does_not_see_a_shift_of_a_row(shift: float) -> None:
    shifts = torch.tensor([[shift], [0.0], [-shift], [1.0]], dtype=torch.float64)
    terms = logit_mse(Outputs(logits(0) + shifts), Outputs(logits(1) - shifts), LABELS, alpha=1.0)
    torch.testing.assert_close(terms.loss, logit_mse(Outputs(logits(0)), Outputs(logits(1)), LABELS, alpha=1.0).loss)


def test_logit_mse_of_equal_networks_is_0_and_stationary() -> None:
    student = logits(0).requires_grad_()
    loss = logit_mse(Outputs(student), Outputs(logits(0)), LABELS, alpha=1.0).loss
    loss.backward()
    assert loss == 0
    assert not student.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logit_mse_of_large_logits_in_half_precision_is_finite(dtype: torch.dtype) -> None:
    student = (500 * torch.sign(logits(0))).to(dtype).requires_grad_()
    teacher = (-500 * torch.sign(logits(0))).to(dtype).requires_grad_()
    loss = logit_mse(Outputs(student), Outputs(teacher), LABELS, alpha=0.5).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()
    assert teacher.grad is None


@pytest.mark.parametrize(("alpha", "shape"), [(1.5, (4, 3)), (-0.1, (4, 3)), (0.5, (4, 1)), (0.5, (1, 3))])
def test_logit_mse_refuses_what_is_outside_its_domain(alpha: float, shape: tuple[int, int]) -> None:
    with pytest.raises(UserError):
        logit_mse(Outputs(logits(0)), Outputs(torch.zeros(shape)), LABELS, alpha=alpha)


# --- parameters


def test_parameters_are_those_of_the_method() -> None:
    assert configure(DistillConfig).parameters == {"alpha": 0.9, "T": 4.0, "standardize": False}
    assert configure(DistillConfig, T=2.0).parameters == {"alpha": 0.9, "T": 2.0, "standardize": False}
    assert configure(DistillConfig, method="dkd", standardize=True, alpha=9).parameters == {
        **{"alpha": 9, "beta": 2.0, "T": 4.0, "ce_weight": 1.0, "standardize": True}
    }
    assert configure(DistillConfig, method="logit_mse", alpha=0.25).parameters == {"alpha": 0.25}
    assert to_json(configure(DistillConfig, method="logit_mse"))["T"] is None


@pytest.mark.parametrize("kind", [DistillConfig, SweepConfig, ReproduceConfig])
def test_a_parameter_has_no_name_of_a_setting(kind: type[Config]) -> None:
    def hasty(student: object, teacher: object, labels: object, *, momentum: float = 0.5) -> None: ...

    hasty.__module__, hasty.__qualname__ = "mine", "hasty"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "mine", ModuleType("mine"))
        patch.setattr(sys.modules["mine"], "hasty", hasty, raising=False)
        with pytest.raises(UserError, match="--method=mine:hasty: momentum is a setting of every training"):
            configure(kind, method="mine:hasty")


def test_a_preset_leaves_out_the_parameters_of_another_method() -> None:
    chosen = {"alpha": 1.0, "T": 8.0, "standardize": False}
    assert configure(DistillConfig, preset="reference").parameters == chosen
    assert configure(DistillConfig, preset="reference", method="kd").parameters == chosen
    assert configure(DistillConfig, preset="reference", method="dkd").parameters == check_method("dkd", {})
    assert configure(DistillConfig, preset="reference", method="logit_mse").parameters == {"alpha": 0.9}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"method": "logit_mse", "T": 4.0}, "--method=logit_mse takes --alpha, not --T: leave that out"),
        ({"method": "logitmse"}, "did you mean logit_mse?"),
        ({"method": "logit_mse", "alpha": 1.5}, "--alpha must be at most 1, not 1.5"),
        ({"method": "dkd", "alpha": -0.5}, "--alpha must be at least 0, not -0.5"),
        ({"method": "ttm", "gamma": 1.5}, "--gamma must be at most 1, not 1.5"),
        ({"method": "wttm", "gamma": 0.0}, "--gamma must be above 0, not 0"),
        ({"method": "nkd", "standardize": True}, "takes --gamma and --T and --ce_weight, not --standardize"),
        ({"standardize": 1.0}, "--standardize needs true or false, not 1.0"),
        ({"T": 0.0}, "--T must be above 0, not 0"),
        ({"T": float("nan")}, "--T must be finite, not nan"),
        ({"method": "no_such_module:f"}, "--method: there is no module no_such_module"),
    ],
)
def test_a_parameter_that_does_not_suit_is_refused(settings: dict[str, Any], told: str) -> None:
    assert told in refused(lambda: configure(DistillConfig, **settings))


ALONE = "uses --T where --alpha is above 0: add --alpha, or leave out --T"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DistillConfig, {"T": 2.0}),
        (DistillConfig, {"T": 2.0, "preset": "patient"}),  # whose alpha is of fitnet
        (ReproduceConfig, {"T": 2.0}),
        (SweepConfig, {"T": (1.0, 2.0)}),
        (SweepConfig, {"T": (1.0, 2.0), "alpha": (0.0,)}),
        (SearchConfig, {"T": (1.0, 2.0)}),
        (SearchConfig, {"T": (1.0, 2.0), "alpha": (0.0,)}),
    ],
)
def test_a_temperature_of_nothing_is_refused(kind: type[Any], settings: dict[str, Any]) -> None:
    assert refused(lambda: configure(kind, method="at", **settings)) == f"--method=at {ALONE}"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DistillConfig, {"method": "at", "T": 2.0, "alpha": 0.5}),
        (DistillConfig, {"method": "at", "T": 2.0, "alpha": 0.0}),  # as a search or a sweep that chose it says
        (DistillConfig, {"preset": "patient", "T": 2.0}),
        (DistillConfig, {"preset": "patient", "alpha": 0.0}),
        (ReproduceConfig, {"preset": "patient", "alpha": 0.0}),
        (SweepConfig, {"preset": "patient", "T": (1.0, 2.0)}),
        (SweepConfig, {"method": "at", "weight": (1.0,), "T": (1.0, 2.0), "alpha": (0.0, 0.5)}),
        (SearchConfig, {"method": "at", "T": (1.0, 2.0), "alpha": (0.0, 0.5)}),
        (DistillConfig, {"alpha": 0.0, "T": 2.0}),  # of kd: without a teacher
        (SweepConfig, {"alpha": (0.0,), "T": (1.0, 2.0)}),
    ],
)
def test_a_temperature_that_is_used_or_was_not_typed_is_taken(kind: type[Any], settings: dict[str, Any]) -> None:
    config = configure(kind, **settings)
    assert from_json(kind, to_json(config)) == config


def test_a_sweep_is_a_map(own: str) -> None:
    config = configure(SweepConfig, method="logit_mse", alpha=(0.5, 1.0))
    assert config.axes == {"alpha": (0.5, 1.0)}
    assert configure(SweepConfig, method=own, gap=(0.5, 1.0)).axes == {"weight": (2.0,), "gap": (0.5, 1.0)}
    assert "takes --alpha, not --T" in refused(lambda: configure(SweepConfig, method="logit_mse", T=(1.0,)))
    given = {"alpha": (0.5,), "T": (1.0,)}
    assert configure(SweepConfig, **given).axes == given
    assert configure(SweepConfig, **given, standardize=(False, True)).axes == given | {"standardize": (False, True)}
    assert [one.standardize for one in sweep_configs(configure(SweepConfig, **given, standardize=(True,)))] == [True]


# --- names


def test_the_name_of_a_run_says_its_method_where_it_is_not_the_default(own: str) -> None:
    assert default_name(configure(DistillConfig, alpha=0.5, T=1.0)) == "distill-a0.5-T1"
    assert default_name(configure(DistillConfig, method="logit_mse", seed=1)) == "distill-logit_mse-a0.9-seed1"
    assert default_name(configure(DistillConfig, method=own, gap=0.25)) == "distill-margin-w2-g0.25"
    assert default_name(configure(DistillConfig, method="dkd")) == "distill-dkd-a1-b2-T4"
    assert default_name(configure(DistillConfig, method="dkd", ce_weight=0.0)) == "distill-dkd-a1-b2-T4-c0"
    assert default_name(configure(DistillConfig, standardize=True)) == "distill-a0.9-T4-standardize"


def test_a_switch_of_a_method_of_ones_own_is_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    def switched(student: Outputs, teacher: Outputs, labels: Tensor, *, both: bool = True) -> Terms:
        return margin(student, teacher, labels, gap=float(both))

    monkeypatch.setitem(sys.modules, "my_switch", ModuleType("my_switch"))
    sys.modules["my_switch"].switched = switched  # type: ignore[attr-defined]
    given = {"method": "my_switch:switched"}
    assert configure(DistillConfig, **given).parameters == {"both": True}
    assert configure(SweepConfig, **given, both=(False, True)).axes == {"both": (False, True)}
    assert default_name(configure(DistillConfig, **given, both=False)) == "distill-switched-no_both"
    assert "--both needs true or false" in refused(lambda: configure(DistillConfig, **given, both=0.5))


# --- functions of one's own


def test_a_function_is_a_method_by_its_name(own: str) -> None:
    assert name_of(margin) == f"{__name__}:margin"
    config = configure(DistillConfig, method=own, gap=0.25)
    assert config.parameters == {"weight": 2.0, "gap": 0.25}
    assert to_json(config) | {"gap": 0.25, "weight": 2.0, "method": own, "alpha": None, "T": None} == to_json(config)
    assert refused(lambda: configure(DistillConfig, method=own)) == f"--method={own} needs --gap=NUMBER"
    assert find_method(own).idea == "Keep the distance of two networks below a gap."


def test_a_function_itself_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__, sys.modules["kdignite"]))
    monkeypatch.setattr(sys.modules[__name__], "margin", margin, raising=False)
    assert configure(DistillConfig, method=margin, gap=0.5).method == f"{__name__}:margin"


def nested() -> Any:
    def method(*args: Any, **kwargs: Any) -> Terms:
        return margin(*args, **kwargs)

    return method


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (partial(margin, gap=2.0), "functools.partial"),
        (lambda *args, **kwargs: margin(*args, **kwargs, gap=1.0), "<lambda>"),
        (nested(), "nested.<locals>.method"),
        (Scaled(), f"{__name__}.Scaled"),
        (Scaled().method, "Scaled.method"),
    ],
)
def test_a_function_without_a_name_of_its_own_is_refused(method: Any, what: str) -> None:
    assert refused(lambda: configure(DistillConfig, method=method)) == (
        f"the method {what} has no name of its own: write it as a def outside of other functions"
    )


def test_labels_are_smoothed_by_methods_that_can(own: str) -> None:
    assert refused(lambda: bind_method(own, {"gap": 1.0}, label_smoothing=0.1)) == (
        f"--method={own} takes no label_smoothing: leave out --label_smoothing"
    )
    assert refused(lambda: bind_method(own, {"gap": 1.0}, class_weights=torch.ones(3))) == (
        f"--method={own} takes no class_weights: leave out --balance"
    )
    bind_method(own, {"gap": 1.0}, label_smoothing=0.0, class_weights=None)
    plain, smooth = (
        bind_method("kd", {"alpha": 0.0, "T": 1.0}, label_smoothing=share)(
            Outputs(logits(0)), Outputs(logits(1)), LABELS
        )
        for share in (0.0, 0.1)
    )
    assert plain.loss != smooth.loss


def misfits() -> dict[str, tuple[Callable[..., Any], str]]:
    def returning(value: Callable[[Tensor], Any]) -> Callable[..., Any]:
        return lambda student, teacher, labels: value(student.logits.sum())

    return {
        "a tensor": (returning(lambda loss: loss), "it returned a Tensor"),
        "a vector": (returning(lambda loss: Terms(loss.expand(2), {})), "loss is not a scalar tensor"),
        "a number": (returning(lambda loss: Terms(loss, {"ce": 1.0})), "ce is not a scalar tensor"),
        "a column": (returning(lambda loss: Terms(loss, {"lr": loss})), "a part cannot be called 'lr'"),
        "words": (returning(lambda loss: Terms(loss, {"two words": loss})), "a part cannot be called 'two words'"),
        "a constant": (returning(lambda loss: Terms(loss.detach(), {})), "its loss has no gradient"),
    }


@pytest.mark.parametrize("case", misfits())
def test_terms_that_a_training_cannot_use_are_refused_before_it(case: str) -> None:
    method, why = misfits()[case]
    told = refused(lambda: check_terms(method, "mine:it", num_classes=3, reserved=COLUMNS))
    assert told == f"--method=mine:it must return Terms(loss, parts), scalars that depend on the student: {why}"


def test_a_loss_of_features_alone_has_a_gradient_and_may_change_them_in_place() -> None:
    def method(student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
        (own,), (other,) = student.features.values(), teacher.features.values()
        return Terms(own.sub_(other).square().mean(), {})

    features = {"layer": torch.ones(2, 4)}, {"layer": torch.zeros(2, 4)}
    assert check_terms(method, "mine:it", num_classes=3, reserved=COLUMNS, features=features) == []
    assert not features[0]["layer"].requires_grad
    assert (features[0]["layer"] == 1).all()


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.needs == "features"])
def test_parameters_outside_their_domain_are_refused_by_methods_on_features(name: str) -> None:
    def call(**given: float) -> Terms:
        return bind_method(name, check_method(name, given))(outputs(name, 0), outputs(name, 1), LABELS)

    assert refused(lambda: call(T=0.0)) == "T must be above 0 and finite, not 0.0"
    assert refused(lambda: call(alpha=1.5)) == "alpha must be in [0, 1], not 1.5"
    part = "distance" if name == "rkd" else name
    assert refused(lambda: call(weight=-1.0)) == f"the weight of {part} must be at least 0 and finite, not -1.0"


def test_a_method_that_fails_is_told_in_one_line_with_its_own_error() -> None:
    def plain_loss(student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
        return student.nothing  # type: ignore[attr-defined, no-any-return]

    told = refused(lambda: check_terms(plain_loss, "mine:it", num_classes=3, reserved=COLUMNS))
    error = "AttributeError: 'Outputs' object has no attribute 'nothing'"
    assert told == f"--method=mine:it fails: {error} (--traceback shows where)"


# --- mixed images


@pytest.mark.parametrize("name", METHODS)
def test_of_mixed_images_a_loss_is_the_mean_of_both_classes_or_refused_by_its_name(name: str) -> None:
    if find_method(name).one_class:
        told = refused(lambda: configure(DistillConfig, method=name, mix="mixup"))
        assert told.startswith(f"--method={name} asks for the one class of an image, and --mix=mixup gives it two")
        assert {"kd", "fitnet"} <= set(told.rpartition("one of ")[2].split(", "))
        assert name in ("dkd", "nkd", "wsld")
        return
    settings = {"label_smoothing": 0.1, "class_weights": torch.tensor([0.5, 1.0, 2.0])}
    method = bind_method(name, check_method(name, {}), **settings)
    one, other = (torch.nn.functional.one_hot(labels, 3).double() for labels in (LABELS, LABELS.roll(1)))
    found = [method(outputs(name, 0), outputs(name, 1), labels) for labels in (LABELS, LABELS.roll(1))]
    mixed = method(outputs(name, 0), outputs(name, 1), 0.3 * one + 0.7 * other)
    torch.testing.assert_close(mixed.loss, 0.3 * found[0].loss + 0.7 * found[1].loss)


def test_a_method_of_ones_own_is_tried_with_shares(own: str) -> None:
    def by_label(student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
        return Terms(student.logits.gather(1, labels[:, None]).mean(), {})

    def by_cross_entropy(student: Outputs, teacher: Outputs, labels: Tensor) -> Terms:
        return Terms(cross_entropy(student.logits, labels), {})

    tried = partial(check_terms, num_classes=3, reserved=COLUMNS, mixed=True)
    assert tried(by_cross_entropy, "mine:it") == []
    assert check_terms(by_label, "mine:it", num_classes=3, reserved=COLUMNS) == []
    told = refused(lambda: tried(by_label, "mine:it"))
    assert told.startswith("--method=mine:it fails where labels are shares of classes (B, C) float32")
    assert "leave out --mix" in told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mix_alpha": 0.2}, "--mix_alpha=0.2 is for mixed images: add --mix=mixup or --mix=cutmix"),
        ({"mix": "cutmix", "control": "shuffled"}, "--control=shuffled keeps the class of an image, and --mix=cutmix"),
    ],
)
def test_what_mixed_images_do_not_go_with(given: dict[str, Any], told: str) -> None:
    assert refused(lambda: configure(DistillConfig, **given)).startswith(told)


# --- the command


def test_a_method_is_described_from_its_row(own: str) -> None:
    text = describe_method("kd")
    assert "alpha * T^2 * KL(teacher/T || student/T)" in text
    assert "--T           default 4, at most 1000 and above 0: temperature" in text
    assert "--standardize default false: " in text
    assert "papers   alpha 0.9, T 4 on CIFAR-100" in text
    assert "arXiv:1503.02531" in text
    assert "--gap      no default: parameter of my_methods:margin" in describe_method(own)
