"""The check for a GPU, as far as a machine without one can run it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CHECKOUT = Path(__file__).parents[2]


def checked(tmp_path: Path, *words: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = tmp_path / "found.json"
    command = [sys.executable, str(CHECKOUT / "tests" / "gpu" / "check.py"), f"--out={out}", *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False), out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path) -> None:
    done, out = checked(tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


def passed(tmp_path: Path, *words: str) -> list[str]:
    """The parts that told something, if nothing was bad."""
    before = {path.name for path in CHECKOUT.iterdir()}
    done, out = checked(tmp_path, "--device=cpu", "--tiny", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in CHECKOUT.iterdir()} == before
    return sorted({row["part"] for row in json.loads(out.read_text())["rows"]})


@pytest.mark.slow
def test_its_first_parts_run_on_a_cpu(tmp_path: Path) -> None:
    assert passed(tmp_path, "--only=env,graph") == ["env", "graph"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_of_it_runs_on_a_cpu(tmp_path: Path) -> None:
    assert {"digits", "graph", "logits", "repeat", "speed", "start"} <= set(passed(tmp_path, "--budget=550"))
