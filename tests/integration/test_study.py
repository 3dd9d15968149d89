"""Methods on equal terms on digits: a search for each, several seeds, one table, in a folder that goes on."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kdignite import runs, stopping
from kdignite.commands import study as module
from kdignite.commands.study import study
from kdignite.config import (
    TRIAL_SEED,
    MethodsStudy,
    MethodsStudyConfig,
    configure,
    entries,
    final_config,
    search_of,
    study_settings,
)
from kdignite.errors import UserError
from kdignite.handlers import LossNotFinite
from kdignite.runs import Finished

from .conftest import NARROW, signalled

pytestmark = pytest.mark.usefixtures("few_pixels")


def comparing(**given: object) -> MethodsStudy:
    settings = {**NARROW, "epochs": 1, "limit_train": 200, "seeds": 2, "methods": ("kd", "dist"), **given}
    return configure(MethodsStudyConfig, **settings)


@pytest.fixture(scope="module")
def compared(taught: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    pytest.importorskip("optuna")
    root = tmp_path_factory.mktemp("runs")
    (root / "teacher").symlink_to(taught.folder)
    return study(comparing(trials=1), root=root)


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def forbidden(*args: object, **given: object) -> Finished:
    pytest.fail("trained again")


def test_each_is_trained_with_what_its_own_search_chose(compared: Finished) -> None:
    stages = read(compared.folder / runs.MANIFEST)["stages"]
    for name in ("baseline", "kd", "dist"):
        report = read(compared.folder / f"search-{name}" / "search.json")
        assert len(report["trials"]) == 1
        assert read(compared.folder / f"search-{name}" / "trial-0" / runs.CONFIG)["seed"] == TRIAL_SEED
        for seed in (0, 1):
            config = read(compared.folder / stages[f"{name}-seed{seed}"]["folder"] / runs.CONFIG)
            chosen = report["chosen"]["values"]
            assert {key: config[key] for key in chosen} == chosen
            assert config["seed"] == seed


def test_the_table_is_of_all_runs_and_says_how_they_were_tuned(compared: Finished) -> None:
    assert read(compared.folder / module.METHODS) == compared.result
    text = (compared.folder / "methods.md").read_text()
    for words in ("1 validation trial for each tuned row", "| baseline", "| kd", "| dist", "Against kd"):
        assert words in text
    assert len((compared.folder / "methods.csv").read_text().splitlines()) == 1 + 3 * 2
    assert (compared.folder / "methods.png").stat().st_size > 5000


def test_it_goes_on_with_more_methods_controls_and_seeds(compared: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    real_distill, real_baseline = module.distill, module.baseline

    def counted(real: Any) -> Any:
        def run(config: Any, **given: Any) -> Finished:
            trained.append(f"{runs.default_name(config)}")
            return real(config, **given)  # type: ignore[no-any-return]

        return run

    with monkeypatch.context() as patch:
        patch.setattr(module, "distill", counted(real_distill))
        patch.setattr(module, "baseline", counted(real_baseline))
        more = comparing(trials=1, methods=("dist",), controls=("shuffled", "label_smoothing"), seeds=1)
        again = study(more, root=compared.folder.parent)
    assert again.folder == compared.folder
    assert len(trained) == 2
    assert "-shuffled-" in trained[0]
    assert trained[1] == "baseline"
    names = {row["name"] for row in again.result["rows"]}
    assert {"kd", "dist", "baseline", "kd (shuffled)"} < names
    assert any(name.startswith("label smoothing") for name in names)
    for command in ("distill", "baseline", "search"):
        monkeypatch.setattr(module, command, forbidden)
    assert study(more, root=compared.folder.parent).result == again.result


def test_without_trials_each_has_its_defaults(root: Path) -> None:
    config = comparing(methods=("kd", "logit_mse"), seeds=1)
    done = study(config, root=root)
    assert {path.name for path in done.folder.iterdir() if path.is_dir()} == {
        *("baseline", "distill-a0.9-T4", "distill-logit_mse-a0.9"),
    }
    assert "no tuning is recorded" in (done.folder / "methods.md").read_text()


def test_the_table_is_read_and_written_while_no_other_process_writes_one(
    compared: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, held = module.refresh, []

    def refresh(state: Any) -> None:
        held.append((state.folder / ".report.lock").exists())
        real(state)

    monkeypatch.setattr(module, "refresh", refresh)
    assert study(comparing(), root=compared.folder.parent).result["rows"]
    assert held[-1]
    assert not (compared.folder / ".report.lock").exists()


def test_a_signal_in_a_run_that_ends_in_an_error_stops_the_study_after_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(module, "distill", signalled(tried, LossNotFinite("the loss is nan")))
    with pytest.raises(stopping.Stopped):
        study(comparing(methods=("dist", "kd"), seeds=1), root=root)
    assert len(tried) == 1


def test_a_loss_that_is_no_number_costs_its_row_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried once, and the others are trained."""
    real, tried = module.distill, []

    def diverging(config: Any, **given: Any) -> Finished:
        tried.append(config.method)
        if config.method == "dist":
            assert tried.count("dist") == 1
            raise LossNotFinite("the loss is nan")
        return real(config, **given)

    monkeypatch.setattr(module, "distill", diverging)
    done = study(comparing(methods=("dist", "kd"), seeds=1), root=root)
    assert tried == ["dist", "kd"]
    assert {row["name"] for row in done.result["rows"]} == {"baseline", "kd"}
    assert "missing   dist-seed0" in capsys.readouterr().out


def test_a_dry_study_of_more_images_than_it_evaluates(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdignite.data.batches.EVALUATION_BATCH", 100)
    done = study(comparing(methods=("kd",), seeds=1, fast_dev_run=True, limit_train=None), root=root)
    assert done.result["partial"]
    assert done.result["num_images"] == 200


def test_functions_of_one_s_own_beside_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    def hinge(student: Any, teacher: Any, labels: Any, *, gap: float = 1.0) -> None: ...

    monkeypatch.setitem(sys.modules, "mine", ModuleType("mine"))
    for name in ("kd", "other"):
        monkeypatch.setattr(sys.modules["mine"], name, hinge, raising=False)
    with pytest.raises(UserError, match="--methods has two rows named 'kd': give your function another name"):
        comparing(methods=("kd", "mine:kd"))
    orders = (("mine:other", "dist"), ("dist", "mine:other"), ("dist",))
    settings = [study_settings(comparing(methods=methods)) for methods in orders]
    assert settings[0] == settings[1] == settings[2]


def test_what_all_trainings_share_is_shared_by_the_trials() -> None:
    config = comparing(methods=("kd",), trials=2, weight_decay=0.001, momentum=0.8)
    for entry in entries(config):
        search = search_of(config, entry)
        assert search.fixed == {"weight_decay": 0.001, "momentum": 0.8}
        assert "weight_decay" not in search.ranges


def test_a_control_has_the_settings_of_the_method_that_it_is_of() -> None:
    config = comparing(methods=("dist",), controls=("random", "label_smoothing"), trials=3)
    baseline, kd, dist, control, smoothed = entries(config)
    assert [one.searched_as for one in entries(config)] == ["baseline", "kd", "dist", "kd", "label-smoothing"]
    one = final_config(config, control, {"alpha": 0.7, "T": 2.0, "lr": 0.03}, seed=4)
    assert (one.alpha, one.T, one.lr, one.control, one.seed) == (0.7, 2.0, 0.03, "random", 4)  # type: ignore[attr-defined]
    assert final_config(config, smoothed, {}, seed=0).label_smoothing == 0.1
    searches = [search_of(config, entry) for entry in (baseline, kd, dist, smoothed)]
    assert [one.trials for one in searches] == [3] * 4
    assert [set(one.ranges) - {"lr"} for one in searches] == [
        set(),
        {"alpha", "T"},
        {"gamma", "tau"},
        {"label_smoothing"},
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"methods": ("kd", "kd")}, "--methods=kd,kd names one twice"),
        ({"methods": ("kdd",)}, "--methods must be one of kd, dkd,"),
        ({"methods": ("kd", "dkd"), "mix": "mixup"}, "--methods=dkd asks for the one class of an image, and"),
        ({"methods": ("kd",), "controls": ("shuffled",), "mix": "cutmix"}, "--controls=shuffled keeps the class"),
        ({"controls": ("weak",)}, "--controls takes shuffled, random, label_smoothing, not 'weak'"),
        ({"search_epochs": 2}, "--search_epochs is for --trials=N"),
        ({"epochs": 0}, "--epochs must be at least 1"),
    ],
)
def test_a_mistake_is_told(given: dict[str, object], told: str) -> None:
    with pytest.raises(UserError) as caught:
        comparing(**given)
    assert told in str(caught.value)
