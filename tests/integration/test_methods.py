"""Every method of the table trains, goes on where it was stopped, and is swept; what it cannot teach is said."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdignite import stopping
from kdignite.commands.baseline import baseline
from kdignite.commands.compare import compare
from kdignite.commands.distill import distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.commands.sweep import sweep
from kdignite.config import (
    BaselineConfig,
    CompareConfig,
    DistillConfig,
    DoctorConfig,
    EvaluateConfig,
    SweepConfig,
    configure,
)
from kdignite.errors import UserError
from kdignite.methods.logit_rows import LOGIT_METHODS
from kdignite.methods.registry import DEFAULT, METHODS
from kdignite.methods.rows import Constant

from .alike import assert_alike, table
from .conftest import NARROW
from .test_resume import asked_to_stop

TINY = {**NARROW, "limit_train": 150, "epochs": 1, "lr": 0.01}
SWITCHED = [name for name, row in LOGIT_METHODS.items() if "standardize" in row.parameters]
VARIANTS = [*((name, {}) for name in LOGIT_METHODS), *((name, {"standardize": True}) for name in SWITCHED)]


@pytest.mark.parametrize(("name", "switch"), VARIANTS, ids=[n + "-std" * bool(s) for n, s in VARIANTS])
def test_every_method_is_swept_and_goes_on_after_a_stop(
    name: str, switch: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = {key: (one.default,) for key, one in METHODS[name].parameters.items() if not one.minor}
    swept = sweep(configure(SweepConfig, method=name, **point, **dict.fromkeys(switch, (True,)), **TINY), root=root)
    (whole,) = swept.folder.glob(f"distill*{'-standardize' * bool(switch)}")
    (row,) = table(whole)
    assert all(float(row[part]) >= 0 for part in row)
    (cell,) = swept.result["cells"]
    assert {key: (cell[key],) for key in point} == point
    asked_to_stop(monkeypatch, 2)
    with pytest.raises(stopping.Stopped):
        distill(configure(DistillConfig, method=name, name="run", **switch, **TINY), root=root)
    resumed = distill(configure(DistillConfig, resume="run"), root=root)
    assert json.loads((resumed.folder / "result.json").read_text())["method"] == name
    assert_alike(resumed.folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_command_takes_a_run_of_every_method(name: str, root: Path) -> None:
    baseline(configure(BaselineConfig, name="baseline", **TINY), root=root)
    given = {"method": name, "label_smoothing": 0.1, "balance": "loss", **TINY}
    trained = distill(configure(DistillConfig, name="student", **given), root=root)
    found = evaluate(EvaluateConfig(run="student", threads=1), root=root)
    assert found.result["accuracy"] == trained.result["test"]["accuracy"]
    plain = distill(configure(DistillConfig, name="plain", method=name, **TINY), root=root)
    compared = compare(CompareConfig(runs=(plain.folder.name, "baseline", "teacher")), root=root)
    assert name == DEFAULT or name in (compared.folder / "compare.md").read_text()
    rows = doctor(DoctorConfig(run="student", num_images=100, draws=3, threads=1), root=root).result["settings"]
    (recorded,) = (row for row in rows if row["name"] == "as recorded")
    assert recorded["accuracy"] > 0
    if METHODS[name].needs == "features":  # the others: above
        point = {key: (one.default,) for key, one in METHODS[name].parameters.items() if not one.minor}
        (cell,) = sweep(configure(SweepConfig, method=name, **point, **TINY), root=root).result["cells"]
        assert {key: (cell[key],) for key in point} == point


def test_parts_that_teach_nothing_are_said_at_the_start(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = {**TINY, "batch_size": 2, "limit_train": 8}
    distill(configure(DistillConfig, method="dist", name="pairs", **small), root=root)
    told = "warning   --method=dist: intra is constant with 2 images in a batch, so nothing is learnt from that part"
    assert told in capsys.readouterr().out.splitlines()
    distill(configure(DistillConfig, method="dkd", name="plain", **small), root=root)
    assert "is constant" not in capsys.readouterr().out


def test_a_method_that_teaches_nothing_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = METHODS["dist"]._replace(constant=(Constant("inter", classes=10), Constant("intra", images=50)))
    monkeypatch.setitem(METHODS, "dist", row)
    with pytest.raises(UserError) as caught:
        distill(configure(DistillConfig, method="dist", **TINY), root=root)
    assert str(caught.value) == (
        "--method=dist learns nothing from its teacher here: inter is constant with 10 classes; intra is constant with "
        "50 images in a batch; choose another --method, or other settings"
    )
    assert [path.name for path in root.iterdir() if path.is_dir() and path.name.startswith("distill")] == []
