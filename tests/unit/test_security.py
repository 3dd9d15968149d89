"""Files as somebody would write them who means harm: refused in one line, without memory, time or code of theirs."""

import ast
import hashlib
import io
import json
import os
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kdignite
from kdignite import checkpoints, files
from kdignite.checkpoints import Architecture, Description, Origin, Validation, arrays
from kdignite.cli import main
from kdignite.commands.baseline import baseline
from kdignite.commands.distill import distill
from kdignite.commands.doctor import doctor
from kdignite.commands.evaluate import evaluate
from kdignite.commands.reproduce import reproduce
from kdignite.comparison.runs import read_run
from kdignite.config import BaselineConfig, DistillConfig, DoctorConfig, EvaluateConfig, ReproduceConfig, configure
from kdignite.console import say
from kdignite.data.specs import Preprocessing
from kdignite.doctor.predictions import read_predictions
from kdignite.errors import BRIEF, UserError, brief
from kdignite.models import registry
from kdignite.models.outline import meta_state_dict as outlined
from kdignite.models.weights import transfer_weights
from kdignite.training import model as model_module

HUGE = 2**30
LONGEST_LINE = 5_000  # characters of an error
ALLOWED_BYTES = 2 * 2**20  # that Python may take to refuse a small file
WIDTHS = (8, 6, 5, 4, 3)


@pytest.fixture(autouse=True)
def usual_recursion() -> Iterator[None]:
    """torch's compiler lifts the limit for the rest of a process, as in the tests of compiled steps."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)  # Python's own
    yield
    sys.setrecursionlimit(limit)


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """No refusal takes long."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 20


def refused(read: Callable[[Path], object], path: Path) -> str:
    """The one line that refuses a file."""
    with pytest.raises(UserError) as caught:
        read(path)
    told = str(caught.value)
    assert "\n" not in told
    assert str(path) in told
    assert len(told) - len(str(path)) < LONGEST_LINE
    return told.replace(str(path), path.name)


# --- pickles that ask for more than they bring


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def word(text: str) -> bytes:
    return b"X" + len(text.encode()).to_bytes(4, "little") + text.encode()


def name(path: str) -> bytes:
    module, _, last = path.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def call(path: str, *arguments: bytes) -> bytes:
    return name(path) + b"(" + b"".join(arguments) + b"tR"


def storage(length: int = 3, *, kind: str = "torch.FloatStorage", key: str = "0", end: bytes = b"") -> bytes:
    return b"(" + word("storage") + name(kind) + word(key) + word("cpu") + number(length) + end + b"tQ"


NO_HOOKS = call("collections.OrderedDict")


def tensor(
    held: bytes,
    *,
    offset: int = 0,
    size: tuple[int, ...] = (3,),
    stride: tuple[int, ...] = (1,),
    hooks: bytes = NO_HOOKS,
) -> bytes:
    parts = (held, number(offset), numbers(*size), numbers(*stride), b"\x89", hooks)
    return call("torch._utils._rebuild_tensor_v2", *parts)


def archive(pickled: bytes, *, entries: Mapping[str, bytes] | None = None) -> bytes:
    """A file of torch whose every checksum is right: the pickle given, and a storage of three numbers."""
    held = {"data.pkl": b"\x80\x02" + pickled + b".", "byteorder": b"little", "data/0": bytes(12), "version": b"3\n"}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for entry, value in {**held, **(entries or {})}.items():
            made.writestr(f"archive/{entry}", value)
    return content.getvalue()


DEEP = b"]" * 40 + b"a" * 39
LAUGHS = b"]q\x00K\x01a" + b"".join(b"](h\x00" + b"h\x00" * 9 + b"eq\x00" for _ in range(12)) + b"\x86" * 12

ASKING = {
    # what is asked for, and what the line says of it
    "numbers beyond the storage": (tensor(storage(HUGE), size=(HUGE,)), "does not match expected size (4294967296"),
    "fewer numbers than the storage": (tensor(storage(2), size=(2,)), "does not match expected size (8 bytes"),
    "a storage of another kind": (tensor(storage(3, kind="torch.DoubleStorage")), "does not match expected size (24"),
    "a storage that is not there": (tensor(storage(key="../0")), "file not found"),
    "a tensor behind its storage": (tensor(storage(), offset=1), "not resizable"),
    "a tensor across its storage": (tensor(storage(), size=(2,), stride=(3,)), "not resizable"),
    "a tensor before its storage": (tensor(storage(), offset=-1), "invalid storage offset"),
    "a negative shape": (tensor(storage(), size=(-3,)), "overflow"),
    "a function": (name("os.system"), "os.system"),
    "a function of Python": (call("builtins.eval", word("1")), "GLOBAL eval"),
    "a call of no function": (b"K\x01)R", "unrecognized function"),
    "a key that is a list": (b"}]K\x01s", "unhashable"),
    "an opcode of old": (b"I1\n", "holds more than tensors and plain values"),
    "no opcode": (b"\xff", "holds more than tensors and plain values"),
    "a name with escapes": (b"c\\y\nz\n", "\\y.z"),  # one that Python warns of
    "nothing": (b"", "damaged"),
    "what was never stored": (b"h\x07", "damaged"),
}


@pytest.mark.parametrize("case", ASKING)
def test_a_pickle_that_asks_for_what_it_does_not_bring_is_refused(tmp_path: Path, case: str) -> None:
    pickled, told = ASKING[case]
    path = tmp_path / "bad.pt"
    path.write_bytes(archive(pickled))
    tracemalloc.start()
    try:
        line, (_, most) = refused(checkpoints.read_foreign, path), tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told in line
    assert most < ALLOWED_BYTES


def foreign_weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoints.state_dict_in(checkpoints.read_foreign(path), path, own={})[0]


ODD = {
    "one number as many": tensor(storage(), size=(HUGE,), stride=(0,)),
    "a tensor without numbers": call(
        "torch._utils._rebuild_meta_tensor_no_storage", name("torch.float32"), numbers(3), numbers(1), b"\x89"
    ),
    "a function of torch": name("torch._utils._rebuild_sparse_tensor"),
    "a method of a dict": NO_HOOKS + word("w") + b"K\x01s}" + word("values") + b"K\x01sb",
    "itself": b"]q\x00h\x00a",
    "lists in lists": DEEP,
    "ten lists of ten lists of": LAUGHS,
}


@pytest.mark.parametrize("case", ODD)
def test_what_torch_reads_and_is_no_state_dict_is_refused(tmp_path: Path, case: str) -> None:
    content = archive(b"}" + word("w") + ODD[case] + b"s")
    torch.load(io.BytesIO(content), weights_only=True)
    for number, written in enumerate((content, archive(ODD[case]))):
        (tmp_path / f"{number}.pt").write_bytes(written)
        assert "must hold one state dict" in refused(foreign_weights, tmp_path / f"{number}.pt")


def test_a_method_that_a_file_replaced_is_not_called(tmp_path: Path) -> None:
    held = NO_HOOKS + word("w") + tensor(storage()) + b"s}"
    for method in ("values", "items", "keys", "get"):
        (tmp_path / "bad.pt").write_bytes(archive(held + word(method) + b"K\x01sb"))
        assert list(foreign_weights(tmp_path / "bad.pt")) == ["w"]


def test_what_the_tests_write_is_read_where_it_is_honest(tmp_path: Path) -> None:
    path = tmp_path / "good.pt"
    path.write_bytes(archive(tensor(storage())))
    assert torch.equal(checkpoints.read_foreign(path), torch.zeros(3))


def test_a_file_that_ends_too_soon_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "old.pt").read_bytes()
    for size in (0, 1, content.index(b"X\x01\x00\x00\x00w"), len(content) - 1):
        (tmp_path / "old.pt").write_bytes(content[:size])
        assert "old.pt is damaged, or was not written by" in refused(checkpoints.read_foreign, tmp_path / "old.pt")


ONE = torch.arange(12.0).reshape(3, 4)
HONEST_VALUES: dict[str, Any] = {
    "one": ONE,
    "tied": ONE,
    "turned": ONE.T,
    "part": ONE[1:, ::2],
    "wide": torch.ones(1).expand(5),
    "pixels": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "empty": torch.empty(0, 5),
    "scalar": torch.tensor(3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "more": [1, 2.5, None, True, "x", (1, (2, 3)), {"a": {0: OrderedDict(b=1)}}],
}


@pytest.mark.parametrize("how", ["own", "archive", "old"])
def test_tied_weights_and_odd_strides_are_read(tmp_path: Path, how: str) -> None:
    """Honest files may share a storage, skip in it, or hold nothing; those of torch keep what is shared."""
    path = tmp_path / "good.pt"
    if how == "own":
        checkpoints.write(path, HONEST_VALUES)
    else:
        torch.save(HONEST_VALUES, path, _use_new_zipfile_serialization=how == "archive")
    found = checkpoints.read_foreign(path)
    assert found["more"] == HONEST_VALUES["more"]
    assert all(torch.equal(found[key], value) for key, value in HONEST_VALUES.items() if key != "more")
    shared = found["one"].data_ptr() == found["tied"].data_ptr() == found["turned"].data_ptr()
    assert shared == (how != "own")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch is about to drop them
    QUANTISED = torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.quint8)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(10**12),
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.zeros(3, dtype=torch.uint16),
        torch.zeros(3, dtype=torch.complex128),
        QUANTISED,
        b"bytes",
        {1, 2},
        torch.float32,
    ],
    ids=repr,
)
def test_what_no_state_dict_holds_is_refused(tmp_path: Path, value: object) -> None:
    torch.save({"w": value}, tmp_path / "odd.pt")
    refused(foreign_weights, tmp_path / "odd.pt")
    if not (isinstance(value, torch.Tensor) and value.numel() == 10**12):  # which would be written whole
        with pytest.raises(UserError, match=r"^--arch=x cannot be saved in a checkpoint, .*: change w$"):
            checkpoints.check_storable({"w": value}, source="--arch=x")


def deflated(content: bytes) -> bytes:
    """The same entries, compressed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as after:
        for entry in before.infolist():
            after.writestr(entry.filename, before.read(entry))
    return made.getvalue()


HONEST = archive(tensor(storage()))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (deflated(archive(b"N", entries={"data/1": bytes(10**7)})), "it claims more bytes than it has"),
        (
            archive(b"N", entries={"data/0": b"twelve bytes"}).replace(b"twelve", b"Twelve"),
            "checksum of archive/data/0",
        ),
    ],
    ids=["compressed", "altered"],
)
def test_an_archive_that_is_damaged_or_compressed_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    assert told in refused(checkpoints.read_foreign, tmp_path / "bad.pt")


# --- files of safetensors whose claims do not fit what they hold


def stored(header: object, data: bytes = b"") -> bytes:
    """A file of safetensors as its header wants it."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + data


def own(values: str, header: Mapping[str, object] | None = None, data: bytes = b"") -> bytes:
    """A file of kdignite whose checksum is right."""
    text = f'{{"sha256":"{"0" * 64}",{values}}}'
    content = stored({"__metadata__": {"kdignite": text}, **(header or {})}, data)
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode(), 1)


THREE = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
CLAIMING: dict[str, tuple[Mapping[str, object], bytes]] = {
    "more numbers than there are": ({"w": {**THREE, "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}, bytes(12)),
    "fewer bytes than its shape": ({"w": {**THREE, "shape": [4]}}, bytes(12)),
    "bytes that are no tensor's": ({"w": THREE}, bytes(13)),
    "the same bytes twice": ({"v": THREE, "w": THREE}, bytes(12)),
    "a hole": ({"w": {**THREE, "data_offsets": [4, 16]}}, bytes(16)),
    "an end before its start": ({"w": {**THREE, "data_offsets": [12, 0]}}, bytes(12)),
    "a negative shape": ({"w": {**THREE, "shape": [-3]}}, bytes(12)),
    "a shape beyond all numbers": ({"w": {**THREE, "shape": [2**62, 2**62]}}, bytes(12)),
    "strides beyond all numbers": ({"w": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, b""),
    "no type": ({"w": {**THREE, "dtype": "X32"}}, bytes(12)),
    "a type that torch has not": ({"w": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, bytes(3)),
    "no offsets": ({"w": {"dtype": "F32", "shape": [3]}}, bytes(12)),
}


@pytest.mark.parametrize("case", CLAIMING)
def test_a_header_that_claims_something_else_is_refused(tmp_path: Path, case: str) -> None:
    header, data = CLAIMING[case]
    tracemalloc.start()
    try:
        for name, content in (("theirs", stored(header, data)), ("own", own('"format":2', header, data))):
            (tmp_path / name).write_bytes(content)
            assert f"{name} is damaged, or was not" in refused(checkpoints.read_foreign, tmp_path / name)
        assert "own is damaged, or was not written by kdignite" in refused(
            checkpoints.load_checkpoint, tmp_path / "own"
        )
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < ALLOWED_BYTES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        stored(b""),
        stored(b"{"),
        stored(b"[" * 100_000),
        stored(b'{"a":' * 100_000),
        stored(b'{"__metadata__":{"a":1}}'),
        stored(b'{"__metadata__":{},"__metadata__":{}}'),
        stored(b'{"\xff":1}'),
        stored({"w": THREE}, bytes(12))[:-1],
        (2**63).to_bytes(8, "little") + b"{}",
        (2**26).to_bytes(8, "little") + b"{}",
    ],
    ids=len,
)
def test_what_is_no_file_of_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    for read in (checkpoints.read, checkpoints.read_foreign):
        assert "bad.safetensors is damaged, or was not written by" in refused(read, tmp_path / "bad.safetensors")
    told = refused(checkpoints.load_checkpoint, tmp_path / "bad.safetensors")
    assert "bad.safetensors is no kdignite checkpoint" in told


@pytest.mark.parametrize(
    "values",
    [
        '"a":{"$tensor":"v"}',
        '"a":{"$tensor":[]}',
        '"a":{"$tensor":null}',
        '"a":{"$tuple":1}',
        '"a":{"$items":3}',
        '"a":{"$items":[3]}',
        '"a":{"$items":[[[],1]]}',
        '"a":{"$items":[[1.5,1]]}',
        f'"a":{{"$items":[{",".join(f"[{(2**61 - 1) * index},0]" for index in range(1, 9))}]}}',  # of one hash
        '"a":' + "[" * 100_000,
        '"a":' + "[" * 500 + "]" * 500,
        '"a":' + '{"$tuple":[' * 400 + "]}" * 400,
        '"a":' + "9" * 5_000,
        '"a":,',
    ],
    ids=lambda values: values[:40],
)
def test_values_that_kdignite_does_not_write_are_refused(tmp_path: Path, values: str) -> None:
    (tmp_path / "bad.safetensors").write_bytes(own(values, {"w": THREE}, bytes(12)))
    told = refused(checkpoints.read, tmp_path / "bad.safetensors")
    assert "bad.safetensors is damaged, or was not written by kdignite (" in told
    assert "checksum" not in told


def test_a_file_of_safetensors_that_the_tests_write_is_read_where_it_is_honest(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(
        own('"a":[{"$tensor":"w"},{"$tuple":[1]},{"$items":[[0,2]]}]', {"w": THREE}, bytes(12))
    )
    weights, *rest = checkpoints.read(tmp_path / "own")["a"]
    assert torch.equal(weights, torch.zeros(3))
    assert rest == [(1,), {0: 2}]
    (tmp_path / "theirs").write_bytes(stored({"w": THREE}, bytes(12)))
    assert torch.equal(checkpoints.read_foreign(tmp_path / "theirs")["w"], torch.zeros(3))


# --- what is no file


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "missing"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "result.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    for read in (checkpoints.read, checkpoints.load_checkpoint, checkpoints.read_foreign):
        told = "result.json is a folder, not a file; weights in it: none"
        assert refused(read, path) == (told if kind == "folder" else "there is no file result.json")
    assert refused(files.read_json, path).startswith(("result.json is no file", "result.json cannot be read"))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.safetensors"
    path.write_bytes(HONEST)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    for read in (checkpoints.read, checkpoints.load_checkpoint, checkpoints.read_foreign):
        assert "Permission denied" in refused(read, path)


# --- descriptions


def payload(**changed: Any) -> dict[str, Any]:
    description = Description(
        Architecture("cnn5", {"widths": WIDTHS}),
        ("cat", "dog"),
        Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        Origin("teacher", "digits", "f", "s", 200, 32, "crop", 0.1, False),
        Validation(150, 200, 3),
    )
    weights = registry.build_model("cnn5", num_classes=2, size=32, options={"widths": WIDTHS}).state_dict()
    content = checkpoints.to_payload(description, weights)
    for path, value in changed.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        place[last] = value
    return content


def written(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "best.safetensors"
    checkpoints.write(path, content)
    return path


CLAIMS: list[tuple[str, Any, str]] = [
    ("format", True, "has checkpoint format True"),
    ("format", [[]] * 9, "has checkpoint format a list"),
    ("architecture__name", "", "name must be a name without control characters"),
    ("architecture__name", "x" * 300, "name must be text of up to 255 characters"),
    ("architecture__name", "\x1b[31mred", "not '\\x1b[31mred'"),
    ("architecture__options", [], "options must be a dict, not a list"),
    ("architecture__options", {str(n): 1 for n in range(65)}, "a model with 65 options"),
    ("architecture__options", {"widths": [[1]]}, "option widths must be a word, a number or a few of them"),
    ("architecture__options", {"widths": [10**12]}, "option widths must be a word, a number or a few of them"),
    ("architecture__options", {"widths": float("nan")}, "option widths must be a word"),
    ("classes", {"cat": 1}, "classes must be a list, not a dict"),
    ("classes", [], "class names must differ from one another, and there must be some"),
    ("classes", ["cat", "cat"], "class names must differ from one another"),
    ("classes", ["cat", 7], "a class name must be text of 1 to 255 characters"),
    ("classes", ["cat", ""], "a class name must be text of 1 to 255 characters"),
    ("classes", ["cat", "d" * 256], "a class name must be text of 1 to 255 characters"),
    ("classes", ["cat", "\x1b]0;title\x07"], "without control characters, not '\\x1b]0;title\\x07'"),
    ("classes", ["cat", "do\ng"], "without control characters"),
    ("classes", ["cat", "\ud800"], "without control characters"),
    ("preprocessing__size", 10**9, "size must be a whole number from 8 to 1024, not 1000000000"),
    ("preprocessing__size", 7, "size must be a whole number from 8 to 1024, not 7"),
    ("preprocessing__size", True, "size must be a whole number"),
    ("preprocessing__size", 32.0, "size must be a whole number"),
    ("preprocessing__mean", (0.1, 0.2), "a number for each of three channels, not 2 and 3"),
    ("preprocessing__mean", "abc", "mean must be a list, not abc"),
    ("preprocessing__mean", (0.1, float("nan"), 0.1), "mean must be a finite number, not nan"),
    ("preprocessing__mean", (0.1, 10**400, 0.1), "mean must be a finite number"),
    ("preprocessing__std", (0.1, 0.0, 0.1), "std must be a finite number above 0, not 0.0"),
    ("preprocessing__std", (0.1, -1, 0.1), "std must be a finite number above 0, not -1"),
    ("preprocessing__std", (0.1, float("inf"), 0.1), "std must be a finite number above 0, not inf"),
    ("preprocessing__interpolation", "nearest", "the checkpoint needs 'nearest'"),
    ("preprocessing__interpolation", ["nearest"], "interpolation must be text"),
    ("origin__extra", 1, "extra is one entry too many"),
    ("origin__dataset", None, "dataset must be text"),
    ("origin__dataset", "x" * 6000, "dataset must be text of up to 5,000 characters"),
    ("origin__val_size", float("inf"), "val_size must be a finite number above 0"),
    ("origin__val_size", -1, "val_size must be a finite number above 0"),
    ("origin__image_size", 10**6, "image_size must be a whole number from 1 to 8192"),
    ("origin__label_smoothing", 1.0, "label_smoothing must be a finite number below 1"),
    ("origin__label_smoothing", -0.1, "label_smoothing must be at least 0"),
    ("origin__partial", 0, "partial must be true or false, not 0"),
    ("validation__num_images", 0, "num_images must be a whole number from 1"),
    ("validation__num_correct", 201, "num_correct must be a whole number from 0 to 200, not 201"),
    ("validation__num_correct", 150.0, "num_correct must be a whole number"),
    ("validation__epoch", -1, "epoch must be a whole number from 0"),
    ("weights", {}, "weights that are no tensors"),
    ("weights", {3: torch.zeros(1)}, "weights that are no tensors"),
    ("weights", {"a\nb": torch.zeros(1)}, "weights that are no tensors"),
    ("weights", {"x" * 256: torch.zeros(1)}, "weights that are no tensors"),
]


@pytest.mark.parametrize(("where", "value", "told"), CLAIMS)
def test_a_description_with_an_impossible_value_is_refused(tmp_path: Path, where: str, value: Any, told: str) -> None:
    assert told in refused(checkpoints.load_checkpoint, written(tmp_path, payload(**{where: value})))


@pytest.mark.parametrize("key", ["architecture", "classes", "preprocessing", "origin", "validation"])
def test_what_a_description_lacks_is_named(tmp_path: Path, key: str) -> None:
    content = payload()
    del content[key]
    assert f"(it has no {key})" in refused(checkpoints.load_checkpoint, written(tmp_path, content))


# --- models that no computer could hold


def library(name: str, **options: float) -> dict[str, Any]:
    return {"architecture__name": name, "architecture__options": options}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"architecture__options": {"widths": [10**6] * 5}}, "(8, 3, 3, 3) float32 for (1000000, 3, 3, 3) float32"),
        ({"architecture__options": {"widths": [2**31] * 5}}, "cnn5 cannot be built with these options"),
        ({"classes": [f"c{index}" for index in range(50_000)]}, "linear.weight (2, 3) float32 for (50000, 3)"),
        ({"preprocessing__size": 1024}, "linear.weight (2, 3) float32 for (2, 3072) float32"),
        ({"architecture__name": "resnet50", "architecture__options": {}}, "do not fit the model: missing bn1.bias"),
        ({"architecture__options": {"widths": 8}}, "5 channel counts of at least 1"),
        ({"architecture__options": {"widths": [8, 6, 5, 4, "3"]}}, "5 channel counts of at least 1"),
        ({"architecture__options": {"depth\x1b": 8}}, "cnn5 takes no --depth\\x1b"),
        ({"architecture__options": {"num_classes": 8}}, "cnn5 takes no --num_classes"),
        (
            {"architecture__name": "resnet18", "architecture__options": {"stem": [1]}},
            "--stem must be imagenet or cifar",
        ),
        ({"architecture__name": "no" * 99}, "no model is called"),
        (library("torchvision:regnet_y_400mf", stem_width=2**16), "do not fit the model: missing fc.bias"),
        (library("torchvision:mobilenet_v2", width_mult=2.0**31), "option width_mult of torchvision:mobilenet_v2 must"),
        (library("torchvision:mobilenet_v2", width_mult=2.0**16), "do not fit the model: missing classifier.1.bias"),
        (library("timm:test_vit", depth=2**31), "option depth of timm:test_vit must be at most 65,536, not 2147483648"),
        (library("timm:test_vit", depth=2**16), "timm:test_vit has too many layers with these options"),
        (library("timm:test_vit", dim=2), "timm:test_vit takes no option dim"),
        (library("timm:swinv2_cr_tiny_224", img_size=4096), "bytes beside its weights with these options"),
    ],
)
def test_no_memory_is_taken_for_a_model_that_the_weights_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("the model was built")

    if str(changes.get("architecture__name")).startswith("timm:"):
        pytest.importorskip("timm")
    path = written(tmp_path, payload(**changes))
    monkeypatch.setattr(model_module, "build_model", never)
    assert told in refused(lambda path: model_module.load_model(checkpoints.load_checkpoint(path)), path)


@pytest.mark.parametrize("name", [*registry.MODELS, "torchvision:regnet_y_400mf"])
def test_the_outline_of_a_model_has_its_keys_shapes_and_types(name: str) -> None:
    found = outlined(name, num_classes=7, size=32, options={})
    own = registry.build_model(name, num_classes=7, size=32, options={}).state_dict()
    assert found is not None
    assert list(found) == list(own)
    assert all((found[key].shape, found[key].dtype) == (own[key].shape, own[key].dtype) for key in own)
    assert all(value.is_meta for value in found.values() if value.dim())


@pytest.mark.parametrize("value", [torch.full((2, 3), float("nan")), torch.ones(2, 3).int(), torch.ones(2, 3) * 1j])
def test_initial_weights_that_are_no_numbers_of_the_kind_are_refused(value: torch.Tensor) -> None:
    model = registry.build_model("cnn5", num_classes=2, size=32, options={"widths": WIDTHS})
    weights = {**model.state_dict(), "linear.weight": value}
    before = model.get_parameter("linear.weight").clone()
    with pytest.raises(UserError, match=r"no finite numbers of the model's kind: linear\.weight$"):
        transfer_weights(model, weights, source="--weights=f.pt")
    assert torch.equal(model.get_parameter("linear.weight"), before)


# --- code


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module in the current folder that leaves a mark when it is imported."""
    (tmp_path / "trap.py").write_text("import pathlib\npathlib.Path('ran').touch()\ndef sets(): ...\ndef net(n): ...\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ran"


def test_a_checkpoint_that_names_a_data_set_to_import_is_refused(tmp_path: Path, trap: Path) -> None:
    path = written(tmp_path, payload(origin__dataset="trap:sets"))
    told = refused(lambda path: evaluate(EvaluateConfig(run=str(path)), root=tmp_path / "runs"), path)
    assert told.endswith("a file never names code to run: repeat its name: --dataset=trap:sets")
    with pytest.raises(UserError, match="the teacher was made with a data set of your own, and a file never names"):
        distill(configure(DistillConfig, teacher=str(path)), root=tmp_path / "runs")
    with pytest.raises(UserError, match="was made with a data set of your own, and a file never names"):
        reproduce(configure(ReproduceConfig, teacher=str(path)), root=tmp_path / "runs")
    assert not trap.exists()


def test_a_checkpoint_that_names_a_model_to_import_is_refused(tmp_path: Path, trap: Path) -> None:
    content = payload(architecture__name="trap:net", architecture__options={})
    content["classes"] = [str(digit) for digit in range(10)]
    path = written(tmp_path, content)
    told = refused(lambda path: evaluate(EvaluateConfig(run=str(path)), root=tmp_path / "runs"), path)
    assert "a file never names code to run: repeat its name: --arch=trap:net" in told
    torch.save({}, tmp_path / "weights.pt")
    given = {"run": str(path), "weights": str(tmp_path / "weights.pt")}
    told = refused(lambda _: doctor(DoctorConfig(**given), root=tmp_path / "runs"), path)
    assert "a file never names code to run: repeat its name: --arch=trap:net" in told
    assert not trap.exists()


class Bomb:
    """Runs a command when it is unpickled by something that trusts it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


FED = ("--size=32", "--mean=0.5,0.5,0.5", "--std=0.2,0.2,0.2", "--dataset=digits")


@pytest.mark.parametrize("new", [True, False], ids=["archive", "old"])
@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "bomb.pt"),
        ("adopt", "bomb.pt", "--arch=cnn5", *FED),
        ("distill", "--teacher=bomb.pt", "--dataset=digits"),
        ("baseline", "--weights=bomb.pt", "--dataset=digits", "--fast_dev_run"),
        ("reproduce", "--teacher=bomb.pt"),
    ],
    ids=lambda words: words[0],
)
def test_no_door_runs_what_is_in_a_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    new: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"w": Bomb(f"touch {tmp_path}/ran")}, "bomb.pt", _use_new_zipfile_serialization=new)
    assert main(words) == 2
    error = capsys.readouterr().err
    if words[0] in ("adopt", "baseline"):
        assert "kdignite: error: bomb.pt holds more than tensors and plain values" in error
        assert "posix.system" in error
    else:
        assert "kdignite: error: bomb.pt is no kdignite checkpoint" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ran").exists()
    torch.load("bomb.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # it was a real one


def test_the_package_deletes_single_names_only() -> None:
    """``unlink`` of a link removes the link, ``rmdir`` only empty folders; what walks through folders is not called."""
    walking = ("rmtree", "removedirs", "remove")
    package = Path(kdignite.__file__).parent
    found = [
        f"{path.name}:{node.lineno}"
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in walking
    ]
    assert found == []


def test_writing_over_a_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "best.safetensors").symlink_to(target)
    checkpoints.write(tmp_path / "best.safetensors", {"a": 1})
    assert target.read_text() == "mine"
    assert not (tmp_path / "best.safetensors").is_symlink()


# --- JSON, arrays and words


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[" * 100_000, "damaged (maximum recursion depth exceeded"),
        ('{"a": ' * 100_000, "damaged (maximum recursion depth exceeded"),
        ('{"a": NaN}', "damaged (NaN is no JSON)"),
        ('{"a": -Infinity}', "damaged (-Infinity is no JSON)"),
        ('{"a": ' + "9" * 5000 + "}", "damaged (Exceeds the limit"),
        ("\ufeff{}", "damaged ("),
        ("", "damaged (Expecting value"),
        ("[]", "damaged (it holds no JSON object)"),
    ],
)
def test_json_that_no_run_writes_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "result.json").write_text(content, encoding="utf-8")
    assert told in refused(files.read_json, tmp_path / "result.json")


def test_json_keeps_a_name_that_is_no_text(tmp_path: Path) -> None:
    files.write_json(tmp_path / "config.json", {"teacher": "d\udcff/ü"})
    assert files.read_json(tmp_path / "config.json") == {"teacher": "d\udcff/ü"}


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "result.json").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    assert "larger than any that a run writes" in refused(files.read_json, tmp_path / "result.json")


def run_folder(folder: Path) -> Path:
    """A finished baseline on four images of two classes."""
    folder.mkdir()
    logits = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    labels = np.array([0, 1, 1, 1])
    result = {
        **{"command": "baseline", "name": "b", "partial": False, "seed": 0, "epochs": 1, "best_epoch": 1},
        **{"dataset": "digits", "fingerprint": "f", "split": "s", "arch": "cnn5", "teacher": None, "cost": None},
        "test": {"num_correct": 3, "per_class": [{"class": "cat"}, {"class": "dog"}]},
    }
    files.write_json(folder / "result.json", result)
    files.write_json(folder / "config.json", {"widths": [8] * 5, "lr": 0.1})
    files.write_json(folder / "environment.json", {"device": "cpu", "packages": {"torch": "2.6"}})
    np.savez_compressed(folder / "predictions.npz", test_logits=logits, test_labels=labels, test_indices=np.arange(4))
    return folder


def test_the_run_of_the_tests_is_read_as_it_is(tmp_path: Path) -> None:
    assert read_run(run_folder(tmp_path / "b"), label="b").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("result.json", {"command": ["teacher"]}, "is no run of teacher"),
        ("result.json", {"name": 1}, "name must be text"),
        ("result.json", {"arch": "\x1b[2J"}, "arch must be a name without control characters"),
        ("result.json", {"dataset": "a\nb"}, "dataset must be a word"),
        ("config.json", {"method": {"a": 1}}, "method is no setting"),
        ("result.json", {"partial": "no"}, "partial must be true or false"),
        ("result.json", {"seed": 1e300}, "seed must be a whole number"),
        ("result.json", {"epochs": -1}, "epochs must be a whole number"),
        ("result.json", {"command": "distill", "teacher": {"name": "t"}}, "it has no sha256"),
        ("result.json", {"cost": {"num_parameters": "many"}}, "num_parameters must be a finite number"),
        ("result.json", {"cost": {"num_parameters": -1}}, "num_parameters must not be negative"),
        ("result.json", {"cost": [1]}, "cost must be a dict"),
        ("result.json", {"test": []}, "test must be a dict"),
        ("result.json", {"test": {"num_correct": 3, "per_class": {}}}, "per_class must be a list"),
        ("result.json", {"test": {"num_correct": 3, "per_class": [1, 2]}}, "per_class must be a list of scores"),
        ("result.json", {"test": {"num_correct": 3, "per_class": [{"class": "a\x07"}]}}, "class must be a name"),
        ("config.json", {"lr": {"a": 1}}, "lr is no setting"),
        ("config.json", {"lr": "\x1b"}, "lr is no setting"),
        ("config.json", {"a\nb": 1}, "a b is no setting"),
        ("environment.json", {"processor": ["x", ["y"]]}, "processor is no plain value"),
        ("environment.json", {"packages": {"torch": {}}}, "torch is no plain value"),
    ],
)
def test_a_run_with_an_impossible_value_is_refused(
    tmp_path: Path, file: str, changes: dict[str, Any], told: str
) -> None:
    folder = run_folder(tmp_path / "b")
    path = folder / file
    path.write_text(json.dumps({**files.read_json(path), **changes}))
    assert told in refused(lambda folder: read_run(folder, label="b"), folder)


def npy(*, shape: str, descr: str = "<f4", held: int = 0) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(held)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npy(shape="1000000000, 2"), "test_logits.npy claims other numbers than it holds"),
        (npy(shape="4, 2", held=31), "test_logits.npy claims other numbers than it holds"),
        (npy(shape="4, 2", descr="|O", held=64), "test_logits.npy is no array of plain numbers"),
        (npy(shape="(" * 500 + "4, 2", held=32), "test_logits.npy is no array of plain numbers"),
        (
            npy(shape="4, 2", held=32).replace(b"NUMPY\x01", b"NUMPY\x02"),
            "test_logits.npy is no array of plain numbers",
        ),
        (npy(shape="4, 2", descr="<f8", held=64), "its scores are not all finite numbers of single precision"),
        (bytes(2 * 2**20), "it claims too much for a file of"),
    ],
    ids=["shape", "short", "objects", "brackets", "version", "double", "bomb"],
)
def test_arrays_that_claim_more_than_they_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str
) -> None:
    monkeypatch.setattr(arrays, "COMPRESSED_BYTES", 2**20)
    folder = run_folder(tmp_path / "b")
    path = folder / "predictions.npz"
    with np.load(path) as stored:
        others = {name: stored[name] for name in ("test_labels", "test_indices")}
    np.savez(path, **others)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test_logits.npy", content)
    assert told in refused(lambda folder: read_run(folder, label="b"), folder)


DOORS: dict[str, Callable[[Path], object]] = {
    "weights": checkpoints.read_foreign,
    "predictions": lambda path: read_predictions(path, num_classes=3, sizes={"test": 6}, split=None),
}


def test_compressed_arrays_that_take_more_than_they_bring_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "COMPRESSED_BYTES", 2**20)
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test_logits.npy", npy(shape="6, 3", held=72) + bytes(2**20))
    assert all("it claims too much for a file of" in refused(read, path) for read in DOORS.values())


@pytest.mark.parametrize("door", DOORS)
def test_an_array_whose_header_lies_is_refused(tmp_path: Path, door: str) -> None:
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("test_logits.npy", npy(shape="1000000000, 3", held=72))
    assert "test_logits.npy claims other numbers than it holds" in refused(DOORS[door], path)


@pytest.mark.parametrize("folder", ["../outside", "/tmp", "..", ".", "a/b", "", "link", "a\x00b", 7, None])
def test_a_study_whose_stage_lies_elsewhere_is_refused(tmp_path: Path, folder: object) -> None:
    study = tmp_path / "reproduce-quick"
    study.mkdir()
    (study / "link").symlink_to(tmp_path)
    stages = {"teacher": {"folder": folder}}
    (study / "manifest.json").write_text(json.dumps({"settings": {}, "stages": stages}))
    config = configure(ReproduceConfig, preset="quick", dataset="digits", name="reproduce-quick")
    with pytest.raises(UserError, match=r"manifest\.json is damaged \((.* is no folder of the study|folder must be)"):
        reproduce(config, root=tmp_path)


@pytest.mark.parametrize("manifest", [{"settings": []}, {"settings": {}}, {"settings": {}, "stages": {"a": 1}}])
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, manifest: dict[str, Any]) -> None:
    study = tmp_path / "reproduce-quick"
    study.mkdir()
    (study / "manifest.json").write_text(json.dumps(manifest))
    config = configure(ReproduceConfig, preset="quick", dataset="digits", name="reproduce-quick")
    with pytest.raises(UserError, match=r"manifest\.json is damaged \((settings must be|it has no stages|a must be)"):
        reproduce(config, root=tmp_path)


def test_words_from_files_command_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo\x1b]0;title\x07 \u2502 caf\u00e9 \x9b31m\r")
    assert capsys.readouterr().out == "one\ntwo\\x1b]0;title\\x07 \u2502 caf\u00e9 \\x9b31m\\r\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("short", "short"),
        ("two\nlines\x1b", "two lines\\x1b"),
        ([1] * 10**6, "a list"),
        (torch.zeros(2), "a Tensor"),
        (10**100, "1" + "0" * 96 + "..."),
        ("x" * 10**6, "x" * (BRIEF - 3) + "..."),
        ("\x1b" * 10**6, "\\x1b" * 24 + "\\..."),
        (ValueError("why"), "why"),
        (None, "None"),
    ],
    ids=repr,
)
def test_what_a_message_repeats_of_a_file_is_short_and_visible(value: object, text: str) -> None:
    assert brief(value) == text


def test_a_class_of_a_data_set_that_no_table_could_show_is_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    for label in ("cat", "do\x1bg"):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "train" / label / "a.png")
    config = configure(BaselineConfig, dataset=f"folder:{tmp_path}")
    with pytest.raises(UserError, match=r"a class name must be .* without control characters, not 'do\\x1bg'"):
        baseline(config, root=tmp_path / "runs")
