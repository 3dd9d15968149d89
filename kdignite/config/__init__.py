"""What a command can be told: frozen settings, their one default each, and the presets.

A field is a flag of the command line: its default is the ``standard`` preset, its metadata the help text and the
domain. Building a config checks every value, so that a config that exists is valid. Nothing here imports torch.
"""

from kdignite.config.build import configure, from_json, to_json
from kdignite.config.checks import RUN_NAME
from kdignite.config.commands import AdoptConfig, BenchConfig, CacheConfig, CompareConfig, DataConfig, EvaluateConfig
from kdignite.config.doctor import DoctorConfig
from kdignite.config.fields import GROUPS, Config, bare_type, flag, type_name, with_role, with_use
from kdignite.config.listing import COMMANDS
from kdignite.config.presets import PRESETS
from kdignite.config.settings import (
    MISSING,
    PROGRAM,
    Difference,
    command_line,
    difference_text,
    differences,
    differences_text,
    setting_text,
    typed_flags,
)
from kdignite.config.study import (
    CommandFlag,
    ReproduceConfig,
    Stages,
    Study,
    prefixed_errors,
    stages,
    study_identity,
    target_flag,
)
from kdignite.config.sweep import AXES, Sweep, SweepConfig, sweep_configs, sweep_identity
from kdignite.config.training import (
    AUGMENTATIONS,
    INHERITED,
    NEWEST,
    BaselineConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = [
    "AUGMENTATIONS",
    "AXES",
    "COMMANDS",
    "GROUPS",
    "INHERITED",
    "MISSING",
    "NEWEST",
    "PRESETS",
    "PROGRAM",
    "RUN_NAME",
    "AdoptConfig",
    "BaselineConfig",
    "BenchConfig",
    "CacheConfig",
    "CommandFlag",
    "CompareConfig",
    "Config",
    "DataConfig",
    "Difference",
    "DistillConfig",
    "DoctorConfig",
    "EvaluateConfig",
    "ReproduceConfig",
    "Stages",
    "Study",
    "Sweep",
    "SweepConfig",
    "TeacherConfig",
    "TrainConfig",
    "bare_type",
    "command_line",
    "configure",
    "difference_text",
    "differences",
    "differences_text",
    "flag",
    "from_json",
    "prefixed_errors",
    "setting_text",
    "stages",
    "study_identity",
    "sweep_configs",
    "sweep_identity",
    "target_flag",
    "to_json",
    "type_name",
    "typed_flags",
    "with_role",
    "with_use",
]
