"""The settings of the training commands; the defaults are the preset ``standard``."""

from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

from kdignite.config import shared
from kdignite.config.fields import Config, flag
from kdignite.errors import UserError
from kdignite.models.registry import recipe_of

INHERITED = ("dataset", "val_size", "image_size", "augment")  # from the teacher, where they are left open
NEWEST = "newest"  # --resume: the newest run of the same settings
PLACES, COLOURS = ("", "flip", "crop", "crop+flip", "rrc", "rrc+flip"), ("", "jitter")
AUGMENTATIONS = tuple("+".join(filter(None, parts)) or "none" for parts in product(PLACES, COLOURS))
STUDENT, TEACHER = "cnn5", "fastresnet"  # where no flag names another model


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """The settings of every training command."""

    preset: str = shared.preset()
    name: str | None = shared.run_name("name of the run folder in runs/; unset: made from the command and its settings")

    dataset: str | None = shared.dataset()
    data_root: str | None = shared.data_root()
    skip_broken: bool = shared.skip_broken()
    val_size: float | None = shared.val_size(
        "validation images held out of the training set: a count, or a fraction below 1; unset: as the teacher of the "
        "run, or the newest one, has it, else the data set's",
    )
    image_size: int | None = shared.image_size(
        "side in pixels at which folder images are kept; unset: the teacher's, else the model's input size",
    )
    augment: str | None = flag(
        None,
        "training views: none, or crop or rrc (random resized crop), flip, jitter (of colours), joined by +, such as "
        "rrc+flip+jitter; unset: the teacher's, else crop+flip (digits: crop)",
        choices=AUGMENTATIONS,
        group="data",
        filled=True,
    )
    mix: str | None = flag(
        None,
        "mix each view with that of another training image: mixup (of all pixels) or cutmix (a square of the other); "
        "train accuracy then counts the class of the larger share; evaluation never mixes",
        choices=("mixup", "cutmix"),
        group="data",
    )
    mix_alpha: float | None = flag(
        None,
        "shares of mixed images are drawn from Beta(alpha, alpha); unset: 1, where all are as likely",
        above=0,
        high=100,
        group="data",
        filled=True,
    )
    view_seed: int = flag(0, "seed of the training views, shared by teacher, student and baseline", low=0, group="data")
    views: int | None = flag(
        None, "views of each image that the epochs cycle through; unset: a new one every epoch", low=1, group="data"
    )
    limit_train: int | None = flag(
        None, "train on this many images only; the run is marked as partial", low=2, group="data"
    )

    arch: str = shared.arch(STUDENT)
    arch_options: tuple[str, ...] | None = shared.arch_options()
    widths: tuple[int, ...] | None = shared.widths()
    stem: str | None = shared.stem()
    weights: str = flag(
        "none",
        "initial weights: none, pretrained (resnet18/34/50, timm:NAME, torchvision:NAME), or a state dict in a file of "
        "safetensors, torch.save or numpy.savez; a head for other classes stays new",
        group="model",
        role="content",
    )
    key: str = shared.key()
    freeze_epochs: int = flag(
        0,
        "epochs in which only the head learns: the weights of all other layers, and the statistics of their BatchNorm, "
        "stand still",
        low=0,
        group="model",
    )
    backbone_lr_mult: float = flag(
        1.0, "learning rate of all layers but the head, as a multiple of --lr", above=0, high=1, group="model"
    )
    size: int = flag(
        32,
        "side in pixels of the model's input; unset, timm:NAME and torchvision:NAME have their own",
        low=8,
        high=1024,
        group="model",
    )
    normalize: str | None = flag(
        None,
        "statistics the input is normalized with: data (measured on the training split), imagenet, or model (what "
        "timm:NAME and torchvision:NAME say); unset: model for these, imagenet with --weights=pretrained, else data",
        choices=("data", "imagenet", "model"),
        group="model",
        filled=True,
    )

    epochs: int = shared.epochs(10)
    batch_size: int = shared.batch_size(recipe_of(STUDENT).batch_size)
    lr: float = shared.lr(recipe_of(STUDENT).lr)
    momentum: float = flag(0.9, "momentum of SGD (AdamW: its beta1)", low=0, below=1, group="training")
    weight_decay: float = shared.weight_decay(recipe_of(STUDENT).weight_decay)
    optimizer: str = flag(
        "nesterov",
        "SGD with Nesterov's momentum, SGD with classical momentum, or AdamW",
        choices=("nesterov", "sgd", "adamw"),
        group="training",
    )
    schedule: str = flag(
        "onecycle", "learning rate over the run", choices=("constant", "cosine", "onecycle"), group="training"
    )
    warmup_epochs: float = flag(0.0, "epochs of linear warm-up, for constant and cosine", low=0, group="training")
    grad_clip: float | None = flag(None, "largest norm of the gradient; unset: no clipping", above=0, group="training")
    label_smoothing: float = flag(
        0.0, "share of the label spread evenly over all classes", low=0, below=1, group="training"
    )
    balance: str = flag(
        "none",
        "unbalanced classes: loss weights the cross-entropy by the inverse frequency of each class, none does not",
        choices=("none", "loss"),
        group="training",
    )
    patience: int | None = flag(
        None, "stop after this many epochs without a better validation accuracy; unset: never", low=1, group="training"
    )

    seed: int = flag(0, "seed of initial weights, order and dropout", low=0, shown=True)
    device: str = shared.device()
    amp: str = shared.amp()
    graph: str = shared.graph()
    compile: bool = flag(False, "compile the model for training; takes a while, and a C++ compiler on a CPU")
    threads: int | None = shared.threads()
    sync_bn: bool = flag(False, "BatchNorm measures the images of all processes of torchrun; needs GPUs")
    fast_dev_run: bool = flag(False, "two steps of everything, to try the wiring; the run is marked as partial")
    keep_last: bool = flag(False, "keep the complete state, last.safetensors, after the run", role="display")
    save_every_s: float = flag(
        60.0,
        "seconds between two saves of the complete state within an epoch; each epoch's end is one too",
        low=0,
        role="display",
    )
    resume: str | None = flag(
        None,
        "go on with an unfinished run: its folder or name, whose own settings hold; --resume alone: the newest one of "
        "the settings typed, or a new one if there is none",
        alone=NEWEST,
        role="display",
    )
    # names of the values that `configure` was given; None: all of them. What was not given, a resumed run decides.
    given: tuple[str, ...] | None = field(default=None, compare=False)
    # the fewest steps of a run, where `configure` was given no epochs: with few images they become more
    min_steps: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        """Check each field, then those that depend on one another."""
        super().__post_init__()
        if self.mix_alpha is not None and self.mix is None:
            raise UserError(f"--mix_alpha={self.mix_alpha:g} is for mixed images: add --mix=mixup or --mix=cutmix")
        if self.schedule == "onecycle" and self.warmup_epochs:
            raise UserError(
                "--warmup_epochs is for --schedule=constant or cosine; onecycle has a warm-up of its own, and takes "
                "--warmup_epochs=0"
            )
        if self.optimizer == "nesterov" and not self.momentum:
            raise UserError("--optimizer=nesterov needs a --momentum above 0; without momentum it is --optimizer=sgd")
        if self.warmup_epochs > self.epochs:
            raise UserError(f"--warmup_epochs={self.warmup_epochs:g} is longer than --epochs={self.epochs}")
        if self.freeze_epochs > self.epochs:
            raise UserError(f"--freeze_epochs={self.freeze_epochs} is longer than --epochs={self.epochs}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig(TrainConfig):
    """Train a teacher."""

    command: ClassVar[str] = "teacher"

    arch: str = shared.arch(TEACHER)
    epochs: int = shared.epochs(30)
    batch_size: int = shared.batch_size(recipe_of(TEACHER).batch_size)
    lr: float = shared.lr(recipe_of(TEACHER).lr)
    weight_decay: float = shared.weight_decay(recipe_of(TEACHER).weight_decay)


@dataclass(frozen=True, kw_only=True)
class BaselineConfig(TrainConfig):
    """Train the student without a teacher: what distillation has to beat."""

    command: ClassVar[str] = "baseline"
