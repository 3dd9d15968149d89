"""Files of other kinds than torch.save and safetensors: what each is, by its bytes, and the line that converts it."""

import gzip
import shlex
import zipfile
from pathlib import Path
from typing import IO

from kdignite.errors import listed

ARCHIVE, PICKLE = b"PK\x03\x04", b"\x80"  # what files of torch.save start with
TORCH_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle in a file of the old format
MAGIC_END = 32  # bytes; pickles of tensors by other programs hold it too, later
GZIP, TAR = b"\x1f\x8b", b"ustar"
TAR_AT = 257  # bytes
HEAD = 512  # bytes that are looked at
LENGTH_BYTES, LONGEST_HEADER = 8, 100_000_000  # of the header of safetensors, which follows: bytes, and their length
# tensors under their names from whatever nested dicts and modules there are
KEEP = (
    "import sys, pathlib, pickle, numpy, torch; "
    "keep = lambda v: keep(v.state_dict()) if isinstance(v, torch.nn.Module) else "
    "{{k: keep(x) for k, x in v.items()}} if isinstance(v, dict) else torch.as_tensor(v) if "
    "isinstance(v, (torch.Tensor, numpy.ndarray)) else None; torch.save(keep({load}), sys.argv[2])"
)
FROM_TORCH = KEEP.format(load='torch.load(sys.argv[1], map_location="cpu", weights_only=False)')
FROM_PICKLE = KEEP.format(load="pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())")
FROM_TORCHSCRIPT = 'import sys, torch; torch.save(torch.jit.load(sys.argv[1], "cpu").state_dict(), sys.argv[2])'
FROM_EXPORT = "import sys, torch; torch.save(dict(torch.export.load(sys.argv[1]).state_dict), sys.argv[2])"
FROM_ONNX = (
    "import sys, onnx.numpy_helper, torch; torch.save({t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in "
    "onnx.load(sys.argv[1]).graph.initializer}, sys.argv[2])"
)
FROM_HDF5 = (
    "import sys, h5py, numpy; held = {}; h5py.File(sys.argv[1]).visititems(lambda k, v: held.update({k: v[()]}) if "
    "isinstance(v, h5py.Dataset) else None); numpy.savez(sys.argv[2], **held)"
)
FROM_TENSORFLOW = (
    "import sys, numpy, tensorflow as tf; numpy.savez(sys.argv[2], **{v.name: v.numpy() for v in "
    "tf.saved_model.load(sys.argv[1]).variables})"
)
RENAME = "its arrays have to get the names and shapes of the model; this line saves them under theirs: "
# what a file begins with -> what it is, and what to do: {file}, and {unpacked} for a new one
STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the file it stands for", "git lfs pull"),
    (b"BZh", "compressed by bzip2", "bunzip2 -c {file} > {unpacked}"),
    (b"\xfd7zXZ\0", "compressed by xz", "xz -dc {file} > {unpacked}"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "zstd -dc {file} > {unpacked}"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "7z x {file}"),
    (b"Rar!\x1a\x07", "a RAR archive", "unrar x {file}"),
    (b"\x93NUMPY", "one array of NumPy, without a name", "save all arrays by name with numpy.savez"),
    (b"GGUF", "a GGUF file, for llama.cpp", "use the file it was made from"),
)
HTML, XML, JSON = (b"<!doctype html", b"<html", b"<head"), (b"<?xml",), (b"{", b"[")
ONNX_FIELDS = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)  # tags that may follow ir_version, the first field
ONNX_VERSION, NEWEST_ONNX = 0x08, 32
WEIGHTS_OF_RUN = "best.safetensors"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".npz")


def kind_of(path: Path, file: IO[bytes]) -> str:
    """What a file without safetensors is and how to convert it, in words; empty where it may be torch's or NumPy's."""
    start = file.read(HEAD)
    file.seek(0)
    if start.startswith(ARCHIVE):
        return _zip_kind(path, file)
    for begin, what, advice in STARTS:
        if start.startswith(begin):
            unpacked = path.with_name(f"unpacked-{path.stem}")
            return f"{what}: {advice.format(file=_quoted(path), unpacked=_quoted(unpacked))}"
    if start.startswith(GZIP):
        return _gzip_kind(path, file)
    if start[TAR_AT:].startswith(TAR):
        return f"a tar archive: tar -xf {_quoted(path)}"
    if start.startswith(PICKLE) and len(start) > len(TORCH_MAGIC) and TORCH_MAGIC not in start[:MAGIC_END]:
        line = conversion(FROM_PICKLE, path)
        return f"a pickle (protocol {start[1]}) of Python, which may run anything: if you trust its source, {line}"
    return _text_kind(start) or _network_kind(path, start)


def is_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a header and the header; the length may look like another kind."""
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    return length <= LONGEST_HEADER and start[LENGTH_BYTES : LENGTH_BYTES + 1] == b"{"


def no_file(path: Path) -> str:
    """What is wrong with a path that is no file, and which file may have been meant."""
    if not path.is_dir():
        return f"there is no file {path}"
    if (path / WEIGHTS_OF_RUN).is_file():
        return (
            f"{path} is a run folder: its weights are {path / WEIGHTS_OF_RUN}, and --teacher={path} takes it as it is"
        )
    if (path / "saved_model.pb").is_file():
        return f"{path} is a SavedModel of TensorFlow; {RENAME}{conversion(FROM_TENSORFLOW, path, suffix='.npz')}"
    if (path / ".metadata").is_file():
        line = shlex.join([str(path), str(_converted(path))])
        start = f"{path} is a distributed checkpoint of torch: python -m torch.distributed.checkpoint.format_utils"
        return f"{start} dcp_to_torch {line}"
    held = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)
    return f"{path} is a folder, not a file; weights in it: {listed(held)}"


def conversion(code: str, path: Path, *, suffix: str = ".pt") -> str:
    """A line for the shell that runs Python code on a file and a new one."""
    return shlex.join(["python", "-c", code, str(path), str(_converted(path, suffix))])


def _zip_kind(path: Path, file: IO[bytes]) -> str:
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
    file.seek(0)
    held = {*names, *(name.partition("/")[2] for name in names)}
    if "constants.pkl" in held:
        return f"a TorchScript archive: {conversion(FROM_TORCHSCRIPT, path)}"
    if held & {"models/model.json", "serialized_exported_program.json"}:
        return f"an archive of torch.export: {conversion(FROM_EXPORT, path)}"
    if "model.weights.h5" in held:
        return f"a Keras model; unzip {_quoted(path)} gives model.weights.h5"
    if "data.pkl" in held or is_npz(names):
        return ""
    return f"a zip archive of {listed(names)}: unzip {_quoted(path)}"


def is_npz(names: list[str]) -> bool:
    """Whether the members of a zip archive are arrays of ``numpy.savez``."""
    return bool(names) and all(name.endswith(".npy") for name in names)


def _gzip_kind(path: Path, file: IO[bytes]) -> str:
    with gzip.open(file) as inner:
        start = inner.read(HEAD)
    if start[TAR_AT:].startswith(TAR):
        return f"a tar archive compressed by gzip: tar -xzf {_quoted(path)}"
    return f"compressed by gzip: gunzip -c {_quoted(path)} > {_quoted(path.with_name(f'unpacked-{path.stem}'))}"


def _text_kind(start: bytes) -> str:
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(HTML):
        return "an HTML page, as a download page or an error sends it: download the file that it links to"
    if text.startswith(XML):
        return "an XML text, such as an error of a download: download the file itself"
    if text.startswith(JSON) and b"\0" not in text:
        return "a JSON text without tensors, such as settings, or an index of the files that hold them"
    return ""


def _network_kind(path: Path, start: bytes) -> str:
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return f"an HDF5 file, as Keras writes it; {RENAME}{conversion(FROM_HDF5, path, suffix='.npz')}"
    if start[4:8] == b"TFL3":
        return "a model of TensorFlow Lite: use the model it was made from"
    if len(start) > 2 and start[0] == ONNX_VERSION and start[1] < NEWEST_ONNX and start[2] in ONNX_FIELDS:
        return f"an ONNX graph: {conversion(FROM_ONNX, path)}"
    return ""


def _converted(path: Path, suffix: str = ".pt") -> Path:
    return path.with_name(f"{path.stem}-weights{suffix}")


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
