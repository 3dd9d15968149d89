"""The commands, each with the class of its config."""

from kdignite.config import commands
from kdignite.config.distillation import DistillConfig
from kdignite.config.doctor import DoctorConfig
from kdignite.config.export import ExportConfig
from kdignite.config.fields import Config
from kdignite.config.methods import parameter_names, with_method
from kdignite.config.methods_study import MethodsStudyConfig
from kdignite.config.prediction import PredictConfig
from kdignite.config.search import SearchConfig
from kdignite.config.study import ReproduceConfig
from kdignite.config.sweep import SweepConfig
from kdignite.config.training import BaselineConfig, TeacherConfig
from kdignite.data.registry import is_code

# in the order of --help: the whole study first, then its stages
_KINDS = (
    ReproduceConfig,
    commands.DataConfig,
    TeacherConfig,
    DistillConfig,
    BaselineConfig,
    commands.EvaluateConfig,
    PredictConfig,
    DoctorConfig,
    commands.CompareConfig,
    ExportConfig,
    commands.ReportConfig,
    SweepConfig,
    SearchConfig,
    MethodsStudyConfig,
    commands.MethodsConfig,
    commands.AdoptConfig,
    commands.CacheConfig,
    commands.BenchConfig,
)
COMMANDS: dict[str, type[Config]] = {kind.command: kind for kind in _KINDS}


def config_class(command: str, method: str = "") -> type[Config]:
    """The config of a command, with the parameters of a method of one's own where that is named."""
    kind = COMMANDS[command]
    return with_method(kind, method) if is_code(method) and parameter_names(kind) else kind
