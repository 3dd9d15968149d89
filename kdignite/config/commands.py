"""The settings of the commands that do not train."""

from dataclasses import dataclass
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.fields import Config, flag
from kdignite.config.settings import typed_flags
from kdignite.errors import UserError
from kdignite.plugins import is_library


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config):
    """Get a data set and verify it."""

    command: ClassVar[str] = "data"

    dataset: str = shared.dataset()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    image_size: int | None = shared.image_size("side in pixels at which folder images are kept; unset: 32")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(Config):
    """List cached teacher logits and features, and remove those that are not needed."""

    command: ClassVar[str] = "cache"

    cache: str = flag("auto", "the folder they are in; auto: runs/.teacher_cache", group="distillation")
    prune: tuple[str, ...] | None = flag(
        None, "tables to remove: the word all, or the beginnings of their keys", group="distillation"
    )


@dataclass(frozen=True, kw_only=True)
class MethodsConfig(Config):
    """List the distillation methods, or say everything about one."""

    command: ClassVar[str] = "methods"

    method: str = flag("", "a name of the list, or package.module:function; none: the list", group="distillation")


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Config):
    """Measure how fast distillation is here, beside a bare loop, and by part of a step."""

    command: ClassVar[str] = "bench"

    dataset: str = shared.dataset()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    arch: str = shared.arch("cnn5")
    teacher_arch: str = flag(
        "resnet56", "the teacher, whose weights may be random: they do not change its speed", group="distillation"
    )
    batch_size: int = shared.batch_size(100)
    num_images: int | None = flag(
        None,
        "images that a measurement trains on; unset: all, 50,000 at most. With a live teacher 5,000 at most",
        low=2,
        group="data",
    )
    repeats: int = flag(10, "measurements of each kind, in turn", low=2)
    device: str = shared.device()
    amp: str = shared.amp()
    graph: str = shared.graph()
    threads: int | None = shared.threads()
    name: str | None = shared.run_name("name of the new folder in runs/; unset: bench")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(Config):
    """Evaluate a checkpoint: accuracy, per-class table, calibration, figures."""

    command: ClassVar[str] = "evaluate"

    run: str = flag("", "a run folder (runs/NAME or NAME) or a checkpoint file")
    split: str = flag("test", "which images: test or val", choices=("test", "val"), group="data")
    name: str | None = shared.run_name("name of the new folder in runs/; unset: evaluate-RUN-SPLIT")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    arch: str | None = shared.own_arch()
    device: str = shared.device()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise UserError("evaluate needs a run folder or a checkpoint: python -m kdignite evaluate runs/NAME")


@dataclass(frozen=True, kw_only=True)
class CompareConfig(Config):
    """Compare student and baseline beside their teacher: what distillation bought."""

    command: ClassVar[str] = "compare"

    runs: tuple[str, ...] | None = flag(
        None,
        "run folders (runs/NAME or NAME): students and baselines of the same seeds, and their teacher where it is to "
        "be shown; runs that differ in their seed alone are taken together",
    )
    reference: str | None = flag(
        None,
        "add the figures of the published experiment by class; CIFAR-10 only",
        choices=("original",),
        group="comparison",
    )
    name: str | None = shared.run_name("name of the new folder in runs/; unset: compare-STUDENT")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs or not all(self.runs):
            raise UserError(
                "compare needs the folders of finished runs: python -m kdignite compare runs/TEACHER runs/STUDENT "
                "runs/BASELINE"
            )


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Config):
    """Write report.html, one page for browsers, of a finished run, a comparison or a study."""

    command: ClassVar[str] = "report"

    run: str = flag("", "the folder of a run, a comparison or a study (runs/NAME or NAME)")
    dataset: str | None = shared.dataset_now()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.run:
            raise UserError("report needs a folder: python -m kdignite report runs/NAME")


@dataclass(frozen=True, kw_only=True)
class AdoptConfig(Config):
    """Make a run folder out of somebody else's weights, after evaluating them."""

    command: ClassVar[str] = "adopt"

    file: str = flag("", "a state dict, or what holds one, in a file of torch.save, safetensors or numpy.savez")
    arch: str = shared.arch("")
    arch_options: tuple[str, ...] | None = shared.arch_options()
    size: int | None = flag(
        None,
        "side in pixels of the images the model was trained on; required, but for timm:NAME and torchvision:NAME",
        low=8,
        high=1024,
        group="model",
    )
    mean: tuple[float, ...] | None = flag(
        None,
        "mean of each channel it was normalized with, for pixels in 0..1: .485,.456,.406; required as --size is",
        group="model",
    )
    std: tuple[float, ...] | None = flag(
        None,
        "standard deviation of each channel, for pixels in 0..1: .229,.224,.225; required as --size is",
        group="model",
    )
    key: str = shared.key()
    strip_prefix: str = flag(
        "",
        "take this off the front of the keys, such as module.; unset: what makes them fit, where one prefix does",
        group="model",
    )
    classes: tuple[str, ...] | None = flag(
        None,
        "class names in the order of the outputs, or a file with one in each line; unset: the data set's order",
        group="data",
    )
    widths: tuple[int, ...] | None = shared.widths()
    stem: str | None = shared.stem()
    name: str | None = shared.run_name("name of the run folder in runs/; unset: adopted-ARCH")
    dataset: str = shared.dataset()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    val_size: float | None = shared.val_size(
        "validation images held out of the training set: a count, or a fraction below 1; unset: the data set's",
    )
    image_size: int | None = shared.image_size("side in pixels at which folder images are kept; unset: --size")
    allow_weak_teacher: bool = flag(False, "adopt it even if its accuracy is near chance", group="distillation")
    device: str = shared.device()
    threads: int | None = shared.threads()

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = ("arch",) if is_library(self.arch) else ("arch", "size", "mean", "std")
        missing = [f"--{key}" for key in needed if not getattr(self, key)]
        if not self.file:
            raise UserError(
                "adopt needs a file: python -m kdignite adopt FILE --arch=... --size=... --mean=... --std=..."
            )
        if missing:
            raise UserError(f"adopt needs {', '.join(missing)}: how a model was fed is never assumed")
        for key, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and len(value) != 3:
                raise UserError(f"--{key} needs three numbers, red, green, blue: --{key}=.5,.5,.5")
        if max(self.mean or (0,)) > 1:
            given = {"mean": self.mean, "std": self.std}
            typed = typed_flags(**{key: [float(f"{x / 255:.4g}") for x in one] for key, one in given.items() if one})
            raise UserError(
                f"--mean and --std are for pixels in 0..1; those for pixels in 0..255 divided by 255: {typed}"
            )
        if min(self.std or (1,)) <= 0:
            raise UserError(f"--std must be above 0, not {','.join(map(str, self.std or ()))}")
