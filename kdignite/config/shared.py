"""Flags that several commands have, each written once; a call makes one, with what is its own."""

from functools import partial

from kdignite.config.checks import check_name, check_preset, check_val_size
from kdignite.config.fields import flag
from kdignite.data.registry import CHOICES
from kdignite.models.options import check_options
from kdignite.models.registry import MODELS

preset = partial(
    flag,
    "standard",
    "a whole recipe by one name; any flag overrides one value of it",
    group="training",
    role="display",
    check=check_preset,
)
run_name = partial(flag, None, role="display", check=check_name)
dataset = partial(flag, "cifar10", CHOICES, group="data", role="content", code=True, filled=True)
dataset_now = partial(
    flag, None, "where the images are now, if not where the checkpoint says", group="data", role="content"
)
data_root = partial(flag, None, "folder of data sets; unset: $KDIGNITE_DATA, else data", group="data", role="place")
val_size = partial(flag, None, above=0, group="data", role="content", check=check_val_size, filled=True)
image_size = partial(flag, None, low=8, high=1024, group="data", filled=True)
skip_broken = partial(
    flag, False, "leave out the picture files that cannot be read, instead of refusing the data", group="data"
)
arch = partial(
    flag,
    help="model: a name of the list below, timm:NAME, torchvision:NAME, or package.module:function",
    group="model",
    code=True,
)
arch_options = partial(
    flag,
    None,
    "options of the model as its own function takes them: drop_rate=0.1,img_size=64",
    group="model",
    check=check_options,
)
own_arch = partial(flag, None, "package.module:function again, for a model of your own", group="model")
_WIDTHS = (f"{name} {','.join(map(str, row.widths))}" for name, row in MODELS.items() if row.widths)
widths = partial(flag, None, f"channels of the stages, for models that take them: {'; '.join(_WIDTHS)}", group="model")
stem = partial(
    flag, None, "first layers of resnet18/34/50; unset: imagenet", choices=("imagenet", "cifar"), group="model"
)
key = partial(
    flag,
    "",
    "where in a file of several networks the state dict is: model_ema, models.student; or what its names begin with",
    group="model",
)
epochs = partial(
    flag,
    help="passes over the training images; unset: more where so few images are fewer steps than the preset needs",
    low=1,
    group="training",
    shown=True,
)
batch_size = partial(flag, help="images in a training step; BatchNorm needs two", low=2, group="training")
lr = partial(flag, help="peak learning rate, for the batch size in use", above=0, group="training")
weight_decay = partial(
    flag, help="weight decay of weight matrices and kernels (never of biases and norms)", low=0, group="training"
)
device = partial(flag, "auto", "auto, cpu, cuda or cuda:N", role="machine")
threads = partial(
    flag,
    None,
    "CPU threads; unset: one a core, under torchrun one a process",
    low=1,
    high=1024,  # a system refuses many more, which ends the process
    role="machine",
    filled=True,
)
amp = partial(
    flag,
    "auto",
    "mixed precision in training: off (float32), bf16, fp16, tf32 (NVIDIA GPUs), or auto, bf16 where the device has "
    "instructions for it, else off",
    choices=("auto", "off", "bf16", "fp16", "tf32"),
)
graph = partial(
    flag,
    "auto",
    "on a GPU: capture the training step as a CUDA graph, which changes no number (auto), or not (off)",
    choices=("auto", "off"),
    role="display",
)
