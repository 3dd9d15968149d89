"""By which name a loss is recorded, and which losses have none of their own."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdignite.commands.distill import distill
from kdignite.config import DistillConfig
from kdignite.errors import UserError
from kdignite.losses import LossParts, kd_loss

ADVICE = "give the loss a name: write it as a def outside of other functions"


def own_loss(*args: Any, **kwargs: Any) -> LossParts:
    return kd_loss(*args, **kwargs)


class Scaled:
    """A loss with a setting that its name does not tell."""

    def __call__(self, *args: Any, **kwargs: Any) -> LossParts:
        return kd_loss(*args, **kwargs)

    def method(self, *args: Any, **kwargs: Any) -> LossParts:
        return kd_loss(*args, **kwargs)


def nested() -> Any:
    def loss(*args: Any, **kwargs: Any) -> LossParts:
        return kd_loss(*args, **kwargs)

    return loss


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (partial(own_loss, T=2.0), "functools.partial"),
        (lambda *args, **kwargs: kd_loss(*args, **{**kwargs, "T": 2.0}), "<lambda>"),
        (nested(), "nested.<locals>.loss"),
        (Scaled(), f"{__name__}.Scaled"),
        (Scaled().method, "Scaled.method"),
    ],
)
def test_a_loss_without_a_name_of_its_own_is_refused_before_anything_is_loaded(
    tmp_path: Path, loss: Any, what: str
) -> None:
    with pytest.raises(UserError) as caught:
        distill(DistillConfig(arch="no such model"), root=tmp_path / "runs", loss=loss)
    assert str(caught.value) == (
        f"the loss {what} has no name of its own, by which compare could tell it from others; {ADVICE}"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("loss", [kd_loss, own_loss])
def test_a_loss_with_a_name_gets_as_far_as_the_model(tmp_path: Path, loss: Any) -> None:
    with pytest.raises(UserError, match="no such model"):
        distill(DistillConfig(arch="no such model"), root=tmp_path, loss=loss)
