"""Two networks that one function of the user's own made: they share nothing, and begin with the same weights."""

from torch import Tensor, nn

from kdignite.devices import as_bytes
from kdignite.errors import UserError, listed


def check_apart(model: nn.Module, second: nn.Module, name: str) -> None:
    """Refuse a function whose networks share what is trained: a student would be its own teacher."""
    others = _identities(second)
    if shared := [key for key, identity in _identities(model).items() if identity in others.values()]:
        raise UserError(
            f"{name} returns networks that share weights, such as {shared[0]}, so that a student would be its own "
            "teacher: build a new network in each call"
        )


def check_repeatable(model: nn.Module, second: nn.Module, name: str) -> None:
    """Refuse a function whose initial weights do not follow from the seed: no run of it could be repeated."""
    state, again = model.state_dict(), second.state_dict()
    different = [key for key, value in state.items() if not same_bytes(value, again.get(key))]
    if different:
        raise UserError(
            f"{name} returns other initial weights when it is called again with the same seed: {listed(different)}; "
            "draw them from torch, numpy.random or random without a generator of its own, and initialise all of them"
        )


def _identities(model: nn.Module) -> dict[str, int]:
    """Where each trained parameter lies, and which module each buffer belongs to: shared constants are no harm."""
    trained = {key: one.data_ptr() for key, one in model.named_parameters() if one.requires_grad and one.numel()}
    return trained | {
        key: id(one) for key, one in model.named_modules() if any(True for _ in one.buffers(recurse=False))
    }


def same_bytes(value: object, other: object) -> bool:
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)):
        return True
    return value.shape == other.shape and as_bytes(value).equal(as_bytes(other))
