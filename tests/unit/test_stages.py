"""One config for all stages of a study: which flag reaches which stage."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from kdignite.commands.stages import find_study, open_study
from kdignite.config import (
    PRESETS,
    BaselineConfig,
    Config,
    DistillConfig,
    MethodsStudyConfig,
    ReproduceConfig,
    SearchConfig,
    TeacherConfig,
    configure,
    from_json,
    stages,
    target_flag,
    to_json,
)
from kdignite.config.study import _OWN, SHARED
from kdignite.errors import UserError
from kdignite.files import read_json


@pytest.mark.parametrize("preset", PRESETS)
def test_a_study_is_its_preset_in_every_stage(preset: str) -> None:
    plan = stages(configure(ReproduceConfig, preset=preset))
    assert plan.teacher == configure(TeacherConfig, preset=preset)
    seeds = range({"reference": 5, "patient": 3}.get(preset, 1))
    assert plan.students == tuple(configure(DistillConfig, preset=preset, seed=seed) for seed in seeds)
    assert plan.baselines == tuple(configure(BaselineConfig, preset=preset, seed=seed) for seed in seeds)


def test_seeds_count_from_the_first_and_the_teacher_is_trained_once() -> None:
    plan = stages(ReproduceConfig(seed=5, seeds=3))
    assert [one.seed for one in plan.students] == [one.seed for one in plan.baselines] == [5, 6, 7]
    assert plan.teacher.seed == 5
    assert stages(ReproduceConfig(seed=5, teacher_seed=1)).teacher.seed == 1


def test_a_flag_reaches_the_stages_it_is_for() -> None:
    plan = stages(ReproduceConfig(epochs=3, teacher_epochs=7, batch_size=64, view_seed=2, alpha=0.3, T=2.0))
    student, baseline = plan.students[0], plan.baselines[0]
    assert (plan.teacher.epochs, student.epochs, baseline.epochs) == (7, 3, 3)
    assert (plan.teacher.batch_size, student.batch_size, baseline.batch_size) == (
        TeacherConfig().batch_size,
        64,
        64,
    )
    assert {plan.teacher.view_seed, student.view_seed, baseline.view_seed} == {2}
    assert (student.alpha, student.T) == (0.3, 2.0)


def flags(kind: type[Config]) -> set[str]:
    return {one.name for one in fields(kind) if "help" in one.metadata}


def test_every_flag_of_every_stage_can_be_given() -> None:
    """But for the one that follows from another, and for resuming: a study resumes its stages by itself."""
    reached = {target_flag(name) for name in flags(ReproduceConfig)}
    assert flags(DistillConfig) - {name for _, name in reached} == {"teacher_arch", "resume"}
    assert {name for command, name in reached if command == "teacher"} == set(_OWN)
    assert flags(TeacherConfig) == {"preset", "name", "resume", *SHARED, *_OWN}


GIVEN = {
    **{"dataset": "digits", "data_root": "x", "augment": "flip", "device": "cpu", "amp": "off", "fast_dev_run": True},
    **{"sync_bn": True, "compile": True, "graph": "off", "skip_broken": True},
    **{"keep_last": True, "arch": "resnet20", "widths": (8,) * 5, "stem": "cifar", "weights": "pretrained"},
    **{"normalize": "imagenet", "optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 0.0},
    **{"momentum": 0.5, "label_smoothing": 0.25, "key": "ema", "balance": "loss", "mix": "mixup"},
    **{"arch_options": ("a=1",), "freeze_epochs": 1, "backbone_lr_mult": 0.5},
}


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_flag_reaches_every_stage(name: str) -> None:
    value = GIVEN.get(name, 16)
    plan = stages(ReproduceConfig(**{name: value}))
    assert {getattr(one, name) for one in (plan.teacher, *plan.students, *plan.baselines)} == {value}


@pytest.mark.parametrize("name", _OWN)
def test_a_flag_of_training_is_for_the_student_or_with_its_prefix_for_the_teacher(name: str) -> None:
    value, plain = GIVEN.get(name, 16), stages(ReproduceConfig())
    beside = {"mix": "mixup"} if name == "mix_alpha" else {}  # which is nothing without it
    plan = stages(ReproduceConfig(**{name: value}, **beside))
    assert {getattr(one, name) for one in (*plan.students, *plan.baselines)} == {value}
    assert name == "seed" or plan.teacher == plain.teacher
    plan = stages(ReproduceConfig(**{f"teacher_{key}": one for key, one in {name: value, **beside}.items()}))
    assert getattr(plan.teacher, name) == value
    assert plan.baselines == plain.baselines


def test_the_function_of_a_teacher_of_ones_own_is_known_to_the_student() -> None:
    plan = stages(ReproduceConfig(teacher_arch="mine:net"))
    assert (plan.teacher.arch, plan.students[0].teacher_arch) == ("mine:net", "mine:net")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lr": 0.0}, "--lr must be above 0, not 0"),
        ({"teacher_lr": 0.0}, "--teacher_lr must be above 0, not 0"),
        ({"teacher_warmup_epochs": 2.0}, "--teacher_warmup_epochs is for --teacher_schedule=constant or cosine"),
        ({"seeds": 0}, "--seeds must be at least 1, not 0"),
        ({"name": "../x"}, "--name must be letters"),
        (
            {"preset": "fast"},
            "--preset must be one of standard, quick, reference, patient, original, pictures, not 'fast'",
        ),
        ({"reference": "mine"}, "--reference must be one of original, not 'mine'"),
        (
            {"teacher": "runs/t", "teacher_epochs": 3, "teacher_lr": 0.2},
            "--teacher=runs/t names a trained teacher: leave out --teacher_epochs, --teacher_lr",
        ),
    ],
)
def test_a_mistake_is_told_by_the_flag_that_was_typed(given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        ReproduceConfig(**given)
    assert told in str(caught.value)


def test_a_teacher_that_is_there_may_have_a_function_of_its_own() -> None:
    plan = stages(ReproduceConfig(teacher="runs/t", teacher_arch="mine:net"))
    assert (plan.students[0].teacher, plan.students[0].teacher_arch) == ("runs/t", "mine:net")


def test_a_study_survives_json() -> None:
    config = ReproduceConfig(preset="quick", seeds=2, widths=(8, 8, 8, 8, 8), teacher_lr=0.2)
    assert from_json(ReproduceConfig, to_json(config)) == config


def test_a_study_that_cannot_be_read_is_skipped_with_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("reproduce-quick", '{"settings": {"a": 1}, "stages": {}}'), ("reproduce-quick-2", "{")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(text)
    config = ReproduceConfig(preset="quick")
    found = find_study(config, {"a": 1}, root=tmp_path)
    assert found is not None
    assert found.folder == tmp_path / "reproduce-quick"
    assert capsys.readouterr().out.startswith(f"skipped   {tmp_path / 'reproduce-quick-2'}: ")
    with pytest.raises(UserError, match="is damaged"):
        find_study(replace(config, name="reproduce-quick-2"), {"a": 1}, root=tmp_path)


def test_a_study_records_what_was_typed_but_where_things_lie(tmp_path: Path) -> None:
    typed = {"dataset": "digits", "val_size": 0.2, "teacher": "runs/t", "weights": "none"}
    config = configure(SearchConfig, **typed, data_root="/home/me/data", storage="postgresql://me:secret@host/x")
    study = open_study(config, {}, root=tmp_path)
    assert study.manifest["typed"] == {**typed, "data_root": "PATH", "storage": "PATH"}
    assert open_study(MethodsStudyConfig(), {}, root=tmp_path).manifest["typed"] == {}


def test_a_study_that_goes_on_records_what_was_typed_last(tmp_path: Path) -> None:
    for seeds in (1, 3):
        study = open_study(configure(ReproduceConfig, preset="quick", seeds=seeds), {"a": 1}, root=tmp_path)
    assert study.folder == tmp_path / "reproduce-quick"
    assert read_json(study.folder / "manifest.json")["typed"] == {"preset": "quick", "seeds": 3}
