"""Which folders of a tree hold which part of a data set, and which class."""

import os
import shlex
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from kdignite.data.registry import FOLDER
from kdignite.errors import UserError, listed

# part -> the names of its folder, in any case
PART_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}
PARTS = {name: part for part, names in PART_NAMES.items() for name in names}
# folders that systems and programs make: archives of macOS, thumbnails and bins of network drives, caches
SYSTEM_FOLDERS = {
    *("__macosx", "@eadir", "#recycle", "@recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "__pycache__"),
}
Classes = Mapping[str, Sequence[Path]]  # class name -> its folders, several where one name is spelt in several ways


class Layout(NamedTuple):
    """What the folders of a data set are."""

    parts: Mapping[str, Classes]  # train, and val and test where they are there
    folders: dict[str, Path]  # part -> the folder that holds its classes
    notes: tuple[str, ...]  # what is there and not used


def find_layout(name: str, root: Path) -> Layout:
    """The parts and classes in ``ROOT/train/CLASS/`` (and val, test likewise), or in ``ROOT/CLASS/``.

    Folders of parts have one of `PART_NAMES`, in any case. Hidden folders and `SYSTEM_FOLDERS` are no classes.

    Raises:
        UserError: if there is no such layout, two folders are the same part, or there are fewer than two classes.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - no OSError
        raise UserError(
            f"--dataset={name} needs images in PATH/train/CLASS/ or PATH/CLASS/, but there is no folder {root}"
        )
    folders = _part_folders(root)
    if "train" not in folders:
        _check_flat(root, folders)
        folders = {"train": root}
    parts = {part: find_classes(folder) for part, folder in folders.items()}
    _check_classes(parts, folders, inside=None if folders["train"] != root else _deeper(root))
    return Layout(parts, folders, tuple(_notes(root, parts, folders)))


def find_classes(folder: Path) -> dict[str, list[Path]]:
    """Class name, in Unicode's composed form, -> its folders; sorted by name."""
    found: dict[str, list[Path]] = {}
    for one in _subfolders(folder):
        found.setdefault(class_name(utf8_text(one.name, errors="backslashreplace")), []).append(one)
    return {name: sorted(found[name]) for name in sorted(found)}


def class_name(text: str) -> str:
    """A name in the one form (NFC) in which names are compared: macOS writes the letters of ``é`` apart."""
    return unicodedata.normalize("NFC", text)


def utf8_text(name: str, *, errors: str) -> str:
    """A name decoded as UTF-8, whatever the locale: the same files give the same names and digests everywhere."""
    return os.fsencode(name).decode("utf-8", errors)


def part_of(name: str) -> str | None:
    """``val`` of ``Valid``: the part that a folder or a column names."""
    return PARTS.get(name.strip().casefold())


def is_passed_over(name: str) -> bool:
    """Whether a folder is hidden, or a system's own."""
    return name.startswith(".") or name.casefold() in SYSTEM_FOLDERS


def _subfolders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not is_passed_over(one.name))


def _part_folders(root: Path) -> dict[str, Path]:
    """Part -> its folder; none at all where ``train`` is no part but a class, of pictures of trains."""
    named = [(part, one) for one in _subfolders(root) if (part := part_of(one.name))]
    found: dict[str, Path] = {}
    for part, folder in named:
        if part in found:
            raise UserError(f"{found[part]} and {folder} would both be the {part} images: rename or remove one")
        found[part] = folder
    others = len(_subfolders(root)) - len(found)
    if others > 1 and not any(map(_subfolders, found.values())):
        return {}
    return {part: found[part] for part in PART_NAMES if part in found}


def _check_flat(root: Path, folders: Mapping[str, Path]) -> None:
    """Refuse ``ROOT/CLASS/`` where ``val`` or ``test`` shows that a ``train`` is missing."""
    if folders:
        others = ", ".join(f"{one.name}/" for one in folders.values())
        raise UserError(f"{root} has {others} but no train/: rename the folder of the training images to train")


def _check_classes(parts: Mapping[str, Classes], folders: Mapping[str, Path], *, inside: Path | None) -> None:
    classes = parts["train"]
    if len(classes) < 2:
        advice = f"; did you mean {FOLDER}{inside}?" if inside else ""
        raise UserError(
            f"{folders['train']} needs a folder for each of two or more classes, but has {len(classes)}{advice}"
        )
    for part, present in parts.items():
        if unknown := sorted(set(present) - set(classes)):
            raise UserError(
                f"{folders[part]} has a class {unknown[0]!r} that train has not: its classes are {listed([*classes])}"
            )
        if not present:
            raise UserError(f"{folders[part]} needs a folder for each class, but has none: fill it or remove it")


def _deeper(root: Path) -> Path | None:
    """The only folder in a folder, if it has the layout that is missed: archives unpack so."""
    inside = _subfolders(root)
    return inside[0] if len(inside) == 1 and len(_subfolders(inside[0])) > 1 else None


def _notes(root: Path, parts: Mapping[str, Classes], folders: Mapping[str, Path]) -> Iterator[str]:
    used = {*folders.values()}
    if folders["train"] != root:
        beside = [f"{one.name}/" for one in _subfolders(root) if one not in used]
        beside += sorted(one.name for one in root.iterdir() if part_of(one.name) and one.is_file())
        if beside:
            yield f"not used: {listed(beside)} beside {folders['train'].name}/"
    elif named := [f"{one.name}/" for one in _subfolders(root) if part_of(one.name)]:
        yield f"{listed(named)}: without folders inside, each taken as a class like the other folders of {root}"
    elif part_of(root.resolve().name) and (beside := _siblings(root)):
        both = shlex.quote(f"--dataset={FOLDER}{root.resolve().parent}")
        yield f"not used: {listed(beside)} beside {root}: {both} takes them too"
    for holder in dict.fromkeys([root, *folders.values()]):
        hidden = sorted(f"{one.name}/" for one in holder.iterdir() if one.is_dir() and is_passed_over(one.name))
        if hidden:
            yield f"no classes: {listed(hidden)} in {holder} (hidden, or a system's own)"
    for part, present in parts.items():
        for name, spelt in present.items():
            if len(spelt) > 1:
                yield f"{len(spelt)} folders of {folders[part]} are one class {name!r}, spelt with other characters"


def _siblings(root: Path) -> list[str]:
    own = root.resolve()
    return [f"{one.name}/" for one in _subfolders(own.parent) if one != own and part_of(one.name)]
