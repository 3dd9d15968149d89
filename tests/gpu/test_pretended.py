"""What would happen on a GPU, on a device that pretends to be one: no device mix, few launches, no copy and no wait.

The scenarios run in a process of their own, since the device changes torch for good; see ``scenarios.py``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import kdignite
from kdignite import checkpoints, runs

HERE = Path(__file__).parent
SECONDS = 280
MOST_LAUNCHES = 60  # of a warm step of cnn5, besides the graph
EAGER_LAUNCHES = 91  # the same without a graph
Found = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the scenarios left what they found, and their runs."""
    place = tmp_path_factory.mktemp("pretended")
    paths = [str(Path(kdignite.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    subprocess.run(
        [sys.executable, str(HERE / "scenarios.py"), str(place)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "Agg"},
        stdout=subprocess.DEVNULL,
        timeout=SECONDS,
        check=True,
        cwd=place,
    )
    return place


@pytest.fixture(scope="module")
def all_found(folder: Path) -> dict[str, Found]:
    return json.loads((folder / "found.json").read_text())


@pytest.fixture
def found(request: pytest.FixtureRequest, all_found: dict[str, Found]) -> Found:
    """What the scenario found that a test names."""
    values = all_found[request.param]
    assert "failed" not in values, values.get("failed")
    return values


def of(scenario: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("found", [scenario], indirect=True)


# --- commands


@of("everything")
def test_no_command_mixes_devices(found: Found) -> None:
    assert found["runs"] == [
        *("cold", "warm", "live", "half", "plain", "adamw", "sweep", "evaluate-teacher-test", "compare-cold"),
        "adopted-cnn5",
    ]


@of("everything")
def test_a_table_read_and_a_table_made_give_the_same_student(found: Found) -> None:
    assert found["results"]["warm"]["test"] == found["results"]["cold"]["test"]
    assert found["results"]["live"]["test"]["loss"] == pytest.approx(found["results"]["cold"]["test"]["loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors"])
def test_files_of_a_run_are_read_where_there_is_no_such_device(folder: Path, all_found: Any, name: str) -> None:
    """This process has none."""
    read = checkpoints.read(folder / "resumed" / "runs" / "whole" / name)
    tensors = read["weights" if name == "best.safetensors" else "model"].values()
    assert {value.device.type for value in tensors} == {"cpu"}
    assert name == "best.safetensors" or "momentum_buffer" in read["optimizer"]["state"][0]


@of("pictures")
def test_pictures_decoded_by_workers_train_as_those_in_memory(found: Found) -> None:
    assert found["streamed"] == found["stored"]


@of("resumed")
def test_a_run_that_was_stopped_ends_as_one_that_was_not(found: Found) -> None:
    assert found["again"] == found["whole"]
    assert found["states"][0] == found["states"][1]  # of the last epoch; the best one may be from before the stop
    assert "momentum_buffer" in found["states"][0]


@of("resumed")
def test_the_device_changes_no_number(found: Found) -> None:
    """It computes with the CPU's kernels: what blocks, tables, vectors and momentum do differently shows here."""
    for name, values in found["whole"].items():
        assert values == pytest.approx(found["cpu"][name], rel=1e-5, abs=1e-6)


@of("doctors")
def test_the_doctor_finds_the_same_twice(found: Found) -> None:
    assert found["one"] == found["two"]


@of("heads")
def test_a_new_head_is_the_same_on_every_device(found: Found) -> None:
    assert found["gpu"] == found["cpu"]


# --- a step


@of("warm_captured_steps")
def test_a_captured_step_is_a_few_launches(found: Found) -> None:
    assert found["outcome"] == "captured"
    assert found["launches"] <= MOST_LAUNCHES
    assert found["launches"] == 10, found["kinds"]  # rate, three inputs, results, cached logits, sums
    assert (found["copies"], found["waits"]) == ({}, {})


@of("warm_steps")
def test_a_step_copies_nothing_and_waits_for_nothing(found: Found) -> None:
    assert (found["copies"], found["waits"]) == ({}, {})
    assert found["launches"] <= EAGER_LAUNCHES, found["kinds"]


@of("guard")
def test_fifty_steps_wait_once_for_the_loss(found: Found) -> None:
    assert found["copies"] == {}
    assert [*found["waits"].values()] == [1]
    assert all("handlers/state.py" in line for line in found["waits"])


@of("plain_update")
def test_the_rate_is_one_tensor_also_after_loading(found: Found) -> None:
    assert (found["rates"], found["after loading"], found["on"]) == (1, 1, "gpu:0")


@of("optimizers")
@pytest.mark.parametrize("kind", ["nesterov", "sgd", "adamw"])
def test_momentum_that_starts_as_zeros_is_momentum(found: Found, kind: str) -> None:
    assert found[kind] < 1e-6


@of("captured")
def test_a_captured_run_has_the_numbers_of_one_that_is_not(found: Found) -> None:
    """Losses, weights, BatchNorm's statistics, momentum and masks, with an odd batch in between."""
    assert found["equal"]
    assert found["outcome"]
    assert found["told"] == []


# --- batches, tables, sums


@of("batches")
def test_batches_are_those_of_the_cpu(found: Found) -> None:
    assert len(found) == 3 * (4 * 2 + 2)
    assert [name for name, equal in found.items() if not equal] == []


@of("lookups")
def test_cached_logits_are_those_of_the_cpu(found: Found) -> None:
    assert found.pop("an image that is not in the table") == "refused"
    assert len(found) == 8
    assert all(found.values())


@of("sums")
def test_sums_are_those_of_the_cpu(found: Found) -> None:
    assert found["gpu"] == found["cpu"]


@of("host_copies")
def test_everything_comes_to_the_host_in_one_copy(found: Found) -> None:
    assert found["waits"] == 1
    assert [name for name, equal in found["equal"].items() if not equal] == []
    assert found["rest"] == [0.5, "x", None]
    assert found["what is on the CPU stays itself"]


# --- ends of epochs


@of("epoch_end")
def test_an_epoch_ends_with_one_copy_of_the_state(found: Found) -> None:
    copies = {line: count for line, count in found["waits"].items() if "devices.py" in line}
    assert [*copies.values()] == [1]
    assert sum(found["waits"].values()) <= 5, found["waits"]  # besides: the loss twice, logits and labels
    assert sum(found["copies"].values()) == 1  # the indices that are evaluated


@of("evaluations")
def test_an_evaluation_waits_as_often_for_many_batches_as_for_one(found: Found) -> None:
    assert found["one"]["waits"] == found["three"]["waits"]
    assert sum(found["three"]["waits"].values()) == 2  # logits and labels
    assert sum(found["three"]["copies"].values()) == 1


@of("beside")
def test_a_state_is_written_while_the_training_goes_on(found: Found) -> None:
    """The first one waits for a step of the next epoch; the second finds a full disk; the third replaces the first."""
    assert found["waited"] == [True, True]
    assert found["told"] == [
        line for line in found["told"] if "cannot be written (No space left on device): the next save tries" in line
    ]
    assert len(found["told"]) == 1
    length = found["length"]
    assert found["saved"] == {runs.LAST: 3 * length, runs.PREVIOUS: length}
    assert found["threads"] == []


# --- estimates


@of("estimates")
def test_an_estimate_of_the_time_waits_for_nothing_of_its_own(found: Found) -> None:
    """Two looks at the clock, after steps 50 and 100, when the device has done them: there the loss is read."""
    (line,) = found["lines"]
    assert re.fullmatch(r"time +about 0:0\d left on this machine, estimated from steps 51 to 100", line)
    assert [*found["waits"].values()] == [1]
    assert all("handlers/state.py" in line for line in found["waits"])
