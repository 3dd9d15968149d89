"""Several teachers, controls and chains of teachers, on digits: same bits, records, resuming and comparison."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdignite import stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.distill import distill
from kdignite.commands.reproduce import reproduce
from kdignite.commands.sweep import sweep
from kdignite.commands.teacher import teacher
from kdignite.config import CompareConfig, DistillConfig, ReproduceConfig, SweepConfig, configure
from kdignite.errors import UserError
from kdignite.runs import Finished
from kdignite.teachers import stored_tables
from kdignite.training import trainer as trainer_module

from .alike import assert_alike, is_same_in_any_batch, weights
from .conftest import NARROW, alone, learner, student

KINDS = {
    "ensemble": {"teacher": "teacher,other", "teacher_shares": (2.0, 1.0)},
    "features": {"teacher": "teacher,other", "method": "fitnet"},  # of the first, beside the mean of both
    "random": {"teacher": "teacher", "control": "random"},
    "shuffled": {"teacher": "teacher", "control": "shuffled"},
}


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A second teacher."""
    torch.set_num_threads(1)
    return teacher(learner(epochs=4, seed=1, name="other"), root=tmp_path_factory.mktemp("other"))


@pytest.fixture
def both(root: Path, other: Finished) -> Path:
    """A folder for runs that has two teachers in it."""
    (root / "other").symlink_to(other.folder)
    return root


def same(one: Path, two: Path) -> bool:
    return all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())


@pytest.mark.parametrize("kind", ["ensemble", "features", "shuffled"])
def test_cached_or_live_stopped_or_not_it_is_the_same_run(
    both: Path, taught: Finished, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {**KINDS[kind], "limit_train": 300, "epochs": 2}
    whole, live = (distill(student(**own, name=name, cache=name), root=both) for name in ("auto", "off"))
    if is_same_in_any_batch(taught.folder, batch_size=50):
        assert same(whole.folder, live.folder)
    for name, one in weights(live.folder).items():
        torch.testing.assert_close(one, weights(whole.folder)[name], rtol=1e-3, atol=1e-4)
    stop_in(monkeypatch, 8)
    with pytest.raises(stopping.Stopped):
        distill(student(**own, name="run"), root=both)
    again = distill(configure(DistillConfig, resume="run"), root=both)
    assert_alike(again.folder, whole.folder)
    assert again.result["teacher"] == whole.result["teacher"]
    changed = {**own, "name": "run", "resume": "run"}
    changed |= {"control": "random"} if kind == "shuffled" else {"teacher_shares": (1.0, 2.0)}
    with pytest.raises(UserError, match=r"run has other settings: .*(control|teacher_shares): "):
        distill(student(**changed), root=both)


def stop_in(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Ctrl-C during an iteration."""
    run_batches = trainer_module.run_batches

    def pressed(*args: Any, first_iteration: int = 0, **sizes: int) -> Iterator[Any]:
        for number, batch in enumerate(run_batches(*args, first_iteration=first_iteration, **sizes), 1):
            if first_iteration + number == iteration:
                assert stopping.request_stop(signal.SIGINT)
                monkeypatch.setattr(trainer_module, "run_batches", run_batches)
            yield batch

    monkeypatch.setattr(trainer_module, "run_batches", pressed)


def test_with_alpha_0_every_teacher_ends_as_the_baseline(both: Path) -> None:
    own = {"epochs": 1, "limit_train": 100}
    without = baseline(alone(**own), root=both)
    for values in (KINDS[kind] for kind in ("ensemble", "random", "shuffled")):
        assert same(distill(student(**own, **values, alpha=0.0), root=both).folder, without.folder)


def test_each_teacher_has_its_table_and_is_recorded_and_compared(
    both: Path, other: Finished, taught: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    several = distill(student(teacher="teacher,other", epochs=1), root=both)
    assert several.folder.name == "distill-2teachers-a0.7-T3"
    tables = [one for one in stored_tables(both / ".teacher_cache") if one.about["num_images"] != 200]
    assert {table.about["teacher"] for table in tables} == {taught.folder.name, other.folder.name}
    record = several.result["teacher"]
    assert record["name"] == "teacher+other"
    assert [(one["name"], one["weight"]) for one in record["members"]] == [("teacher", 0.5), ("other", 0.5)]
    assert [one["accuracy"] for one in record["members"]] == [
        pytest.approx(run.result["val"]["accuracy"]) for run in (taught, other)
    ]
    without = baseline(alone(epochs=1), root=both)
    found = compared(both, str(both / "other"), str(both / "teacher"), several, without)
    assert found["taught_by"] == "teacher+other"
    assert [run["role"] for run in found["runs"]] == ["teacher", "teacher", "student", "baseline"]
    assert found["teacher"]["accuracy"]["mean"] >= min(run.result["test"]["accuracy"] for run in (taught, other))
    costs = [run.result["cost"]["num_parameters"] for run in (taught, other)]
    assert found["cost"]["teacher"]["num_parameters"] == sum(costs)
    with pytest.raises(UserError, match=r"had 2 teachers: name the run of other too, or leave all of them out"):
        compared(both, str(both / "teacher"), several, without)
    with pytest.raises(UserError, match=r"names .*/other/best.safetensors twice"):
        distill(student(teacher=f"other,{both / 'other'}"), root=both)
    capsys.readouterr()


def test_features_are_those_of_the_first(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = {"epochs": 1, "limit_train": 300, "alpha": 0.5, "method": "fitnet"}
    ends = {
        teachers: weights(distill(student(**own, teacher=teachers), root=both).folder)
        for teachers in ("teacher,other", "other,teacher", "teacher")
    }
    told = capsys.readouterr().out
    assert told.count("views have cached teacher logits and features") == 3
    assert told.count("views have cached teacher logits\n") == 2
    first, *others = ends.values()
    assert all(any(not torch.equal(value, one[name]) for name, value in first.items()) for one in others)


def compared(root: Path, *found: str | Finished) -> dict[str, Any]:
    words = tuple(one if isinstance(one, str) else str(one.folder) for one in found)
    return compare(CompareConfig(runs=words), root=root).result


def test_controls_are_shown_as_what_they_are(both: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = baseline(alone(epochs=1), root=both)
    untrained, shuffled = (
        distill(student(teacher="teacher", control=control, epochs=1), root=both) for control in ("random", "shuffled")
    )
    told = capsys.readouterr().out
    assert "control   random, " in told
    assert "control   shuffled, " in told
    assert untrained.result["teacher"]["name"] == "teacher, untrained"
    assert untrained.result["teacher"]["accuracy"] < 0.5
    seed = distill(student(teacher="teacher", control="random", epochs=1, seed=1, limit_train=100), root=both)
    assert seed.result["teacher"] == untrained.result["teacher"]  # one teacher for all seeds, and one table
    notes = compared(both, untrained, without)["notes"]
    assert any(note.startswith("a control: the students learnt from an untrained network") for note in notes)
    assert not any("is not shown" in note for note in notes)
    with pytest.raises(UserError, match=r"learnt from an untrained network, not from .*teacher: leave it out"):
        compared(both, str(both / "teacher"), untrained, without)
    found = compared(both, str(both / "teacher"), shuffled, without)
    assert found["settings"]["control"] == "shuffled"
    assert any("permuted for each image" in note for note in found["notes"])
    assert "the teacher is shown as it is, not as the control changed it" in found["notes"]
    with pytest.raises(UserError, match=r"the students differ in more than the seed: --control: random .* -> shuffled"):
        compared(both, untrained, shuffled, without)


def test_a_sweep_of_several_teachers_reads_their_tables(both: Path) -> None:
    own = {**NARROW, "teacher": "teacher,other", "alpha": (0.5,), "T": (2.0, 4.0), "epochs": 1, "limit_train": 100}
    found = sweep(configure(SweepConfig, **own), root=both)
    assert {path.name for path in found.folder.glob("distill*")} == {
        "distill-2teachers-a0.5-T2",
        "distill-2teachers-a0.5-T4",
    }
    assert sweep(configure(SweepConfig, **own), root=both).folder == found.folder


def test_a_study_by_way_of_an_assistant_and_of_generations(both: Path) -> None:
    own = {**NARROW, "teacher": str(both / "teacher"), "epochs": 1, "fast_dev_run": True}
    study = reproduce(configure(ReproduceConfig, **own, via=("resnet20",), generations=2), root=both)
    stages = json.loads((study.folder / "manifest.json").read_text())["stages"]
    trained = ["assistant-resnet20", "generation-1", "distill-a0.9-T4-dev", "baseline-dev"]
    assert list(stages) == [*trained, "compare-1-seeds"]
    results = [json.loads((study.folder / name / "result.json").read_text()) for name in trained]
    assert [one["arch"] for one in results] == ["resnet20", "cnn5", "cnn5", "cnn5"]
    assert [one["teacher"]["name"] for one in results[:3]] == ["teacher", "assistant-resnet20", "generation-1"]
    shown = study.result["runs"][0]
    assert (shown["run"], shown["role"]) == ("generation-1", "teacher")
