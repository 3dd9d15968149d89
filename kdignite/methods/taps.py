"""The features of a network: outputs of layers that are named, taken by forward hooks."""

import difflib
from typing import Any

from torch import Tensor, nn

from kdignite.errors import UserError
from kdignite.methods.terms import Outputs
from kdignite.outputs import logits_in

SHOWN = 40  # layers that an error lists


class Tap:
    """A forward hook that keeps what its layer returns, while somebody collects; of several calls the last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.collected: dict[str, Tensor] | None = None  # by name; None: nobody collects

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Keep a copy: an in-place ReLU after the layer would overwrite the tensor itself."""
        del module, args
        if self.collected is not None:
            found = output if isinstance(output, Tensor) else _first(output, self.name)
            self.collected[self.name] = _channels_first(found).clone()


class FeatureExtractor(nn.Module):
    """A network that returns `Outputs`, and what is learnt beside it: the one module that is trained.

    The network itself, called alone, is as it was. Nothing is kept between two calls.
    """

    def __init__(self, network: nn.Module, layers: tuple[str, ...], *, flag: str, who: str) -> None:
        """Flag and who: what named the layers, and the network, for errors."""
        super().__init__()
        self.network = network
        self.projector: nn.Module | None = None  # from features to what a method compares
        self.taps = [Tap(name) for name in layers]
        there = dict(network.named_modules())
        for tap in self.taps:
            if tap.name not in there:
                raise UserError(f"--{flag}: {who} has no layer {tap.name!r}{_layers(network, like=tap.name)}")
            there[tap.name].register_forward_hook(tap)

    def forward(self, images: Tensor) -> Outputs:
        """The logits, and the features by layer, in the order of the layers."""
        collected: dict[str, Tensor] = {}
        for tap in self.taps:
            tap.collected = collected
        logits = logits_in(self.network(images))
        for tap in self.taps:
            tap.collected = None
        features = {tap.name: collected[tap.name] for tap in self.taps if tap.name in collected}
        return Outputs(logits, features if self.projector is None else self.projector(features))


def unnamed_layers(network: nn.Module, *, flag: str, who: str) -> UserError:
    """The error of a network whose layers have no default."""
    return UserError(f"which layers of {who} are compared is not known: name them, --{flag}=A,B{_layers(network)}")


def _channels_first(found: Tensor) -> Tensor:
    """(N, C, H, W) of a square map (N, H, W, C), as some transformers have it."""
    shape = found.shape
    return found.permute(0, 3, 1, 2) if len(shape) == 4 and shape[1] == shape[2] != shape[3] else found


def _first(output: Any, name: str) -> Tensor:
    found = output[0] if isinstance(output, tuple | list) and output else None
    if not isinstance(found, Tensor):
        raise UserError(f"layer {name} returns a {type(output).__name__}, not a tensor: name another layer")
    return found


def _layers(network: nn.Module, *, like: str = "") -> str:
    """The layers there are, for an error: those that enclose others first, and which was probably meant."""
    names = [name for name, _ in network.named_modules() if name]
    shown = sorted(names, key=lambda name: name.count("."))[:SHOWN]
    close = difflib.get_close_matches(like, names, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    rest = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"{guess}; there are {', '.join(shown)}{rest}"
