"""The lines of Python that use an exported model without kdignite."""

from collections.abc import Mapping
from typing import Any

from kdignite.checkpoints import Description
from kdignite.data.registry import is_code
from kdignite.export.hub import resampling_name
from kdignite.export.programs import FILES, Feed

IMPORTS = {
    "onnx": ("import onnxruntime",),
    "torch": ("import torch",),
    "safetensors": ("import torch", "from safetensors.torch import load_file"),
}
CLASSES = 'classes = json.loads(Path("config.json").read_text(encoding="utf-8"))["label_names"]'
TORCHVISION = ("resnet18", "resnet34", "resnet50")
CHANGED_STEM = "cifar"  # which torchvision's own networks do not have


def usage_code(description: Description, feed: Feed, *, form: str, file: str = "") -> str:
    """A script that takes picture files and prints the class of each, for a format and a file of it."""
    size, mean, std, interpolation = description.preprocessing[:4]
    resample = f"Image.Resampling.{resampling_name(interpolation).upper()}"
    fitted = f"ImageOps.fit(picture, ({size}, {size}), {resample})"
    lines = [
        *("import json", "import sys", "from pathlib import Path", "", "import numpy as np"),
        *IMPORTS[form],
        *("from PIL import Image, ImageOps", ""),
        CLASSES,
        *_opened(description, form, file or FILES[form]),
        "for path in sys.argv[1:]:",
        '    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")',
        f"    pixels = np.array({fitted})",
    ]
    if not feed.inside:
        scaled = f"(pixels / 255 - {[*mean]}) / {[*std]}"
        lines.append(f"    pixels = ({scaled}).transpose(2, 0, 1).astype(np.float32)")
    lines += [
        f"    probabilities = {_called(feed, form)}",
        "    best = probabilities.argmax()",
        '    print(path, classes[best], f"{probabilities[best]:.1%}")',
    ]
    return "\n".join(lines)


def _opened(description: Description, form: str, file: str) -> list[str]:
    if form == "onnx":
        return [f'session = onnxruntime.InferenceSession("{file}")']
    if form == "torch":
        return [f'model = torch.export.load("{file}").module()']
    return [*_built(description), f'model.load_state_dict(load_file("{file}"))', "model.eval()"]


def _called(feed: Feed, form: str) -> str:
    if form == "onnx":
        return f'session.run(["probabilities"], {{"{feed.name}": pixels[None]}})[0][0]'
    given = "model(torch.from_numpy(pixels)[None])"
    return f"{given}[1][0].detach().numpy()" if form == "torch" else f"{given}.softmax(1)[0].detach().numpy()"


def _built(description: Description) -> list[str]:
    """How the network of a state dict is built, by whoever has its code."""
    (name, options), num_classes = description.architecture, len(description.classes)
    library, _, model = name.rpartition(":")
    if library == "timm":
        return ["import timm", f'model = timm.create_model("{model}", {_keywords(num_classes, options)})']
    if library == "torchvision" or (name in TORCHVISION and options.get("stem") != CHANGED_STEM):
        own = {key: value for key, value in options.items() if key != "stem"}
        return ["import torchvision", f'model = torchvision.models.get_model("{model}", {_keywords(num_classes, own)})']
    if is_code(name):
        return [f"from {library} import {model}", f"model = {model}(num_classes={num_classes})"]
    size = description.preprocessing.size
    built = f'build_model("{name}", num_classes={num_classes}, size={size}, options={dict(options)})'
    return ["from kdignite.models.registry import build_model", f"model = {built}"]


def _keywords(num_classes: int, options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in {"num_classes": num_classes, **options}.items())
