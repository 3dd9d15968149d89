"""The settings of ``predict``."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.fields import Config, flag
from kdignite.errors import UserError
from kdignite.files import typed_path

FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json"}  # suffix of --out -> format


def _check_sheet_images(count: str) -> None:
    if count != "all" and not (count.isascii() and count.isdecimal() and int(count)):
        raise UserError(f"--sheet_images must be a whole number from 1 on, or all, not {count!r}")


def _may_be_written(path: Path) -> bool:
    return path.parent.is_dir() and not path.is_dir()


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Config):
    """Classify picture files, with the probabilities of the classes."""

    command: ClassVar[str] = "predict"

    paths: tuple[str, ...] | None = flag(
        None, "picture files, folders (with all folders below) and quoted patterns, such as 'new/**/*.jpg'"
    )
    model: str = flag("", "a run folder (runs/NAME or NAME) or a checkpoint file", group="model")
    arch: str | None = shared.own_arch()
    top: int = flag(1, "classes for each picture, the most probable first", low=1, group="your results")
    format: str | None = flag(
        None,
        "table, csv or json (one object a line); unset: by the suffix of --out, else table",
        choices=("table", "csv", "json"),
        group="your results",
    )
    out: str | None = flag(
        None, "write the rows to this file, over an older one; unset: print them", group="your results"
    )
    sheet: str | None = flag(
        None,
        "write a contact sheet to this PNG file, over an older one: pictures with their answers, the least sure first",
        group="your results",
    )
    sheet_images: str = flag(
        "48", "pictures on the contact sheet: a number, or all", group="your results", check=_check_sheet_images
    )
    batch_size: int | None = flag(
        None, "images that the model takes at once; unset: as many as in an evaluation", low=1, role="machine"
    )
    workers: int | None = flag(None, "threads that decode pictures; unset: one a core", low=1, role="machine")
    device: str = shared.device()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        """Check each field; pictures and a model are required."""
        super().__post_init__()
        if not self.paths or not all(self.paths) or not self.model:
            raise UserError(
                "predict needs pictures and a model: python -m kdignite predict FILE_OR_FOLDER --model=runs/NAME"
            )
        for name, given in (("out", self.out), ("sheet", self.sheet)):
            if given is not None and not _may_be_written(typed_path(given).absolute()):
                raise UserError(f"--{name} must be a file in a folder that is there, not {given}")
        if self.sheet and Path(self.sheet).suffix.lower() != ".png":
            raise UserError(f"--sheet is a PNG file: write --sheet={Path(self.sheet).with_suffix('.png')}")
        if self.out and self.sheet and typed_path(self.out).resolve() == typed_path(self.sheet).resolve():
            raise UserError(f"--out and --sheet are both {self.out}: give each a file of its own")

    @property
    def row_format(self) -> str:
        """The format of the rows, which the suffix of ``--out`` may say."""
        return self.format or FORMATS.get(Path(self.out or "").suffix.lower(), "table")
