"""The commands, each with the class of its config."""

from kdignite.config.commands import (
    AdoptConfig,
    BenchConfig,
    CacheConfig,
    CompareConfig,
    DataConfig,
    EvaluateConfig,
    MethodsConfig,
)
from kdignite.config.doctor import DoctorConfig
from kdignite.config.fields import Config
from kdignite.config.study import ReproduceConfig
from kdignite.config.sweep import SweepConfig
from kdignite.config.training import BaselineConfig, DistillConfig, TeacherConfig

# in the order of --help: the whole study first, then its stages
_KINDS = (
    ReproduceConfig,
    DataConfig,
    TeacherConfig,
    DistillConfig,
    BaselineConfig,
    EvaluateConfig,
    DoctorConfig,
    CompareConfig,
    SweepConfig,
    MethodsConfig,
    AdoptConfig,
    CacheConfig,
    BenchConfig,
)
COMMANDS: dict[str, type[Config]] = {kind.command: kind for kind in _KINDS}
