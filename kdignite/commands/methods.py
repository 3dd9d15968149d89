"""``methods``: the distillation methods there are, and what is known of each."""

from kdignite.config import MethodsConfig, setting_text
from kdignite.config.fields import domain_text
from kdignite.methods.registry import METHODS, find_method
from kdignite.methods.rows import REQUIRED, Method, Parameter

WORDS = """ce: cross-entropy with the labels. student, teacher: logits, of which softmax makes probabilities.
KL(p || q): sum over classes of p (log p - log q). Every term is a mean over the batch.
Where features are needed, student and teacher in the last term are outputs of layers (--student_layers,
--teacher_layers), pairs of which are summed; B images are in a batch, and R is learnt beside the student."""


def methods(config: MethodsConfig) -> None:
    """Print a line for each method, or everything about one."""
    if config.method:
        print(describe_method(config.method))
        return
    width = max(map(len, METHODS))
    for name, one in METHODS.items():
        print(f"{name:<{width}}  {one.idea}\n{'':{width}}  loss = {one.equation}")
    print("\none in full: python -m kdignite methods NAME; your own: --method=package.module:function")


def describe_method(name: str) -> str:
    """Idea, equation, parameters, source, and what a method needs of its teacher."""
    one = find_method(name)
    width = max(8, *map(len, one.parameters))
    rows = [f"  --{key:<{width}} {_domain(parameter)}: {parameter.help}" for key, parameter in one.parameters.items()]
    return "\n".join([*_lines(name, one), "parameters", *(rows or ["  none"]), WORDS])


def _lines(name: str, one: Method) -> list[str]:
    values = {"method": name, "idea": one.idea, "loss": one.equation, "needs": f"{one.needs} of the teacher"}
    values |= {"papers": one.published, "source": one.source}
    return [f"{key:<8} {value}" for key, value in values.items() if value]


def _domain(one: Parameter) -> str:
    default = "no default" if one.default is REQUIRED else f"default {setting_text(one.default)}"
    return ", ".join(filter(None, (default, domain_text(one.domain))))
