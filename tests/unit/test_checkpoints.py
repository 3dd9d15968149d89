"""Checkpoints: complete or absent on the disk, complete or refused when read."""

import hashlib
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import kdignite
from kdignite import checkpoints, files
from kdignite.checkpoints import Architecture, Description, Origin, Validation
from kdignite.data.specs import Preprocessing
from kdignite.errors import UserError, listed

Weights = dict[str, Tensor]


class Net(nn.Module):
    """A body with BatchNorm and a head, so that keys are nested and buffers are among them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(inputs))
        return logits


KEYS = sorted(Net().state_dict())


def describe(**changed: Any) -> Description:
    values: dict[str, Any] = {
        "architecture": Architecture("cnn5", {"widths": (8, 6, 5, 4, 3)}),
        "classes": ("cat", "dog"),
        "preprocessing": Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        "origin": Origin("teacher", "digits", "f" * 64, "5" * 64, 200, 32, "crop", 0.1, False),
        "validation": Validation(150, 200, 3),
    }
    return Description(**{**values, **changed})


def trained() -> Net:
    """A model whose every tensor differs from those of a new one."""
    model = Net()
    for value in model.state_dict().values():
        value.copy_(torch.rand(value.shape) + 2 if value.is_floating_point() else value + 7)
    return model


def saved(path: Path, model: nn.Module | None = None, **changed: Any) -> Path:
    checkpoints.write(path, checkpoints.to_payload(describe(**changed), (model or trained()).state_dict()))
    return path


def digest(model: nn.Module) -> str:
    """A hash of every byte of the state of a model."""
    sha = hashlib.sha256()
    for key, value in model.state_dict().items():
        sha.update(key.encode() + repr((value.shape, value.dtype)).encode() + value.numpy().tobytes())
    return sha.hexdigest()


def refused(path: Path, *, read: Callable[[Path], Any] = checkpoints.load_checkpoint) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def misfit(weights: Weights) -> str:
    """The message of an error that left the model as it was, to the bit."""
    model = Net()
    before = digest(model)
    with pytest.raises(UserError) as caught:
        checkpoints.load_weights(model, weights, source="runs/t/best.safetensors")
    assert digest(model) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- there and back


def test_description_weights_and_outputs_come_back_as_they_were(tmp_path: Path) -> None:
    model = trained().eval()
    found = checkpoints.load_checkpoint(saved(tmp_path / "best.safetensors", model))
    assert found.description == describe()
    assert isinstance(found.description.architecture.options["widths"], tuple)
    assert found.path == tmp_path / "best.safetensors"
    again = Net().eval()
    checkpoints.load_weights(again, found.weights, source="x")
    assert digest(again) == digest(model)
    inputs = torch.randn(5, 4)
    assert torch.equal(again(inputs), model(inputs))


def test_accuracy_is_the_share_of_correct_images() -> None:
    assert Validation(150, 200, 3).accuracy == 0.75


def test_the_file_names_its_format_and_the_version_that_wrote_it(tmp_path: Path) -> None:
    content = checkpoints.read(saved(tmp_path / "best.safetensors"))
    assert content["format"] == checkpoints.FORMAT
    assert content["kdignite"] == kdignite.__version__


def test_any_program_that_reads_safetensors_finds_weights_and_description(tmp_path: Path) -> None:
    model = trained()
    path = saved(tmp_path / "best.safetensors", model)
    with safe_open(path, framework="pt") as file:
        assert {key: file.get_tensor(key).tolist() for key in file.keys()} == {  # noqa: SIM118 - it is no dict
            key: value.tolist() for key, value in model.state_dict().items()
        }
        description = json.loads(file.metadata()["kdignite"])
    assert description["classes"] == ["cat", "dog"]
    assert description["architecture"] == {"name": "cnn5", "options": {"widths": [8, 6, 5, 4, 3]}}
    assert description["preprocessing"]["mean"] == [0.1, 0.2, 0.3]
    content = path.read_bytes()
    digest = description["sha256"].encode()
    assert content.count(digest) == 1
    assert hashlib.sha256(content.replace(digest, b"0" * 64)).hexdigest().encode() == digest


def test_the_same_values_are_the_same_file(tmp_path: Path) -> None:
    model = trained()
    one, other = (saved(tmp_path / name, model).read_bytes() for name in ("one", "other"))
    assert one == other


NESTED: dict[str, Any] = {
    "floats": [0.1, 1e308, 5e-324, -0.0, 1 / 3, float("inf"), -float("inf")],
    "numbers": {0: "a", -3: {1: ()}, 2**31 - 1: None},
    "counts": (2**53, -(10**30), True, False),
    "words": {"$tensor": "a", "$": [], "": "caf\u00e9", "\ud800": "\n"},
    "sha": {"sha256": "0" * 64},
}


def test_nested_values_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "last.safetensors", NESTED)
    found = checkpoints.read(tmp_path / "last.safetensors")
    assert found == NESTED
    assert repr(found) == repr(NESTED)  # types, signs of zeros and the order too
    checkpoints.write(tmp_path / "last.safetensors", {"nan": [float("nan")]})
    assert repr(checkpoints.read(tmp_path / "last.safetensors")) == "{'nan': [nan]}"


def test_tensors_whose_names_would_be_the_same_are_kept_apart(tmp_path: Path) -> None:
    values = {
        "a.b": torch.zeros(1),
        "a": {"b": torch.ones(1), "c": [torch.ones(2)]},
        "weights": {"a.b": torch.ones(3), "__metadata__": torch.ones(4)},
        "__metadata__": torch.ones(5),
    }
    checkpoints.write(tmp_path / "x.safetensors", values)
    found = checkpoints.read(tmp_path / "x.safetensors")
    assert found["a.b"].tolist() == [0]
    assert [len(found["a"]["b"]), len(found["a"]["c"][0]), len(found["__metadata__"])] == [1, 2, 5]
    assert {key: len(value) for key, value in found["weights"].items()} == {"a.b": 3, "__metadata__": 4}


def test_weights_come_back_on_the_cpu_and_do_not_share_memory_with_the_model(tmp_path: Path) -> None:
    model = trained()
    found = checkpoints.load_checkpoint(saved(tmp_path / "best.safetensors", model))
    before = digest(model)
    for value in found.weights.values():
        assert value.device.type == "cpu"
        value.zero_()
    assert digest(model) == before


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors", validation=Validation(1, 2, 1))
    saved(path, validation=Validation(2, 2, 2))
    assert checkpoints.load_checkpoint(path).description.validation == Validation(2, 2, 2)
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


# --- strict loading


def test_a_prefix_on_every_key_is_refused_and_named() -> None:
    prefixed = {f"model.{key}": value for key, value in trained().state_dict().items()}
    message = misfit(prefixed)
    assert message.startswith("the weights of runs/t/best.safetensors do not fit the model: missing ")
    assert f"missing {', '.join(KEYS[:6])} and {len(KEYS) - 6} more; " in message
    assert f"unexpected {', '.join(f'model.{key}' for key in KEYS[:6])} and {len(KEYS) - 6} more" in message
    assert message.endswith("; they match without their prefix: --strip_prefix=model.")


def test_a_prefix_of_two_parts_is_named_whole() -> None:
    message = misfit({f"module.model.{key}": value for key, value in trained().state_dict().items()})
    assert message.endswith("; they match without their prefix: --strip_prefix=module.model.")


def test_no_prefix_is_named_where_stripping_it_would_not_be_enough() -> None:
    prefixed = {f"model.{key}": value for key, value in trained().state_dict().items() if key != "head.bias"}
    assert "prefix" not in misfit(prefixed)


def test_a_missing_head_is_refused() -> None:
    body = {key: value for key, value in trained().state_dict().items() if not key.startswith("head.")}
    assert misfit(body) == (
        "the weights of runs/t/best.safetensors do not fit the model: missing head.bias, head.weight; unexpected none"
    )


def test_an_unexpected_key_is_refused() -> None:
    message = misfit({**trained().state_dict(), "extra": torch.zeros(1)})
    assert message == "the weights of runs/t/best.safetensors do not fit the model: missing none; unexpected extra"


def test_empty_weights_are_refused() -> None:
    assert "unexpected none" in misfit({})


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("head.weight", torch.zeros(5, 3), "head.weight (5, 3) float32 for (2, 3) float32"),
        ("head.weight", torch.zeros(3, 2), "head.weight (3, 2) float32 for (2, 3) float32"),
        ("head.bias", torch.zeros(2).double(), "head.bias (2,) float64 for (2,) float32"),
        ("head.bias", torch.zeros(2).half(), "head.bias (2,) float16 for (2,) float32"),
        ("body.1.num_batches_tracked", torch.tensor(1.0), "body.1.num_batches_tracked () float32 for () int64"),
    ],
)
def test_another_shape_or_type_is_refused(key: str, value: Tensor, told: str) -> None:
    message = misfit({**trained().state_dict(), key: value})
    assert message == f"the weights of runs/t/best.safetensors do not fit the model: {told}"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["head.weight", "body.1.running_var"])
def test_weights_that_are_no_finite_numbers_are_refused(key: str, value: float) -> None:
    weights = trained().state_dict()
    weights[key].view(-1)[-1] = value  # the last key and the last element: others would have been loaded by then
    assert misfit(weights) == f"the weights of runs/t/best.safetensors are not finite numbers: {key}"


# --- damaged and foreign files


def test_a_missing_file_and_a_folder_are_no_files(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.pt") == f"there is no file {tmp_path / 'no.pt'}"
    assert refused(tmp_path) == f"{tmp_path} is a folder, not a file; weights in it: none"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    whole = saved(tmp_path / "best.safetensors").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(share * len(whole))])
    told = refused(tmp_path / "cut.pt")
    assert "cut.pt is damaged, or was not written by kdignite (" in told or "cut.pt is no kdignite checkpoint" in told
    assert "cut.pt is damaged, or was not written by kdignite (" in refused(tmp_path / "cut.pt", read=checkpoints.read)


def test_a_file_that_lacks_its_last_byte_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    refused(path)


def test_an_altered_weight_is_noticed_by_its_checksum(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refused(path) == f"{path} is damaged, or was not written by kdignite (its checksum differs)"


def test_an_altered_header_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors")
    whole = path.read_bytes()
    for index in range(8 + int.from_bytes(whole[:8], "little")):
        content = bytearray(whole)
        content[index] ^= 1 << (index % 8)
        path.write_bytes(content)
        told = refused(path)
        assert " is damaged, or was not written by kdignite (" in told or " is no kdignite checkpoint" in told


FOREIGN = {
    "text": b"hello world\n",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "stack": b"R\x02\x9b",
    "short": b"J",
    "byte": b"K",
    "zip": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_something_else_than_a_file_of_torch_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    told = refused(path, read=checkpoints.read_foreign)
    assert f"{path} is damaged, or was not written by torch.save or safetensors (" in told


def test_a_damaged_file_of_the_old_format_ends_in_one_line(tmp_path: Path) -> None:
    """These have no checksums: that nothing comes out but a UserError, or other numbers of the same shape."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(3.0)}, buffer, _use_new_zipfile_serialization=False)
    whole, path, told = buffer.getvalue(), tmp_path / "old.pt", []
    for bit in range(0, 8 * len(whole), 7):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(bytes(content))
        try:
            checkpoints.read_foreign(path)
        except UserError as error:
            told.append(str(error))
    assert len(told) > 100
    assert not any("\n" in line for line in told)


def test_a_state_dict_of_the_old_format_is_read(tmp_path: Path) -> None:
    weights = trained().state_dict()
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    found = checkpoints.read_foreign(tmp_path / "old.pth")
    assert all(torch.equal(found[key], weights[key]) for key in KEYS)


class Bomb:
    """Runs a command when it is unpickled by something that trusts it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def plant(path: Path, *, how: str) -> Path:
    """A file that would create ``path.ran``."""
    bomb = {"format": 1, "weights": Bomb(f"touch {path}.ran")}
    if how == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=how == "archive")
    return path


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            "archive",
            r"holds more than tensors and plain values \(.*posix\.system.*\), so it was not loaded and nothing",
        ),
        ("old", r"holds more than tensors and plain values \(.*posix\.system.*\), so it was not loaded and nothing"),
        ("pickle", r"is a pickle \(protocol 4\) of Python, which may run anything: if you trust"),
    ],
)
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path: Path, how: str, why: str) -> None:
    path = plant(tmp_path / "bomb.pt", how=how)
    told = refused(path, read=checkpoints.read_foreign)
    assert re.match(rf"{re.escape(str(path))} {why}", told)
    assert " python -c 'import sys, pathlib, pickle, numpy, torch; keep = lambda v: " in told
    assert told.endswith(f" {path} {tmp_path / 'bomb-weights.pt'}")
    assert refused(path).startswith(f"{path} is no kdignite checkpoint")
    assert not Path(f"{path}.ran").exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert Path(f"{path}.ran").exists()  # it was a real one


def test_code_does_not_run_either_where_the_environment_forces_torch_to(tmp_path: Path) -> None:
    path = plant(tmp_path / "bomb.pt", how="archive")
    program = (
        "import sys, pathlib; from kdignite import checkpoints\n"
        "try: checkpoints.read_foreign(pathlib.Path(sys.argv[1]))\n"
        "except ValueError as error: print(error)"
    )
    source = Path(kdignite.__file__).parents[1]
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "PYTHONPATH": str(source)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert "holds more than tensors and plain values" in done.stdout
    assert not Path(f"{path}.ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(trained(), tmp_path / "model.pt")
    told = refused(tmp_path / "model.pt", read=checkpoints.read_foreign)
    assert told.startswith(f"{tmp_path / 'model.pt'} is a whole pickled object, {__name__}.")


@pytest.mark.parametrize("how", ["torch", "safetensors", "own"])
def test_a_file_without_description_is_sent_to_adopt(tmp_path: Path, how: str) -> None:
    path, content = tmp_path / "foreign.pth", {"head.weight": torch.zeros(2, 3)}
    {"torch": torch.save, "safetensors": save_file, "own": lambda *given: checkpoints.write(*given[::-1])}[how](
        content, path
    )
    assert refused(path) == (
        f"{path} is no kdignite checkpoint (it has no description of its model), or is damaged: "
        f"python -m kdignite adopt {path} --arch=... --size=... --mean=... --std=... makes one of a state dict"
    )
    found, notes = checkpoints.state_dict_in(checkpoints.read_foreign(path), path, own={})
    assert (list(found), notes) == (["head.weight"], [])


def test_weights_are_taken_out_of_a_checkpoint_that_is_given_as_somebody_elses(tmp_path: Path) -> None:
    model = trained()
    path = saved(tmp_path / "best.safetensors", model)
    found, _ = checkpoints.state_dict_in(checkpoints.read_foreign(path), path, own=model.state_dict())
    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[key], value) for key, value in model.state_dict().items())


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    payload = checkpoints.to_payload(describe(), trained().state_dict())
    change(payload)
    checkpoints.write(path, payload)
    return path


@pytest.mark.parametrize("number", [0, 1, 99, "2", None])
def test_another_format_is_refused_with_the_version_that_wrote_it(tmp_path: Path, number: object) -> None:
    path = altered(tmp_path / "new.pt", lambda payload: payload.update(format=number, kdignite="9.1"))
    assert refused(path) == (
        f"{path} has checkpoint format {number}, written by kdignite 9.1; "
        f"this is kdignite {kdignite.__version__}, which reads format {checkpoints.FORMAT}"
    )


@pytest.mark.parametrize(
    "change",
    [
        *(lambda payload, key=key: payload.pop(key) for key in ("architecture", "classes", "origin", "weights")),
        lambda payload: payload.update(architecture=["cnn5"]),
        lambda payload: payload["architecture"].update(options=None),
        lambda payload: payload.update(classes=None),
        lambda payload: payload["preprocessing"].update(size="large"),
        lambda payload: payload["preprocessing"].pop("mean"),
        lambda payload: payload["origin"].pop("split"),
        lambda payload: payload["origin"].update(unknown=1),
        lambda payload: payload["validation"].update(unknown=1),
        lambda payload: payload.update(weights=[torch.zeros(1)]),
        lambda payload: payload["weights"].update(extra=1.0),
        lambda payload: payload.update(weights={}),
    ],
)
def test_a_damaged_description_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = altered(tmp_path / "bad.pt", change)
    assert refused(path).startswith(f"{path} is damaged: its description cannot be read (")


def test_nothing_in_the_package_loads_pickles_or_lifts_the_limits() -> None:
    package = Path(kdignite.__file__).parent
    """Beside the one place, only in text: lines for users to type."""
    words = ("weights_only=False", "add_safe_globals", "pickle.load(", "torch.load(")

    def code(file: Path) -> str:
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
        return "".join(token.string for token in tokens if token.type not in (tokenize.STRING, tokenize.COMMENT))

    found = {
        (file.relative_to(package).as_posix(), word)
        for file in package.rglob("*.py")
        for word in words
        if word in code(file)
    }
    assert found == {("checkpoints/files.py", "torch.load(")}


# --- writing


class Interrupted(Exception):
    """What happens in the middle of a save."""


class Breaks(dict[str, Any]):
    """Cannot be read."""

    def items(self) -> NoReturn:
        raise Interrupted


@pytest.mark.parametrize(
    "value", [object(), b"bytes", {1, 2}, {(1, 2): 3}, np.float32(1)], ids=["object", "bytes", "set", "key", "numpy"]
)
def test_what_a_file_cannot_hold_is_an_error_before_it_is_touched(tmp_path: Path, value: object) -> None:
    path = saved(tmp_path / "best.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        checkpoints.write(path, {"w": torch.zeros(10), "bad": value})
    assert path.read_bytes() == before


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.safetensors")
    before = path.read_bytes()
    with pytest.raises(Interrupted):
        checkpoints.write(path, {"w": torch.zeros(1000), "bad": Breaks()})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_a_failed_first_save_leaves_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        checkpoints.write(tmp_path / "best.safetensors", {"bad": Breaks()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = saved(tmp_path / "best.safetensors")
    before = path.read_bytes()

    def full(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.write(path, {"w": torch.zeros(10)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_the_new_file_is_synced_before_it_replaces_the_old_one_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "best.safetensors")
    old, calls = path.read_bytes(), []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        names = {file.stat().st_ino: file.name for file in [*tmp_path.iterdir(), tmp_path]}
        calls.append(("fsync", names[status.st_ino], path.read_bytes() == old))
        fsync(descriptor)

    def watched_replace(source: Path, target: Path) -> None:
        assert checkpoints.read(Path(source))["new"] == 1  # complete when it gets its name
        calls.append(("replace", Path(source).name, path.read_bytes() == old))
        replace(source, target)

    def never(name: str) -> Callable[..., None]:
        def call(target: Path, **_: Any) -> None:
            calls.append((name, Path(target).name, path.exists()))
            raise FileNotFoundError

        return call

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    monkeypatch.setattr(os, "unlink", never("unlink"))
    monkeypatch.setattr(os, "remove", never("remove"))
    checkpoints.write(path, {"new": 1})
    temporary = calls[0][1]
    assert temporary.startswith(files.TEMPORARY)
    assert calls == [
        ("fsync", temporary, True),
        ("replace", temporary, True),
        ("unlink", temporary, True),  # nothing is left to unlink after a rename
        ("fsync", tmp_path.name, False),
    ]


def test_two_that_write_at_once_under_the_same_process_id_do_not_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As processes in two containers do, which share a folder."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "file"

    def save(file: IO[bytes]) -> None:
        files.write_text(path, "theirs")
        file.write(b"mine")

    files.write_atomically(path, save)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def save_without_end(path: Path, payloads: list[dict[str, Any]]) -> NoReturn:
    try:
        while True:
            for payload in payloads:
                checkpoints.write(path, payload)
    finally:
        os._exit(1)


@pytest.mark.parametrize("pause", [0.013, 0.041, 0.097])
def test_a_killed_process_leaves_a_file_that_can_be_read(tmp_path: Path, pause: float) -> None:
    path = tmp_path / "last.safetensors"
    payloads = [{"number": number, "w": torch.full((50_000,), float(number))} for number in range(5)]
    child = os.fork()  # no new interpreter: importing torch would take longer than the test
    if child == 0:
        save_without_end(path, payloads)
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = checkpoints.read(path)
    assert torch.equal(found["w"], payloads[found["number"]]["w"])


# --- foreign state dicts


def test_a_state_dict_is_taken_as_it_is(tmp_path: Path) -> None:
    weights = trained().state_dict()
    found, notes = checkpoints.state_dict_in(weights, tmp_path, own={})
    assert notes == []
    assert list(found) == list(weights)
    assert all(found[key] is weights[key] for key in weights)


@pytest.mark.parametrize("key", ["state_dict", "model", "net"])
def test_the_one_state_dict_among_other_entries_is_found(tmp_path: Path, key: str) -> None:
    weights = trained().state_dict()
    content = {"epoch": 3, "optimizer": {"lr": 0.1, "state": {}}, "empty": {}, key: weights}
    assert list(checkpoints.state_dict_in(content, tmp_path, own={})[0]) == list(weights)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], torch.zeros(1), None, {"a": {}}])
def test_a_file_without_a_state_dict_is_refused(content: object) -> None:
    with pytest.raises(UserError) as caught:
        checkpoints.state_dict_in(content, Path("f.pth"), own={})
    assert str(caught.value) == "f.pth must hold one state dict (names to tensors); found none: save that one alone"


def test_a_file_with_two_state_dicts_is_refused() -> None:
    content = {"model": {"a": torch.zeros(1)}, "ema": {"a": torch.zeros(1)}}
    with pytest.raises(
        UserError, match=r"^f\.pth must hold one state dict .*; choose one with --key=model or --key=ema$"
    ):
        checkpoints.state_dict_in(content, Path("f.pth"), own={})


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "none"), (1, "k0"), (6, "k0, k1, k2, k3, k4, k5"), (7, "k0, k1, k2, k3, k4, k5 and 1 more")],
)
def test_few_words_are_listed_and_the_rest_counted(count: int, text: str) -> None:
    assert listed([f"k{index}" for index in range(count)]) == text
