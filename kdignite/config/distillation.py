"""The settings of a distillation; the defaults are the preset ``standard``."""

from dataclasses import dataclass
from typing import ClassVar

from kdignite.config.checks import check_cache
from kdignite.config.fields import Value, flag
from kdignite.config.methods import check_mix, checked_parameters, method_flags, parameter_names
from kdignite.config.teachers import CONTROLS, check_teachers, teacher_names
from kdignite.config.training import TrainConfig
from kdignite.data.registry import CHOICES, is_code
from kdignite.errors import UserError
from kdignite.methods.registry import DEFAULT, find_method
from kdignite.methods.rows import Temperature
from kdignite.models.registry import Recipe

LAYERS = ("student_layers", "teacher_layers")
# what makes the recipe of a method besides its parameters, which a table of methods compares
OF_RECIPE = {"method", "control", "label_smoothing", *LAYERS}


@dataclass(frozen=True, kw_only=True)
@method_flags
class DistillConfig(TrainConfig):
    """Train a student with the help of a teacher."""

    command: ClassVar[str] = "distill"

    dataset: str | None = flag(
        None,
        f"{CHOICES}; unset: the teacher's with --teacher, else cifar10",
        group="data",
        role="content",
        code=True,
        filled=True,
    )
    method: str = flag(
        DEFAULT,
        "how the student learns from the teacher: a name of the list below, or package.module:function",
        group="distillation",
        code=True,
        shown=True,
    )
    teacher: str | None = flag(
        None,
        "run folder or checkpoint of the teacher, or several, A,B,C, whose softened probabilities are averaged; unset: "
        "the newest finished one that fits",
        group="distillation",
        role="content",
        filled=True,
    )
    teacher_shares: tuple[float, ...] | None = flag(
        None,
        "weight of each of several teachers in the mean, divided by their sum; unset: equal",
        above=0,
        group="distillation",
    )
    control: str | None = flag(
        None,
        "show whether a gain is knowledge: random (the teacher's network untrained) or shuffled (its probabilities of "
        "the wrong classes permuted, another way for each image)",
        choices=CONTROLS,
        group="distillation",
        shown=True,
    )
    teacher_arch: str | None = flag(
        None,
        "package.module:function again, for a teacher of your own; several with commas",
        group="distillation",
        role="content",
        code=True,
    )
    cache: str = flag(
        "auto",
        "where teacher logits, and features, are cached for later runs: auto (runs/.teacher_cache, up to 1 GiB), off "
        "(a live teacher), or a folder",
        group="distillation",
        role="machine",
        check=check_cache,
    )
    cache_dtype: str = flag(
        "float32",
        "data type of cached teacher logits and features; float16 halves them and rounds",
        choices=("float32", "float16"),
        group="distillation",
    )
    cache_top: int | None = flag(
        None,
        "of each image keep only so many of the largest logits, and spread the probability of the others, at the "
        "method's temperature, evenly over them: many classes take little room; unset: all",
        low=1,
        group="distillation",
    )
    teacher_amp: str = flag(
        "off",
        "mixed precision of the teacher: off (float32), bf16, or tf32 (NVIDIA GPUs); faster, and a little different",
        choices=("off", "bf16", "tf32"),
        group="distillation",
    )
    teacher_outputs: str | None = flag(
        None,
        "what the teacher returns: logits, or probabilities (it ends in softmax or sigmoid), whose logarithm is taken; "
        "unset: logits, and refused if they look like probabilities",
        choices=("logits", "probabilities"),
        group="distillation",
    )
    student_layers: tuple[str, ...] | None = flag(
        None,
        "for methods on features: layers of the student that are compared, by their names in named_modules(), such as "
        "layer2,layer3; unset: as its model has them",
        group="distillation",
        filled=True,
    )
    teacher_layers: tuple[str, ...] | None = flag(
        None,
        "layers of the teacher, each for the layer of the student at the same place; unset: as its model has them",
        group="distillation",
        filled=True,
    )
    allow_weak_teacher: bool = flag(
        False,
        "distil even if the teacher is near chance or not what its checkpoint says",
        group="distillation",
        role="display",
    )

    def __post_init__(self) -> None:
        """Check each field; the parameters of the method get their defaults, and others are refused."""
        super().__post_init__()
        uses_features = self.uses_features
        check_teachers(self.teacher, self.teacher_shares, self.control, method=self.method, uses_features=uses_features)
        if self.cache_top is not None and (self.cache == "off" or uses_features):
            why = "--cache=off" if self.cache == "off" else f"--method={self.method}, which compares features"
            raise UserError(f"--cache_top={self.cache_top} is for cached teacher logits, not for {why}: leave it out")
        if self.cache == "off" and self.cache_dtype != "float32":
            raise UserError(
                f"--cache_dtype={self.cache_dtype} rounds what is cached, and --cache=off caches nothing: add "
                "--cache_dtype=float32"
            )
        check_mix(self.mix, self.method, control=self.control)
        given = {name: getattr(self, name) for name in parameter_names(self)}
        for name, value in checked_parameters(self.method, given).items():
            object.__setattr__(self, name, value)
        if uses_features and len(self.teachers) > 1 and self.parameters.get("alpha") == 0:
            raise UserError(
                f"--method={self.method} takes the features of the first teacher: with --alpha above 0 the others "
                "teach too, or leave them out"
            )
        for name in LAYERS:
            layers = getattr(self, name)
            if layers and not self.uses_features:
                raise UserError(f"--method={self.method} compares logits, not features: leave out --{name}")
            if layers and len(set(layers)) < len(layers):
                raise UserError(f"--{name}={','.join(layers)} names a layer twice")

    @property
    def uses_features(self) -> bool:
        """Whether the method compares outputs of layers; one of the user's own does where layers are named."""
        named = self.student_layers is not None or self.teacher_layers is not None
        return find_method(self.method).needs == "features" or (named and is_code(self.method))

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of ``--teacher``; none: the newest one."""
        return teacher_names(self.teacher)

    @property
    def temperature(self) -> Temperature | None:
        """At which the teacher's logits are softened; None: they are not."""
        return find_method(self.method).temperature(self.parameters)

    @property
    def parameters(self) -> dict[str, Value]:
        """What the method is given, in the order of its row."""
        return {name: getattr(self, name) for name in find_method(self.method).parameters}


# what another method or model than that of a preset brings along
FOLLOWING = {"method": parameter_names(DistillConfig), "arch": [*Recipe._fields, "size"]}
