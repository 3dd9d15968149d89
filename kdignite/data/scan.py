"""The picture files in the folders of the classes, and what is passed over there."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import NamedTuple

from kdignite.data.decode import picture_suffixes
from kdignite.data.layout import Layout, is_passed_over
from kdignite.errors import UserError, brief, counted, listed
from kdignite.files import typed_path

NO_NOTE = {"thumbs.db", "desktop.ini"}  # systems leave them beside pictures


class Listing(NamedTuple):
    """The images of one set: their files, sorted within each class, and the index of each one's class."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]


class Scan(NamedTuple):
    """The picture files of a data set by part, and what was passed over on the way."""

    listings: dict[str, Listing]
    notes: tuple[str, ...]


class Pictures(NamedTuple):
    """The picture files that some paths mean, and a line about what was passed over."""

    files: tuple[Path, ...]
    note: str


class _Found(NamedTuple):
    pictures: list[Path]
    others: list[Path]  # files that are no pictures
    folders: list[Path]  # hidden, or a system's own


def scan(layout: Layout, root: Path) -> Scan:
    """List the pictures of every class; links are followed, and no folder is visited twice.

    Raises:
        UserError: if a class has no images, or two paths lead to the same folder, as links that lead back do.
    """
    index = {name: number for number, name in enumerate(layout.parts["train"])}
    visited = {root.resolve(): root}
    for folder in layout.folders.values():
        if folder != root:
            _visit(folder, visited)
    listings, passed = {}, _Found([], [], [])
    for part, classes in layout.parts.items():
        files: list[Path] = []
        labels: list[int] = []
        for name, spelt in classes.items():
            found = [_walk(folder, partial(_visit, visited=visited)) for folder in spelt]
            pictures = [path for one in found for path in one.pictures]
            others = [path for one in found for path in one.others]
            if not pictures:
                raise UserError(f"{spelt[0]} has no images: a class needs one or more{_but(others)}")
            passed.others.extend(others)
            passed.folders.extend(path for one in found for path in one.folders)
            files += pictures
            labels += [index[name]] * len(pictures)
        listings[part] = Listing(tuple(files), tuple(labels))
    loose = [path for folder in layout.folders.values() for path in _files(folder) if _is_picture(path)]
    return Scan(listings, tuple(_notes(passed, loose, root)))


def find_pictures(paths: Sequence[str]) -> Pictures:
    """The files that some words mean: a file itself, the pictures in a folder and below, what fits a pattern.

    Each file comes once, in the order of the words, within a folder sorted by path. Links are followed, and no folder
    is visited twice. A file that is named is taken whatever its suffix.

    Raises:
        UserError: if there is nothing at a path, or no picture in all of them.
    """
    files, visited, passed = dict[Path, None](), set[Path](), list[Path]()
    for word in paths:
        path = typed_path(word)
        there = [path]
        if not os.path.exists(path):  # noqa: PTH110 - no OSError
            there = [Path(one) for one in sorted(glob(str(path), recursive=True))]  # noqa: PTH207 - also absolute ones
        if not there:
            raise UserError(f"there is no file, folder or match of {brief(word, longest=300)!r}: check the path")
        for one in there:
            found = _walk(one, partial(_is_new, visited=visited)) if one.is_dir() else _Found([one], [], [])
            files |= dict.fromkeys(found.pictures)
            passed += found.others
    if not files:
        raise UserError(f"no picture in {listed(list(paths))}{_but(passed)}")
    kinds = f"passed over: {counted(len(passed), 'file')} ({_kinds(passed)}), such as {passed[0]}" if passed else ""
    return Pictures(tuple(files), kinds)


def _walk(folder: Path, enter: Callable[[Path], bool]) -> _Found:
    """Everything in a folder, in an order that is the same on every system, without folders that are not entered."""
    found = _Found([], [], [])
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_unreadable):
        if not enter(Path(parent)):
            folders.clear()
            continue
        found.folders.extend(Path(parent, one) for one in folders if is_passed_over(one))
        folders[:] = [one for one in folders if not is_passed_over(one)]
        for path in (Path(parent, one) for one in names if one.lower() not in NO_NOTE):
            if not path.name.startswith("."):
                (found.pictures if _is_picture(path) else found.others).append(path)
            elif _is_picture(path):
                found.others.append(path)
    found.pictures.sort(key=lambda path: os.fsencode(path.relative_to(folder)))
    return found


def _is_new(folder: Path, visited: set[Path]) -> bool:
    real = folder.resolve()
    new = real not in visited
    visited.add(real)
    return new


def _visit(folder: Path, visited: dict[Path, Path]) -> bool:
    """Refuse a folder that was visited before, or that holds the place from which a link leads to it."""
    real = folder.resolve()
    if real in visited:
        raise UserError(f"{folder} is the same folder as {visited[real]}: remove the link, or images count twice")
    if folder.parent.resolve().is_relative_to(real):
        raise UserError(f"{folder} leads back to {real}, which holds it: remove the link")
    visited[real] = folder
    return True


def _refuse_unreadable(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be read ({error.strerror}): allow it, or remove the folder")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in picture_suffixes()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _kinds(files: Sequence[Path]) -> str:
    """``40 .heic, 2 without suffix``."""
    kinds = Counter("hidden" if one.name.startswith(".") else one.suffix or "without suffix" for one in files)
    return listed([f"{count:,} {kind}" for kind, count in kinds.most_common()])


def _but(others: Sequence[Path]) -> str:
    return f"; Pillow reads no pictures from its files here ({_kinds(others)}): convert them" if others else ""


def _notes(passed: _Found, loose: Sequence[Path], root: Path) -> Iterator[str]:
    def such_as(path: Path) -> str:
        return f"such as {path.relative_to(root)}"

    if passed.others:
        others = counted(len(passed.others), "file")
        yield f"passed over: {others} ({_kinds(passed.others)}), {such_as(passed.others[0])}"
    if loose:
        yield f"passed over: {counted(len(loose), 'picture')} outside the folders of the classes, {such_as(loose[0])}"
    if passed.folders:
        folders = counted(len(passed.folders), "folder")
        yield f"passed over: {folders} (hidden, or a system's own), {such_as(passed.folders[0])}"
