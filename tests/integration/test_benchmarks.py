"""The benchmark against rivals, on a job of seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdignite.commands.teacher import teacher
from kdignite.config import TeacherConfig, configure

CHECKOUT = Path(__file__).parents[2]
RUN = CHECKOUT / "tests" / "benchmarks" / "run.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kdignite_and_the_plain_script_do_the_same_job(tmp_path: Path) -> None:
    config = configure(TeacherConfig, dataset="digits", arch="cnn5", epochs=3, batch_size=50, threads=1)
    taught = teacher(config, root=tmp_path)
    job = ["--dataset=digits", "--limit_train=600", "--epochs=4", "--batch_size=50", "--threads=1"]
    bench = ["--ours=live=", "--workers", "0", "--repetitions=1", "--output=bench"]
    command = [sys.executable, str(RUN), f"--teacher={taught.folder / 'best.safetensors'}", *job, *bench]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=850, check=False
    )
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "bench" / "results.json").read_text())["records"]
    assert records.keys() == {"live", "plain"}
    for (record,) in records.values():
        assert len(record["images_per_s"]) == 4
        assert record["wall_seconds"] > record["train_seconds"] > 0
        assert record["accuracy"] > 0.3  # three times chance
    assert (tmp_path / "bench" / "table.md").read_text() in done.stdout
