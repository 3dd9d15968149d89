"""The names that ``from kdignite import`` takes."""

import subprocess
import sys
from pathlib import Path

import pytest

import kdignite


@pytest.mark.parametrize("name", kdignite.__all__)
def test_every_public_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(kdignite, name)
    assert value.__name__ == name
    assert value.__doc__
    assert name in dir(kdignite)


def test_what_type_checkers_see_is_what_there_is() -> None:
    text = Path(kdignite.__file__).read_text(encoding="utf-8")
    seen = text[text.index("if TYPE_CHECKING:") : text.index("__version__")]
    words = seen.replace("(", " ").replace(")", " ").replace(",", " ").split()
    assert [name for name in kdignite.__all__ if name not in words] == []


def test_other_names_are_none() -> None:
    with pytest.raises(AttributeError, match="module 'kdignite' has no attribute 'distil'"):
        kdignite.distil  # noqa: B018
    assert not hasattr(kdignite, "torch")


def test_a_config_needs_no_torch_and_a_loss_does() -> None:
    code = "import sys; from kdignite import {}; sys.exit('torch' in sys.modules)"
    for names, loaded in (("DistillConfig, configure", 0), ("kd_loss", 1)):
        assert subprocess.run([sys.executable, "-c", code.format(names)], check=False).returncode == loaded


def test_a_function_of_the_face_is_the_command() -> None:
    from kdignite.commands.distill import distill

    assert kdignite.distill is distill
