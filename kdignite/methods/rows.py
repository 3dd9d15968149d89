"""What a row of the table of methods says. Nothing here imports torch."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

REQUIRED = inspect.Parameter.empty


class Parameter(NamedTuple):
    """A number, or true or false, that a method takes: a flag of ``distill``, an axis of ``sweep``."""

    default: Any  # REQUIRED: it has none; a bool: it is true or false
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    grid: tuple[float, ...] = ()  # what ``sweep`` tries by default; two parameters of a method have one, for a map
    softens: int = 0  # the teacher: 1 for a temperature, -1 for an exponent, its reciprocal
    minor: bool = False  # named by a run, and an axis of a sweep, only where it is given

    @property
    def domain(self) -> dict[str, float | None]:
        return {"low": self.low, "high": self.high, "above": self.above, "below": self.below}

    @property
    def type(self) -> type:
        return bool if isinstance(self.default, bool) else float


class Constant(NamedTuple):
    """A part of a loss that no student can change, where there are few classes or images."""

    part: str
    classes: int = 0  # so many, or fewer
    images: int = 0  # so many of a batch, or fewer
    when: str = ""  # a parameter that has to be true


class Method(NamedTuple):
    """A row: what the help, the config, the reports and the training step know of a method."""

    function: str  # module:function
    idea: str
    equation: str
    parameters: Mapping[str, Parameter]
    source: str
    needs: str = "logits"  # of the teacher: logits or features
    constant: tuple[Constant, ...] = ()
    published: str = ""  # parameters that papers chose, and what differs here
    init: str = ""  # module:function that builds what is learnt beside the student, see `kdignite.methods.projectors`
    layers: tuple[int, ...] = ()  # which of a model's layers it takes where none are named
    one_class: bool = False  # it asks for the class of an image, of which mixed images have two
    pixels: int = 0  # the fewest of a feature map (c, h, w); 0: features of any shape
