"""Somebody else's weights: planted mistakes, against what torch and ``adopt`` really do with them."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdignite import checkpoints
from kdignite.doctor import state_dicts
from kdignite.doctor.state_dicts import StateDictComparison, comparison_lines
from kdignite.errors import UserError
from kdignite.models.registry import build_model

State = dict[str, Tensor]
ADOPT = "--arch=cnn5 --size=32 --mean=.5,.5,.5 --std=.5,.5,.5"
COMMAND = f"python -m kdignite adopt net.pt {ADOPT}"
WIDTHS = {"widths": (8, 6, 5, 4, 3)}
PREFIXES = ("module.", "model.", "module.model.", "net.backbone.0.", "_orig_mod.")


class Wrapped(nn.Module):
    """A network inside another module, as somebody may have trained it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.model = inner


def build(num_classes: int = 10, **options: Any) -> nn.Module:
    return build_model("cnn5", num_classes=num_classes, size=32, options=WIDTHS | options)


def foreign(state: State) -> State:
    """The same names and shapes, every number different from those of any new model."""
    return {
        key: torch.rand(value.shape, dtype=value.dtype) + 2 if value.is_floating_point() else value + 7
        for key, value in state.items()
    }


def prefixed(state: State, prefix: str, *, only: Callable[[str], bool] = lambda _: True) -> State:
    return {prefix + key if only(key) else key: value for key, value in state.items()}


def loaded_loosely(model: nn.Module, given: State) -> tuple[set[str], bool]:
    """What torch changes in a model with ``strict=False``, and whether it raises."""
    before, raised = {key: value.clone() for key, value in model.state_dict().items()}, False
    try:
        model.load_state_dict(given, strict=False)
    except RuntimeError:
        raised = True
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}, raised


def adopted(model: nn.Module, given: State) -> bool:
    """Whether the steps of ``adopt`` accept the weights, which are those of the file."""
    try:
        found = checkpoints.foreign_weights(given, model, path=Path("net.pt"))
        checkpoints.load_weights(model, found.weights, source="net.pt")
    except UserError:
        return False
    return True


def compare_state_dicts(own: State, given: State) -> StateDictComparison:
    return state_dicts.compare_state_dicts(own, given, checkpoints.fit_state_dict(own, given, source="net.pt"))


def check(model: nn.Module, given: State) -> StateDictComparison:
    """Explain, and compare with what torch and the steps of ``adopt`` do."""
    own, fit = model.state_dict(), compare_state_dicts(model.state_dict(), given)
    assert fit.num_values == sum(value.numel() for value in own.values())
    assert fit.num_loaded == sum(own[key].numel() for key in fit.as_is.matched)
    assert (fit.num_model, fit.num_file) == (len(own), len(given))
    assert set(fit.as_is.matched) | set(fit.as_is.missing) | set(fit.as_is.shapes) == set(own)
    changed, raised = loaded_loosely(model, given)
    assert set(fit.as_is.matched) == changed
    assert bool(fit.as_is.shapes) == raised
    lines = comparison_lines(fit, file="net.pt", adopt=ADOPT)
    assert fit.adoptable == adopted(build_like(model), given)
    assert fit.adoptable == any(line.startswith(COMMAND) for line in lines)
    assert all(line.isprintable() for line in lines)
    return fit


def build_like(model: nn.Module) -> nn.Module:
    return Wrapped(build()) if isinstance(model, Wrapped) else build()


def lines_of(model: nn.Module, given: State) -> list[str]:
    return comparison_lines(check(model, given), file="net.pt", adopt=ADOPT)


def values(model: nn.Module, given: State) -> list[Tensor]:
    """A model's tensors, in its order, after the steps of ``adopt``."""
    assert adopted(model, given)
    return [*model.state_dict().values()]


def same(model: nn.Module, given: State, state: State) -> bool:
    """Whether the steps of ``adopt`` load a state dict that was altered into another one."""
    return all(torch.equal(one, other) for one, other in zip(values(model, given), state.values(), strict=True))


# --- it fits


def test_a_file_that_fits() -> None:
    lines = lines_of(build(), foreign(build().state_dict()))
    assert lines == ["net.pt: 32 of the model's 32 tensors fit (the file has 32)", COMMAND]


def test_half_precision_is_named_and_adopted() -> None:
    state = foreign(build().state_dict())
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    lines = lines_of(build(), half)
    assert lines[1].startswith("27 of another dtype: conv1.weight float16 instead of float32, ")
    assert lines[2:] == ["27 tensors are converted from float16 to float32", "so 32 of 32 tensors fit", COMMAND]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_tensor_in_one_dtype_is_converted(dtype: torch.dtype) -> None:
    state = foreign(build().state_dict())
    given = {key: value.to(dtype) for key, value in state.items()}  # counters, too
    fit = check(build(), given)
    name = str(dtype).removeprefix("torch.")
    assert fit.notes == [
        f"27 tensors are converted from {name} to float32",
        f"5 tensors are converted from {name} to int64",
    ]
    assert same(build(), given, {key: value.to(state[key].dtype) for key, value in given.items()})


# --- prefixes


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_on_every_key(prefix: str) -> None:
    lines = lines_of(build(), prefixed(foreign(build().state_dict()), prefix))
    total = sum(value.numel() for value in build().state_dict().values())
    assert lines[0] == "net.pt: 0 of the model's 32 tensors fit (the file has 32)"
    assert lines[-4] == (
        f"strict=False would have loaded 0 of 32 tensors (0 of {total:,} numbers) silently: the model stays random"
    )
    assert lines[-3] == f"without the prefix '{prefix}', which every key has"
    assert lines[-2:] == ["so 32 of 32 tensors fit", COMMAND]


def test_a_file_is_quoted_for_the_shell() -> None:
    fit = compare_state_dicts(build().state_dict(), foreign(build().state_dict()))
    assert shlex.split(comparison_lines(fit, file="a b.pt", adopt=ADOPT)[-1])[4] == "a b.pt"


def test_a_prefix_that_has_to_be_added() -> None:
    model = Wrapped(build())
    given = foreign(build().state_dict())
    fit = check(model, given)
    assert fit.adopted.matched == list(model.state_dict())
    assert fit.notes == ["with 'model.' in front of every key"]
    assert same(model, given, given)


def test_one_prefix_instead_of_another() -> None:
    state = foreign(build().state_dict())
    given = prefixed(state, "module.net.")
    fit = check(Wrapped(build()), given)
    assert fit.notes == ["32 of 32 keys are renamed, such as module.net.conv1.weight to model.conv1.weight"]
    assert same(Wrapped(build()), given, state)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_prefix_that_has_to_be_added_to_a_part_of_the_model(prefix: str) -> None:
    """The file is a backbone, the model a backbone with another head."""
    model = nn.ModuleDict({"body": build(), "top": nn.Linear(10, 3)})
    fit = check_without_adopt(model, prefixed(foreign(build().state_dict()), prefix))
    assert fit.adopted.missing == ["top.weight", "top.bias"]
    assert fit.head_only


def check_without_adopt(model: nn.Module, given: State) -> StateDictComparison:
    fit = compare_state_dicts(model.state_dict(), given)
    changed, raised = loaded_loosely(model, given)
    assert (set(fit.as_is.matched), bool(fit.as_is.shapes)) == (changed, raised)
    return fit


@pytest.mark.parametrize("prefix", ["module.", "net."])
@pytest.mark.parametrize("part", ["linear", "conv1", "norm"])
def test_a_prefix_on_a_part_of_the_keys(part: str, prefix: str) -> None:
    state = foreign(build().state_dict())
    given = prefixed(state, prefix, only=lambda key: key.startswith(part))
    fit = check(build(), given)
    count = sum(key.startswith(prefix) for key in given)
    assert fit.notes == [f"without the prefix '{prefix}', which {count} of 32 keys have"]
    lines = comparison_lines(fit, file="net.pt", adopt=ADOPT)
    assert any(f"the other {count} stay as initialised" in line for line in lines)
    assert same(build(), given, state)


def test_other_keys_beside_those_with_the_prefix_are_left_out() -> None:
    """What averages and training loops put beside a model, under a longer prefix."""
    state = foreign(build().state_dict())
    given = prefixed(state, "model.") | {"ema_model.x.step": torch.ones(1)}
    assert check(build(), given).notes[1] == "left out, as the model has no such tensors: ema_model.x.step"
    assert same(build(), given, state)


def test_keys_that_are_too_many_are_refused() -> None:
    given = foreign(build().state_dict()) | {"teacher.fc": torch.ones(1)}
    lines = lines_of(build(), given)
    assert "1 not in the model: teacher.fc" in lines
    assert any("would have loaded 32 of 32 tensors" in line for line in lines)
    assert any("and dropped the file's other 1 silently" in line for line in lines)
    assert lines[-1].startswith("adopt refuses it for teacher.fc: save the state dict without")


def named(*keys: str) -> State:
    return {key: torch.ones(1) for key in keys}


def test_what_stripping_breaks_is_counted() -> None:
    """Without ``a.`` three fit and two do so no longer; without ``m.`` four fit."""
    own = named("a.x", "a.y", "z1", "z2", "z3", "w1", "w2")
    fit = compare_state_dicts(own, named("a.x", "a.y", "a.z1", "a.z2", "a.z3", "m.w1", "m.w2"))
    assert fit.adopted.matched == ["a.x", "a.y", "w1", "w2"]


def test_of_two_parts_that_fit_neither_is_taken() -> None:
    state = foreign(build().state_dict())
    for other in ("ema.", "ema.model.", "module.ema.model."):
        given = prefixed(state, "model.") | prefixed(state, other)
        key = other.removesuffix(".")
        with pytest.raises(UserError, match=r"net\.pt holds several networks that fit: ") as caught:
            checkpoints.fit_state_dict(build().state_dict(), given, source="net.pt")
        assert str(caught.value).endswith(" or ".join(sorted([f"--key={key}", "--key=model"])))
        given = prefixed(state, "model.") | prefixed(foreign(build().state_dict()), other)
        found = checkpoints.foreign_weights(given, build(), path=Path("net.pt"), key="model")
        assert all(found.weights[key] is state[key] for key in state)
        found = checkpoints.foreign_weights(given, build(), path=Path("net.pt"), key=key)
        assert all(found.weights[name] is given[f"{other}{name}"] for name in state)


def test_a_prefix_within_the_names_is_not_stripped() -> None:
    """``0.`` begins many keys of a Sequential; the file fits as it stands."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    assert compare_state_dicts(model.state_dict(), foreign(model.state_dict())).notes == []


@settings(deadline=None, max_examples=40)
@given(prefix=st.sampled_from(PREFIXES), chosen=st.sets(st.integers(0, 31), min_size=1), wrapped=st.booleans())
def test_every_prefix_on_every_part_is_found(prefix: str, chosen: set[int], wrapped: bool) -> None:
    model = Wrapped(build()) if wrapped else build()
    state = foreign(model.state_dict())
    keys = {list(state)[index] for index in chosen}
    assume(not (wrapped and prefix == "model.") or len(chosen) == 32)  # the model's own prefix: no key lacks it
    fit = check(model, prefixed(state, prefix, only=keys.__contains__))
    assert (fit.adopted.matched, fit.adopted.unexpected) == (list(state), [])
    assert fit.adoptable


# --- what no prefix mends


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_head_of_other_classes(prefix: str) -> None:
    given = prefixed(foreign(build(num_classes=100).state_dict()), prefix)
    fit = check(build(), given)
    assert fit.head_only
    assert fit.classes == (10, 100)
    lines = comparison_lines(fit, file="net.pt", adopt=ADOPT)
    assert "only the head differs: the model has 10 classes, the file 100" in lines
    assert lines[-1].endswith("with a new head: python -m kdignite teacher --weights=net.pt --arch=cnn5 --size=32")


def test_shapes_raise_even_without_strict() -> None:
    lines = lines_of(build(), foreign(build(num_classes=3).state_dict()))
    assert "2 of another shape: linear.weight (3, 3) instead of (10, 3), linear.bias (3,) instead of (10,)" in lines
    total = sum(value.numel() for value in build().state_dict().values())
    assert (
        "strict=False would not have helped: load_state_dict raises for the 2 of another shape, "
        f"after it has loaded 30 of 32 tensors ({total - 40:,} of {total:,} numbers)"
    ) in lines


def test_a_missing_head() -> None:
    given = {key: value for key, value in foreign(build().state_dict()).items() if not key.startswith("linear.")}
    fit = check(build(), given)
    assert (fit.head_only, fit.classes) == (True, None)
    lines = comparison_lines(fit, file="net.pt", adopt=ADOPT)
    assert "2 missing in the file: linear.weight, linear.bias" in lines
    assert any("would have loaded 30 of 32 tensors" in line and "the other 2 stay" in line for line in lines)
    assert "only the head is missing or differs" in lines


def test_a_head_for_other_features() -> None:
    fit = check(build(), foreign(build_model("cnn5", num_classes=7, size=64, options=WIDTHS).state_dict()))
    assert (fit.head_only, fit.classes) == (True, None)


def test_a_head_of_another_name_is_more_than_a_head() -> None:
    """Nothing tells that the two layers are the same, and neither ``adopt`` nor ``--weights`` takes such keys."""
    given = {key.replace("linear", "fc"): value for key, value in foreign(build().state_dict()).items()}
    assert not check(build(), given).head_only


@pytest.mark.parametrize("prefix", ["", "module.", "net."])
def test_missing_counters_are_added(prefix: str) -> None:
    """A file of PyTorch before 0.4.1."""
    state = foreign(build().state_dict())
    old = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    zeros = {key: value * 0 for key, value in state.items() if key not in old}
    assert "set to 0: 5 counters num_batches_tracked of BatchNorm" in check(build(), prefixed(old, prefix)).notes[-1]
    assert same(build(), prefixed(old, prefix), {key: {**old, **zeros}[key] for key in state})


def test_another_architecture() -> None:
    given = foreign(build_model("resnet20", num_classes=10, size=32, options={}).state_dict())
    for state in (given, prefixed(given, "module.")):
        fit = compare_state_dicts(build().state_dict(), state)
        assert not fit.head_only
        assert fit.adopted.matched == ["linear.bias"]  # of this name and shape in both
        assert "this is another architecture" in comparison_lines(fit, file="net.pt", adopt=ADOPT)[-1]


def test_other_widths() -> None:
    fit = check(build(), foreign(build(widths=(9, 6, 5, 4, 3)).state_dict()))
    assert not fit.head_only
    assert (
        "this is another architecture, or the same with other options" in comparison_lines(fit, file="x", adopt="")[-1]
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(value: float) -> None:
    given = foreign(build().state_dict())
    given["norm3.running_var"][1] = value
    fit = check(build(), given)
    assert fit.non_finite == ["norm3.running_var"]
    lines = comparison_lines(fit, file="net.pt", adopt=ADOPT)
    assert "1 with NaN or infinity: norm3.running_var" in lines
    assert "use an earlier checkpoint" in lines[-1]


def test_long_and_invisible_names_are_neither_repeated_nor_stripped() -> None:
    for prefix in ("\x1b[31m.", "x" * 101 + "."):
        fit = compare_state_dicts(build().state_dict(), prefixed(foreign(build().state_dict()), prefix))
        assert fit.notes == []
        assert all(line.isprintable() for line in comparison_lines(fit, file="net.pt", adopt=ADOPT))


def test_names_of_many_parts_cost_nothing() -> None:
    given = {f"{'a.' * 100_000}{index}": torch.ones(1) for index in range(20)}
    assert compare_state_dicts(build().state_dict(), given).as_is.matched == []


def test_a_model_without_a_linear_layer_has_no_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    fit = compare_state_dicts(model.state_dict(), {"0.weight": torch.ones(4, 3, 1, 1)})
    assert (fit.head_only, fit.classes, fit.adopted.missing) == (False, None, ["0.bias"])


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_mixture_of_mistakes_is_counted_as_torch_does(data: st.DataObject) -> None:
    mistakes = data.draw(
        st.lists(st.sampled_from(["none", "drop", "rename", "shape", "half", "double"]), min_size=32, max_size=32)
    )
    given: State = {}
    for (key, value), mistake in zip(foreign(build().state_dict()).items(), mistakes, strict=True):
        changes = {"half": value.half(), "double": value.double(), "shape": torch.ones(*value.shape, 2)}
        if mistake != "drop":
            given[f"x.{key}" if mistake == "rename" else key] = changes.get(mistake, value)
    check(build(), given)
