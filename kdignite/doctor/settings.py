"""The classic mistakes of an evaluation, each as a function from images to the logits under that mistake."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kdignite.data.preprocess import Prepare, Statistics, preparer
from kdignite.data.specs import Preprocessing
from kdignite.doctor.images import ImageSample, make_batches
from kdignite.doctor.orders import class_orders, outputs_named
from kdignite.doctor.preprocessing import Variant, preprocessing_variants
from kdignite.errors import reason
from kdignite.evaluation import evaluate
from kdignite.outputs import logits_in
from kdignite.streams import seeded, stream

RECORDED, PERMUTED, SHUFFLED = "as recorded", "classes permuted", "order shuffled"

STRICT, BOTH = "strict=True, then fix the keys", "strict=True, model.eval()"
# name, what was done, what to do; which weights are new (see `_model_with`), and the mode: train, views, both
MODEL_SETTINGS = (
    ("train mode", "no model.eval()", "model.eval()", "", "train"),
    ("training views", "augmented images", "plain images", "", "views"),
    ("train mode, views", "no model.eval(), augmented images", "model.eval(), plain", "", "train views"),
    ("no BatchNorm statistics", "running mean and variance not loaded", STRICT, "statistics", ""),
    ("new head", "the last layer not loaded", STRICT, "head", ""),
    ("nothing loaded", "prefixed keys, strict=False", STRICT, "all", ""),
    ("nothing loaded, train mode", "prefixed keys, strict=False, no eval()", BOTH, "all", "train"),
    ("nothing loaded, train mode, views", "strict=False, no eval(), augmented", f"{BOTH}, plain", "all", "train views"),
    ("half loaded", "the first half of the layers loaded", STRICT, "half", ""),
)
RANDOM_WEIGHTS = ("head", "half", "all")  # are newly initialised


class ModelUnderTest(NamedTuple):
    """A model as recorded, and what the settings need of it."""

    model: nn.Module  # with its weights, on the device, in eval mode
    build: Callable[[], nn.Module]  # another one, newly initialised from the default generator
    preprocessing: Preprocessing
    classes: tuple[str, ...]  # of the data
    own_classes: tuple[str, ...]  # in the order of the outputs
    image_size: int  # of the data set, in pixels
    statistics: Statistics  # of the data set's training images
    device: torch.device


class EvalSetting(NamedTuple):
    """One way to evaluate a model: as recorded, or under one mistake."""

    name: str
    wrong: str  # what was done
    fix: str  # what to do
    run: Callable[[ImageSample, int], Tensor]  # images and number of the draw -> logits (N, C) float32, CPU
    random: bool = False  # whether every draw differs
    flags: Mapping[str, Any] | None = None  # of adopt, for a model that was trained like this; None: it has none


class SettingLogits(NamedTuple):
    """The logits of one setting; D draws, one where nothing is random."""

    setting: EvalSetting
    logits: Tensor  # (D, N, C) float32, CPU

    @property
    def predicted(self) -> Tensor:
        """(D, N) int64, the class with the largest logit."""
        return self.logits.argmax(dim=2)


class SettingResults(NamedTuple):
    """The recorded setting first, then one entry for each mistake; and what was skipped."""

    logits: list[SettingLogits]
    skipped: list[str]  # sentences


def run_settings(tested: ModelUnderTest, sample: ImageSample, *, draws: int, progress: bool = False) -> SettingResults:
    """Evaluate a model in its recorded setting and under each mistake that it can run and that changes its logits.

    Without draws only its preprocessing is varied.
    """
    recorded, *settings = _preprocessing_settings(tested)
    logits = recorded.run(sample, 0)
    results, skipped = [SettingLogits(recorded, logits[None])], []
    if draws:
        settings += [*_model_settings(tested), *_output_settings(tested, logits)]
    for setting in tqdm(settings, desc="settings", leave=False, disable=None if progress else True):
        try:
            logits = torch.stack([setting.run(sample, draw) for draw in range(draws if setting.random else 1)])
        except Exception as error:  # noqa: BLE001 - a model of one's own may fail in any way that it was not made for
            skipped.append(f"{setting.name}: this model cannot run it ({reason(error)[:60]})")
            continue
        same = [one.setting.name for one in results if _same_logits(one.logits, logits)]
        if same:
            skipped.append(f"{setting.name}: here the same as '{same[0]}'")
        else:
            results.append(SettingLogits(setting, logits))
    return SettingResults(results, skipped)


def _preprocessing_settings(tested: ModelUnderTest) -> list[EvalSetting]:
    """The recorded preprocessing, then the wrong ones."""

    def setting(name: str, wrong: str, fix: str, prepare: Prepare, flags: Mapping[str, Any] | None) -> EvalSetting:
        def run(sample: ImageSample, _: int) -> Tensor:
            return _logits(tested, tested.model, prepare, sample)

        return EvalSetting(name, wrong, fix, run, flags=flags)

    right, device = tested.preprocessing, tested.device
    recorded = Variant(RECORDED, "-", "-", preparer(right, device=device))
    variants = preprocessing_variants(right, image_size=tested.image_size, own=tested.statistics, device=device)
    return [setting(*variant) for variant in (recorded, *variants)]


def _model_settings(tested: ModelUnderTest) -> list[EvalSetting]:
    """The model in the wrong mode, on the wrong views, or with weights missing."""
    prepare = preparer(tested.preprocessing, device=tested.device)

    def setting(name: str, wrong: str, fix: str, loaded: str, mode: str) -> EvalSetting:
        def run(sample: ImageSample, draw: int) -> Tensor:
            model = _model_with(tested, loaded, draw)
            with seeded("doctor", "dropout", draw, device=tested.device):
                return _logits(tested, model, prepare, sample, draw=draw, mode=mode)

        return EvalSetting(name, wrong, fix, run, random=bool(mode) or loaded in RANDOM_WEIGHTS)

    return [setting(*one) for one in MODEL_SETTINGS]


def _model_with(tested: ModelUnderTest, loaded: str, draw: int) -> nn.Module:
    """A model with all of its weights, or some, or none."""
    with seeded("doctor", "init", draw):
        new = tested.build()
    if loaded == "all":
        return new
    if loaded == "half":
        return half_loaded(tested.model, new)
    new.load_state_dict(tested.model.state_dict())
    if loaded == "head":
        with seeded("doctor", "head", draw):
            return with_new_head(new)
    return without_statistics(new) if loaded == "statistics" else new


def _output_settings(tested: ModelUnderTest, recorded: Tensor) -> list[EvalSetting]:
    """The recorded logits with permuted classes or images."""
    num_images, num_classes = recorded.shape

    def permuted(_: ImageSample, draw: int) -> Tensor:
        return recorded[:, torch.randperm(num_classes, generator=stream("doctor", "classes", draw))]

    def shuffled(_: ImageSample, draw: int) -> Tensor:
        return recorded[torch.randperm(num_images, generator=stream("doctor", "images", draw))]

    def ordered(name: str, wrong: str, fix: str, columns: list[int]) -> EvalSetting:
        flags = {"classes": outputs_named(columns, tested.classes, tested.own_classes)}
        return EvalSetting(name, wrong, fix, lambda *_: recorded[:, columns], flags=flags)

    return [
        *(ordered(*order) for order in class_orders(tested.classes)),
        EvalSetting(PERMUTED, "classes in another order", "map outputs by class name", permuted, random=True),
        EvalSetting(SHUFFLED, "labels of other images", "shuffle=False", shuffled, random=True),
    ]


def without_statistics(model: nn.Module) -> nn.Module:
    """The model with the running mean 0 and the running variance 1 of new BatchNorm layers."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.reset_running_stats()
    return model


def with_new_head(model: nn.Module) -> nn.Module:
    """The model with its last linear layer newly initialised, from the default generator."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError("no linear layer")
    device = linear[-1].weight.device
    linear[-1].cpu().reset_parameters()  # drawn on the CPU, so that the new head is the same whatever device evaluates
    linear[-1].to(device)
    return model


def half_loaded(model: nn.Module, new: nn.Module) -> nn.Module:
    """A new model with the first half of the layers of a trained one."""
    weights = model.state_dict()
    layers = list(dict.fromkeys(key.rpartition(".")[0] for key in weights))
    first = set(layers[: len(layers) // 2])
    given = {key: value for key, value in weights.items() if key.rpartition(".")[0] in first}
    new.load_state_dict({**new.state_dict(), **given})
    return new


def _logits(
    tested: ModelUnderTest, model: nn.Module, prepare: Prepare, sample: ImageSample, *, draw: int = 0, mode: str = ""
) -> Tensor:
    """The logits (N, C) of a model; the mode may hold ``train`` and ``views``."""
    model.train("train" in mode)
    order = torch.tensor([tested.own_classes.index(name) for name in tested.classes], device=tested.device)

    def logits_of(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = logits_in(model(prepare(images)))
            if logits.shape != (len(images), len(tested.classes)):
                shape = tuple(logits.shape)
                raise ValueError(f"it gives {shape}, not logits (N, C)")
            return logits.index_select(1, order)

    batches = make_batches(sample, draw=draw, views="views" in mode)
    return evaluate(logits_of, batches, num_classes=len(tested.classes)).logits


def _same_logits(known: Tensor, new: Tensor) -> bool:
    """Whether every draw is that of another setting, or its only one."""
    return len(known) in (1, len(new)) and torch.allclose(known.expand_as(new), new, rtol=1e-3, atol=1e-3)
