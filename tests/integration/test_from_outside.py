"""A method with a parameter of its own, a model, a data set and a handler, all from outside the package, end to end."""

import csv
import importlib
import io
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import kdignite as kd
from kdignite.cli import main

from .alike import assert_alike

MODULE = '''
"""Nothing here knows the inside of kdignite."""

import numpy as np
import torch
from ignite.engine import Events
from torch import nn

import kdignite as kd


def hinge(student, teacher, labels, *, gap: float, weight: float = 1.0):
    """Forgive the student a distance from its teacher."""
    ce = nn.functional.cross_entropy(student.logits, labels)
    excess = torch.relu((student.logits - teacher.logits).abs() - gap).mean()
    return kd.Terms(ce + weight * excess, {"ce": ce, "excess": excess})


def net(*, num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
                         nn.Linear(8 * 9, num_classes))


def stripes():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 3
    images = rng.integers(0, 60, (400, 8, 8, 3))
    for image, label in zip(images, labels):
        image[:, :, label] += 60
        image[label::3] += 90
    images = images.astype(np.uint8)
    return {"train": (images[:300], labels[:300]), "test": (images[300:], labels[300:]), "classes": ["r", "g", "b"]}


def follow(engine, run):
    seen = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(float(e.state.output["excess"])))
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: (run.folder / "excess.txt").write_text(str(len(seen))))
'''
DATA = ("--dataset=outside:stripes", "--val_size=60", "--arch=outside:net", "--size=8")
QUICK = (*DATA, "--batch_size=20", "--lr=0.05", "--threads=1", "--amp=off", "--device=cpu")
METHOD = ("--method=outside:hinge", "--gap=0.25")
TEACHER = ("--teacher=runs/teacher", "--teacher_arch=outside:net")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with the user's module and a teacher."""
    place = tmp_path_factory.mktemp("outside")
    (place / "outside.py").write_text(MODULE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(str(place))
        typed("teacher", *QUICK, "--epochs=6")
        yield place
    sys.modules.pop("outside", None)


def typed(*words: str) -> str:
    """What a command prints that is typed in the current folder."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(words) == 0
    return out.getvalue()


def test_a_student_is_distilled_and_compared(place: Path) -> None:
    said = typed("distill", *QUICK, "--epochs=3", *METHOD, *TEACHER)
    assert "method    outside:hinge: Forgive the student a distance from its teacher., gap=0.25, weight=1\n" in said
    folder = place / "runs/distill-hinge-g0.25-w1"
    result = json.loads((folder / "result.json").read_text())
    assert (result["method"], result["arch"], result["dataset"]) == ("outside:hinge", "outside:net", "outside:stripes")
    config = json.loads((folder / "config.json").read_text())
    assert (config["method"], config["gap"], config["weight"], config["alpha"]) == ("outside:hinge", 0.25, 1.0, None)
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["epoch", "loss", "ce", "excess", "accuracy_train"]
    assert float(rows[0]["loss"]) == pytest.approx(float(rows[0]["ce"]) + float(rows[0]["excess"]))
    events = EventAccumulator(str(folder)).Reload()
    assert {"loss/train", "loss/ce", "loss/excess", "recall/r"} <= set(events.Tags()["scalars"])
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    shown = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (shown["method"].string_value, shown["gap"].number_value) == ("outside:hinge", 0.25)
    typed("baseline", *QUICK, "--epochs=3")
    report = typed("compare", "runs/teacher", str(folder.relative_to(place)), "runs/baseline")
    assert "(method outside:hinge, weight 1, gap 0.25)" in report
    again = typed("evaluate", str(folder.relative_to(place)), "--arch=outside:net", "--dataset=outside:stripes")
    assert f"({result['test']['num_correct']} of 100 images)" in again


def test_a_stopped_run_is_resumed_by_the_line_that_it_prints(place: Path) -> None:
    words = (*QUICK, "--epochs=3", *METHOD, *TEACHER, "--keep_last")
    typed("distill", *words, "--name=whole")
    code = "\n".join(
        [
            "import signal, sys",
            "from kdignite import steps",
            "from kdignite.cli import main",
            "from kdignite.commands import distill",
            "made, count = steps.distill_step, [0]",
            "def counting(*args, **settings):",
            "    step = made(*args, **settings)",
            "    def counted(engine, batch):",
            "        count[0] += 1",
            "        if count[0] == 17: signal.raise_signal(signal.SIGINT)",
            "        return step(engine, batch)",
            "    return counted",
            "distill.distill_step = counting",
            f"sys.exit(main({['distill', *words, '--name=stopped']}))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 130, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("stopped"))
    python, dash, module, *resume = shlex.split(line.partition("resume with: ")[2])
    assert (python, dash, module) == ("python", "-m", "kdignite")
    assert {"--method=outside:hinge", "--arch=outside:net", "--dataset=outside:stripes"} <= set(resume)
    said = typed(*resume)
    assert "resume    after iteration 17 of 36" in said
    whole, stopped = (place / "runs" / name for name in ("whole", "stopped"))
    assert_alike(whole, stopped)


def test_a_sweep_goes_over_a_parameter_of_ones_own(place: Path) -> None:
    words = ("sweep", *QUICK, "--epochs=1", "--method=outside:hinge", "--gap=0,0.5", "--weight=0.5,2", *TEACHER)
    said = typed(*words)
    assert "Chosen on validation: --method=outside:hinge --gap=" in said
    folder = place / "runs/sweep-standard"
    summary = json.loads((folder / "sweep.json").read_text())
    assert (summary["method"], summary["parameters"]) == ("outside:hinge", ["gap", "weight"])
    assert [(cell["gap"], cell["weight"]) for cell in summary["cells"]] == [(0, 0.5), (0, 2), (0.5, 0.5), (0.5, 2)]
    assert {path.parent.name for path in folder.glob("*/result.json")} == {
        *("distill-hinge-g0-w0.5", "distill-hinge-g0-w2", "distill-hinge-g0.5-w0.5", "distill-hinge-g0.5-w2"),
    }


def test_a_study_takes_the_method(place: Path) -> None:
    words = ("reproduce", *QUICK, *METHOD, "--teacher=runs/teacher", "--teacher_arch=outside:net")
    said = typed(*words, "--epochs=1")
    assert "(method outside:hinge, weight 1, gap 0.25)" in said


def test_the_same_from_python(place: Path) -> None:
    outside = importlib.import_module("outside")
    config = kd.configure(
        kd.DistillConfig,
        **{"dataset": "outside:stripes", "val_size": 60.0, "arch": "outside:net", "size": 8, "epochs": 1},
        **{"batch_size": 20, "lr": 0.05, "threads": 1, "amp": "off", "device": "cpu"},
        **{"teacher": "runs/teacher", "teacher_arch": "outside:net", "method": outside.hinge, "gap": 0.25},
        name="from-python",
    )
    run = kd.distill(config, root=place / "runs", handlers=[outside.follow])
    assert run.result["method"] == "outside:hinge"
    assert (run.folder / "excess.txt").read_text() == "12"
