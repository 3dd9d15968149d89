"""Models by name: a row of `MODELS` and a function are one. Nothing here imports torch, so that help can list them."""

import difflib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kdignite.errors import UserError, brief
from kdignite.models import libraries
from kdignite.models.trial import try_forward
from kdignite.plugins import TRACEBACK, USER_FUNCTION, import_function, is_library, own_error

if TYPE_CHECKING:
    from torch import Tensor, nn


class Recipe(NamedTuple):
    """The settings of SGD that a model is trained with unless a flag or a preset says otherwise.

    The defaults are the usual ones of residual networks on small images: a peak of 0.1 for about a hundred images.

    Source: He, Zhang, Ren & Sun 2015, arXiv:1512.03385, section 4.2; Zagoruyko & Komodakis 2016, arXiv:1605.07146.
    """

    batch_size: int = 100
    lr: float = 0.1
    weight_decay: float = 5e-4


class Model(NamedTuple):
    """A model by name.

    Attributes:
        builder: ``module:function``, imported late; called with ``num_classes``, ``size`` and the options as keywords.
        options: the options it takes beyond ``num_classes`` and ``size``.
        min_size: smallest side of the input, in pixels.
        about: one line for ``--help``.
        data_init: ``module:function`` that computes weights from the training images, called with a new model and
            batches of prepared images; empty for most.
        recipe: how it is trained.
        layers: four whose outputs methods on features compare: three maps, from large to small, then the last map
            before the pooling of the head.
        widths: channels of its stages where the option ``widths`` names no others.
    """

    builder: str
    options: tuple[str, ...]
    min_size: int
    about: str
    data_init: str = ""
    recipe: Recipe = Recipe()
    layers: tuple[str, ...] = ()
    widths: tuple[int, ...] = ()


def _cifar_resnet(depth: int, parameters: str) -> Model:
    # The map is halved twice. At 8 pixels it ends 2x2, so that every BatchNorm has more than one value a channel even
    # in a batch of one image; at 4 pixels training on a last batch of one would fail.
    about = f"CIFAR residual network of {depth} layers, {parameters} parameters (He et al. 2015)"
    layers = ("layer1", "layer2", "layer3", "layer3")
    return Model(f"kdignite.models.cifar_resnet:resnet{depth}", (), 8, about, layers=layers)


def _torchvision_resnet(depth: int, parameters: str) -> Model:
    about = f"torchvision's residual network of {depth} layers, {parameters} parameters; has ImageNet weights"
    # The map is halved five times: 32 pixels are the least that leave one.
    layers = ("layer1", "layer2", "layer3", "layer4")
    return Model(f"kdignite.models.torchvision_resnet:resnet{depth}", ("stem",), 32, about, layers=layers)


MODELS: dict[str, Model] = {
    "cnn5": Model(
        "kdignite.models.cnn5:cnn5",
        ("widths",),
        32,
        "five convolutions and a linear layer, a small student",
        layers=("relu1", "relu2", "relu3", "relu5"),
        widths=(64, 64, 64, 24, 12),
    ),
    "fastresnet": Model(
        "kdignite.models.fastresnet:fastresnet",
        ("widths",),
        32,
        "fast residual network for 32x32 images, 1.94 M parameters, a teacher for the CPU",
        data_init="kdignite.models.fastresnet:whiten",
        recipe=Recipe(batch_size=250, lr=0.25, weight_decay=1.2e-3),
        layers=("stage1", "stage2", "stage3", "stage3"),
        widths=(64, 128, 256),
    ),
    "resnet20": _cifar_resnet(20, "0.27 M"),
    "resnet32": _cifar_resnet(32, "0.46 M"),
    "resnet44": _cifar_resnet(44, "0.66 M"),
    "resnet56": _cifar_resnet(56, "0.85 M"),
    "resnet110": _cifar_resnet(110, "1.7 M"),
    "resnet18": _torchvision_resnet(18, "11.2 M"),
    "resnet34": _torchvision_resnet(34, "21.3 M"),
    "resnet50": _torchvision_resnet(50, "23.5 M"),
}
OWN_FLAGS = {option for row in MODELS.values() for option in row.options}  # others are --arch_options


def recipe_of(name: str) -> Recipe:
    """The recipe of a model; a function of the user's own has the usual one."""
    return MODELS[name].recipe if name in MODELS else Recipe()


def default_size(name: str, options: Mapping[str, Any]) -> int | None:
    """The side of the images that a model of a library is made for; None: no model of a library."""
    return libraries.own_input(name, options).size if is_library(name) else None


def check_model(name: str, *, size: int, options: Mapping[str, Any]) -> None:
    """Raise a `UserError` if the name, an option or the input size cannot be right; imports no user's function."""
    if ":" not in name and name not in MODELS:
        raise UserError(_unknown_model(name))
    if is_library(name):
        libraries.check_name(name)
    for option in options:
        # the function of one's own says itself what it takes
        if option not in MODELS[name].options if name in MODELS else is_library(name) and option in OWN_FLAGS:
            takers = [other for other, entry in MODELS.items() if option in entry.options]
            raise UserError(f"{name} takes no --{brief(option)}" + (f"; {_takers(takers)}" if takers else ""))
    if "widths" in options and name in MODELS:
        check_widths(options["widths"], name)
    smallest = _min_size(name, options)
    if size < smallest:
        raise UserError(f"{name} needs images of at least {smallest} pixels, not --size={size}; try --size={smallest}")


def check_widths(widths: tuple[int, ...], name: str) -> None:
    """Raise a `UserError` unless the widths are as many channel counts of at least 1 as the model has by default."""
    # not annotations alone: options also come from checkpoints
    whole = isinstance(widths, tuple) and all(type(width) is int for width in widths)
    usual = MODELS[name].widths
    if not whole or len(widths) != len(usual) or min(widths) < 1:
        came = ",".join(map(brief, widths)) if isinstance(widths, tuple) else brief(widths)
        such = f"--widths={','.join(map(str, usual))}"
        raise UserError(f"{name} needs {len(usual)} channel counts of at least 1, such as {such}, not {came}")


def build_model(name: str, *, num_classes: int, size: int, options: Mapping[str, Any]) -> "nn.Module":
    """Build a model with new weights on the CPU.

    Initial weights are drawn from torch's default generator, which the caller seeds. A user's network is run on two
    images of zeros and on one, which makes its lazy parameters; generators, buffers and modes stay as they were.

    Returns:
        A module that maps images (N, 3, size, size) to logits (N, C).

    Raises:
        UserError: as `check_model`, or if a user's function or its module cannot be used like this.
    """
    check_model(name, size=size, options=options)
    if name in MODELS:
        builder = pkgutil.resolve_name(MODELS[name].builder)
        model: nn.Module = builder(num_classes=num_classes, size=size, **options)
        return model
    if is_library(name):
        model = libraries.create(name, num_classes=num_classes, size=size, options=options)
    else:
        model = _call_user_function(name, num_classes=num_classes, options=options)
    try_forward(model, name=name, num_classes=num_classes, size=size)
    return model


def init_from_data(model: "nn.Module", name: str, batches: Iterable["Tensor"]) -> None:
    """Set the weights that are computed from prepared training images (N, 3, size, size), if the model has such."""
    if name in MODELS and MODELS[name].data_init:
        pkgutil.resolve_name(MODELS[name].data_init)(model, batches)


def _unknown_model(name: str) -> str:
    close = difflib.get_close_matches(name, MODELS, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"no model is called {name!r}; {guess}there are {', '.join(MODELS)}, or your own as {USER_FUNCTION}"


def _takers(names: list[str]) -> str:
    return f"{names[0]} does" if len(names) == 1 else f"{', '.join(names)} do"


def _min_size(name: str, options: Mapping[str, Any]) -> int:
    if name not in MODELS:
        return 1
    # The cifar stem halves the map twice less: no stride and no pooling before the first block.
    return MODELS[name].min_size // (4 if options.get("stem") == "cifar" else 1)


def _call_user_function(name: str, *, num_classes: int, options: Mapping[str, Any]) -> "nn.Module":
    from torch import nn

    from kdignite.streams import unchanged_generators

    with unchanged_generators():  # what the module draws when it is imported is no part of the initial weights
        function: Callable[..., object] = import_function(name, flag="arch")
    if isinstance(function, nn.Module):
        raise UserError(f"{name} is a network itself; needed is a function that builds one: def net(num_classes): ...")
    try:
        inspect.signature(function).bind(num_classes=num_classes, **options)
    except TypeError as error:
        given = ", ".join(f"{key}={value!r}" for key, value in {"num_classes": num_classes, **options}.items())
        raise UserError(f"{name} must be callable as function({given}): {error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecations, such as torch's of weight_norm
        try:
            model = function(num_classes=num_classes, **options)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name} fails when it builds a network: {own_error(error)} ({TRACEBACK})") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} must return a torch.nn.Module, not {type(model).__name__}")
    return model if any(one.is_meta for one in model.parameters()) else model.to("cpu")
