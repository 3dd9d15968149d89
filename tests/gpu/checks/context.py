"""What the parts that are one process share: the device, runs as the command line would make them, times."""

import contextlib
import io
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from checks.shell import MARK
from kdignite import runs
from kdignite.commands.distill import assemble
from kdignite.config import BaselineConfig, DistillConfig, TeacherConfig, TrainConfig, configure
from kdignite.data.preprocess import preparer
from kdignite.data.specs import Preprocessing
from kdignite.data.splits import limited
from kdignite.evaluation import Predictor, predictor
from kdignite.models.registry import build_model
from kdignite.steps import supervised_step
from kdignite.streams import seeded
from kdignite.training.capturing import Capture
from kdignite.training.data import Data, open_training_data
from kdignite.training.device import set_up_device
from kdignite.training.ensemble import TeacherSource
from kdignite.training.spec import RunSpec, TeacherRecord, build_spec, resolve
from kdignite.training.state import TrainerState
from kdignite.training.teacher_cache import LoadedTeacher
from kdignite.training.trainer import build_trainer, open_writer, train

T = TypeVar("T")
CONFIGS: dict[str, type[TrainConfig]] = {"baseline": BaselineConfig, "distill": DistillConfig, "teacher": TeacherConfig}
VALIDATION_IMAGES = 100  # an epoch ends with an evaluation, which is not what is measured


def tell(what: str, result: object, ok: bool | None = None, **more: Any) -> None:
    """Tell a line of the table, and whatever is for the file alone."""
    _tell({"what": what, "result": str(result), "ok": ok, **more})


def _tell(values: dict[str, Any]) -> None:
    print(MARK + json.dumps(values, default=str), flush=True)


class Context:
    """A process of a part.

    Args:
        device: ``cuda`` or ``cpu``.
        tiny: whether it does as little as possible.
    """

    def __init__(self, device: str, *, tiny: bool) -> None:
        self.device = set_up_device(device, threads=1 if device == "cpu" else None)
        self.tiny, self.cuda = tiny, self.device.type == "cuda"
        self.place = Path(tempfile.mkdtemp(prefix="part-"))  # in the folder of all processes
        self._data: Data | None = None

    def on_gpu(self, ok: bool) -> bool | None:
        """A verdict that means nothing on a CPU."""
        return ok if self.cuda else None

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, work: Callable[[], Any], *, repeat: int = 1) -> float:
        """Seconds of one call, the device waited for."""
        self.sync()
        began = time.perf_counter()
        for _ in range(repeat):
            work()
        self.sync()
        return (time.perf_counter() - began) / repeat

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """Do something whose failure costs nothing else; memory that it took is given back."""
        try:
            return work()
        except Exception:  # noqa: BLE001
            _tell({"what": what, "error": traceback.format_exc()[-4000:]})
            return None
        finally:
            if self.cuda:
                torch.cuda.empty_cache()

    def run(self, kind: str, **given: Any) -> RunSpec:
        """A run that is ready to start; one with a teacher has a table of its answers to the one view of every image.

        On a CPU a run with ``graph="auto"`` has a capture whose replay calls the function.
        """
        if kind == "distill":
            given = {"views": 1, "cache": str(self.place / "tables")} | given
        config, data = self._opened(kind, given)
        with contextlib.redirect_stdout(io.StringIO()):
            if isinstance(config, DistillConfig):
                record = TeacherRecord("random", "of random weights", 0.0)
                source = TeacherSource((LoadedTeacher(self._teacher(config, data), record),), record)
                run = assemble(config, data, source, root=self.place, device=self.device)
            else:
                make = partial(supervised_step, grad_clip=config.grad_clip, amp=config.amp)
                run = build_spec(config, data, device=self.device, make_step=make)
        return run if self.cuda or config.graph == "off" else _pretended_capture(run)

    def _opened(self, kind: str, given: dict[str, Any]) -> tuple[TrainConfig, Data]:
        name = f"checks.noise:{'few' if self.tiny else 'images'}"
        config = configure(CONFIGS[kind], dataset=name, device=str(self.device), **given)
        if self._data is None:
            data = open_training_data(config, device=self.device)
            self._data = data._replace(splits=data.splits._replace(val=limited(data.splits.val, VALIDATION_IMAGES)))
        return resolve(config, self._data, device=self.device), self._data

    def _teacher(self, config: TrainConfig, data: Data) -> Predictor:
        """A teacher with random weights: as fast as a good one."""
        with seeded("init", 0):
            model = build_model("resnet20", num_classes=len(data.source.classes), size=config.size, options={})
        model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        halves = (0.5, 0.5, 0.5)
        return predictor(model, prepare=preparer(Preprocessing(config.size, halves, halves), device=self.device))

    def trained(
        self, run: RunSpec, before: Callable[[TrainerState], None] = lambda trainer_state: None
    ) -> TrainerState:
        """Train it with everything around; ``before`` may add to its engine."""
        folder = runs.create(self.place, name=None, default="run")
        with contextlib.redirect_stdout(io.StringIO()), open_writer(folder) as writer:
            trainer_state = build_trainer(run, folder, resumed=False)
            before(trainer_state)
            train(trainer_state, folder, writer)
        shutil.rmtree(folder)
        return trainer_state


def _pretended_capture(run: RunSpec) -> RunSpec:
    capture = Capture(run.config.batch_size, say=lambda line: None, record=lambda work: work)
    return run._replace(make_step=capture(run.make_step), capture=capture)


def state_of(run: RunSpec) -> list[Tensor]:
    """Copies of the model's and the optimiser's state."""
    states = run.optimizer.state_dict()["state"]
    values = [value for number in sorted(states) for value in states[number].values() if isinstance(value, Tensor)]
    return [value.detach().clone() for value in (*run.model.network.state_dict().values(), *values)]


def difference(ones: list[Tensor], others: list[Tensor]) -> float | None:
    """How much tensors differ; None: they are equal to the last bit."""
    pairs = [*zip(ones, others, strict=True)]
    if all(torch.equal(*pair) for pair in pairs):
        return None
    return max((one.double() - other.double()).abs().max().item() for one, other in pairs)


def bits(differs: float | None) -> str:
    """The same in words."""
    return "bit-equal" if differs is None else f"differ by up to {differs:.1e}"
