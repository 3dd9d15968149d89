"""The files that users of a model hub expect beside a model, and the metadata inside it."""

import json
from collections.abc import Mapping
from typing import Any

from PIL import Image

import kdignite
from kdignite.checkpoints import Description
from kdignite.data.specs import INTERPOLATION
from kdignite.export.programs import Feed


def metadata(description: Description, feed: Feed) -> dict[str, str]:
    """What travels inside the file: text by key, the values of several words as JSON."""
    return {
        "class_names": json.dumps(description.classes, ensure_ascii=False),
        "preprocessing": json.dumps({**preprocessing_record(description), "inside": feed.inside}),
        "architecture": description.architecture.name,
        "kdignite": kdignite.__version__,
    }


def config_json(description: Description) -> dict[str, Any]:
    """``config.json``: the network and its classes, under the names of the transformers and timm libraries."""
    name, options = description.architecture
    preprocessing = description.preprocessing
    classes = description.classes
    return {
        "architecture": name.removeprefix("timm:"),
        "model_args": dict(options),
        "num_classes": len(classes),
        "label_names": list(classes),
        "id2label": {str(number): one for number, one in enumerate(classes)},
        "label2id": {one: number for number, one in enumerate(classes)},
        "image_size": preprocessing.size,
        "num_channels": 3,
        "pretrained_cfg": {
            "num_classes": len(classes),
            "input_size": [3, preprocessing.size, preprocessing.size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "interpolation": picture_sides(description)[-1][1],
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
    }


def preprocessor_json(description: Description, feed: Feed) -> dict[str, Any]:
    """``preprocessor_config.json``: shorter side to the size, central square, and what the graph does not do inside."""
    size, mean, std, _ = description.preprocessing[:4]
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": int(Image.Resampling[picture_sides(description)[-1][1].upper()]),
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": not feed.inside,
        "rescale_factor": 1 / 255,
        "do_normalize": not feed.inside,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def preprocessing_record(description: Description) -> dict[str, Any]:
    """The preprocessing, and the side at which pictures were kept before it."""
    return {**description.preprocessing._asdict(), "image_size": description.origin.image_size}


def picture_sides(description: Description) -> list[tuple[int, str]]:
    """The squares that a picture becomes, with Pillow's names: the one that was kept, and the input if it differs."""
    kept, (size, _, _, interpolation) = description.origin.image_size, description.preprocessing[:4]
    first = (kept, _pillow_name(INTERPOLATION))
    return [first] if kept == size else [first, (size, _pillow_name(interpolation))]


def _pillow_name(interpolation: str) -> str:
    """``bilinear`` of ``bilinear, antialiased``."""
    return interpolation.partition(",")[0]


def front_matter(record: Mapping[str, Any]) -> str:
    """The head of a model card in YAML, whose values are written as JSON, which YAML reads."""
    test, run = record["test"], record["run"]
    value = {"type": "accuracy", "value": test["accuracy"], "name": "accuracy on the test images"}
    dataset = {"type": record["tested_on"], "name": record["tested_on"], "split": "test"}
    task = {"type": "image-classification"}
    values = {
        "pipeline_tag": "image-classification",
        "library_name": record["format"] if record["format"] != "torch" else "pytorch",
        "tags": ["image-classification", *(["knowledge-distillation"] if run["command"] == "distill" else [])],
        "metrics": ["accuracy"],
        "model-index": [{"name": run["name"], "results": [{"task": task, "dataset": dataset, "metrics": [value]}]}],
    }
    lines = [f"{key}: {json.dumps(one, ensure_ascii=False)}" for key, one in values.items()]
    return "\n".join(["---", *lines, "---"])
