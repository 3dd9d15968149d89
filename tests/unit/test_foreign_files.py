"""Files of others: whatever holds a network is read, and whatever does not is named, with the line that converts it."""

import argparse
import bz2
import collections
import contextlib
import datetime
import gzip
import io
import json
import lzma
import pickle
import shlex
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from kdignite import checkpoints
from kdignite.errors import UserError

State = dict[str, Tensor]


def network(num_classes: int = 3) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1, bias=False), nn.BatchNorm2d(5)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, num_classes)),
    )


def state_of(network: nn.Module) -> State:
    """Numbers that no new network has, all of them exact in half precision."""
    return {key: torch.full_like(value, index + 2) for index, (key, value) in enumerate(network.state_dict().items())}


STATE = state_of(network())
OTHER = {key: value * 2 for key, value in STATE.items()}
LEFT = "left out, as the model has no such tensors: "
COUNTERS = "set to 0: 2 counters num_batches_tracked of BatchNorm, which are missing or overflowed"


def named(name: Callable[[str], str], state: Mapping[str, Any] = STATE) -> dict[str, Any]:
    return {name(key): value for key, value in state.items()}


def under(prefix: str, state: Mapping[str, Any] = STATE) -> dict[str, Any]:
    return named(prefix.__add__, state)


def averaged() -> State:
    inner = network()
    inner.load_state_dict(STATE)
    return dict(AveragedModel(inner).state_dict())


def every(dtype: torch.dtype, state: State = STATE) -> State:
    return {key: value.to(dtype) for key, value in state.items()}


def without(prefix: str, *, count: str = "every key has") -> str:
    return f"without the prefix {prefix!r}, which {count}"


def read(content: object, path: Path, **how: Any) -> tuple[State, list[str]]:
    """What the three commands make of a file, loaded as they do."""
    if not path.exists():
        torch.save(content, path)
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = checkpoints.foreign_weights(checkpoints.read_foreign(path), model, path=path, **how)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    checkpoints.load_weights(model, found.weights, source=str(path))
    assert all(found.weights[key].dtype == value.dtype for key, value in before.items())
    return dict(model.state_dict()), found.notes


def refused(content: object, path: Path, **how: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(content, path, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# --- what a file holds

# content -> what was changed; every one holds STATE
TAKEN: dict[str, tuple[Any, list[str]]] = {
    "alone": (STATE, []),
    "module.": (under("module."), [without("module.")]),
    "_orig_mod.": (under("_orig_mod."), [without("_orig_mod.")]),
    "both": (under("_orig_mod.module."), [without("_orig_mod.module.")]),
    "both, turned": (under("module._orig_mod."), [without("module._orig_mod.")]),
    "twice": (under("module.module."), [without("module.module.")]),
    "model.": (under("model."), [without("model.")]),
    "two of its own": (under("net.model."), [without("net.model.")]),
    "own and wrapper": (under("model.module."), [without("model.module.")]),
    "a compiled part": (
        named(lambda key: key.replace("1.", "1._orig_mod.", 1)),
        ["5 of 14 keys are renamed, such as 1._orig_mod.weight to 1.weight"],
    ),
    "every part wrapped": (
        named(lambda key: "module.".join(key.rpartition(".")[:1]) + ".module." + key.rpartition(".")[2]),
        ["14 of 14 keys are renamed, such as 0.module.weight to 0.weight"],
    ),
    "an average": (averaged(), [without("module.", count="14 of 15 keys have"), f"{LEFT}n_averaged"]),
    "counted operations": (
        {**STATE, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
        [f"{LEFT}total_ops, 0.total_params"],
    ),
    "a criterion": ({**STATE, "criterion.weight": torch.ones(3)}, [f"{LEFT}criterion.weight"]),
    "a criterion beside a prefix": (
        {**under("model."), "criterion.weight": torch.ones(3)},
        [without("model.", count="14 of 15 keys have"), f"{LEFT}criterion.weight"],
    ),
    "a criterion within a prefix": (
        {**under("model."), "model.loss_fn.weight": torch.ones(3)},
        [without("model.", count="14 of 15 keys have"), f"{LEFT}model.loss_fn.weight"],
    ),
    "numbers beside them": (
        {**under("module."), "epoch": 3, "args": {"lr": 0.1}},
        ["left out, as they are no tensors: epoch, args", without("module.")],
    ),
    "a score beside them": (
        {"state_dict": STATE, "best_acc1": torch.tensor(97.0)},
        [],
    ),
    "harmless values": (
        {"state_dict": STATE, "d": torch.device("cpu"), "s": {1, 2}, "b": b"x", "t": torch.float16},
        [],
    ),
    "one of two that fits": (
        {"generator": under("net."), "discriminator": {"0.weight": torch.ones(7, 7), "0.bias": torch.ones(7)}},
        ["generator taken from the file, not discriminator", without("net.")],
    ),
    "deep": ({"a": {"b": [{"model": STATE}]}, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, []),
    "pairs": ([*STATE.items()], []),
    "pairs within": ({"weights": [[key, value] for key, value in STATE.items()]}, []),
    "of Lightning": (
        {"state_dict": under("model."), "loops": {"fit": {"n": 1}}, "optimizer_states": [{"state": {}}]},
        [without("model.")],
    ),
    "no counters": ({key: value for key, value in STATE.items() if value.dim()}, [COUNTERS]),
    "float64": (every(torch.float64), ["12 tensors are converted from float64 to float32"]),
    "halved": (every(torch.float16), ["12 tensors are converted from float16 to float32"]),
    "bfloat16": (every(torch.bfloat16), ["12 tensors are converted from bfloat16 to float32"]),
    "scalars of old": ({key: value if value.dim() else value.reshape(1) for key, value in STATE.items()}, []),
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_network_is_found_whatever_is_around_it(tmp_path: Path, case: str) -> None:
    content, told = TAKEN[case]
    found, notes = read(content, tmp_path / "f.pt")
    expected = {key: value * (0 if COUNTERS in told and not value.dim() else 1) for key, value in STATE.items()}
    assert equal(found, expected)
    integers = [note for note in notes if note.endswith("to int64")]
    assert len(integers) == any(note.startswith("12 tensors are converted") for note in told)
    assert [note for note in notes if note not in integers] == told


SEVERAL: dict[str, tuple[Any, str, Mapping[str, State]]] = {
    # content, what is asked, and what each answer gives
    "ema": (
        {"state_dict": STATE, "state_dict_ema": OTHER},
        "choose one with --key=state_dict or --key=state_dict_ema",
        {"state_dict": STATE, "state_dict_ema": OTHER},
    ),
    "deep": (
        {"models": {"a b": under("module."), "teacher": OTHER}},
        "choose one with '--key=models.a b' or --key=models.teacher",
        {"models.a b": STATE, "models.teacher": OTHER},
    ),
    "by prefix": (
        {**under("online_model."), **under("ema_model.module.", OTHER), "step": torch.tensor(1)},
        "choose one, --key=ema_model or --key=online_model",
        {"online_model": STATE, "ema_model": OTHER},
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_of_several_networks_the_one_that_is_named_is_taken(tmp_path: Path, case: str) -> None:
    content, told, answers = SEVERAL[case]
    assert told in refused(content, tmp_path / "f.pt")
    assert "there are " in refused(content, tmp_path / "f.pt", key="elsewhere")
    for key, expected in answers.items():
        assert equal(read(content, tmp_path / "f.pt", key=key)[0], expected)


def test_a_prefix_that_is_named_is_taken_off(tmp_path: Path) -> None:
    content = {**under("model."), **under("ema.", OTHER)}
    for prefix, expected in (("model.", STATE), ("ema.", OTHER)):
        found, notes = read(content, tmp_path / "f.pt", strip_prefix=prefix)
        assert equal(found, expected)
        assert notes[0] == f"without the prefix {prefix!r}: 14 of 28 tensors"
        assert notes[1].startswith("left out, as they do not begin with it: ")
    assert "no key of" in refused(content, tmp_path / "f.pt", strip_prefix="net.")
    part = {key if key.startswith("6") else f"body.{key}": value for key, value in STATE.items()}
    assert equal(read(part, tmp_path / "part.pt", strip_prefix="body.")[0], STATE)


WRONG: dict[str, tuple[Any, str]] = {
    "a tensor that is too many": ({**STATE, "6.weight.extra": torch.ones(1)}, "unexpected 6.weight.extra"),
    "the same under a prefix": (
        {**under("model."), "model.6.weight.extra": torch.ones(1)},
        "missing none; unexpected 6.weight.extra",
    ),
    "another head": (under("module.", state_of(network(5))), "6.weight (5, 5) float32 for (3, 5) float32"),
    "a missing layer": ({key: value for key, value in STATE.items() if key[0] != "2"}, "missing 2.weight"),
    "float8": ({**STATE, "0.weight": STATE["0.weight"].to(torch.float8_e4m3fn)}, "0.weight is float8_e4m3fn"),
    "sparse": ({**STATE, "0.weight": STATE["0.weight"].to_sparse()}, "0.weight is float32 (sparse_coo)"),
    "a counter of no whole number": ({**STATE, "1.num_batches_tracked": torch.tensor(0.5)}, "float32 for () int64"),
    "whole numbers as weights": ({**STATE, "0.weight": STATE["0.weight"].int()}, "0.weight (4, 3, 3, 3) int32 for"),
    "too large for float32": (
        {**STATE, "6.bias": torch.full((3,), 1e300, dtype=torch.float64)},
        "not finite numbers: 6.bias",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(tmp_path: Path, case: str) -> None:
    content, told = WRONG[case]
    assert told in refused(content, tmp_path / "f.pt")


def test_counters_that_overflowed_in_half_precision_are_set_to_zero(tmp_path: Path) -> None:
    content = every(torch.float16, {**STATE, "1.num_batches_tracked": torch.tensor(100_000)})
    found, notes = read(content, tmp_path / "f.pt")
    assert equal(found, {**STATE, "1.num_batches_tracked": torch.tensor(0)})
    assert COUNTERS.replace("2 counters", "1 counters") in notes


def test_names_that_the_model_itself_converts_are_taken(tmp_path: Path) -> None:
    """What torch's strict loading makes of weight_g and weight_v."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 4)))
    new = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    before = {key: value.clone() for key, value in new.state_dict().items()}
    found = checkpoints.foreign_weights(dict(old.state_dict()), new, path=tmp_path)
    assert found.notes == ["the model itself converts older names: 0.weight_g, 0.weight_v"]
    assert equal(dict(new.state_dict()), before)
    checkpoints.load_weights(new, found.weights, source="x")
    images = torch.rand(2, 3)
    assert torch.allclose(new(images), old(images))


def test_a_child_called_module_is_no_wrapper(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    state = state_of(model)
    for prefix in ("", "module.", "_orig_mod.module."):
        found = checkpoints.foreign_weights(under(prefix, state), model, path=tmp_path)
        assert equal(found.weights, state)


# --- kinds of files


class Own(nn.Sequential):
    """A class that a pickled module names."""


def module() -> nn.Module:
    own = Own(*network())
    own.load_state_dict(STATE)
    return own


def arrays() -> dict[str, Any]:
    return {key: value.numpy() for key, value in STATE.items()}


def stored(content: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


def zipped(entries: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        archive.addfile(tarfile.TarInfo("net.pt"))
    return file.getvalue()


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", **arrays())
    big = {key: value.astype(value.dtype.newbyteorder(">")) for key, value in arrays().items()}
    np.savez_compressed(tmp_path / "packed.npz", name="net", **big)
    assert read(None, tmp_path / "plain.npz")[1] == []
    assert read(None, tmp_path / "packed.npz")[1] == ["left out, as they are no tensors: name"]
    assert all(equal(read(None, tmp_path / f"{name}.npz")[0], STATE) for name in ("plain", "packed"))
    np.savez(tmp_path / "objects.npz", allow_pickle=True, **arrays(), classes=np.array(["a", None], dtype=object))
    assert "classes.npy is no array of plain numbers or text: leave it out" in refused(None, tmp_path / "objects.npz")


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(under("module."), tmp_path / "net.safetensors")
    assert equal(read(None, tmp_path / "net.safetensors")[0], STATE)


def test_safetensors_are_read_whatever_the_length_of_their_header_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for start in (b"\x80", b"\x80\x02", b"\x80\x04", b"\x1f\x8b", b"\x08\x07\x12", b"BZh"):
        length = start.ljust(8, b"\0")
        path.write_bytes(length + header.ljust(int.from_bytes(length, "little")) + bytes(8))
        assert torch.equal(checkpoints.read_foreign(path)["a"], torch.zeros(2)), start


# what is printed of each kind; those that have weights come with the line that saves them
CONVERTIBLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a module": (lambda: stored(module()), f"is a whole pickled object, {__name__}.Own, so it was not loaded"),
    "one of the old format": (
        lambda: stored(module(), _use_new_zipfile_serialization=False),
        f"is a whole pickled object, {__name__}.Own, so it was not loaded",
    ),
    "a module within": (lambda: stored({"model": module(), "epoch": 3}), f"GLOBAL {__name__}.Own)"),
    "a number of NumPy": (lambda: stored({"model": STATE, "best": np.float64(3)}), "multiarray.scalar)"),
    "arguments": (lambda: stored({"model": STATE, "args": argparse.Namespace(lr=1)}), "GLOBAL argparse.Namespace)"),
    "a date": (
        lambda: stored({"model": under("module."), "at": datetime.datetime(2026, 1, 1)}),
        "GLOBAL datetime.datetime)",
    ),
    "a path": (lambda: stored({"model": STATE, "path": Path("x")}), "GLOBAL pathlib.PosixPath)"),
    "a defaultdict": (lambda: stored({"a": STATE, "b": collections.defaultdict(int)}), "collections.defaultdict)"),
    "protocol 4": (lambda: stored(STATE, pickle_protocol=4), "was written with pickle protocol 4 or 5"),
    "protocol 5, old": (
        lambda: stored(STATE, pickle_protocol=5, _use_new_zipfile_serialization=False),
        "was written with pickle protocol 4 or 5",
    ),
    "a pickle of tensors": (lambda: pickle.dumps({"model": STATE}), "is a pickle (protocol 4) of Python"),
    "a pickle of arrays": (lambda: pickle.dumps({"model": arrays()}), "is a pickle (protocol 4) of Python"),
}


@pytest.mark.parametrize("case", CONVERTIBLE)
def test_what_holds_weights_in_another_way_is_converted_by_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    content, told = CONVERTIBLE[case]
    path = tmp_path / "my net.pt"
    path.write_bytes(content())
    line = refused(None, path)
    assert line.startswith(f"{path} ")
    assert told in line
    python, flag, code, *files = shlex.split(line[line.index("python -c ") :])
    assert (python, flag, files) == ("python", "-c", [str(path), str(tmp_path / "my net-weights.pt")])
    monkeypatch.setattr(sys, "argv", ["-c", *files])
    exec(code, {})
    assert equal(read(None, Path(files[1]))[0], STATE)


def scripted() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network().eval(), torch.rand(2, 3, 8, 8)), file)
    return file.getvalue()


def exported() -> bytes:
    file = io.BytesIO()
    torch.export.save(torch.export.export(network().eval(), (torch.rand(2, 3, 8, 8),)), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "told"), [(scripted, "is a TorchScript archive: "), (exported, "is an archive of torch.export: ")]
)
def test_compiled_networks_are_converted_by_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Callable[[], bytes], told: str
) -> None:
    path = tmp_path / "net.pt"
    path.write_bytes(content())
    line = refused(None, path)
    assert told in line
    code, *files = shlex.split(line[line.index("python -c ") :])[2:]
    monkeypatch.setattr(sys, "argv", ["-c", *files])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, {})
    assert read(None, Path(files[1]))[0].keys() == STATE.keys()


OTHERS: dict[str, tuple[bytes, str]] = {
    "gzip": (gzip.compress(stored(STATE)), "is compressed by gzip: gunzip -c net.bin > unpacked-net"),
    "bzip2": (bz2.compress(stored(STATE)), "is compressed by bzip2: bunzip2 -c net.bin > unpacked-net"),
    "xz": (lzma.compress(stored(STATE)), "is compressed by xz: xz -dc net.bin > unpacked-net"),
    "tar": (tarred("w"), "is a tar archive: tar -xf net.bin"),
    "tgz": (tarred("w:gz"), "is a tar archive compressed by gzip: tar -xzf net.bin"),
    "zip": (zipped({"net.pt": stored(STATE)}), "is a zip archive of net.pt: unzip net.bin"),
    "keras": (zipped({"config.json": b"", "model.weights.h5": b""}), "is a Keras model; unzip net.bin"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file, as Keras writes it; its arrays have to get"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:\xf3\x01" + bytes(99), "is an ONNX graph: python -c"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(99), "is a model of TensorFlow Lite"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(99), "is one array of NumPy, without a name"),
    "html": (b"\n<!DOCTYPE html><html>Sign in</html>", "is an HTML page, as a download page or an error sends it"),
    "page": (b"<html><body>404</body></html>", "is an HTML page, as a download page or an error sends it"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML text"),
    "json": (b'{"weight_map": {"a": "b"}}', "is a JSON text without tensors"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "is a Git LFS pointer"),
    "empty": (b"", "is damaged, or was not written by torch.save or safetensors (it is empty)"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    content, told = OTHERS[case]
    monkeypatch.chdir(tmp_path)
    Path("net.bin").write_bytes(content)
    line = refused(None, Path("net.bin"))
    assert line.startswith(f"net.bin {told}")
    if "unpacked-net" in told:
        with contextlib.suppress(FileNotFoundError):  # a machine without the program
            subprocess.run([told.partition(": ")[2].split()[0], "--version"], check=True, capture_output=True)
            subprocess.run(line.partition(": ")[2], shell=True, check=True)
            assert equal(read(None, Path("unpacked-net"))[0], STATE)


def test_a_folder_is_told_with_the_file_that_may_be_meant(tmp_path: Path) -> None:
    cases = {
        "best.safetensors": "is a run folder: its weights are {}/best.safetensors, and --teacher={} takes it",
        "saved_model.pb": "is a SavedModel of TensorFlow; ",
        ".metadata": "is a distributed checkpoint of torch: python -m torch.distributed.checkpoint.format_utils dcp_to",
        "epoch3.ckpt": "is a folder, not a file; weights in it: epoch3.ckpt",
    }
    for number, (name, told) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).touch()
        assert refused(None, folder).startswith(f"{folder} {told.replace('{}', str(folder))}")


def test_the_file_of_a_run_is_saved_again_by_safetensors(tmp_path: Path) -> None:
    """Whatever memory layout its tensors had when they were saved."""
    model = network().to(memory_format=torch.channels_last)
    checkpoints.write(tmp_path / "best.safetensors", {"weights": model.state_dict()})
    weights = checkpoints.read(tmp_path / "best.safetensors")["weights"]
    save_file(weights, tmp_path / "again.safetensors")
    assert all(value.is_contiguous() for value in weights.values())
    assert equal(read(None, tmp_path / "again.safetensors")[0], dict(model.state_dict()))
