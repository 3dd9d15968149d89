"""Knowledge distillation in pure functions on PyTorch-Ignite: train a teacher, distil it, show what that bought.

``from kdignite import configure, distill, DistillConfig`` is the whole of the command line's ``distill`` in Python:
every command that computes is a function from its config to the folder and the result of a run. Importing the package
is cheap: what a name needs, torch included, is imported when the name is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdignite.config import (
        AdoptConfig,
        BaselineConfig,
        CompareConfig,
        DistillConfig,
        EvaluateConfig,
        ReproduceConfig,
        SweepConfig,
        TeacherConfig,
        configure,
    )
    from kdignite.losses import LossParts, cross_entropy, kd_divergence, kd_loss
    from kdignite.pipelines.adopt import adopt
    from kdignite.pipelines.baseline import baseline
    from kdignite.pipelines.compare import compare
    from kdignite.pipelines.distill import distill
    from kdignite.pipelines.evaluate import evaluate
    from kdignite.pipelines.reproduce import reproduce
    from kdignite.pipelines.sweep import sweep
    from kdignite.pipelines.teacher import teacher

__version__ = "0.1.0"
__all__ = [
    "AdoptConfig",
    "BaselineConfig",
    "CompareConfig",
    "DistillConfig",
    "EvaluateConfig",
    "LossParts",
    "ReproduceConfig",
    "SweepConfig",
    "TeacherConfig",
    "adopt",
    "baseline",
    "compare",
    "configure",
    "cross_entropy",
    "distill",
    "evaluate",
    "kd_divergence",
    "kd_loss",
    "reproduce",
    "sweep",
    "teacher",
]
_LOSSES = ("LossParts", "cross_entropy", "kd_divergence", "kd_loss")


def __getattr__(name: str) -> Any:
    """A public name, from where it is defined."""
    if name not in __all__:
        raise AttributeError(f"module 'kdignite' has no attribute {name!r}")
    if name.endswith("Config") or name == "configure":
        return getattr(import_module("kdignite.config"), name)
    place = "kdignite.losses" if name in _LOSSES else f"kdignite.pipelines.{name}"
    return getattr(import_module(place), name)


def __dir__() -> list[str]:
    """What there is, whether it was used yet or not."""
    return sorted({*globals(), *__all__})
