"""Going on with a run: which one is meant, what may differ, and which states are refused."""

import dataclasses
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
from ignite.engine import Events
from torch import Tensor

import kdignite
from kdignite import checkpoints, files, runs
from kdignite.config import (
    NEWEST,
    BaselineConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
    bare_type,
    configure,
    from_json,
    parameter_names,
    to_json,
)
from kdignite.console import say_once
from kdignite.data.source import ImageSet, Source
from kdignite.data.splits import split_source
from kdignite.errors import UserError
from kdignite.steps import supervised_step
from kdignite.teachers import LogitCache
from kdignite.training import announce, identity, resume, spec, state
from kdignite.training import folder as run_folder
from kdignite.training import trainer as trainer_module
from kdignite.training.data import Data
from kdignite.training.spec import RunSpec, TeacherRecord, build_spec
from kdignite.training.state import TrainerState

CPU = torch.device("cpu")
SMALL = {"dataset": "toy", "widths": (3, 3, 3, 3, 3), "batch_size": 13, "epochs": 2, "threads": 1, "amp": "off"}
EPOCH = 3  # iterations: 39 images in batches of 13
SHA = "a" * 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small tensors are fastest on one thread."""
    torch.set_num_threads(1)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def toy() -> Data:
    """Noise of 60 images with 8 pixels a side: 39 to train on, 12 to validate, 9 to test."""
    images = torch.randint(0, 256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    source = Source(
        "toy", ("cat", "dog", "fox"), ImageSet(images, torch.arange(60) % 3), None, None, "f" * 64, 12, 9, "flip"
    )
    return Data(source, split_source(source, val_size=None), 8)


def ready(
    kind: type[TrainConfig] = BaselineConfig, *, teacher_record: TeacherRecord | None = None, **given: Any
) -> RunSpec:
    """A run that could start."""
    data = toy()
    config = spec.resolve(configure(kind, **{**SMALL, **given}), data, device=CPU)
    make_step = partial(supervised_step, label_smoothing=0.0, grad_clip=None, amp="off")
    return build_spec(config, data, device=CPU, make_step=make_step, teacher_record=teacher_record)


def told_now(run: RunSpec, **given: Any) -> RunSpec:
    """The same run under other settings."""
    return run._replace(config=dataclasses.replace(run.config, **given))


def begun(run: RunSpec, root: Path) -> Path:
    """The folder of a run that was stopped before its first save."""
    with run_folder.opened(run, None, root=root) as folder:
        return folder


def recorded(folder: Path, config: TrainConfig, *, result: dict[str, Any] | None = None, **environment: Any) -> Path:
    """A run folder with what resuming reads of it, made from nothing."""
    folder.mkdir(parents=True)
    files.write_json(folder / "config.json", {"command": config.command} | to_json(config))
    files.write_json(folder / "environment.json", environment)
    if result is not None:
        files.write_json(folder / "result.json", result)
    return folder


class Diagnosis(NamedTuple):
    """A training command that only notes what it was asked for."""

    command: Callable[..., runs.Finished]
    configs: list[Any]


@pytest.fixture
def asked() -> Diagnosis:
    configs: list[Any] = []

    @resume.resumable
    def command(config: TrainConfig, *, root: Path, **own: Any) -> runs.Finished:
        configs.append(config)
        return runs.Finished(Path("ran"), {"root": root, **own})

    return Diagnosis(command, configs)


# --- settings: which ones a run and its resumption have to agree on

# What changes no number of a run: names, places, leftovers, and what is known by its content. Whoever adds a setting
# has to say so here if it belongs to these; every other one is refused if it differs.
FREE = {
    *("preset", "name", "resume", "save_every_s", "keep_last", "graph"),
    *("dataset", "data_root", "val_size", "weights", "teacher", "teacher_arch", "allow_weak_teacher"),
}
MACHINE = {"device", "threads", "cache"}
SETTINGS = {one.name: one for one in dataclasses.fields(DistillConfig) if "help" in one.metadata}
# of others than kd
OF_METHODS = {"method", "student_layers", "teacher_layers", *parameter_names(DistillConfig)}
OF_METHODS -= set(DistillConfig().parameters)


def another(one: dataclasses.Field[Any], value: Any) -> Any:
    """A value of the same setting that is not this one."""
    if one.name == "preset":
        return "quick"
    if one.metadata["choices"]:
        return next(choice for choice in one.metadata["choices"] if choice != value)
    kind = bare_type(one.type)
    if kind is bool:
        return not value
    if kind is int:
        return 10 if value is None else value + 1
    if kind is float:
        return value / 2 if value else 0.25
    several = {tuple[int, ...]: (4, 4, 4, 4, 4), tuple[float, ...]: (0.5, 0.25), tuple[str, ...]: ("a=1",)}
    return several.get(kind, f"{value}-2")


def text(value: Any) -> str:
    """Written here once more: as it is typed."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return (
        ",".join(map(str, value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    )


class Distilled(NamedTuple):
    """A distillation that was begun."""

    run: RunSpec
    folder: Path
    root: Path


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    root = tmp_path_factory.mktemp("runs")
    weights = root / "weights"
    checkpoints.write(weights, ready().model.network.state_dict())
    shutil.copy(weights, root / "weights-2")
    settings = {"schedule": "cosine", "weights": str(weights), "teacher": "one,other"}
    run = ready(DistillConfig, teacher_record=TeacherRecord("one+other", SHA, 0.5), **settings)
    return Distilled(run, begun(run, root), root)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in OF_METHODS])
def test_each_setting_that_makes_a_number_has_to_be_the_same(distilled: Distilled, name: str) -> None:
    run, folder, root = distilled
    before = getattr(run.config, name)
    beside = {"mix": "mixup"} if name == "mix_alpha" else {}  # which is nothing without it
    run = told_now(run, **beside)
    folder = begun(run, root) if beside else folder
    changed = told_now(run, **{"resume": str(folder), name: another(SETTINGS[name], before)})
    newest = told_now(changed, resume=NEWEST)
    changed = told_now(changed, resume=str(folder))
    if name in FREE | MACHINE:
        assert resume.find(changed, root=root) == folder
        assert resume.find(newest, root=root) == (None if name == "name" else folder)  # which says which run is meant
        return
    why = "; under --schedule=cosine the learning rate of every step depends on --epochs" if name == "epochs" else ""
    assert refused(lambda: resume.find(changed, root=root)) == (
        f"{folder} has other settings: {name}: {text(before)} -> {text(getattr(changed.config, name))}{why}; "
        "resume it with its own, or start a new run"
    )
    assert resume.find(newest, root=root) is None


def test_another_method_is_another_run(distilled: Distilled) -> None:
    run, folder, root = distilled
    changed = told_now(run, resume=str(folder), method="logit_mse", T=None, standardize=None)
    told = refused(lambda: resume.find(changed, root=root))
    assert told.startswith(f"{folder} has other settings: method: kd -> logit_mse; T: 4 -> unset; ")
    assert "; standardize: false -> unset; resume" in told


def test_what_may_differ_is_told_in_one_place_each() -> None:
    assert identity.NOT_IDENTITY == FREE
    assert set(identity.MACHINE) == MACHINE
    assert set(SETTINGS) >= FREE | MACHINE


CONTENT: dict[str, tuple[Callable[[RunSpec, Path], RunSpec], str]] = {
    "data": (
        lambda run, _: run._replace(data=run.data._replace(source=run.data.source._replace(fingerprint="9" * 64))),
        f"data: {'f' * 64} -> {'9' * 64}",
    ),
    "split": (
        lambda run, _: run._replace(data=run.data._replace(splits=run.data.splits._replace(hash="8" * 64))),
        f"split: {split_source(toy().source, val_size=None).hash} -> {'8' * 64}",
    ),
    "teacher": (
        lambda run, _: run._replace(teacher_record=TeacherRecord("teacher", "7" * 64, 0.5)),
        f"teacher: {SHA} -> {'7' * 64}",
    ),
    "none": (lambda run, _: run._replace(teacher_record=None), f"teacher: {SHA} -> unset"),
    "weights": (lambda run, _: run._replace(weights="none"), "weights: {weights} -> none"),
}


@pytest.mark.parametrize("name", CONTENT)
def test_what_a_run_starts_from_is_known_by_its_content(distilled: Distilled, name: str) -> None:
    run, folder, root = distilled
    change, told = CONTENT[name]
    told = told.format(weights=files.sha256(root / "weights"))
    changed = change(told_now(run, resume=str(folder)), root)
    assert refused(lambda: resume.find(changed, root=root)).startswith(f"{folder} has other settings: {told}; resume")


def test_every_difference_is_listed(distilled: Distilled) -> None:
    run, folder, root = distilled
    given = {"T": 2.0, "batch_size": 14, "widths": (4, 4, 4, 4, 4), "grad_clip": 1.0, "threads": 7}
    changed = told_now(run, resume=str(folder), **given)
    told = refused(lambda: resume.find(changed, root=root))
    differences = told.removeprefix(f"{folder} has other settings: ").split("; ")[:-1]
    assert set(differences) == {
        *("batch_size: 13 -> 14", "widths: 3,3,3,3,3 -> 4,4,4,4,4", "grad_clip: unset -> 1", "T: 4 -> 2"),
    }


def test_more_epochs_under_a_constant_rate_are_no_other_run(tmp_path: Path) -> None:
    run = ready(schedule="constant")
    folder = begun(run, tmp_path)
    assert resume.find(told_now(run, resume=str(folder), epochs=9), root=tmp_path) == folder
    told = refused(lambda: resume.find(told_now(run, resume=str(folder), epochs=9, seed=1), root=tmp_path))
    assert told == f"{folder} has other settings: seed: 0 -> 1; resume it with its own, or start a new run"


# --- --resume=RUN: which run, and which settings hold


def test_a_command_that_resumes_nothing_is_called_as_it_was(asked: Diagnosis, tmp_path: Path) -> None:
    for config in (BaselineConfig(), BaselineConfig(resume=NEWEST)):
        assert asked.command(config, root=tmp_path, loss=max) == (Path("ran"), {"root": tmp_path, "loss": max})
    assert [config.resume for config in asked.configs] == [None, NEWEST]


def test_the_settings_of_a_run_hold_but_for_those_that_are_given(asked: Diagnosis, tmp_path: Path) -> None:
    own = configure(BaselineConfig, preset="quick", lr=0.3, widths=(8, 8, 8, 8, 8), seed=4, name="run")
    folder = recorded(tmp_path / "run", own)
    done = asked.command(configure(BaselineConfig, resume="run", seed=5), root=tmp_path, loss=max)
    assert done.result == {"root": tmp_path, "loss": max}
    assert asked.configs == [dataclasses.replace(own, seed=5, resume=str(folder))]


def test_a_config_that_was_built_whole_gives_every_setting(asked: Diagnosis, tmp_path: Path) -> None:
    recorded(tmp_path / "run", BaselineConfig(lr=0.3, seed=4))
    asked.command(BaselineConfig(resume="run", seed=4), root=tmp_path)
    assert (asked.configs[0].lr, asked.configs[0].seed) == (BaselineConfig().lr, 4)


@pytest.mark.parametrize(
    "spelt", ["run", "{root}/run", "{root}/run/", "{root}/run/last.safetensors", "run/last.safetensors", "./run"]
)
def test_a_run_is_named_by_its_name_its_folder_or_a_file_in_it(
    asked: Diagnosis, tmp_path: Path, spelt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded(tmp_path / "runs" / "run", BaselineConfig())
    (folder / "last.safetensors").write_text("")
    (tmp_path / "run").mkdir()  # of the same name, but no run
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "runs"
    asked.command(configure(BaselineConfig, resume=spelt.format(root=root)), root=root)
    assert Path(asked.configs[0].resume) == folder


def test_a_run_that_is_not_there_is_refused_with_those_that_could_be_meant(asked: Diagnosis, tmp_path: Path) -> None:
    config = configure(BaselineConfig, resume="no")
    told = f"there is no run 'no' to resume; unfinished runs of baseline in {tmp_path}/: "
    assert refused(lambda: asked.command(config, root=tmp_path)) == f"{told}none"
    recorded(tmp_path / "b", BaselineConfig())
    recorded(tmp_path / "a", BaselineConfig())
    recorded(tmp_path / "finished", BaselineConfig(), result={})
    recorded(tmp_path / "other", TeacherConfig())
    (tmp_path / "link").symlink_to(tmp_path / "a")
    recorded(tmp_path / "damaged", BaselineConfig())
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "no").mkdir()  # a folder, but no run
    assert refused(lambda: asked.command(config, root=tmp_path)) == f"{told}a, b"
    assert asked.configs == []


def test_the_name_of_an_unfinished_run_is_refused_with_the_line_that_resumes_it(
    asked: Diagnosis, tmp_path: Path
) -> None:
    config = configure(BaselineConfig, name="cut", epochs=30)
    folder = recorded(tmp_path / "cut", config)
    (folder / "metrics.csv").write_text("epoch\n1\n")
    taken = f"{folder} exists and is never overwritten: "
    assert refused(lambda: asked.command(config, root=tmp_path)) == (
        f"{taken}it is unfinished (epoch 1 of 30): go on with python -m kdignite baseline --resume={folder}, "
        "or choose another --name"
    )
    files.write_json(folder / "result.json", {})
    assert refused(lambda: asked.command(config, root=tmp_path)) == f"{taken}choose another --name"
    assert asked.configs == []


@pytest.mark.parametrize("result", [None, {"epochs": 2}])
def test_a_run_of_another_command_is_sent_there(
    asked: Diagnosis, tmp_path: Path, result: dict[str, Any] | None
) -> None:
    folder = recorded(tmp_path / "run", TeacherConfig(), result=result)
    for config in (configure(BaselineConfig, resume="run"), configure(DistillConfig, resume=str(folder), seed=1)):
        told = refused(lambda config=config: asked.command(config, root=tmp_path))
        assert told == f"{folder} is a run of teacher: python -m kdignite teacher --resume={folder}"
    asked.command(configure(TeacherConfig, resume="run"), root=tmp_path)
    assert len(asked.configs) == (result is None)


@pytest.mark.parametrize("command", ["adopt", "data", "nonsense", None, 3, ["teacher"]])
def test_a_folder_of_what_is_no_training_has_nothing_to_resume(asked: Diagnosis, tmp_path: Path, command: Any) -> None:
    folder = recorded(tmp_path / "run", BaselineConfig())
    files.write_json(folder / "config.json", {"command": command})
    told = refused(lambda: asked.command(configure(BaselineConfig, resume="run"), root=tmp_path))
    assert told == f"{folder} is no run of a training: there is nothing to resume"


@pytest.mark.parametrize("spelt", ["link", "{root}/link", "{root}/link/last.safetensors"])
def test_a_link_to_a_run_is_not_followed(asked: Diagnosis, tmp_path: Path, spelt: str) -> None:
    elsewhere = recorded(tmp_path / "elsewhere" / "run", BaselineConfig())
    (elsewhere / "last.safetensors").write_text("")
    root = tmp_path / "runs"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    told = refused(lambda: asked.command(configure(BaselineConfig, resume=spelt.format(root=root)), root=root))
    assert told == f"{root / 'link'} is a link: resume the folder that it points to, {elsewhere}"
    assert asked.configs == []


def test_a_finished_run_is_told_and_not_run(
    asked: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = recorded(tmp_path / "run", BaselineConfig(), result={"epochs": 7, "test": {}})
    done = asked.command(configure(BaselineConfig, resume="run"), root=tmp_path)
    assert done == (folder, {"epochs": 7, "test": {}})
    assert capsys.readouterr().out == f"resume    {folder} has already finished (7 epochs): nothing is done\n"
    assert asked.configs == []


@pytest.mark.parametrize(
    ("name", "value"), [("arch", "mine:net"), ("dataset", "mine:data"), ("teacher_arch", "mine.deep:net")]
)
def test_code_of_ones_own_is_never_named_by_a_file(asked: Diagnosis, tmp_path: Path, name: str, value: str) -> None:
    folder = recorded(tmp_path / "run", DistillConfig(teacher="t", **{name: value}))
    for given in ({}, {name: "other:code"}):
        told = refused(
            lambda given=given: asked.command(configure(DistillConfig, resume="run", **given), root=tmp_path)
        )
        assert told == (
            f"{folder} uses code of your own, and a file never names code to run: repeat its name, --{name}={value}"
        )
    assert asked.configs == []
    asked.command(configure(DistillConfig, resume="run", **{name: value}), root=tmp_path)
    assert getattr(asked.configs[0], name) == value


def test_a_folder_of_images_is_no_code(asked: Diagnosis, tmp_path: Path) -> None:
    images = tmp_path / "my:images"
    images.mkdir()
    recorded(tmp_path / "run", BaselineConfig(dataset=f"folder:{images}"))
    asked.command(configure(BaselineConfig, resume="run"), root=tmp_path)
    assert asked.configs[0].dataset == f"folder:{images}"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"bogus": 1}, "the config of baseline has no bogus"),
        ({"given": ["lr"]}, "the config of baseline has no given"),
        ({"lr": -1.0}, "--lr must be above 0, not -1"),
        ({"epochs": "many"}, "--epochs needs a whole number, not 'many'"),
        ({"arch": {"a": 1}}, "--arch needs text, not {'a': 1}"),
        (
            {"widths": [[1]]},
            "--widths needs whole numbers separated by commas, not ((1,),); from Python, a list of them",
        ),
    ],
)
def test_settings_that_are_none_are_refused_by_their_file(
    asked: Diagnosis, tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    path = recorded(tmp_path / "run", BaselineConfig()) / "config.json"
    files.write_json(path, files.read_json(path) | change)
    assert refused(lambda: asked.command(configure(BaselineConfig, resume="run"), root=tmp_path)) == f"{path}: {told}"
    path.write_text('{"command"')
    assert f"{path} is damaged" in refused(
        lambda: asked.command(configure(BaselineConfig, resume="run"), root=tmp_path)
    )


def teacher_in(folder: Path, *, at: str, content: str) -> str:
    result = {"command": "teacher", "partial": False, "finished_at": at, "dataset": "digits", "val_size": 200}
    recorded(folder, TeacherConfig(), result=result)
    (folder / "best.safetensors").write_text(content)
    return files.sha256(folder / "best.safetensors")


def test_the_newest_teacher_of_then_is_found_by_its_content(asked: Diagnosis, tmp_path: Path) -> None:
    sha = teacher_in(tmp_path / "old", at="1", content="old")
    teacher_in(tmp_path / "new", at="2", content="new")
    recorded(tmp_path / "run", DistillConfig(), teacher={"name": "moved since", "sha256": sha, "accuracy": 0.5})
    recorded(tmp_path / "lost", DistillConfig(), teacher={"name": "gone", "sha256": SHA, "accuracy": 0.5})
    recorded(tmp_path / "named", DistillConfig(teacher="runs/mine"), teacher={"sha256": sha})
    for given in ({"resume": "run"}, {"resume": "run", "teacher": "new"}, {"resume": "lost"}, {"resume": "named"}):
        asked.command(configure(DistillConfig, **given), root=tmp_path)
    assert [config.teacher for config in asked.configs] == [
        str(tmp_path / "old/best.safetensors"),
        "new",
        None,
        "runs/mine",
    ]


@pytest.mark.parametrize(
    ("recorded_as", "is_meant"),
    [
        (
            {"val_size": 200.0, "image_size": 32, "augment": "crop", "normalize": "data", "amp": "off", "threads": 2},
            True,
        ),
        *(({name: value}, False) for name, value in {"mix": "cutmix", "views": 3, "limit_train": 30}.items()),
        *(({name: value}, False) for name, value in {"cache_top": 5, "control": "random", "patience": 3}.items()),
        ({"grad_clip": 1.0}, False),
    ],
)
def test_what_was_left_open_may_be_what_a_run_found_and_not_what_it_was_told(
    asked: Diagnosis, tmp_path: Path, recorded_as: dict[str, Any], is_meant: bool
) -> None:
    sha = teacher_in(tmp_path / "old", at="1", content="old")
    teacher_in(tmp_path / "new", at="2", content="new")
    recorded(tmp_path / "run", DistillConfig(**recorded_as), teacher={"sha256": sha})
    asked.command(configure(DistillConfig, dataset="digits", resume=NEWEST), root=tmp_path)
    assert asked.configs[0].teacher == (str(tmp_path / "old/best.safetensors") if is_meant else None)


def test_every_setting_that_a_run_finds_is_known_as_one() -> None:
    config = configure(DistillConfig, **SMALL | {"threads": None, "mix": "cutmix"})
    found = spec.resolve(config, toy(), device=CPU)
    names = {name for name, value in to_json(config).items() if value is None and to_json(found)[name] is not None}
    assert {"augment", "mix_alpha", "threads"} <= names <= resume.FILLED


# --- --resume alone: the newest run of the same settings


def test_of_several_runs_of_the_same_settings_the_newest_unfinished_one_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ready()
    names = ["baseline", "baseline-2", "baseline-3", "baseline-4"]
    assert [begun(run, tmp_path).name for _ in names] == names
    for age, name in enumerate(["baseline-3", "baseline", "baseline-2", "baseline-4"]):  # from the oldest on
        os.utime(tmp_path / name / "config.json", (1000 + age, 1000 + age))
    files.write_json(tmp_path / "baseline-4" / "result.json", {"epochs": 2})
    again = told_now(run, resume=NEWEST)
    assert resume.find(again, root=tmp_path) == tmp_path / "baseline-2"
    assert capsys.readouterr().out == ""
    for name in ("baseline-2", "baseline", "baseline-3"):
        assert resume.find(again, root=tmp_path) == tmp_path / name
        files.write_json(tmp_path / name / "result.json", {"epochs": 2})
    assert resume.find(again, root=tmp_path) == (tmp_path / "baseline-4", {"epochs": 2})
    assert "baseline-4 has already finished (2 epochs): nothing is done" in capsys.readouterr().out


def test_where_no_run_has_the_settings_it_is_a_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ready()
    other = begun(ready(seed=1), tmp_path)
    begun(ready(TeacherConfig, arch="cnn5"), tmp_path)
    link = tmp_path / "elsewhere"
    link.mkdir()
    (tmp_path / "link").symlink_to(begun(run, link))
    begun(run, tmp_path / "study")  # whose stages are resumed by running it again
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("[")
    half = begun(run, tmp_path)
    (half / "environment.json").write_text("[")
    assert resume.find(told_now(run, resume=NEWEST), root=tmp_path) is None
    lines = capsys.readouterr().out.splitlines()
    told = f"resume    {tmp_path}/ has no run of these settings: this is a new one"
    assert lines[-1] == f"{told}; unfinished, of other settings: {other.name}"
    assert sorted(line.partition(":")[0] for line in lines[:-1]) == [
        f"skipped   {half}",
        f"skipped   {tmp_path / 'damaged'}",
    ]


def test_a_run_that_was_not_asked_to_resume_is_a_new_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ready(name="run")
    begun(run, tmp_path)
    assert resume.find(run, root=tmp_path) is None
    assert capsys.readouterr().out == ""


def test_with_a_name_it_is_the_run_of_that_name_or_none(tmp_path: Path) -> None:
    run = ready(name="run")
    folder = begun(run, tmp_path)
    assert resume.find(told_now(run, resume=NEWEST), root=tmp_path) == folder
    told = refused(lambda: resume.find(told_now(run, resume=NEWEST, lr=0.2), root=tmp_path))
    assert told == f"{folder} has other settings: lr: 0.1 -> 0.2; resume it with its own, or start a new run"
    files.write_json(folder / "result.json", {"epochs": 2})
    assert resume.find(told_now(run, resume=NEWEST), root=tmp_path) == (folder, {"epochs": 2})


def test_a_name_that_no_run_has_is_a_new_run_also_beside_one_of_the_same_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two trials of a search may try the same: the second must not go on with the first, in progress or stopped."""
    run = ready(name="first", schedule="constant")
    folder = begun(run, tmp_path)
    second = told_now(run, resume=NEWEST, name="second")
    assert resume.find(second, root=tmp_path) is None
    told = f"resume    {tmp_path}/ has no run second: this is a new one; unfinished: first\n"
    assert capsys.readouterr().out == told
    files.write_json(folder / "result.json", {"epochs": 2})
    (folder / "last.safetensors").write_text("")
    assert resume.find(second, root=tmp_path) == (folder, {"epochs": 2})
    assert resume.find(told_now(second, epochs=3), root=tmp_path) is None


def test_with_a_name_the_teacher_is_that_of_the_run_of_this_name(asked: Diagnosis, tmp_path: Path) -> None:
    """Finished or not, and whatever has begun or finished since."""
    shas = {name: teacher_in(tmp_path / name, at=at, content=name) for name, at in (("old", "1"), ("new", "2"))}
    mine = DistillConfig(name="mine", dataset="digits")
    recorded(tmp_path / "mine", mine, teacher={"sha256": shas["old"]})
    recorded(tmp_path / "newer", dataclasses.replace(mine, name="newer"), teacher={"sha256": shas["new"]})
    os.utime(tmp_path / "mine" / "config.json", (1000, 1000))
    again = configure(DistillConfig, name="mine", dataset="digits", resume=NEWEST)
    asked.command(again, root=tmp_path)
    files.write_json(tmp_path / "mine" / "result.json", {"command": "distill"})
    asked.command(again, root=tmp_path)
    asked.command(dataclasses.replace(again, name="another"), root=tmp_path)
    assert [one.teacher for one in asked.configs] == [*[str(tmp_path / "old" / "best.safetensors")] * 2, None]


def test_with_a_name_too_another_command_and_a_link_are_refused(tmp_path: Path) -> None:
    run = ready(name="run")
    same = {"arch": "cnn5", "lr": 0.1, "weight_decay": 5e-4}
    folder = begun(ready(TeacherConfig, name="run", **same), tmp_path)
    told = refused(lambda: resume.find(told_now(run, resume=NEWEST), root=tmp_path))
    assert told == f"{folder} is a run of teacher: python -m kdignite teacher --resume={folder}"
    (tmp_path / "link").symlink_to(begun(run, tmp_path / "elsewhere"))
    told = refused(lambda: resume.find(told_now(run, resume=NEWEST, name="link"), root=tmp_path))
    assert told.startswith(f"{tmp_path / 'link'} is a link: ")


# --- the folder


def test_a_new_folder_has_the_settings_and_what_the_run_starts_from(tmp_path: Path) -> None:
    run = ready(DistillConfig, teacher_record=TeacherRecord("teacher", SHA, 0.5), name="run", alpha=0.5)
    with run_folder.opened(told_now(run, resume=NEWEST), None, root=tmp_path) as folder:
        assert (folder / ".lock").exists()
    assert folder == tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {"config.json", "environment.json"}
    values = json.loads((folder / "config.json").read_text())
    assert values.pop("command") == "distill"
    assert from_json(DistillConfig, values) == run.config
    environment = json.loads((folder / "environment.json").read_text())
    assert {key: environment[key] for key in ("data", "split", "weights", "teacher")} == {
        "data": "f" * 64,
        "split": run.data.splits.hash,
        "weights": "none",
        "teacher": {"name": "teacher", "sha256": SHA, "accuracy": 0.5},
    }
    assert environment["packages"]["torch"] == version("torch")


def test_stopped_before_its_settings_are_written_a_run_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.runs, "environment", stop)
    with pytest.raises(KeyboardInterrupt):
        begun(ready(name="early"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_folder_is_opened_as_it_is(tmp_path: Path) -> None:
    run = ready()
    folder = begun(run, tmp_path)
    (folder / "events.out.tfevents.1").write_text("x")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with run_folder.opened(told_now(run, resume=str(folder), save_every_s=5.0), folder, root=tmp_path) as again:
        assert again == folder
        assert (folder / ".lock").exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_a_killed_process_or_a_shorter_run_left_is_swept_when_a_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ready()
    folder, victim = begun(run, tmp_path), tmp_path / "victim"
    victim.write_text("precious")
    for name in (
        "events.out.tfevents.1.host.2.0",
        ".tmp-4711-last.safetensors",
        ".tmp-4711-best.safetensors",
        "last.safetensors",
        "mine.txt",
        "metrics.csv",
        *("result.json", "predictions.npz", "report.html", "classes.csv", "confusions.csv"),
        *("confusion_matrix.png", "classification_report.png"),
    ):
        (folder / name).write_text("x")
    (folder / "events.out.tfevents.link").symlink_to(victim)
    run_folder.record_resume(told_now(run, resume=str(folder), save_every_s=5.0), folder, iteration=4)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "environment.json",
        "last.safetensors",
        "metrics.csv",
        "mine.txt",
    }
    assert victim.read_text() == "precious"
    values = files.read_json(folder / "config.json")
    assert (values["command"], values["save_every_s"], values["resume"]) == ("baseline", 5.0, None)
    assert capsys.readouterr().out == f"resume    after iteration 4 of {2 * EPOCH}\n"


def test_a_run_that_another_process_finished_meanwhile_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = ready()
    folder = begun(run, tmp_path)
    files.write_json(folder / "result.json", {})
    (folder / "events.out.tfevents.1").write_text("x")
    before = (folder / "config.json").read_bytes()

    def enter() -> None:
        with run_folder.opened(told_now(run, save_every_s=5.0), folder, root=tmp_path):
            pass

    assert refused(enter) == f"{folder} has just been finished by another process"
    assert (folder / "events.out.tfevents.1").exists()
    assert (folder / "config.json").read_bytes() == before
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("earlier", [False, True])
def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, earlier: bool
) -> None:
    run = ready(widths=(64, 64, 64, 24, 12))
    folder = begun(run, tmp_path) if earlier else None
    root = tmp_path if earlier else tmp_path / "not" / "there" / "yet"
    model = sum(len(value.numpy().tobytes()) for value in run.model.network.state_dict().values())
    needed = 3 * 3 * model  # three files of weights and two moments
    asked: list[Path] = []

    def usage(path: Path) -> SimpleNamespace:
        asked.append(Path(path))
        return SimpleNamespace(free=free)

    def enter() -> None:
        with run_folder.opened(run, folder, root=root):
            pass

    monkeypatch.setattr(shutil, "disk_usage", usage)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    free = needed - 1
    place = folder or tmp_path
    assert refused(enter) == (
        f"the disk of {place} has {free / 1e6:.0f} MB free, checkpoints of this run need up to "
        f"{needed / 1e6:.0f} MB: make room first"
    )
    assert f"{needed / 1e6:.0f}" != "0"
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    free = needed
    enter()
    assert asked == [place, place]


def test_each_resumption_is_noted_with_what_is_different_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ready()
    folder = begun(run, tmp_path)
    before = files.read_json(folder / "environment.json")
    run_folder.record_resume(run, folder, iteration=4)
    assert "note" not in capsys.readouterr().out
    now = before | {"threads": 7, "processor": "Other chip", "commit": "else"}
    monkeypatch.setattr(runs, "environment", lambda device: now)
    run_folder.record_resume(run, folder, iteration=5)
    out = capsys.readouterr().out
    assert f"another machine than before (threads: 1 -> 7; processor: {before['processor']} -> Other chip)" in out
    assert "not bit-equal to those of a run that was never stopped" in " ".join(out.split())
    monkeypatch.setattr(runs, "environment", lambda device: before | {"packages": {"torch": "9"}})
    run_folder.record_resume(run, folder, iteration=6)
    assert "another machine than before (other packages)" in capsys.readouterr().out
    after = files.read_json(folder / "environment.json")
    noted = after.pop("resumed")
    assert after == before
    assert [(one["iteration"], one["changed"]) for one in noted] == [
        (4, {}),
        (5, {"threads": 7, "processor": "Other chip"}),
        (6, {"packages": {"torch": "9"}}),
    ]
    assert [one["at"] for one in noted] == sorted(one["at"] for one in noted)


def test_logits_that_come_from_elsewhere_now_are_noted(
    distilled: Distilled, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table and the teacher itself may differ in the last bits."""
    run, folder, _ = distilled
    moved = run._replace(config=dataclasses.replace(run.config, cache="off"))
    run_folder.record_resume(moved, folder, iteration=2)
    assert "another machine than before (cache: auto -> off): from here on" in capsys.readouterr().out
    run_folder.record_resume(moved, folder, iteration=3)
    assert "note" not in capsys.readouterr().out


# --- what is left


class Known(LogitCache):
    """Cached logits of one view, which took 7 s."""

    def __init__(self) -> None:
        self.spent_s = 7.0

    def seconds_left(self, views: Iterable[int]) -> float:
        return 7.0 * len(set(views) - {0})


def test_what_a_run_has_left_is_steps_and_evaluations() -> None:
    """12 images to validate and 9 to test, each a third of a step of 13."""
    run = ready(epochs=4)
    assert announce.remaining(run, 1) == (4 * EPOCH - 1 + (5 * 12 + 9) / 39, 0, 0)
    assert announce.remaining(run, EPOCH).steps == 3 * EPOCH + (5 * 12 + 9) / 39  # its validation comes after it
    assert announce.remaining(run, EPOCH + 1).steps == 3 * EPOCH - 1 + (4 * 12 + 9) / 39
    assert announce.remaining(run, 4 * EPOCH).steps == pytest.approx((2 * 12 + 9) / 39)  # the saved model once more


@pytest.mark.parametrize(("views", "seconds"), [(None, [21.0, 14.0, 7.0, 0.0]), (2, [7.0] * 3 + [0.0]), (1, [0.0] * 4)])
def test_views_of_the_epochs_to_come_need_logits_of_the_teacher(views: int | None, seconds: list[float]) -> None:
    run = ready(epochs=4, views=views, augment="crop")._replace(teacher=Known())
    found = [announce.remaining(run, EPOCH * epoch + 1) for epoch in range(4)]
    assert [one.cache_s for one in found] == seconds
    assert {one.spent_s for one in found} == {7.0}


# --- the complete state


class Enough(Exception):
    """The run got as far as the test needs it."""


def trainer_state(run: RunSpec, folder: Path, *, until: int = 0) -> TrainerState:
    """The engine of a run after some iterations."""
    found = trainer_module.build_trainer(run, folder, resumed=False)

    def stop() -> NoReturn:
        raise Enough

    if until:
        found.trainer.add_event_handler(Events.ITERATION_COMPLETED(once=until), stop)
        with pytest.raises(Enough):
            trainer_module._run_engine(found)
    return found


SETUPS: dict[str, dict[str, Any]] = {
    "nesterov": {},
    "adamw": {"optimizer": "adamw", "lr": 1e-3},
    "patient": {"patience": 3, "optimizer": "sgd", "momentum": 0.0},
}


class Stopped(NamedTuple):
    """A run that was stopped in its second epoch, with its state in ``last.safetensors``."""

    run: RunSpec
    folder: Path
    trainer_state: TrainerState

    @property
    def last(self) -> Path:
        return self.folder / "last.safetensors"

    def restored(self) -> TrainerState:
        """What another process makes of it."""
        fresh = trainer_state(ready(type(self.run.config), **self.given()), self.folder)
        state.restore(fresh, self.folder)
        return fresh

    def given(self) -> dict[str, Any]:
        return {name: getattr(self.run.config, name) for name in ("optimizer", "lr", "momentum", "patience", "epochs")}


@pytest.fixture
def stopped(request: pytest.FixtureRequest, tmp_path: Path) -> Stopped:
    run = ready(**SETUPS[getattr(request, "param", "nesterov")])
    folder = begun(run, tmp_path)
    at_work = trainer_state(run, folder, until=EPOCH + 2)
    state.Saver(at_work, folder)()
    return Stopped(run, folder, at_work)


def alike(one: Any, other: Any) -> bool:
    """Whether nested containers hold the same, to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


@pytest.mark.parametrize("stopped", SETUPS, indirect=True)
def test_a_state_comes_back_as_it_was(stopped: Stopped, tmp_path: Path) -> None:
    again = stopped.restored()
    assert again.trainer.state.iteration == EPOCH + 2
    state.Saver(again, tmp_path)()
    saved, resaved = checkpoints.read(stopped.last), checkpoints.read(tmp_path / "last.safetensors")
    for values in (saved, resaved):
        for group in values["optimizer"]["param_groups"]:
            del group["lr"]  # set before each step, from its number
    first, second = saved.pop("clock"), resaved.pop("clock")
    assert 0 < first["epoch"] == second["epoch"]  # no step has been made since
    assert first["run"] <= second["run"]
    assert alike(saved, resaved)
    assert len(saved["history"]["rows"]) == 1
    assert float(saved["sums"]["images"]) == 26
    assert ("patience" in saved) == (stopped.run.config.patience is not None)
    assert not alike(ready(**stopped.given()).model.network.state_dict(), saved["model"])


def test_the_state_before_is_kept_beside_it(stopped: Stopped) -> None:
    stopped.trainer_state.trainer.state.iteration += 1
    state.Saver(stopped.trainer_state, stopped.folder)()
    iterations = {
        path.name: checkpoints.read(path)["trainer"]["iteration"]
        for path in (stopped.last, stopped.last.with_name("previous.safetensors"))
    }
    assert iterations == {"last.safetensors": EPOCH + 3, "previous.safetensors": EPOCH + 2}


def test_settings_of_the_optimizer_are_those_of_the_config_and_not_of_the_file(stopped: Stopped) -> None:
    values = checkpoints.read(stopped.last)
    for group in values["optimizer"]["param_groups"]:
        group |= {"momentum": 0.1, "weight_decay": 9.0, "nesterov": False, "maximize": True}
    checkpoints.write(stopped.last, values)
    again = stopped.restored()
    for group, decay in zip(again.run.optimizer.param_groups, (5e-4, 0.0), strict=True):
        assert (group["momentum"], group["nesterov"], group["maximize"]) == (0.9, True, False)
        assert group["weight_decay"] == decay


def contiguous(values: Any) -> Any:
    """As a file holds tensors whose memory layout it does not keep."""
    if isinstance(values, dict):
        return {key: contiguous(value) for key, value in values.items()}
    return values.contiguous() if isinstance(values, Tensor) else values


def test_moments_lie_as_their_weights_do_however_the_file_has_them(stopped: Stopped) -> None:
    """Fused kernels pair numbers as they lie: another layout would give each weight the moment of another."""
    as_saved = stopped.restored().run.optimizer.state
    values = checkpoints.read(stopped.last)
    before = values["optimizer"]["state"]
    values["optimizer"]["state"] = contiguous(before)
    checkpoints.write(stopped.last, values)
    again = stopped.restored().run.optimizer.state
    moments = 0
    for parameter, held, kept in zip(again, again.values(), as_saved.values(), strict=True):
        for name, value in held.items():
            assert torch.equal(value, kept[name])
            if value.shape == parameter.shape:
                assert value.stride() == parameter.stride()
                moments += not parameter.is_contiguous()
    assert moments


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Set what lies at the end of a path of keys."""

    def change(values: dict[str, Any]) -> None:
        inside: Any = values
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = value

    return change


def drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Remove what lies at the end of a path of keys."""

    def change(values: dict[str, Any]) -> None:
        inside: Any = values
        for key in path[:-1]:
            inside = inside[key]
        del inside[path[-1]]

    return change


MOMENTUM = ("optimizer", "state", 0, "momentum_buffer")
NAN, INF = torch.tensor(float("nan")), torch.tensor(float("inf"))
ROWS = [{"epoch": epoch, "loss": 1.0} for epoch in (1, 2, 3)]
DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "shape of momentum": (
        put(*MOMENTUM, value=torch.zeros(2, 3)),
        r"momentum_buffer of parameter 0 has shape \(2, 3\)",
    ),
    "one parameter more": (put("optimizer", "state", 999, value={"momentum_buffer": torch.zeros(3)}), "IndexError"),
    "momentum that is a word": (put(*MOMENTUM, value="x"), "AttributeError"),
    "momentum that is no number": (
        put(*MOMENTUM, value=NAN),
        r"numbers that are not finite: optimizer\.state\.0\.momentum_buffer",
    ),
    "infinite sums": (put("sums", "loss", value=INF), r"numbers that are not finite: sums\.loss"),
    "sums that are none": (put("sums", "loss", value="x"), "ValueError"),
    "no optimizer": (drop("optimizer"), "KeyError"),
    "no history": (drop("history"), "KeyError"),
    "no clock": (drop("clock"), "KeyError"),
    "a clock without hands": (put("clock", "run", value="late"), "ValueError"),
    "nothing about it": (drop("about"), "KeyError"),
    "a word about it": (put("about", value="mine"), "TypeError"),
    "a row too few": (put("history", "rows", value=[]), "a history of 0 epochs after 5 iterations"),
    "a row too many": (put("history", "rows", value=ROWS[:2]), "a history of 2 epochs after 5 iterations"),
    "rows in disorder": (put("history", "rows", value=ROWS[1:2]), "a history of 1 epochs after 5 iterations"),
    "rows that are none": (put("history", "rows", value=[1]), "TypeError"),
    "iteration 0": (put("trainer", "iteration", value=0), "iteration 0 in epochs of 3"),
    "iteration -1": (put("trainer", "iteration", value=-1), "iteration -1 in epochs of 3"),
    "iteration true": (put("trainer", "iteration", value=True), "iteration True in epochs of 3"),
    "iteration 4.5": (put("trainer", "iteration", value=4.5), r"iteration 4\.5 in epochs of 3"),
    "iteration of another epoch": (put("trainer", "iteration", value=7), "a history of 1 epochs after 7 iterations"),
    "longer epochs": (put("trainer", "epoch_length", value=4), "iteration 5 in epochs of 4"),
}


def damaged(stopped: Stopped, change: Callable[[dict[str, Any]], None]) -> str:
    values = checkpoints.read(stopped.last)
    change(values)
    checkpoints.write(stopped.last, values)
    told = refused(stopped.restored)
    prefix = f"{stopped.folder} cannot be resumed, none of its states can be used: "
    assert told.startswith(prefix)
    return told.removeprefix(prefix)


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_state_that_cannot_be_of_this_run_is_refused_by_its_file(stopped: Stopped, kind: str) -> None:
    change, told = DAMAGE[kind]
    pattern = rf"{stopped.last} is damaged: it does not hold the complete state of this run \(.*{told}.*\)"
    assert re.fullmatch(pattern, damaged(stopped, change))


def test_epochs_that_other_processes_cut_in_another_way_are_not_gone_on_with(stopped: Stopped) -> None:
    def change(values: dict[str, Any]) -> None:
        values["trainer"] |= {"epoch_length": 4, "processes": 3}

    assert damaged(stopped, change) == (
        "3 processes cut the epochs of this run into 4 steps, 1 would cut them into 3: resume with as many as before"
    )


@pytest.mark.parametrize("value", [NAN, INF])
def test_weights_that_are_no_numbers_are_refused(stopped: Stopped, value: Tensor) -> None:
    key = next(iter(stopped.run.model.network.state_dict()))
    told = damaged(stopped, lambda values: values["model"][key][-1, -1].fill_(value))
    assert f"{stopped.last} is damaged" in told
    assert f"numbers that are not finite: model.{key}" in told


def test_weights_of_another_model_are_refused(stopped: Stopped) -> None:
    key = next(iter(stopped.run.model.network.state_dict()))
    told = damaged(stopped, drop("model", key))
    assert told.startswith(f"the weights of {stopped.last} do not fit the model: missing {key}; unexpected none")


def test_the_state_of_another_run_is_refused_by_what_is_different(stopped: Stopped, tmp_path: Path) -> None:
    other = ready(seed=1, lr=0.2)
    folder = begun(other, tmp_path)
    state.Saver(trainer_state(other, folder, until=EPOCH + 2), folder)()
    shutil.copy(folder / "last.safetensors", stopped.last)
    told = refused(stopped.restored)
    assert told.endswith(f"{stopped.last} is the state of another run (lr: 0.2 -> 0.1; seed: 1 -> 0)")


def test_a_state_of_another_format_is_refused_with_the_version_that_wrote_it(stopped: Stopped) -> None:
    def change(values: dict[str, Any]) -> None:
        values["about"] |= {"format": 99, "kdignite": "9.8.7"}

    assert damaged(stopped, change) == (
        f"{stopped.last} has format 99, written by kdignite 9.8.7; this is kdignite {kdignite.__version__}, "
        f"which reads format {checkpoints.FORMAT}: resume with the other, or start a new run"
    )


@pytest.mark.parametrize("stopped", ["patient"], indirect=True)
def test_patience_that_is_not_in_the_file_is_missed(stopped: Stopped) -> None:
    assert "KeyError('patience')" in damaged(stopped, drop("patience"))


def test_fewer_epochs_than_the_run_is_in_are_refused(stopped: Stopped) -> None:
    fresh = trainer_state(ready(epochs=1), stopped.folder)
    told = refused(lambda: state.restore(fresh, stopped.folder))
    assert told.endswith("the run is in epoch 2 already, --epochs=1 is too few")


def test_a_file_of_anything_else_is_no_state(stopped: Stopped) -> None:
    checkpoints.write(stopped.last, {"one": 1})
    assert f"{stopped.last} is damaged: it does not hold the complete state of this run" in refused(stopped.restored)
    torch.save([1, 2], stopped.last)
    assert f"{stopped.last} is damaged, or was not written by kdignite" in refused(stopped.restored)


def test_nothing_of_a_state_that_was_refused_half_way_is_left(
    stopped: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its weights, optimizer and sums were loaded when its clock turned out to be none."""
    values = checkpoints.read(stopped.last)
    previous = stopped.last.with_name("previous.safetensors")
    shutil.copy(stopped.last, previous)
    for tensor in (
        *values["model"].values(),
        *(one["momentum_buffer"] for one in values["optimizer"]["state"].values()),
    ):
        tensor.add_(1)
    values["sums"]["loss"] += 1
    values["clock"] = "late"
    values["trainer"]["iteration"] -= 1
    checkpoints.write(stopped.last, values)
    again = stopped.restored()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert line.startswith(f"warning   {stopped.last} is damaged: ")
    assert line.endswith("; previous.safetensors is used instead")
    saved = checkpoints.read(previous)
    assert again.trainer.state.iteration == saved["trainer"]["iteration"]
    assert alike(again.run.model.network.state_dict(), saved["model"])
    assert alike(again.run.optimizer.state_dict()["state"], saved["optimizer"]["state"])
    assert alike(again.sums.state_dict(), saved["sums"])


def test_where_both_states_are_damaged_both_are_told(stopped: Stopped) -> None:
    previous = stopped.last.with_name("previous.safetensors")
    stopped.last.write_bytes(b"")
    previous.write_bytes(b"PK")
    told = refused(stopped.restored)
    assert str(stopped.last) in told
    assert str(previous) in told


def test_a_process_that_ended_between_two_renames_left_the_state_before(
    stopped: Stopped, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped.last.rename(stopped.last.with_name("previous.safetensors"))
    assert stopped.restored().trainer.state.iteration == EPOCH + 2
    assert "warning" not in capsys.readouterr().out


def test_without_a_state_a_run_begins_unless_it_had_one(tmp_path: Path) -> None:
    """A table of two epochs was written after a state of the first."""
    run = ready()
    folder = begun(run, tmp_path)
    fresh = trainer_state(run, folder)
    state.restore(fresh, folder)
    assert (fresh.trainer.state.iteration, fresh.history.rows) == (0, [])
    (folder / "best.safetensors").write_text("")
    (folder / "metrics.csv").write_text("epoch,loss\n1,2.0\n")
    state.restore(fresh, folder)
    assert (fresh.trainer.state.iteration, fresh.history.rows) == (0, [])
    (folder / "metrics.csv").write_text("epoch,loss,val\n1,2.0,nan\n2,nan,\n")  # the second stopped it
    state.restore(fresh, folder)
    assert (fresh.trainer.state.iteration, fresh.history.rows) == (0, [])
    (folder / "metrics.csv").write_text("epoch,loss\n1,2.0\n2,1.0\n")
    told = refused(lambda: state.restore(fresh, folder))
    assert told == f"{folder} cannot be resumed: it has no last.safetensors; start a new run"


# --- when no state is saved


def unwritten(stopped: Stopped) -> bool:
    before = stopped.last.read_bytes()
    state.Saver(stopped.trainer_state, stopped.folder)()
    return stopped.last.read_bytes() == before and not stopped.last.with_name("previous.safetensors").exists()


@pytest.mark.parametrize("broken", ["model", "optimizer", "sums"])
def test_numbers_that_are_none_are_not_saved(stopped: Stopped, broken: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The run is about to fail, and the state before it is what somebody can go on from."""
    name, weight = next(stopped.run.model.network.named_parameters())
    momentum = stopped.run.optimizer.state[weight]["momentum_buffer"]
    values = {"model": weight.data, "optimizer": momentum, "sums": stopped.trainer_state.sums.sums}
    names = {"model": f"model.{name}", "optimizer": "optimizer.state.0.momentum_buffer", "sums": "sums.loss"}
    values[broken][(0,) * values[broken].dim()] = INF
    say_once.cache_clear()
    assert unwritten(stopped)
    assert unwritten(stopped)
    told = f"warning   {stopped.last} is not saved while these are not finite: {names[broken]}"
    assert capsys.readouterr().out.splitlines() == [told]


def test_no_state_is_saved_that_would_take_a_best_file_for_written(
    stopped: Stopped, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = checkpoints.write

    def full(path: Path, payload: Any, **given: Any) -> None:
        if path.name == "best.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, payload, **given)

    monkeypatch.setattr(checkpoints, "write", full)
    stopped.trainer_state.best.put({"epoch": 2})
    assert unwritten(stopped)
    assert "best.safetensors cannot be written (No space left on device)" in capsys.readouterr().out
    monkeypatch.undo()
    assert not unwritten(stopped)
    assert checkpoints.read(stopped.folder / "best.safetensors") == {"epoch": 2}


def test_a_state_that_finds_no_room_is_told_and_tried_again(
    stopped: Stopped, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(checkpoints, "write", full)
        assert unwritten(stopped)
    assert capsys.readouterr().out == (
        f"warning   {stopped.last} cannot be written (No space left on device): the next save tries again\n"
    )
    assert not unwritten(stopped)
    assert capsys.readouterr().out == ""


def test_a_bug_in_saving_comes_out(stopped: Stopped, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> NoReturn:
        raise TypeError("a bug")

    monkeypatch.setattr(checkpoints, "write", broken)
    with pytest.raises(TypeError, match="a bug"):
        state.Saver(stopped.trainer_state, stopped.folder)()
