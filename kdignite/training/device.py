"""Which device computes, and in which type a model multiplies there."""

from typing import Any

import torch

from kdignite import processes
from kdignite.config import TrainConfig, flag_fields
from kdignite.console import say
from kdignite.devices import compute_exactly, is_accelerator
from kdignite.errors import UserError
from kdignite.memory import keep_freed


def set_up_device(name: str, *, threads: int | None) -> torch.device:
    """The device that computes, with the process set up for it: numbers that repeat, memory that is kept."""
    if threads is not None:
        torch.set_num_threads(threads)
    device = processes.on_all_ranks(lambda: _device(name))
    if len(set(processes.all_gather_object(device.type))) > 1:
        raise UserError("some of the processes have a GPU and some have none: say --device=cpu")
    if is_accelerator(device):
        compute_exactly()
    else:
        keep_freed()
    return device


def _device(name: str) -> torch.device:
    automatic = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = automatic if name == "auto" else _named_device(name)
    if device.type != "cuda":
        return device
    number = _own_gpu(device) if processes.world_size() > 1 else device.index
    number = torch.cuda.current_device() if number is None else number
    torch.cuda.set_device(number)  # threads that pin memory, and graphs, use the current one
    return torch.device("cuda", number)


def _named_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be auto, cpu, cuda or cuda:N, not {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device={name} is not there: torch sees {torch.cuda.device_count()} GPUs; try --device=cpu")
    return device


def _own_gpu(device: torch.device) -> int:
    """The GPU of this process, which has the number of the process on its machine."""
    number, there = processes.local_rank(), torch.cuda.device_count()
    if device != torch.device("cuda"):
        raise UserError(f"--device={device} is one GPU for all processes: --device=cuda gives each its own")
    if number >= there:
        raise UserError(f"torch sees {there} GPUs, fewer than processes: start one for each, or say --device=cpu")
    return number


def choose_amp(name: str, *, device: torch.device, flag: str = "amp") -> str:
    """The type in which a model multiplies."""
    if name == "auto":
        return "bf16" if _has_bf16(device) else "off"
    if not {"bf16": _has_bf16, "fp16": _has_fp16, "tf32": _has_tf32}.get(name, lambda _: True)(device):
        say(f"warning   --{flag}={name}: torch finds no instructions for it on {device}, so it may be slow")
    return name


def check_amp(config: TrainConfig, *, device: torch.device) -> None:
    """Refuse TF32 on a CPU, where it would be float32 under another name, before data are loaded."""
    for one in flag_fields(type(config)).values():
        is_tf32 = getattr(config, one.name) == "tf32" and "tf32" in one.metadata["choices"]
        if is_tf32 and not is_accelerator(device):
            raise UserError(f"--{one.name}=tf32 is for NVIDIA GPUs: on a CPU say --{one.name}=off, or bf16")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("avx512_bf16", "amx_bf16", "bf16")


def _has_fp16(device: torch.device) -> bool:
    return device.type == "cuda" or _cpu_has("avx512_fp16", "amx_fp16", "fp16")


def _has_tf32(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _cpu_has(*names: str) -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
    return any(capabilities.get(name) for name in names)
