"""Settings: what is refused and in which words, the presets, and that none of it needs torch."""

import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from types import GenericAlias
from typing import Any

import pytest

from kdignite.config import (
    COMMANDS,
    PRESETS,
    AdoptConfig,
    BaselineConfig,
    CompareConfig,
    Config,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    MethodsStudyConfig,
    ReproduceConfig,
    SearchConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
    bare_type,
    configure,
    defaults,
    entries,
    from_json,
    parameter_names,
    stages,
    sweep_configs,
    to_json,
    trial_config,
    type_name,
)
from kdignite.config.presets import MIN_STEPS
from kdignite.errors import UserError
from kdignite.methods.registry import METHODS

REQUIRED: dict[str, dict[str, Any]] = {
    "evaluate": {"run": "runs/teacher"},
    "predict": {"paths": ("a.jpg",), "model": "runs/teacher"},
    "doctor": {"run": "runs/teacher"},
    "export": {"run": "runs/student"},
    "report": {"run": "runs/student"},
    "compare": {"runs": ("runs/student", "runs/baseline")},
    "adopt": {"file": "net.pt", "arch": "cnn5", "size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)},
}
TRAINING = (TeacherConfig, DistillConfig, BaselineConfig)
WRONG: dict[Any, tuple[Any, ...]] = {
    int: ("3", 1.5, True, (3,)),
    float: ("0.5", True, (0.5,), 1j),
    bool: (1, 0, "true"),
    str: (3, True, ("cnn5",), b"cnn5"),
    tuple[int, ...]: (3, "64,64", (64, 0.5), (), (True,)),
    tuple[float, ...]: (0.5, ".5,.5,.5", (0.5, "0.5", 0.5), ()),
    tuple[bool, ...]: (True, "true", (True, 1), ()),
    tuple[str, ...]: ("cat", ("cat", 3), ()),
}
WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    tuple[int, ...]: "whole numbers separated by commas",
    tuple[float, ...]: "numbers separated by commas",
    tuple[bool, ...]: "true or false separated by commas",
    tuple[str, ...]: "words separated by commas",
}


def build(kind: type[Config], **given: Any) -> Config:
    return kind(**{**REQUIRED.get(kind.command, {}), **given})


FIELDS = [(kind, one) for kind in COMMANDS.values() for one in dataclasses.fields(kind) if "help" in one.metadata]
EACH_FIELD = pytest.mark.parametrize(
    ("kind", "one"), FIELDS, ids=[f"{kind.command}-{one.name}" for kind, one in FIELDS]
)


def refusal(kind: type[Config], **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        build(kind, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listed(one: dataclasses.Field[Any]) -> str:
    return "; from Python, a list of them" if isinstance(bare_type(one.type), GenericAlias) else ""


@EACH_FIELD
def test_every_field_refuses_a_wrong_type_by_its_flag(kind: type[Config], one: dataclasses.Field[Any]) -> None:
    wanted = bare_type(one.type)
    for value in WRONG[wanted]:
        assert refusal(kind, **{one.name: value}) == f"--{one.name} needs {WORDS[wanted]}, not {value!r}{listed(one)}"


@EACH_FIELD
def test_none_is_for_optional_fields_alone(kind: type[Config], one: dataclasses.Field[Any]) -> None:
    optional = one.default is None or type(None) in getattr(one.type, "__args__", ())
    if not optional:
        wanted = WORDS[bare_type(one.type)]
        assert refusal(kind, **{one.name: None}) == f"--{one.name} needs {wanted}, not None{listed(one)}"
    elif one.name not in REQUIRED.get(kind.command, {}) and not one.metadata["parameter"]:  # the method's default
        assert getattr(build(kind, **{one.name: None}), one.name) is None


@EACH_FIELD
def test_every_field_has_help_and_a_named_type(kind: type[Config], one: dataclasses.Field[Any]) -> None:
    assert one.metadata["help"]
    assert type_name(one.type) == WORDS[bare_type(one.type)]


def test_no_field_but_what_configure_notes_is_hidden_from_the_command_line() -> None:
    hidden = {(kind, one.name) for kind in COMMANDS.values() for one in dataclasses.fields(kind)}
    noted = {(kind, name) for kind in TRAINING for name in ("given", "min_steps")}
    assert hidden - {(kind, one.name) for kind, one in FIELDS} == noted


LIMITED = [
    (kind, one, key)
    for kind, one in FIELDS
    for key in ("low", "high", "above", "below")
    if one.metadata[key] is not None
]


@pytest.mark.parametrize(
    ("kind", "one", "key"), LIMITED, ids=[f"{kind.command}-{one.name}-{key}" for kind, one, key in LIMITED]
)
def test_every_limit_is_enforced(kind: type[Config], one: dataclasses.Field[Any], key: str) -> None:
    limit = one.metadata[key]
    words = {"low": "at least", "high": "at most", "above": "above", "below": "below"}[key]
    step = 1 if bare_type(one.type) is int else 0.5
    outside = {"low": limit - step, "high": limit + step, "above": limit, "below": limit}[key]
    value = (outside,) if isinstance(bare_type(one.type), GenericAlias) else outside
    assert refusal(kind, **{one.name: value}) == f"--{one.name} must be {words} {limit:g}, not {outside:g}"


CHOICES = [(kind, one) for kind, one in FIELDS if one.metadata["choices"]]


@pytest.mark.parametrize(("kind", "one"), CHOICES, ids=[f"{kind.command}-{one.name}" for kind, one in CHOICES])
def test_every_choice_is_enforced(kind: type[Config], one: dataclasses.Field[Any]) -> None:
    choices = one.metadata["choices"]
    assert refusal(kind, **{one.name: "bogus"}) == f"--{one.name} must be one of {', '.join(choices)}, not 'bogus'"
    for choice in choices:
        needed = {"methods": ("kd",)} if kind is MethodsStudyConfig else {}  # not every method takes mixed images
        assert getattr(build(kind, **{one.name: choice, **needed}), one.name) == choice


def test_a_path_is_as_good_as_its_text() -> None:
    assert DistillConfig(teacher=Path("runs/teacher")) == DistillConfig(teacher="runs/teacher")  # type: ignore[arg-type]
    assert CompareConfig(runs=[Path("a"), "b"]).runs == ("a", "b")  # type: ignore[arg-type]
    assert hash(configure(DistillConfig, widths=[8] * 5)) == hash(configure(DistillConfig, widths=(8,) * 5))
    assert refusal(DistillConfig, epochs=Path("3")) == "--epochs needs a whole number, not '3'"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_must_be_finite(value: float) -> None:
    for kind, one in FIELDS:
        if bare_type(one.type) is float:
            assert refusal(kind, **{one.name: value}) == f"--{one.name} must be finite, not {value}"
        if bare_type(one.type) == tuple[float, ...]:
            assert refusal(kind, **{one.name: (0.5, value, 0.5)}) == f"--{one.name} must be finite, not {value}"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"warmup_epochs": 1.0},
            "--warmup_epochs is for --schedule=constant or cosine; onecycle has a warm-up of its own, and takes "
            "--warmup_epochs=0",
        ),
        (
            {"schedule": "cosine", "warmup_epochs": 3.5, "epochs": 3},
            "--warmup_epochs=3.5 is longer than --epochs=3",
        ),
        (
            {"preset": "fast"},
            "--preset must be one of standard, quick, reference, patient, original, pictures, not 'fast'",
        ),
        ({"val_size": 10.5}, "--val_size must be a whole count or a fraction below 1, not 10.5"),
        (
            {"name": "../escape"},
            "--name must be letters, digits, '.', '_' or '-', starting with a letter or digit, not '../escape'",
        ),
        (
            {"name": ""},
            "--name must be letters, digits, '.', '_' or '-', starting with a letter or digit, not ''",
        ),
    ],
)
@pytest.mark.parametrize("kind", TRAINING)
def test_what_does_not_fit_together(kind: type[TrainConfig], given: dict[str, Any], text: str) -> None:
    assert refusal(kind, **given) == text


@pytest.mark.parametrize("name", ["-x", ".hidden", "a/b", "a b", "a" * 65, "naïve", "a\n"])
def test_names_that_are_no_folder_names(name: str) -> None:
    assert refusal(TeacherConfig, name=name).startswith("--name must be")
    assert refusal(AdoptConfig, name=name).startswith("--name must be")


@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 2.0), ("cosine", 10.0), ("onecycle", 0.0)])
def test_warm_up_that_fits(schedule: str, warmup: float) -> None:
    assert TeacherConfig(schedule=schedule, warmup_epochs=warmup, epochs=10).warmup_epochs == warmup


@pytest.mark.parametrize("val_size", [0.1, 1, 1.0, 5000, 5000.0, None])
def test_val_size_is_a_count_or_a_fraction(val_size: float | None) -> None:
    assert BaselineConfig(val_size=val_size).val_size == val_size


def test_evaluate_needs_a_run() -> None:
    text = "evaluate needs a run folder or a checkpoint: python -m kdignite evaluate runs/NAME"
    assert refusal(EvaluateConfig, run="") == text


@pytest.mark.parametrize("runs", [None, ("",), ("runs/a", "")])
def test_compare_needs_runs(runs: tuple[str, ...] | None) -> None:
    text = "compare needs the folders of finished runs: "
    text += "python -m kdignite compare runs/TEACHER runs/STUDENT runs/BASELINE"
    assert refusal(CompareConfig, runs=runs) == text


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"file": ""},
            "adopt needs a file: python -m kdignite adopt FILE --arch=... --size=... --mean=... --std=...",
        ),
        ({"arch": ""}, "adopt needs --arch: how a model was fed is never assumed"),
        ({"size": None, "mean": None}, "adopt needs --size, --mean: how a model was fed is never assumed"),
        ({"mean": (0.5,)}, "--mean needs three numbers, red, green, blue: --mean=.5,.5,.5"),
        ({"std": (0.5, 0.5)}, "--std needs three numbers, red, green, blue: --std=.5,.5,.5"),
        (
            {"arch": "timm:resnet10t", "mean": (102, 51, 51), "std": None},
            "--mean and --std are for pixels in 0..1; those for pixels in 0..255 divided by 255: --mean=0.4,0.2,0.2",
        ),
        ({"std": (0.5, 0.0, 0.5)}, "--std must be above 0, not 0.5,0.0,0.5"),
        ({"std": (0.5, 0.2, -0.1)}, "--std must be above 0, not 0.5,0.2,-0.1"),
        ({"val_size": 2.5}, "--val_size must be a whole count or a fraction below 1, not 2.5"),
    ],
)
def test_adopt_assumes_nothing(given: dict[str, Any], text: str) -> None:
    assert refusal(AdoptConfig, **given) == text


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
def test_frozen_and_keyword_only(kind: type[Config]) -> None:
    config = build(kind)
    name = dataclasses.fields(kind)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, getattr(config, name))
    with pytest.raises(TypeError, match="positional argument"):
        kind("cifar10")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", TRAINING)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_for_every_training_command(kind: type[TrainConfig], preset: str) -> None:
    config = configure(kind, preset=preset)
    assert config.preset == preset
    for name, value in PRESETS[preset][kind.command].items():
        assert getattr(config, name) == value


def test_presets_name_trainings_and_the_study_and_their_fields_alone() -> None:
    for commands in PRESETS.values():
        assert set(commands) - {"reproduce"} == {kind.command for kind in TRAINING}
        for command, values in commands.items():
            assert set(values) <= {one.name for one in dataclasses.fields(COMMANDS[command])}


def test_a_preset_of_another_method_has_its_parameters_unless_a_third_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = {"method": "dkd", "beta": 3.0, "lr": 0.2}
    monkeypatch.setitem(PRESETS, "other", {**PRESETS["standard"], "distill": recipe})
    monkeypatch.setitem(MIN_STEPS, "other", MIN_STEPS["standard"])
    expected = {"dkd": ("dkd", 3.0, None), "nkd": ("nkd", None, 3.5), "kd": ("kd", None, None)}
    for given in ({}, {"method": "dkd"}, {"method": "nkd"}, {"method": "kd"}):
        found = configure(DistillConfig, preset="other", **given)
        assert (found.method, found.beta, found.gamma) == expected[given.get("method", "dkd")]
        assert found.lr == 0.2


def test_a_preset_has_the_options_of_its_model_unless_another_is_asked_for() -> None:
    preset = PRESETS["patient"]["teacher"]
    for arch in ("fastresnet", "resnet20", "timm:resnet10t"):
        found = configure(TeacherConfig, preset="patient", arch=arch)
        assert found.widths == (preset["widths"] if arch == "fastresnet" else None)
        assert (found.epochs, found.mix) == (preset["epochs"], preset["mix"])
    assert configure(TeacherConfig, preset="patient", arch="fastresnet", widths=(8, 8, 8)).widths == (8, 8, 8)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_sweep_and_a_search_are_of_the_method_of_their_preset(preset: str) -> None:
    method = configure(DistillConfig, preset=preset).method
    sweep, search = configure(SweepConfig, preset=preset), configure(SearchConfig, preset=preset)
    assert sweep.method_name == search.method_name == method
    assert {one.method for one in sweep_configs(sweep)} == {method}
    assert trial_config(search, defaults(search), name=None).method == method  # type: ignore[attr-defined]
    assert set(search.ranges) <= {"lr", *METHODS[method].parameters}
    assert configure(SweepConfig, preset=preset, method="dkd").method_name == "dkd"


@pytest.mark.parametrize("preset", PRESETS)
def test_methods_are_compared_without_settings_of_one_of_them(preset: str) -> None:
    own = {*PRESETS[preset]["distill"]} & {*parameter_names(DistillConfig)}
    one = configure(MethodsStudyConfig, preset=preset, methods=("kd",), controls=("shuffled",))
    assert len(entries(one)) == 3
    if own:
        with pytest.raises(UserError, match=r"^methods are compared on equal terms, and --preset=.*, python -m"):
            configure(MethodsStudyConfig, preset=preset, methods=("kd", "at"))
    else:
        configure(MethodsStudyConfig, preset=preset, methods=("kd", "at"))


@pytest.mark.parametrize("kind", TRAINING)
def test_standard_is_the_defaults(kind: type[TrainConfig]) -> None:
    assert configure(kind) == kind()


def test_the_published_experiment() -> None:
    teacher = configure(TeacherConfig, preset="original")
    student = configure(DistillConfig, preset="original")
    baseline = configure(BaselineConfig, preset="original")
    assert (teacher.arch, teacher.weights, teacher.epochs) == ("resnet50", "pretrained", 5)
    assert (student.arch, student.weights, student.epochs, student.alpha, student.T) == ("cnn5", "none", 10, 0.5, 1)
    assert (baseline.arch, baseline.weights, baseline.epochs) == ("cnn5", "none", 10)
    for config in (teacher, student, baseline):
        assert (config.size, config.augment, config.normalize) == (224, "flip", "imagenet")
        assert (config.optimizer, config.lr, config.momentum, config.weight_decay) == ("sgd", 0.001, 0.9, 0)
        assert (config.batch_size, config.schedule, config.label_smoothing) == (100, "constant", 0)


def test_single_values_win_over_the_preset() -> None:
    config = configure(DistillConfig, preset="original", alpha=0.8, epochs=3)
    assert (config.alpha, config.epochs, config.T) == (0.8, 3, 1.0)


def test_an_unknown_preset() -> None:
    with pytest.raises(UserError, match=r"^--preset must be one of standard, .*, original, pictures, not 'best'$"):
        configure(TeacherConfig, preset="best")
    with pytest.raises(UserError, match=r"^--preset must be one of standard, .* not \['quick'\]$"):
        configure(TeacherConfig, preset=["quick"])  # type: ignore[arg-type]


@pytest.mark.parametrize("word", ["no", "False", "none", "0", "true", "OFF", "Auto"])
def test_a_cache_is_no_switch(word: str) -> None:
    text = f"--cache must be auto, off or a folder, not {word!r}: such a folder is --cache=./{word}"
    assert refusal(DistillConfig, cache=word) == refusal(SweepConfig, cache=word) == text
    assert DistillConfig(cache=f"./{word}").cache == f"./{word}"


@pytest.mark.parametrize(
    ("preset", "values", "given"),
    [
        ("standard", {}, set()),
        ("standard", {"epochs": 10, "lr": 0.1}, {"epochs", "lr"}),  # what the defaults are too
        ("quick", {}, {"epochs"}),
        ("quick", {"epochs": 3, "name": "mine", "resume": "mine"}, {"epochs", "name", "resume"}),
        ("original", {"T": 2.0}, {*PRESETS["original"]["distill"], "T"}),
    ],
)
def test_a_config_knows_what_it_was_given(preset: str, values: dict[str, Any], given: set[str]) -> None:
    """By name: what the run that is resumed decides is the rest."""
    config = configure(DistillConfig, preset=preset, **values)
    assert config.given is not None
    assert set(config.given) == given
    assert len(config.given) == len(given)
    assert dataclasses.replace(config, seed=1).given == config.given


def test_a_config_that_was_built_whole_was_given_every_value() -> None:
    assert DistillConfig(alpha=0.5).given is None
    assert from_json(DistillConfig, to_json(configure(DistillConfig, alpha=0.5))).given is None


def test_configs_of_the_same_values_are_equal_whatever_was_given() -> None:
    one, other = configure(BaselineConfig, epochs=10), configure(BaselineConfig, lr=0.1)
    assert one.given != other.given
    assert one == other == BaselineConfig()
    assert hash(one) == hash(other)
    assert one != configure(BaselineConfig, epochs=11)


@pytest.mark.parametrize("kind", COMMANDS.values(), ids=COMMANDS)
def test_what_was_given_is_written_to_no_file_and_read_from_none(kind: type[Config]) -> None:
    config = build(kind)
    written = to_json(config)
    assert "given" not in written
    assert from_json(kind, written) == config
    with pytest.raises(UserError, match=rf"^the config of {kind.command} has no given$"):
        from_json(kind, {**written, "given": ["epochs"]})


def test_a_study_passes_on_what_it_was_given_as_given() -> None:
    plan = stages(configure(ReproduceConfig, epochs=3, teacher_lr=0.2))
    assert set(plan.students[0].given or ()) == {"seed", "epochs"}
    assert set(plan.teacher.given or ()) == {"seed", "lr"}


@pytest.mark.parametrize("preset", PRESETS)
def test_student_and_baseline_differ_in_the_loss_alone(preset: str) -> None:
    """Any other difference between their recipes would be what a comparison measured."""
    student, baseline = (to_json(configure(kind, preset=preset)) for kind in (DistillConfig, BaselineConfig))
    different = {key for key in student if key not in baseline or student[key] != baseline[key]}
    assert different <= {
        "method",
        *parameter_names(DistillConfig),
        "student_layers",
        "teacher_layers",
        "dataset",
        "teacher",
        "teacher_arch",
        "allow_weak_teacher",
        "cache",
        "cache_dtype",
        "cache_top",
        "teacher_amp",
        "teacher_outputs",
        "teacher_shares",
        "control",
    }
    assert set(baseline) <= set(student)


def test_reading_checks_again() -> None:
    stored = to_json(TeacherConfig())
    with pytest.raises(UserError, match=r"^the config of teacher has no alpha, bogus$"):
        from_json(TeacherConfig, {**stored, "bogus": 1, "alpha": 0.5})
    with pytest.raises(UserError, match=r"^--lr must be above 0, not 0$"):
        from_json(TeacherConfig, {**stored, "lr": 0})


def test_every_command_has_a_config() -> None:
    assert {command: kind.command for command, kind in COMMANDS.items()} == {key: key for key in COMMANDS}
    assert COMMANDS["data"] is DataConfig


def test_importing_it_does_not_import_torch() -> None:
    code = (
        "import sys, kdignite.config as c; c.configure(c.DistillConfig, preset='quick');"
        "assert not {'torch', 'numpy', 'ignite'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
