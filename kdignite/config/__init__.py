"""What a command can be told: frozen settings, their one default each, and the presets.

A field is a flag of the command line: its default is the ``standard`` preset, its metadata the help text and the
domain. Building a config checks every value, so that a config that exists is valid. Nothing here imports torch.
"""

from kdignite.config.build import configure, from_json, to_json
from kdignite.config.commands import (
    AUGMENTATIONS,
    COMMANDS,
    RUN_NAME,
    AdoptConfig,
    BaselineConfig,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    TeacherConfig,
    TrainConfig,
)
from kdignite.config.fields import Config, bare_type, flag, type_name
from kdignite.config.presets import PRESETS

__all__ = [
    "AUGMENTATIONS",
    "COMMANDS",
    "PRESETS",
    "RUN_NAME",
    "AdoptConfig",
    "BaselineConfig",
    "Config",
    "DataConfig",
    "DistillConfig",
    "EvaluateConfig",
    "TeacherConfig",
    "TrainConfig",
    "bare_type",
    "configure",
    "flag",
    "from_json",
    "to_json",
    "type_name",
]
