"""The classic mistakes of an evaluation, each as a function from images to what the model then answers."""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kdignite.data.preprocess import Prepare, Statistics, preparer
from kdignite.data.specs import Preprocessing
from kdignite.doctor.feeds import wrong_feeds
from kdignite.doctor.images import Sample, batches
from kdignite.evaluation import Predictor, evaluate
from kdignite.streams import seeded, stream

RECORDED, PERMUTED, SHUFFLED = "as recorded", "classes permuted", "order shuffled"
CANNOT_RUN = (RuntimeError, ValueError, IndexError, AssertionError)  # what networks raise on shapes they do not take

STRICT, BOTH = "strict=True, then mend the keys", "strict=True, model.eval()"
# name, what was done, what to do; which weights are new (a key of `_loaded`), and the mode: train, views, both
MODELLED = (
    ("train mode", "no model.eval()", "model.eval()", "", "train"),
    ("training views", "augmented images", "plain images", "", "views"),
    ("train mode, views", "no model.eval(), augmented images", "model.eval(), plain", "", "train views"),
    ("no BatchNorm statistics", "running mean and variance not loaded", STRICT, "statistics", ""),
    ("new head", "the last layer not loaded", STRICT, "head", ""),
    ("nothing loaded", "prefixed keys, strict=False", STRICT, "all", ""),
    ("nothing loaded, train mode", "prefixed keys, strict=False, no eval()", BOTH, "all", "train"),
    (
        *("nothing loaded, train mode, views", "strict=False, no eval(), augmented", f"{BOTH}, plain"),
        *("all", "train views"),
    ),
    ("half loaded", "the first half of the layers loaded", STRICT, "half", ""),
)
DRAWN = ("head", "half", "all")  # new weights that are drawn


class Subject(NamedTuple):
    """A model as it was recorded, and what it takes to use it wrongly."""

    model: nn.Module  # with its weights, on the device
    fresh: Callable[[], nn.Module]  # another one, newly initialised from the default generator
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # of the data
    order: Tensor | None  # (C,) int64, for each class of the data its output; None: the same order
    image_size: int  # of the data set, in pixels
    statistics: Statistics  # of the data set's training images
    device: torch.device


class Setting(NamedTuple):
    """One way to evaluate a model: as recorded, or under one mistake."""

    name: str
    wrong: str  # what was done
    fix: str  # what to do
    answer: Callable[[Sample, int], Tensor]  # images and number of the draw -> logits (N, C) float32, CPU
    random: bool = False  # whether every draw differs


class Answers(NamedTuple):
    """What a model answers in one setting; D is 1 where nothing is random."""

    setting: Setting
    logits: Tensor  # (D, N, C) float32, CPU

    @property
    def predicted(self) -> Tensor:
        """(D, N) int64, the class with the largest logit."""
        return self.logits.argmax(dim=2)


class Examined(NamedTuple):
    """What was found out: the recorded setting first, then one entry for each mistake; and what was left out."""

    answers: list[Answers]
    skipped: list[str]  # sentences


def examine(subject: Subject, shown: Sample, *, draws: int, progress: bool = False) -> Examined:
    """Evaluate a model in its recorded setting and under each mistake.

    A setting that the model cannot run is left out, and so is one in which it answers what it answers in another.
    """
    right = _recorded(subject)
    recorded = Answers(right, right.answer(shown, 0)[None])
    answers, skipped = [recorded], []
    settings = [*_fed(subject), *_modelled(subject), *_relabelled(subject, recorded.logits[0])]
    for setting in tqdm(settings, desc="settings", leave=False, disable=None if progress else True):
        try:
            logits = torch.stack([setting.answer(shown, draw) for draw in range(draws if setting.random else 1)])
        except CANNOT_RUN as error:
            skipped.append(f"{setting.name}: this model cannot run it ({' '.join(str(error).split())[:60]})")
            continue
        same = [one.setting.name for one in answers if _equal(one.logits, logits)]
        if same:
            skipped.append(f"{setting.name}: here the same as '{same[0]}'")
        else:
            answers.append(Answers(setting, logits))
    return Examined(answers, skipped)


def _recorded(subject: Subject) -> Setting:
    prepare = preparer(subject.preprocessing, device=subject.device)
    return Setting(RECORDED, "-", "-", lambda shown, _: _logits(subject, subject.model, prepare, shown))


def _fed(subject: Subject) -> list[Setting]:
    """Images prepared in a wrong way."""

    def setting(name: str, wrong: str, fix: str, prepare: Prepare) -> Setting:
        return Setting(name, wrong, fix, lambda shown, _: _logits(subject, subject.model, prepare, shown))

    feeds = wrong_feeds(
        subject.preprocessing, image_size=subject.image_size, own=subject.statistics, device=subject.device
    )
    return [setting(*feed) for feed in feeds]


def _modelled(subject: Subject) -> list[Setting]:
    """The model in the wrong mode, on the wrong views, or with weights missing."""
    prepare = preparer(subject.preprocessing, device=subject.device)

    def setting(name: str, wrong: str, fix: str, loaded: str, mode: str) -> Setting:
        def answer(shown: Sample, draw: int) -> Tensor:
            model = _loaded(subject, loaded, draw)
            with seeded("doctor", "dropout", draw, device=subject.device):
                return _logits(subject, model, prepare, shown, draw=draw, mode=mode)

        return Setting(name, wrong, fix, answer, random=bool(mode) or loaded in DRAWN)

    return [setting(*one) for one in MODELLED]


def _loaded(subject: Subject, loaded: str, draw: int) -> nn.Module:
    """A model with all of its weights, or some, or none."""
    if loaded == "head":
        with seeded("doctor", "head", draw):
            return with_new_head(subject.model)
    if loaded in DRAWN:
        with seeded("doctor", "init", draw):
            fresh = subject.fresh()
        return half_loaded(subject.model, fresh) if loaded == "half" else fresh
    return without_statistics(subject.model) if loaded == "statistics" else copy.deepcopy(subject.model)


def _relabelled(subject: Subject, recorded: Tensor) -> list[Setting]:
    """Right answers that are given to the wrong class, or to the wrong image."""
    num_images, num_classes = recorded.shape
    names = [sorted(subject.classes).index(name) for name in subject.classes]
    both = "count answers and labels from 0"

    def permuted(_: Sample, draw: int) -> Tensor:
        return recorded[:, torch.randperm(num_classes, generator=stream("doctor", "classes", draw))]

    def shuffled(_: Sample, draw: int) -> Tensor:
        return recorded[torch.randperm(num_images, generator=stream("doctor", "images", draw))]

    return [
        Setting("answers one too high", "counted from 1, labels from 0", both, lambda *_: recorded.roll(1, 1)),
        Setting("answers one too low", "counted from 0, labels from 1", both, lambda *_: recorded.roll(-1, 1)),
        Setting(
            "alphabetical classes",
            "classes sorted by name",
            f"the order {_shortened(subject.classes)}",
            lambda *_: recorded[:, names],
        ),
        Setting(PERMUTED, "classes in another order", "map outputs by class name", permuted, random=True),
        Setting(SHUFFLED, "answers and labels of different images", "shuffle=False", shuffled, random=True),
    ]


def without_statistics(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers have the running mean 0 and the running variance 1 of new ones."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return model


def with_new_head(model: nn.Module) -> nn.Module:
    """A copy whose last linear layer is newly initialised, from the default generator."""
    model = copy.deepcopy(model)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("no linear layer")
    device = linear[-1].weight.device
    linear[-1].cpu().reset_parameters()  # drawn on the CPU, so that the new head is the same whatever device evaluates
    linear[-1].to(device)
    return model


def half_loaded(model: nn.Module, fresh: nn.Module) -> nn.Module:
    """A new model that got the first half of the layers of a trained one."""
    weights = model.state_dict()
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in weights))
    first = set(layers[: len(layers) // 2])
    given = {key: value for key, value in weights.items() if key.rpartition(".")[0] in first}
    fresh.load_state_dict({**fresh.state_dict(), **given})
    return fresh


def _logits(
    subject: Subject, model: nn.Module, prepare: Prepare, shown: Sample, *, draw: int = 0, mode: str = ""
) -> Tensor:
    """What a model answers; the mode may hold ``train`` and ``views``."""
    model.train("train" in mode)

    def logits_of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(prepare(images))
            return logits if subject.order is None else logits[:, subject.order]

    asked: Predictor = logits_of
    seen = batches(shown, draw=draw, views="views" in mode)
    return evaluate(asked, seen, num_classes=len(subject.classes)).logits


def _equal(known: Tensor, new: Tensor) -> bool:
    """Whether the draws of a setting are those of another, or all of them its only one."""
    return len(known) in (1, len(new)) and torch.allclose(known.expand_as(new), new, rtol=1e-3, atol=1e-3)


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
