"""Knowledge distillation in pure functions on PyTorch-Ignite: train a teacher, distil it, show what that bought.

``from kdignite import configure, distill, DistillConfig`` is the whole of the command line's ``distill`` in Python:
every command that computes is a function from its config to the folder and the result of a run, here or in
`kdignite.commands`. Importing the package is cheap: what a name needs, torch included, is imported when the name is
used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdignite.checkpoints.files import load_checkpoint
    from kdignite.commands.adopt import adopt
    from kdignite.commands.baseline import baseline
    from kdignite.commands.compare import compare
    from kdignite.commands.distill import distill
    from kdignite.commands.evaluate import evaluate
    from kdignite.commands.predict import predict
    from kdignite.commands.reproduce import reproduce
    from kdignite.commands.sweep import sweep
    from kdignite.commands.teacher import teacher
    from kdignite.config import (
        AdoptConfig,
        BaselineConfig,
        CompareConfig,
        DistillConfig,
        EvaluateConfig,
        PredictConfig,
        ReproduceConfig,
        SweepConfig,
        TeacherConfig,
        configure,
    )
    from kdignite.losses import LossParts, cross_entropy, kd_divergence, kd_loss
    from kdignite.methods.terms import Outputs, Terms
    from kdignite.reports.predictions import Prediction
    from kdignite.training.extensions import RunView
    from kdignite.training.model import load_predictor

__version__ = "0.1.0"
__all__ = [
    "AdoptConfig",
    "BaselineConfig",
    "CompareConfig",
    "DistillConfig",
    "EvaluateConfig",
    "LossParts",
    "Outputs",
    "PredictConfig",
    "Prediction",
    "ReproduceConfig",
    "RunView",
    "SweepConfig",
    "TeacherConfig",
    "Terms",
    "adopt",
    "baseline",
    "compare",
    "configure",
    "cross_entropy",
    "distill",
    "evaluate",
    "kd_divergence",
    "kd_loss",
    "load_checkpoint",
    "load_predictor",
    "predict",
    "reproduce",
    "sweep",
    "teacher",
]
_ELSEWHERE = {
    **dict.fromkeys(("LossParts", "cross_entropy", "kd_divergence", "kd_loss"), "kdignite.losses"),
    **dict.fromkeys(("Outputs", "Terms"), "kdignite.methods.terms"),
    "Prediction": "kdignite.reports.predictions",
    "configure": "kdignite.config",
    "load_checkpoint": "kdignite.checkpoints.files",
    "load_predictor": "kdignite.training.model",
    "RunView": "kdignite.training.extensions",
}


def __getattr__(name: str) -> Any:
    """A public name, from where it is defined."""
    if name not in __all__:
        raise AttributeError(f"module 'kdignite' has no attribute {name!r}")
    command = "kdignite.config" if name.endswith("Config") else f"kdignite.commands.{name}"
    return getattr(import_module(_ELSEWHERE.get(name, command)), name)


def __dir__() -> list[str]:
    """What there is, whether it was used yet or not."""
    return sorted({*globals(), *__all__})
