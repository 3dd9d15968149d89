"""Whole recipes by one name."""

from kdignite.config.fields import Value

# The published experiment: what all three of its models share.
_ORIGINAL: dict[str, Value] = {
    "size": 224,
    "normalize": "imagenet",
    "augment": "flip",
    "batch_size": 100,
    "lr": 0.001,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "optimizer": "sgd",
    "schedule": "constant",
}
# Fine-tuning on one's own photographs: a new head first, then everything, the pretrained layers at a lower rate.
_PICTURES: dict[str, Value] = {
    "size": 224,
    "augment": "rrc+flip",
    "batch_size": 32,
    "lr": 1e-3,
    "weight_decay": 0.05,
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_epochs": 1.0,
}
# preset -> command -> what differs from the defaults above, which are the preset "standard"
PRESETS: dict[str, dict[str, dict[str, Value]]] = {
    "standard": {"teacher": {}, "distill": {}, "baseline": {}},
    "quick": {"teacher": {"epochs": 2}, "distill": {"epochs": 2}, "baseline": {"epochs": 2}},
    # for figures that can be made again: several seeds, and float32, which is the same on every processor to rounding;
    # alpha and T are what validation images chose for cnn5 on CIFAR-10 (docs/results.md)
    "reference": {
        "teacher": {"amp": "off"},
        "distill": {"amp": "off", "alpha": 1.0, "T": 8.0},
        "baseline": {"amp": "off"},
        "reproduce": {"seeds": 5},
    },
    # a long schedule, and what validation images chose for cnn5 at 30 epochs: fitnet with kd beside it, 87.98 %, not
    # kd alone, 87.14 % (one seed, the teacher of the preset reference); features take more room than --cache=auto gives
    "patient": {
        "teacher": {"widths": (96, 192, 256), "epochs": 60, "mix": "cutmix"},
        "distill": {
            **{"epochs": 100, "views": 10, "cache": "runs/.feature_cache", "cache_dtype": "float16"},
            **{"method": "fitnet", "alpha": 0.9, "T": 4.0},
        },
        "baseline": {"epochs": 100, "views": 10},
        "reproduce": {"seeds": 3},
    },
    "original": {
        "teacher": {**_ORIGINAL, "arch": "resnet50", "weights": "pretrained", "epochs": 5},
        "distill": {**_ORIGINAL, "epochs": 10, "alpha": 0.5, "T": 1.0},
        "baseline": {**_ORIGINAL, "epochs": 10},
    },
    "pictures": {
        "teacher": {
            **_PICTURES,
            **{"arch": "torchvision:resnet50", "weights": "pretrained", "freeze_epochs": 1, "backbone_lr_mult": 0.1},
            "epochs": 10,
        },
        "distill": {**_PICTURES, "arch": "torchvision:mobilenet_v3_small", "epochs": 30},
        "baseline": {**_PICTURES, "arch": "torchvision:mobilenet_v3_small", "epochs": 30},
    },
}


def _steps(*, teacher: int, student: int) -> dict[str, int]:
    return {"teacher": teacher, "distill": student, "baseline": student}


# preset -> command -> the fewest steps that its recipe needs: with few images a run has more epochs than those above
MIN_STEPS: dict[str, dict[str, int]] = {
    "standard": _steps(teacher=400, student=1000),
    "quick": _steps(teacher=100, student=200),
    "reference": _steps(teacher=400, student=1000),
    "patient": _steps(teacher=4000, student=10_000),
    "original": _steps(teacher=500, student=2000),
    "pictures": _steps(teacher=500, student=2000),
}
