"""From a config to the things a run is made of: device, data, settled settings. No file is written here."""

import dataclasses
import os
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from kdignite import processes
from kdignite.config import TrainConfig
from kdignite.data.batches import Share, image_side, on_device
from kdignite.data.sources import FOLDER, Source, load_source
from kdignite.data.splits import Part, Splits, limited, split_source
from kdignite.devices import compute_exactly, is_accelerator
from kdignite.errors import UserError, brief
from kdignite.memory import keep_freed

DATA_ROOT = "data"
DATASET = "cifar10"  # where neither a flag nor a teacher names one
DEV_STEPS = 2  # steps and evaluation batches of a dry run
T = TypeVar("T", bound=TrainConfig)


class Data(NamedTuple):
    """A source, cut into parts that lie on the device that computes."""

    source: Source
    splits: Splits
    image_size: int


def say(line: str) -> None:
    """Print a line at once, also into a pipe, if this is the first process; names from files command no terminal.

    Args:
        line: of text, or several; control characters but line breaks are spelled out.
    """
    if not processes.is_first():
        return
    visible = "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in line)
    print(visible, flush=True)


def is_code(name: str) -> bool:
    """Whether the name of a data set or model is that of a function of the user's own.

    Args:
        name: as it would be typed.

    Returns:
        True for ``package.module:function``.
    """
    return ":" in name and not name.startswith(FOLDER)


def named_by(who: object, dataset: str, *, asked: str | None) -> str:
    """The data set that was asked for, else the one that a file names, unless that would run code of the file's choice.

    Args:
        who: the file, for the message.
        dataset: that it names.
        asked: what ``--dataset`` says.

    Returns:
        The name.

    Raises:
        UserError: if it is a function, which has to be repeated.
    """
    if asked is None and is_code(dataset):
        raise UserError(
            f"{who} was made with a data set of your own, and a file never names code to run: repeat its name: "
            f"--dataset={brief(dataset, longest=300)}"
        )
    return asked or dataset


def choose_device(name: str, *, threads: int | None) -> torch.device:
    """The device that computes, with the process set up for it: numbers that repeat, memory that is kept.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU; None: as torch chooses.

    Returns:
        The device, a GPU with its number; ``auto`` is the current GPU, else the CPU. Of several processes each gets a
        GPU of its own.

    Raises:
        UserError: if it is not there. Nothing falls back to the CPU unasked.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    device = processes.together(lambda: _device(name))
    if len(set(processes.everyones(device.type))) > 1:
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
    number = _own_gpu(device) if processes.world() > 1 else device.index
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
    """The type in which a model multiplies.

    Args:
        name: ``auto``, ``off``, ``bf16``, ``fp16`` or ``tf32``.
        device: that computes.
        flag: that says so.

    Returns:
        A key of `AUTOCAST`; ``auto`` is ``bf16`` where the device has instructions for it, else ``off``.
    """
    if name == "auto":
        return "bf16" if _has_bf16(device) else "off"
    if not {"bf16": _has_bf16, "fp16": _has_fp16, "tf32": _has_tf32}.get(name, lambda _: True)(device):
        say(f"warning   --{flag}={name}: {device} has no instructions for it that torch knows of, so it may be slow")
    return name


def check_amp(config: TrainConfig, *, device: torch.device) -> None:
    """Refuse TF32 on a CPU, where it would be float32 under another name, before data are loaded.

    Args:
        config: as given.
        device: that computes.

    Raises:
        UserError: naming the flag.
    """
    for one in dataclasses.fields(config):
        if getattr(config, one.name) == "tf32" and not is_accelerator(device):
            raise UserError(f"--{one.name}=tf32 is for NVIDIA GPUs: on a CPU say --{one.name}=off, or bf16")


def data_folder(data_root: str | None) -> Path:
    """The folder of data sets.

    Args:
        data_root: as asked for; None: the environment's KDIGNITE_DATA, else ``data``.

    Returns:
        The folder, which need not exist.
    """
    return Path(data_root or os.environ.get("KDIGNITE_DATA") or DATA_ROOT)


def open_data(
    dataset: str, *, data_root: str | None, val_size: float | None, image_size: int, device: torch.device
) -> Data:
    """Load a data set, getting it first where it is missing, and cut it into its parts.

    Args:
        dataset: its name.
        data_root: folder of data sets.
        val_size: validation images; None: the data set's own number.
        image_size: side at which images of varying size are kept.
        device: that computes.

    Returns:
        The data, on the device.
    """
    load = partial(load_source, dataset, data_root=data_folder(data_root), image_size=image_size)
    source = processes.local_first(load)
    splits = split_source(source, val_size=val_size)
    train, val, test = _placed(splits, device)
    return Data(source, Splits(train, val, test, splits.hash), image_side(source.train))


def open_training_data(config: TrainConfig, *, device: torch.device) -> Data:
    """The data that a training command names.

    Args:
        config: of the run.
        device: that computes.

    Returns:
        The data, on the device.
    """
    return open_data(
        config.dataset or DATASET,
        data_root=config.data_root,
        val_size=config.val_size,
        image_size=config.image_size or config.size,
        device=device,
    )


def settle(config: T, data: Data, *, device: torch.device) -> T:
    """The config with every value that was left open filled in, which is what a run records.

    Args:
        config: as given.
        data: that it names.
        device: that computes.

    Returns:
        The resolved config.
    """
    source = data.source
    if config.sync_bn and (device.type != "cuda" or processes.world() == 1):
        raise UserError(
            "--sync_bn needs several processes, each with a GPU (torchrun --nproc_per_node=N -m kdignite ...): leave "
            "it out"
        )
    if config.image_size not in (None, data.image_size):
        raise UserError(f"the images of {source.name} are {data.image_size} pixels wide: leave out --image_size")
    own_val_size = None if source.val is not None else source.default_val_size
    return dataclasses.replace(
        config,
        dataset=source.name,
        val_size=own_val_size if config.val_size is None else config.val_size,
        image_size=data.image_size,
        augment=config.augment or source.default_augment,
        normalize=config.normalize or ("imagenet" if config.weights == "imagenet" else "data"),
        device=device.type if processes.world() > 1 else str(device),
        amp=choose_amp(config.amp, device=device),
        threads=torch.get_num_threads(),
        epochs=1 if config.fast_dev_run else config.epochs,
        warmup_epochs=0.0 if config.fast_dev_run else config.warmup_epochs,
    )


def share() -> Share:
    """What this process takes of the work."""
    return Share(processes.rank(), processes.world())


def training_part(config: TrainConfig, data: Data) -> Part:
    """The images that are trained on.

    Args:
        config: whose limit applies.
        data: with its training part.

    Returns:
        The part, or as much of it as the limit allows.
    """
    return limited(data.splits.train, config.limit_train)


def is_partial(config: TrainConfig, data: Data) -> bool:
    """Whether a run sees only part of its training images.

    Args:
        config: of the run.
        data: with all of them.

    Returns:
        True for dry runs and runs whose limit leaves images out.
    """
    return config.fast_dev_run or len(training_part(config, data).indices) < len(data.splits.train.indices)


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


def _placed(splits: Splits, device: torch.device) -> list[Part]:
    """The three parts on the device; parts of the same set share one copy of it."""
    placed: dict[int, Part] = {}
    parts = []
    for part in (splits.train, splits.val, splits.test):
        key = id(part.images.labels)
        placed[key] = placed.get(key) or on_device(part, device)
        parts.append(Part(placed[key].images, part.indices))
    return parts
