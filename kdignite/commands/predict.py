"""``predict``: what a model answers on picture files."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from kdignite import checkpoints, files, runs
from kdignite.checkpoints import Checkpoint
from kdignite.config import PredictConfig
from kdignite.data.batches import batch_limit
from kdignite.data.decode import Broken, try_images
from kdignite.data.scan import find_pictures
from kdignite.errors import RunFailed, UserError, counted, printable
from kdignite.evaluation import Predictor
from kdignite.memory import oom_as_failure
from kdignite.reports.figures import save_figure
from kdignite.reports.predictions import THUMBNAIL, Answer, Prediction, RowFormat, contact_sheet, row_format
from kdignite.reports.style import letters_note
from kdignite.teachers.outputs import flattened_warning
from kdignite.training.device import set_up_device
from kdignite.training.model import load_predictor

MOST_ON_SHEET = 1_000  # pictures; a larger PNG is opened by few programs


class Model(NamedTuple):
    """A model as ``predict`` uses it."""

    checkpoint: Checkpoint
    logits_of: Predictor
    device: torch.device

    @property
    def classes(self) -> tuple[str, ...]:
        return self.checkpoint.description.classes


def predict(config: PredictConfig, *, root: Path = runs.ROOT) -> list[Prediction]:
    """Classify picture files: the most probable classes of each, with their probabilities.

    A picture is read as a folder data set is (`as_shown`, `resize_and_crop`), kept at the side that the images of the
    training had, and goes through the preprocessing of the checkpoint: the file of a test image gets the class that
    ``evaluate`` gave it. Rows go to stdout or ``--out`` as they come, all else to stderr; of the pixels only a few
    batches are in memory, whatever the number of files.

    Args:
        config: paths, model, and how the answers are written.
        root: the folder of all runs, where a model may be named.

    Returns:
        A `Prediction` for each file that can be read, in the order of the files.

    Raises:
        UserError: if there is no picture at the paths, or the model cannot be used.
        RunFailed: if none of the files can be read, or the model's logits are not finite.
    """
    found = find_pictures(config.paths or ())
    with contextlib.redirect_stdout(sys.stderr):
        model = _load(config, root=root)
    _check_written(config, [model.checkpoint.path, *found.files])
    if found.note:
        _tell(f"note      {found.note}")
    form = row_format(config.row_format, files=found.files, classes=model.classes, top=config.top)
    start, predictions = time.perf_counter(), list[Prediction]()
    _write(_lines(form, _predicted(config, model, found.files), predictions), config.out)
    _say_speed(len(predictions), len(found.files), seconds=time.perf_counter() - start)
    if config.sheet:
        _write_sheet(config, model, predictions, files.typed_path(config.sheet))
    return predictions


def _check_written(config: PredictConfig, read: Iterable[Path]) -> None:
    """Refuse to write over what is read: the pictures and the model."""
    for name, given in (("out", config.out), ("sheet", config.sheet)):
        target = files.typed_path(given or "")
        if given and target.exists() and any(path.exists() and path.samefile(target) for path in read):
            raise UserError(f"--{name}={given} is one of the files that are read: choose another")


def _load(config: PredictConfig, *, root: Path) -> Model:
    checkpoint = checkpoints.load_checkpoint(runs.find_checkpoint(config.model, root=root))
    device = set_up_device(config.device, threads=config.threads)
    model = Model(checkpoint, load_predictor(checkpoint, device=device, arch=config.arch), device)
    if config.top > len(model.classes):
        raise UserError(f"--top={config.top}: {checkpoint.path} has {len(model.classes)} classes")
    return model


def _predicted(config: PredictConfig, model: Model, paths: Sequence[Path]) -> Iterator[list[Prediction]]:
    """The predictions of each batch; a file that cannot be read is a line on stderr."""
    described = model.checkpoint.description
    side = described.origin.image_size
    limit = config.batch_size or batch_limit(max(side, described.preprocessing.size))
    batch: list[tuple[Path, Tensor]] = []
    read = 0
    with tqdm(total=len(paths), desc="predicting", unit="image", leave=False, disable=None) as bar:
        for path, image in zip(paths, try_images(paths, size=side, workers=config.workers), strict=True):
            bar.update()
            if isinstance(image, Broken):
                _tell(f"skipped   {path} cannot be read as an image ({image.why})")
            else:
                batch.append((path, image))
                read += 1
            if len(batch) == limit:
                yield _classify(model, batch, top=config.top)
                batch = []
        if batch:
            yield _classify(model, batch, top=config.top)
    if not read:
        raise RunFailed(f"none of {counted(len(paths), 'file')} can be read as an image")


@oom_as_failure("try a smaller --batch_size")
def _classify(model: Model, batch: Sequence[tuple[Path, Tensor]], *, top: int) -> list[Prediction]:
    logits = model.logits_of(torch.stack([image for _, image in batch]).to(model.device))
    if not torch.isfinite(logits).all():
        raise RunFailed(f"the logits of {model.checkpoint.path} are not finite numbers: its weights are broken")
    if doubt := flattened_warning(logits, who=str(model.checkpoint.path)):
        _tell_once(f"warning   {doubt}")
    best = logits.double().softmax(dim=1).cpu().sort(dim=1, descending=True, stable=True)
    rows = zip(batch, best.values[:, :top].tolist(), best.indices[:, :top].tolist(), strict=True)
    return [
        Prediction(path, tuple(Answer(model.classes[i], value) for i, value in zip(indices, values, strict=True)))
        for (path, _), values, indices in rows
    ]


def _lines(form: RowFormat, batches: Iterable[list[Prediction]], predictions: list[Prediction]) -> Iterator[str]:
    """The text of each batch, which joins the predictions."""
    yield form.header
    for batch in batches:
        predictions += batch
        yield "".join(map(form.row, batch))


def _write(lines: Iterator[str], out: str | None) -> None:
    if out is not None:
        encoded = (line.encode("utf-8", "surrogateescape") for line in lines)
        files.write_atomically(files.typed_path(out), lambda file: file.writelines(encoded))
        return
    for text in lines:
        with tqdm.external_write_mode():
            print(text, end="", flush=True)


def _say_speed(num_images: int, num_files: int, *, seconds: float) -> None:
    broken = f"; {counted(num_files - num_images, 'file')} skipped" if num_files > num_images else ""
    _tell(f"predict   {counted(num_images, 'image')} in {seconds:.1f} s, {num_images / seconds:,.0f} images/s{broken}")


def _write_sheet(config: PredictConfig, model: Model, predictions: Sequence[Prediction], path: Path) -> None:
    wanted = len(predictions) if config.sheet_images == "all" else int(config.sheet_images)
    if min(wanted, len(predictions)) > MOST_ON_SHEET:
        _tell(f"note      a contact sheet has at most {MOST_ON_SHEET:,} pictures: it shows the least sure")
    chosen = sorted(predictions, key=lambda one: one.top[0].probability)[: min(wanted, MOST_ON_SHEET)]
    read = zip(chosen, try_images([one.path for one in chosen], size=THUMBNAIL), strict=True)
    shown = [(one, image.permute(1, 2, 0).numpy()) for one, image in read if isinstance(image, Tensor)]
    which = "all" if len(shown) == len(predictions) else f"the {len(shown):,} least sure"
    title = f"{which} of {counted(len(predictions), 'picture')}, {runs.checkpoint_name(model.checkpoint.path)}"
    save_figure(contact_sheet(*zip(*shown, strict=True), title=title), path)
    if note := letters_note(name for one in chosen for name in (one.top[0].name, one.path.name)):
        _tell(note)
    _tell(f"files     {path} ({which})")


@cache
def _tell_once(line: str) -> None:
    """Print a line for the first batch that it is true of."""
    _tell(line)


def _tell(line: str) -> None:
    """Print a line on stderr, above the bar."""
    tqdm.write(printable(line), file=sys.stderr)
