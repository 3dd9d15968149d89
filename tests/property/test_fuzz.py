"""Files that were damaged or altered at random: a clean error or a correct load, in bounded time and memory.

A case is a number: it seeds everything that is done to a file. Damage (bytes changed, the checksums left as they were)
must be noticed or harmless; a file that was altered and saved again may say something else, if it is possible.
"""

import copy
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kdignite import checkpoints, files
from kdignite.checkpoints import Architecture, Checkpoint, Description, Origin, Validation
from kdignite.commands import stages
from kdignite.comparison.pairing import pair_runs
from kdignite.comparison.runs import read_run
from kdignite.comparison.summary import summarize
from kdignite.config import BaselineConfig, DistillConfig, configure, to_json
from kdignite.data.specs import Preprocessing
from kdignite.errors import UserError
from kdignite.metrics import evaluation_summary, recorded
from kdignite.models.registry import build_model
from kdignite.reports.comparison import comparison_json, comparison_text
from kdignite.reports.page import study_page
from kdignite.reports.page.render import page_text
from kdignite.streams import seeded
from kdignite.training.model import load_model

CASES, SLOW_CASES, BATCH = 200, 2_000, 20
SECONDS = 5.0  # for a case
BYTES = 2**30  # that a case may take beyond what the process has
LONGEST_LINE = 5_000  # characters of an error, without its path
WIDTHS = (8, 6, 5, 4, 3)
CLASSES = ("cat", "dog")


class Hung(BaseException):
    """A case took too long; no handler of errors takes this for one."""


class Subject(NamedTuple):
    """A file, what reads it, and what may be done to it."""

    content: bytes
    file: str  # its name in a copy of the folder
    read: Callable[[Path], Any]  # from the folder
    mutations: tuple[Callable[[bytes, random.Random], bytes], ...]
    damages: tuple[Callable[[bytes, random.Random], bytes], ...] = ()  # that must be noticed or harmless


# --- what is done to bytes


def flipped(content: bytes, rng: random.Random) -> bytes:
    altered = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        altered[rng.randrange(len(altered))] ^= 1 << rng.randrange(8)
    return bytes(altered)


def overwritten(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    length = rng.choice((1, 4, 8, 100))
    filling = rng.choice((b"\x00", b"\xff", b"\x7f", b"PK", None))
    new = rng.randbytes(length) if filling is None else (filling * length)[:length]
    return content[:start] + new + content[start + length :]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def inserted(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 2, 16, 300))) + content[start:]


def removed(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.choice((1, 2, 16, 300)) :]


def swapped(content: bytes, rng: random.Random) -> bytes:
    one, two = sorted(rng.sample(range(len(content)), 2))
    length = rng.choice((1, 8, 64))
    first, second = content[one : one + length], content[two : two + length]
    return content[:one] + second + content[one + length : two] + first + content[two + length :]


DAMAGES = (flipped, overwritten, cut, inserted, removed, swapped)


# --- what is done to archives and pickles, with checksums that are right again


def unpacked(content: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def packed(entries: list[tuple[str, bytes]], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as archive:
        for name, value in entries:
            archive.writestr(zipfile.ZipInfo(name) if compression == zipfile.ZIP_STORED else name, value)
    return content.getvalue()


def repacked(content: bytes, rng: random.Random) -> bytes:
    entries = unpacked(content)
    index = rng.randrange(len(entries))
    name, value = entries[index]
    kind = rng.randrange(7)
    if kind == 0:
        del entries[index]
    elif kind == 1:
        entries.append((name.upper(), value))
    elif kind == 2:
        entries[index] = (rng.choice(("", "../x", name + "x", "x/" + name, "data.pkl")), value)
    elif kind == 3:
        rng.shuffle(entries)
    elif kind == 4:
        other = rng.randrange(len(entries))
        entries[index], entries[other] = (name, entries[other][1]), (entries[other][0], value)
    elif kind == 5:
        entries[index] = (name, value[: len(value) // 2] if rng.random() < 0.5 else value + bytes(rng.randrange(1, 99)))
    return packed(entries, compression=zipfile.ZIP_DEFLATED if kind == 6 else zipfile.ZIP_STORED)


def one_entry(content: bytes, rng: random.Random, *, name: str) -> bytes:
    """One entry of an archive damaged, its checksum repaired."""
    change = rng.choice(DAMAGES)
    return packed([(key, change(v, rng) if key.endswith(name) and v else v) for key, v in unpacked(content)])


def pickle_bytes(content: bytes, rng: random.Random) -> bytes:
    return one_entry(content, rng, name="data.pkl")


def opcodes(content: bytes, rng: random.Random) -> bytes:
    """Single bytes of the pickle replaced by opcodes or by the numbers 0, 1 and 255."""
    likely = b"(.0Nabcdehijlopqrstu}]RQJKMXGU\x80\x81\x85\x86\x87\x88\x89\x8a" + b"\x00\x01\xff"

    def change(value: bytes) -> bytes:
        altered = bytearray(value)
        for _ in range(rng.choice((1, 2, 5))):
            altered[rng.randrange(len(altered))] = rng.choice(likely)
        return bytes(altered)

    return packed([(key, change(v) if key.endswith("data.pkl") else v) for key, v in unpacked(content)])


# --- what is done to files of safetensors, with a checksum that is right again


def summed(content: bytes) -> bytes:
    """A file of kdignite with the checksum of what it holds, if it still has a place for one."""
    at = content.find(b"sha256") + len('sha256\\":\\"')
    if at > 100 or len(content) < at + 64:
        return content
    zeroed = content[:at] + b"0" * 64 + content[at + 64 :]
    return zeroed[:at] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[at + 64 :]


def header_bytes(content: bytes, rng: random.Random) -> bytes:
    """The header damaged, its length repaired."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = rng.choice(DAMAGES)(content[8:end], rng)
    return summed(len(header).to_bytes(8, "little") + header + content[end:])


def header_values(content: bytes, rng: random.Random) -> bytes:
    """What the header says of the tensors altered, and of the values of kdignite."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    inner = header.get("__metadata__", {}).get("kdignite")
    if inner is not None and rng.random() < 0.5:
        values = json.loads(inner)
        sha256 = values.pop("sha256")
        changed = altered(values, rng, kind="json")
        header["__metadata__"]["kdignite"] = json.dumps({"sha256": sha256, **changed}, separators=(",", ":"))
    else:
        header = altered(header, rng, kind="json")
    text = json.dumps(header, separators=(",", ":")).encode()
    return summed(len(text).to_bytes(8, "little") + text + content[end:])


def data_bytes(content: bytes, rng: random.Random) -> bytes:
    end = 8 + int.from_bytes(content[:8], "little")
    return summed(content[:end] + rng.choice(DAMAGES)(content[end:], rng))


# --- what is done to values


def hostile(rng: random.Random, *, kind: str) -> Any:
    """A value that nobody expects, of those that JSON, a file of kdignite or one of torch can hold."""
    nested: Any = []
    for _ in range(rng.choice((3, 20, 60))):
        nested = [nested]
    plain = [
        *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, -(10**18), 0.5, 1e308, 5e-324, -0.0, 1e-300),
        *("", "x", "x" * 10_000, "\x1b[2J", "a\nb", "../../etc", "os:system", "\u202e", "caf\u00e9", "none", "cnn5"),
        *([], {}, [[]], {"a": 1}, [1, "a", None], [1.5] * 3, [0] * 100, nested, {"class": {}}),
    ]
    if kind == "json":
        return rng.choice([*plain, "\ud800", {"$tensor": "conv1.weight"}, {"$tuple": 1}, {"$items": [[1, 2]]}])
    odd = [
        *(float("nan"), float("inf"), (), (1,), {1: 2}, (0.1, 0.2, 0.3), (0.0, 0.0, 0.0)),
        *(torch.zeros(0), torch.tensor(float("nan")), torch.ones(3, 3).double(), torch.zeros(2, 3).half()),
        *(torch.rand(4, 4).T, torch.eye(2, dtype=torch.complex64), torch.zeros(3).bool()),
        *(torch.full((8, 3, 3, 3), float("inf")), torch.zeros(8, 3, 3, 3, requires_grad=True)),
    ]
    foreign = [torch.ones(1).expand(10**9), torch.eye(3).to_sparse(), torch.zeros(2, dtype=torch.uint16)]
    return rng.choice([*plain, *odd, *(foreign if kind == "torch" else [])])


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in nested containers."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield from places(one, (*path, key))


def altered(value: Any, rng: random.Random, *, kind: str) -> Any:
    """A copy with one or two values replaced, removed, or put elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2))):
        *way, last = rng.choice(list(places(value)))
        inside = value
        for key in way:
            inside = inside[key]
        change = rng.randrange(8)
        if change == 0:
            del inside[last]
        elif change == 1 and isinstance(inside, dict):
            inside[rng.choice(("extra", "\x1b", "a.b.c", ""))] = hostile(rng, kind=kind)
        elif change == 2 and isinstance(inside, dict):
            inside[rng.choice(("x", "module." + str(last)))] = inside.pop(last)
        elif change == 3 and isinstance(inside[last], int | float):
            inside[last] = inside[last] * rng.choice((-1, 0, 2, 10**6, 0.5))
        else:
            inside[last] = hostile(rng, kind=kind)
        if not value:
            break
    return value


def saved_values(content: bytes, rng: random.Random) -> bytes:
    values = torch.load(io.BytesIO(content), weights_only=True)
    file = io.BytesIO()
    torch.save(altered(values, rng, kind="torch"), file)
    return file.getvalue()


def own_values(content: bytes, rng: random.Random) -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content)
        checkpoints.write(path, altered(checkpoints.read(path), rng, kind="own"))
        return path.read_bytes()


def json_values(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(altered(json.loads(content), rng, kind="json")).encode()


def array_values(content: bytes, rng: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as stored:
        arrays = {name: stored[name] for name in stored.files}
    name = rng.choice(list(arrays))
    array = arrays[name]
    changes: list[Callable[[], Any]] = [
        lambda: array[:-1],
        lambda: array.astype(np.float64),
        lambda: array.astype(np.int8),
        lambda: array[None],
        lambda: array * 10**9,
        lambda: array * -1,
        lambda: np.array([[1, 2]]),
        lambda: array.astype(complex),
        lambda: np.array(["a", "b"]),
        lambda: (array * 0 + 3e38).astype(np.float32),
        lambda: arrays.pop(name)[:0],
    ]
    arrays[name] = rng.choice(changes)()
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


# --- the files


def network() -> nn.Module:
    """The same weights each time, so that a case is the same file each time."""
    with seeded("fuzz"):
        return build_model("cnn5", num_classes=2, size=32, options={"widths": WIDTHS})


def payload() -> dict[str, Any]:
    description = Description(
        Architecture("cnn5", {"widths": WIDTHS}),
        CLASSES,
        Preprocessing(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        Origin("teacher", "digits", "f" * 64, "5" * 64, 200, 32, "crop", 0.1, False),
        Validation(150, 200, 3),
    )
    return checkpoints.to_payload(description, network().state_dict())


def state() -> dict[str, Any]:
    """What a run saves to go on from."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    rows = [{"epoch": epoch, "loss": 1 / epoch, "accuracy": None} for epoch in (1, 2)]
    return {
        "about": {"format": 2, "kdignite": "0", "run": {"seed": 0, "widths": [8, 8]}},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "trainer": {"iteration": 14, "epoch_length": 7},
        "sums": {"loss": torch.tensor(1.5, dtype=torch.float64)},
        "history": {"rows": rows},
    }


def saved(value: Any, *, new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def write_run(folder: Path, command: str) -> None:
    """A finished run as training leaves it."""
    folder.mkdir()
    rng = np.random.default_rng(len(command))
    labels = np.repeat(np.arange(2), 6)
    logits = (rng.normal(size=(12, 2)) + np.eye(2)[labels]).astype(np.float32)
    kind = DistillConfig if command == "distill" else BaselineConfig
    files.write_json(folder / "config.json", to_json(configure(kind, dataset="digits")))
    about = {"device": "cpu", "threads": 2, "cpu": "AVX2", "commit": None, "packages": {"torch": "2.9.0"}}
    files.write_json(folder / "environment.json", about)
    taught = {"name": "teacher", "sha256": "a" * 64, "accuracy": 0.9} if command == "distill" else None
    scores = recorded(evaluation_summary(logits, labels, classes=CLASSES))
    result = {
        **{"command": command, "name": command, "partial": False, "seed": 0, "dataset": "digits", "arch": "cnn5"},
        **{"fingerprint": "f" * 64, "split": "5" * 64, "loss": "kd_loss", "epochs": 10, "best_epoch": 3},
        **{"cost": {"num_parameters": 10, "multiply_adds": 10, "latency_median_ms": 0.5, "latency_threads": 1}},
        **{"teacher": taught, "test": scores, "val": scores, "finished_at": "2026-01-01"},
    }
    files.write_json(folder / "result.json", result)
    arrays = {"test_logits": logits, "test_labels": labels, "test_indices": np.arange(12)}
    np.savez_compressed(folder / "predictions.npz", **arrays)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that every case starts from."""
    folder = tmp_path_factory.mktemp("whole")
    for command in ("distill", "baseline"):
        write_run(folder / command, command)
    stages = {"teacher": {"folder": "teacher", "seconds": 1.5, "evaluated": {"num_correct": 1, "num_images": 2}}}
    manifest = {"command": "reproduce", "typed": {"seeds": 2}, "settings": {"seed": 0, "widths": [8]}}
    files.write_json(folder / "manifest.json", manifest | {"stages": stages})
    checkpoints.write(folder / "best.safetensors", payload())
    checkpoints.write(folder / "last.safetensors", state())
    save_file(payload_weights(), folder / "foreign.safetensors")
    (folder / "foreign.pt").write_bytes(saved({"epoch": 3, "state_dict": payload()["weights"]}))
    (folder / "old.pt").write_bytes(saved(payload()["weights"], new=False))
    return folder


# --- what reads them


def model_of(folder: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    found = checkpoints.load_checkpoint(folder / "best.safetensors")
    weights = dict(sorted(load_model(found).state_dict().items()))
    again = checkpoints.from_payload(checkpoints.to_payload(found.description, found.weights), found.path)
    assert same(again.description, found.description)
    assert same(weights, dict(sorted(found.weights.items())))  # what the file says is what answers
    assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    return found._replace(path=Path()), weights


def state_of(folder: Path) -> Any:
    return checkpoints.read(folder / "last.safetensors")


def weights_of(folder: Path, file: str) -> dict[str, Tensor]:
    path = folder / file
    weights, _ = checkpoints.state_dict_in(checkpoints.read_foreign(path), path, own=payload_weights())
    checkpoints.check_fit(payload_weights(), weights, source=str(path))
    return weights


def weights_in(file: str) -> Callable[[Path], dict[str, Tensor]]:
    return lambda folder: weights_of(folder, file)


@cache
def payload_weights() -> dict[str, Tensor]:
    weights: dict[str, Tensor] = payload()["weights"]
    return weights


def comparison_of(folder: Path) -> str:
    found = [read_run(folder / name, label=name) for name in ("distill", "baseline")]
    summary = summarize(pair_runs(found))
    json.dumps(comparison_json(summary), allow_nan=False)
    return comparison_text(summary)


def manifest_of(folder: Path) -> dict[str, Any]:
    found = stages.read_manifest(folder)
    page_text(study_page(folder, found, None))
    assert all((folder / one["folder"]).resolve().parent == folder.resolve() for one in found["stages"].values())
    return found


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    name: lambda folder, name=name, read=read, mutations=mutations, damages=damages: Subject(  # type: ignore[misc]
        (folder / name).read_bytes(), name, read, mutations, damages
    )
    for name, read, mutations, damages in (
        ("best.safetensors", model_of, (header_bytes, header_values, data_bytes, own_values, own_values), DAMAGES),
        ("last.safetensors", state_of, (header_bytes, header_values, own_values), DAMAGES),
        ("foreign.safetensors", weights_in("foreign.safetensors"), (*DAMAGES, header_bytes, header_values), ()),
        ("foreign.pt", weights_in("foreign.pt"), (*DAMAGES, repacked, pickle_bytes, opcodes, saved_values), ()),
        ("old.pt", weights_in("old.pt"), (*DAMAGES, saved_values), ()),
        ("distill/config.json", comparison_of, (*DAMAGES, json_values, json_values), ()),
        ("distill/result.json", comparison_of, (*DAMAGES, *[json_values] * 6), ()),
        ("baseline/environment.json", comparison_of, (*DAMAGES, *[json_values] * 4), ()),
        ("baseline/predictions.npz", comparison_of, (repacked, array_values, array_values), DAMAGES),
        ("manifest.json", manifest_of, (*DAMAGES, *[json_values] * 4), ()),
    )
}


def same(one: Any, other: Any) -> bool:
    """Equality of type, shape and every value, at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@contextmanager
def bounded() -> Iterator[None]:
    """Within the block time and memory are limited."""

    def late(_number: int, _frame: FrameType | None) -> NoReturn:
        raise Hung

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, late)
    old_timer = signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, *old_timer)  # pytest's own limit
        signal.signal(signal.SIGALRM, before)


def outcome(subject: Subject, folder: Path) -> Any:
    """What is read; None where it is refused in one line that names a file of the folder."""
    try:
        with bounded():
            return subject.read(folder)
    except UserError as error:
        told = str(error)
        assert "\n" not in told, told
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", told), ascii(told)
        assert str(folder) in told, told
        assert len(told.replace(str(folder), "")) < LONGEST_LINE, told[:300]
        return None


def check(case: int, whole: Path, folder: Path) -> None:
    """One case, in a copy of the folder."""
    rng = random.Random(case)
    subject = list(SUBJECTS.values())[case % len(SUBJECTS)](whole)
    is_damage = bool(subject.damages) and rng.random() < 0.5
    change = rng.choice(subject.damages if is_damage else subject.mutations)
    content = change(subject.content, rng)
    shutil.copytree(whole, folder)
    expected = subject.read(folder)
    (folder / subject.file).write_bytes(content)
    found = outcome(subject, folder)
    if is_damage and found is not None:
        assert same(found, expected), "damage changed what was read"


BATCHES = [
    *range(0, CASES, BATCH),
    *(pytest.param(first, marks=pytest.mark.slow) for first in range(CASES, CASES + SLOW_CASES, BATCH)),
]


@pytest.mark.parametrize("first", BATCHES)
def test_any_file_is_refused_cleanly_or_read_correctly(first: int, whole: Path, tmp_path: Path) -> None:
    for case in range(first, first + BATCH):
        try:
            check(case, whole, tmp_path / str(case))
        except (Exception, Hung) as error:
            raise AssertionError(f"case {case}: {type(error).__name__}: {error!s:.500}") from error


def test_files_that_nobody_touched_are_read(whole: Path) -> None:
    """Otherwise a refusal would prove nothing."""
    for make in SUBJECTS.values():
        subject = make(whole)
        assert same(outcome(subject, whole), subject.read(whole))


def busy(seconds: float) -> None:
    """Work until the limit of time is reached, which is set shorter."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        pass


def test_a_case_that_takes_too_long_or_too_much_fails() -> None:
    with pytest.raises(Hung), bounded():
        busy(0.01)
    with pytest.raises(RuntimeError, match="allocate memory"), bounded():
        torch.zeros(16 * BYTES, dtype=torch.uint8)  # more than what earlier tests have freed and could be had again
