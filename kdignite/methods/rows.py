"""What a row of the table of methods says. Nothing here imports torch."""

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

REQUIRED = inspect.Parameter.empty


class Softening(NamedTuple):
    """How a parameter softens the teacher's targets, ``softmax(logits / T)`` with T = parameter^power."""

    weights: tuple[str, ...]  # parameters: it is not used where all of them are 0
    power: int = 1  # -1: it is an exponent of probabilities
    softest: str = ""  # of a loss whose targets are nearly uniform; empty: as of `kd`


class Parameter(NamedTuple):
    """A number, or true or false, that a method takes: a flag of ``distill``, an axis of ``sweep``."""

    default: Any  # REQUIRED: it has none; a bool: it is true or false
    help: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    grid: tuple[float, ...] = ()  # what ``sweep`` tries by default; two parameters of a method have one, for a map
    minor: bool = False  # named by a run, and an axis of a sweep, only where it is given
    softens: Softening | None = None  # None: it is no temperature

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


class Temperature(NamedTuple):
    """What a method divides the teacher's logits by."""

    flag: str  # that sets it
    given: float  # its value
    T: float  # above 0; that of the flag, or its reciprocal
    softest: str = ""


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

    def temperature(self, values: Mapping[str, Any]) -> Temperature | None:
        """The temperature that parameters give; None: there is none, or what it softens has weight 0."""
        for name, one in self.parameters.items():
            if (how := one.softens) and any(values[weight] for weight in how.weights):
                return Temperature(name, values[name], values[name] ** how.power, how.softest)
        return None
