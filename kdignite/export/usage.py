"""The lines of Python that use an exported model without kdignite."""

from collections.abc import Mapping
from typing import Any

from kdignite.checkpoints import Description
from kdignite.data.decode import LONGEST_ASPECT
from kdignite.data.registry import is_code
from kdignite.export.hub import picture_sides
from kdignite.export.programs import FILES, Feed
from kdignite.models.libraries import keywords
from kdignite.plugins import is_library

IMPORTS = {
    "onnx": ("import onnxruntime",),
    "torch": ("import torch",),
    "safetensors": ("import torch", "from safetensors.torch import load_file"),
}
CLASSES = 'classes = json.loads(Path("config.json").read_text(encoding="utf-8"))["label_names"]'
# pictures as kdignite reads them
READER = (
    "def shown(path):  # upright, 8 bits a channel, transparent pixels on white",
    "    picture = ImageOps.exif_transpose(Image.open(path))",
    '    if picture.mode.startswith("I"):',
    "        picture = Image.fromarray((np.array(picture) / 257).round().astype(np.uint8))",
    "    if picture.has_transparency_data:",
    '        white = Image.new("RGBA", picture.size, "white")',
    '        picture = Image.alpha_composite(white, picture.convert("RGBA"))',
    '    return picture.convert("RGB")',
    "",
    "def middle(picture, size):  # cut out of its centre",
    "    left, top = (round((had - kept) / 2) for had, kept in zip(picture.size, size))",
    "    return picture.crop((left, top, left + size[0], top + size[1]))",
    "",
    "def square(picture, side, filter):  # the shorter side resized, the central square kept",
    "    short = min(picture.size)",
    f"    picture = middle(picture, [min(length, {LONGEST_ASPECT} * short) for length in picture.size])",
    "    picture = picture.resize([int(side * length / short) for length in picture.size], filter)",
    "    return middle(picture, [side, side])",
)
TORCHVISION = ("resnet18", "resnet34", "resnet50")
CHANGED_STEM = "cifar"  # which torchvision's own networks do not have


def usage_code(description: Description, feed: Feed, *, form: str) -> str:
    """A script that takes picture files and prints the class of each, for a format."""
    _, mean, std, _ = description.preprocessing[:4]
    fitted = "shown(path)"
    for side, interpolation in picture_sides(description):
        fitted = f"square({fitted}, {side}, Image.Resampling.{interpolation.upper()})"
    lines = [
        *("import json", "import sys", "from pathlib import Path", "", "import numpy as np"),
        *IMPORTS[form],
        *("from PIL import Image, ImageOps", ""),
        *(*READER, ""),
        CLASSES,
        *_opened(description, form, FILES[form]),
        "for path in sys.argv[1:]:",
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
    size = description.preprocessing.size
    if is_library(name):
        given = _keywords(num_classes, keywords(name, size=size, options=options))
        function = "timm.create_model" if library == "timm" else "torchvision.models.get_model"
        return [f"import {library}", f'model = {function}("{model}", {given})']
    if name in TORCHVISION and options.get("stem") != CHANGED_STEM:
        return ["import torchvision", f"model = torchvision.models.{name}(num_classes={num_classes})"]
    if is_code(name):
        return [f"from {library} import {model}", f"model = {model}({_keywords(num_classes, options)})"]
    built = f'build_model("{name}", num_classes={num_classes}, size={size}, options={dict(options)})'
    return ["from kdignite.models.registry import build_model", f"model = {built}"]


def _keywords(num_classes: int, options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in {"num_classes": num_classes, **options}.items())
