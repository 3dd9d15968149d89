"""A config that exists is valid and survives being written and read."""

import dataclasses
import json
import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdignite.config import (
    COMMANDS,
    PRESETS,
    RUN_NAME,
    Config,
    DistillConfig,
    ExportConfig,
    MethodsStudyConfig,
    PredictConfig,
    ReproduceConfig,
    SearchConfig,
    SweepConfig,
    bare_type,
    configure,
    from_json,
    parameter_names,
    to_json,
)
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS

EXAMPLES = settings(deadline=None, max_examples=100)
LARGEST = 2**63 - 1
FINITE = {"allow_nan": False, "allow_infinity": False}
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "preset": st.sampled_from(sorted(PRESETS)),
    "name": st.none() | st.from_regex(RUN_NAME, fullmatch=True),
    "val_size": st.none() | st.integers(1, 10**6) | st.floats(0, 1, exclude_min=True) | st.just(7.0),
    "mean": st.tuples(*[st.floats(0, 1)] * 3),
    "std": st.tuples(*[st.floats(0, 1, exclude_min=True)] * 3),
    "warmup_epochs": st.just(0.0),
    "freeze_epochs": st.just(0),
    **dict.fromkeys(("mix", "mix_alpha", "cache_top"), st.none()),
    "arch_options": st.none() | st.just(("drop_rate=0.1",)),
    "momentum": st.floats(0, 1, exclude_min=True, exclude_max=True),  # 0 is not for every optimizer
    "cache": st.sampled_from(["auto", "./0"]),
    "seeds": st.integers(1, 3),
    "generations": st.integers(1, 3),
    "teacher": st.none() | st.from_regex("[a-z]+(,[a-z]+)?", fullmatch=True),
    **dict.fromkeys(("via", "teacher_shares"), st.none()),  # rules between these and others are tested with them
    "method": st.just("kd"),  # whose parameters are drawn, and no others
    "alpha": st.floats(0, 1),
    **dict.fromkeys(set(parameter_names(DistillConfig)) - set(METHODS["kd"].parameters), st.none()),
    **dict.fromkeys(("student_layers", "teacher_layers"), st.none()),  # of methods on features
    "alphas": st.lists(st.integers(0, 10**6).map(lambda n: n / 10**6), min_size=1, max_size=3, unique=True).map(tuple),
    "Ts": st.lists(st.integers(1, 10**6).map(lambda n: n / 1000), min_size=1, max_size=3, unique=True).map(tuple),
    "standardizes": st.none() | st.sampled_from([(True,), (False,)]),  # two axes have several values already
    **dict.fromkeys(("sheet", "out"), st.sampled_from([None, "sheet.png"])),
    "int8": st.just(False),
    "sheet_images": st.sampled_from(["all", "9"]),
    "paths": st.lists(st.text(min_size=1), min_size=1).map(tuple),
    "model": st.text(min_size=1),
    "runs": st.lists(st.text(min_size=1), min_size=1).map(tuple),
}
TIED = ("schedule", "warmup_epochs", "epochs", "optimizer", "momentum", "freeze_epochs")


def numbers(one: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    """Numbers of a field's domain; a float field also takes whole numbers."""
    domain = {key: one.metadata[key] for key in ("low", "high", "above", "below")}
    low, high = (domain["low"], domain["above"]), (domain["high"], domain["below"])
    smallest, largest = (next((x for x in pair if x is not None), None) for pair in (low, high))
    if bare_type(one.type) is int:
        return st.integers(-LARGEST if smallest is None else smallest, LARGEST if largest is None else largest)
    floats = st.floats(
        smallest,
        largest,
        exclude_min=domain["above"] is not None,
        exclude_max=domain["below"] is not None,
        **FINITE,
    )
    return floats | st.just(1).filter(lambda one: domain["below"] is None)


def values(one: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    if one.name in SPECIAL:
        return SPECIAL[one.name]
    wanted = bare_type(one.type)
    if one.metadata["choices"]:
        strategy: st.SearchStrategy[Any] = st.sampled_from(one.metadata["choices"])
    elif wanted is str:
        strategy = st.text(min_size=1)
    elif wanted is bool:
        strategy = st.booleans()
    elif wanted in (int, float):
        strategy = numbers(one)
    else:
        items = {int: st.integers(1, LARGEST), str: st.text(), float: numbers(one), bool: st.booleans()}[
            get_args(wanted)[0]
        ]
        strategy = st.lists(items, min_size=1).map(tuple)
    return st.none() | strategy if one.default is None and one.name != "size" else strategy


def flags(kind: type[Config]) -> list[dataclasses.Field[Any]]:
    """The fields that can be told; `given` says which of them were."""
    return [one for one in dataclasses.fields(kind) if "help" in one.metadata]


def given_values(kind: type[Config]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({one.name: values(one) for one in flags(kind)})


@st.composite
def configs(draw: st.DrawFn) -> Config:
    kind = draw(st.sampled_from(sorted(COMMANDS.values(), key=lambda one: one.command)))
    chosen = draw(given_values(kind))
    if chosen.get("schedule") in ("constant", "cosine"):
        chosen["warmup_epochs"] = draw(st.floats(0, min(chosen["epochs"] or 1, 10**6)))
    # rules between the flags of a study are those of its stages, tested there
    if kind is ReproduceConfig:
        chosen |= dict.fromkeys((*TIED, *(f"teacher_{name}" for name in TIED), "teacher", "control"))
        chosen |= dict.fromkeys(("teacher_mix", "teacher_mix_alpha", "teacher_arch_options"))
    if kind is SweepConfig:
        chosen |= dict.fromkeys(TIED) | {name: draw(SPECIAL[f"{name}s"]) for name in ("alpha", "T", "standardize")}
    if kind is ExportConfig:
        chosen["preprocessing"] = None
    if kind is PredictConfig and chosen["out"] == chosen["sheet"]:  # two files
        chosen["sheet"] = None
    if kind is SearchConfig:  # one value, or the lowest and the highest
        chosen |= dict.fromkeys((*TIED, "momentum", "weight_decay", "label_smoothing", "standardize"))
        chosen |= {name: tuple(sorted(draw(SPECIAL[f"{name}s"])[:2])) for name in ("alpha", "T")}
        chosen["lr"] = draw(st.sampled_from([None, (0.1,), (0.01, 0.1)])) if len({*chosen["T"]}) > 1 else None
    if kind is MethodsStudyConfig:
        chosen |= dict.fromkeys((*TIED, "controls", "search_epochs")) | {"methods": ("kd", "dist"), "trials": 0}
        chosen["preset"] = draw(st.sampled_from(["standard", "quick", "pictures"]))  # others have settings of kd
    return kind(**chosen)


@EXAMPLES
@given(configs())
def test_writing_and_reading_as_json_is_identity(config: Config) -> None:
    written = json.loads(json.dumps(to_json(config), allow_nan=False))
    read = from_json(type(config), written)
    assert read == config
    assert {key: type(value) for key, value in vars(read).items()} == {
        key: type(value) for key, value in vars(config).items()
    }


@EXAMPLES
@given(configs())
def test_json_holds_every_field(config: Config) -> None:
    assert list(to_json(config)) == [one.name for one in flags(type(config))]


@EXAMPLES
@given(st.sampled_from(sorted(PRESETS)), given_values(DistillConfig), st.data())
def test_what_is_given_wins_over_the_preset(preset: str, chosen: dict[str, Any], data: st.DataObject) -> None:
    names = data.draw(st.sets(st.sampled_from(sorted(set(chosen) - {"preset"}))))
    names |= {*TIED} if names & {*TIED} else set()  # a preset may have others that do not go with one alone
    names |= {"method"}  # whose parameters are drawn
    config = configure(DistillConfig, preset=preset, **{name: chosen[name] for name in names})
    plain, recipe = configure(DistillConfig, preset=preset, method="kd"), PRESETS[preset]["distill"]
    of_other = parameter_names(DistillConfig) if recipe.get("method", "kd") != "kd" else []
    for name, row in METHODS["kd"].parameters.items():  # None is the default of the method
        chosen[name] = row.default if chosen[name] is None else chosen[name]
    for one in flags(DistillConfig):
        assert getattr(config, one.name) == (chosen if one.name in names else vars(plain))[one.name]
    assert config.given is not None
    assert set(config.given) == names | (set(recipe) - set(of_other))
    assert config == dataclasses.replace(config, given=None)
    assert from_json(DistillConfig, to_json(config)) == config


@EXAMPLES
@given(st.floats())
def test_alpha_is_in_0_1_or_refused(alpha: float) -> None:
    if math.isfinite(alpha) and 0 <= alpha <= 1:
        assert DistillConfig(alpha=alpha).alpha == alpha
    else:
        with pytest.raises(UserError, match=r"^--alpha must be "):
            DistillConfig(alpha=alpha)


@EXAMPLES
@given(st.floats())
def test_temperature_is_above_0_or_refused(T: float) -> None:
    if 0 < T <= 1000:
        assert DistillConfig(T=T).T == T
    else:
        with pytest.raises(UserError, match=r"^--T must be "):
            DistillConfig(T=T)


@EXAMPLES
@given(st.text())
def test_a_name_is_a_folder_in_runs_or_refused(name: str) -> None:
    if RUN_NAME.fullmatch(name):
        assert not {"/", "\\", "\0"} & set(DistillConfig(name=name).name or "")
    else:
        with pytest.raises(UserError, match=r"^--name must be letters"):
            DistillConfig(name=name)
