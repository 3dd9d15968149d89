"""Versions and hardware that a run was computed with."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import kdignite
from kdignite import processes

PACKAGES = (
    *("torch", "torchvision", "pytorch-ignite", "safetensors", "tensorboard"),
    *("numpy", "scipy", "scikit-learn", "matplotlib", "fire"),
)
CPUINFO = Path("/proc/cpuinfo")  # of Linux


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, commit, threads, processor, device. No host name, no path."""
    return {
        "kdignite": kdignite.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": _versions(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processes": processes.world_size(),
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "cuda": _cuda() if device.type == "cuda" else None,
    }


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _cuda() -> str:
    """The libraries that compute on a GPU, and their settings."""
    cudnn = torch.backends.cudnn
    repeats, tf32 = "" if cudnn.deterministic else " not", "" if cudnn.allow_tf32 else "no "
    return f"CUDA {torch.version.cuda}, cuDNN {cudnn.version()},{repeats} deterministic, {tf32}TF32"


def _processor() -> str | None:
    """The model of the processor, where known: latencies are comparable on the same model only."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or None


def _commit() -> str | None:
    """The commit of the code that runs, where it runs from a git checkout."""
    checkout = Path(kdignite.__file__).parents[1]
    if not (checkout / ".git").exists():  # an installed package may lie inside somebody else's checkout
        return None
    try:
        command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
